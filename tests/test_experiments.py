"""Experiments and records: sealed, resumable, reproducible; what the recorded ones reach."""

import dataclasses
import json
import shutil

import pytest
import torch
from torch import nn

from augflow_mini import ActNorm, Flow, InvertibleLinear, StandardNormal, anf, realnvp
from augflow_mini.experiments import EXPERIMENTS, load_model, load_record, write_record
from augflow_mini.experiments.__main__ import main
from augflow_mini.experiments.record import (
    LIMIT,
    RECORDS,
    load_weights,
    multiply_adds,
    seal,
    summary,
)
from augflow_mini.experiments.runner import Experiment, check, compare, run, run_seed
from augflow_mini.trainer import Trainer


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _build(config):
    return Flow(anf(1, 1, steps=1, hidden=(4,), activation=nn.Tanh), StandardNormal(2))


def _measure(flow, config):
    torch.manual_seed(0)
    return {"nll": -flow.iw_bound(torch.linspace(-1, 1, 9)[:, None], 50).value.mean().item()}


TINY = Experiment(
    "tiny",
    "a model for these tests",
    {"fit": {"steps": 40, "batch": 16, "lr": 1e-2, "every": 6, "ema": 0.9}, "trace": [5, 17]},
    (0, 1),
    _build,
    lambda config: (torch.randn(64, 1, generator=torch.Generator().manual_seed(0)), None),
    _measure,
    {"nll": 1e-3},
    seconds=1,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with the finished TINY experiment."""
    out = tmp_path_factory.mktemp("runs")
    run(TINY, out, progress=False)
    return out


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of that folder to spoil."""
    return shutil.copytree(tiny, tmp_path / "records")


# ---- records --------------------------------------------------------------------------------


def test_a_record_says_what_was_run_where_and_how_it_came_out(tiny):
    record = load_record("tiny", folder=tiny)
    values = record["metrics"]["nll"]
    seeds = [load_record(f"tiny-{s}", folder=tiny) for s in (0, 1)]
    assert values["each"] == [s["metrics"]["nll"] for s in seeds]
    assert values["mean"] == pytest.approx(sum(values["each"]) / 2)
    assert values["sd"] == pytest.approx(abs(values["each"][0] - values["each"][1]) / 2**0.5)
    assert record["config"] == TINY.config and record["seeds"] == [0, 1]
    assert record["parameters"] == 2 * (4 + 4 + 4 * 2 + 2) and record["steps"] == 40
    assert record["multiply_adds"] == 2 * (4 + 8)
    assert {"device", "threads", "torch", "python", "augflow_mini"} <= record["run_on"].keys()
    assert [row["step"] for row in record["trace"][0]] == [5, 17]
    assert len(record["weights"]["sha256"]) == 64
    assert not list(tiny.glob("*.ckpt")), "checkpoints are removed when a seed is done"


def _edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1, sort_keys=True))
    return content


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["metrics"]["nll"].update(mean=r["metrics"]["nll"]["mean"] - 1e-12),
        lambda r: r["run_on"].update(device="NVIDIA H100"),
        lambda r: r["seeds"].append(2),
        lambda r: r.update(note="trust me"),
        lambda r: r.pop("seal"),
    ],
)
def test_a_hand_edited_record_is_noticed(copy, change):
    load_record("tiny", folder=copy)
    _edit(copy / "tiny.json", change)
    with pytest.raises(ValueError, match="was changed after it was written"):
        load_record("tiny", folder=copy)


def test_reformatting_is_no_edit(copy):
    path = copy / "tiny.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    load_record("tiny", folder=copy)


def test_broken_missing_or_foreign_files_are_clear_errors(copy):
    with pytest.raises(ValueError, match=r"no record 'nothing' in .* there are: tiny, tiny-0"):
        load_record("nothing", folder=copy)
    (copy / "tiny-0.json").write_text('{"name": "ti')
    with pytest.raises(ValueError, match="is no JSON"):
        load_record("tiny-0", folder=copy)
    (copy / "tiny.pt").write_bytes((copy / "tiny-1.pt").read_bytes())
    with pytest.raises(ValueError, match="is not the file that record 'tiny' was made with"):
        load_weights("tiny", folder=copy)
    (copy / "tiny.pt").unlink()
    with pytest.raises(ValueError, match="is missing"):
        load_weights("tiny", folder=copy)
    write_record("bare", {"a": 1}, folder=copy)
    with pytest.raises(ValueError, match="'bare' has no weights"):
        load_weights("bare", folder=copy)


def test_what_cannot_be_a_record_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds NaN"):
        write_record("a", {"loss": float("nan")}, folder=tmp_path)
    with pytest.raises(ValueError, match="expected letters"):
        write_record("../a", {}, folder=tmp_path)
    with pytest.raises(ValueError, match="the limit is"):
        write_record("a", {"curve": list(range(LIMIT // 4))}, folder=tmp_path)
    with pytest.raises(ValueError, match=r"a.pt would have"):
        write_record("a", {}, weights={"w": torch.zeros(LIMIT // 4)}, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_summary_of_one_seed_has_no_deviation():
    assert summary([2.0]) == {"mean": 2.0, "sd": None, "each": [2.0]}


# ---- runs -----------------------------------------------------------------------------------


def test_a_seed_killed_three_times_ends_as_an_uninterrupted_one(tiny, tmp_path, monkeypatch):
    original, calls = Trainer.advance, 0
    for kill in torch.randint(8, 12, (3,), generator=torch.Generator().manual_seed(5)).tolist():
        calls = 0

        def advance(self, *args, kill=kill):
            nonlocal calls
            calls += 1
            if calls == kill:
                raise KeyboardInterrupt("killed")
            return original(self, *args)

        monkeypatch.setattr(Trainer, "advance", advance)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            run_seed(TINY, 1, tmp_path, progress=False)
        assert not (tmp_path / "tiny-1.json").exists()
    monkeypatch.setattr(Trainer, "advance", original)
    came, whole = run_seed(TINY, 1, tmp_path, progress=False), load_record("tiny-1", folder=tiny)
    assert (came["metrics"], came["trace"]) == (whole["metrics"], whole["trace"])
    assert came["weights"]["sha256"] == whole["weights"]["sha256"]


def test_a_finished_seed_is_read_back_and_a_changed_configuration_is_run(copy, monkeypatch):
    before = load_record("tiny-0", folder=copy)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", lambda *_: pytest.fail("it was run again"))
        assert run_seed(TINY, 0, copy, progress=False) == before
    other = dataclasses.replace(TINY, config={**TINY.config, "trace": []})
    assert run_seed(other, 0, copy, progress=False)["seal"] != before["seal"]


def test_compare_sees_a_difference_beyond_the_tolerance(tiny):
    record = load_record("tiny", folder=tiny)
    came = json.loads(json.dumps(record))
    came["metrics"]["nll"]["mean"] += 0.9e-3
    assert compare(came, record, TINY.tolerance) == []
    came["metrics"]["nll"]["mean"] += 0.2e-3
    assert "allowed 0.001" in compare(came, record, TINY.tolerance)[0]
    came["metrics"]["nll"]["mean"] = float("nan")
    assert compare(came, record, TINY.tolerance)


def test_check_finds_a_forged_seal_and_a_stale_configuration(copy):
    assert check(TINY, folder=copy) == []

    def forge(record):
        record["metrics"]["nll"]["each"][0] -= 0.1
        record["seal"] = seal(record)

    stale = dataclasses.replace(TINY, seeds=(0, 1, 2))
    assert "another configuration" in check(stale, folder=copy)[0]
    _edit(copy / "tiny.json", forge)
    load_record("tiny", folder=copy)  # the seal alone does not notice
    assert "nll: the weights give" in check(TINY, folder=copy)[0]
    flow = Flow(realnvp(2, couplings=2), StandardNormal(2))
    other = dataclasses.replace(TINY, build=lambda config: flow)
    assert "Missing key" in check(other, folder=copy)[0]


def test_multiply_adds_are_counted_for_one_example():
    flow = Flow(
        [ActNorm(4), InvertibleLinear(4), *realnvp(4, couplings=2, hidden=(8,))], StandardNormal(4)
    )
    x = torch.randn(3, 4)
    flow.log_weight(x)
    assert multiply_adds(flow, x) == 4 * 4 + 2 * (2 * 8 + 8 * 4)


# ---- the command ----------------------------------------------------------------------------


def test_commands(capsys, monkeypatch, tiny, tmp_path):
    assert main(["list"]) == 0
    assert "e2-anf-3" in capsys.readouterr().out
    assert main(["run", "no-such"]) == 2
    assert "there is no experiment 'no-such'" in capsys.readouterr().err
    monkeypatch.setattr("augflow_mini.experiments.__main__.EXPERIMENTS", {"tiny": TINY})
    monkeypatch.setattr("augflow_mini.experiments.__main__.RECORDS", tiny)
    assert main(["run", "t*", "--quiet", "--out", str(tmp_path)]) == 0
    assert "nll" in capsys.readouterr().out
    again = load_record("tiny", folder=tmp_path)
    assert again["metrics"] == load_record("tiny", folder=tiny)["metrics"]
    assert main(["reproduce", "--quiet"]) == 0
    assert "agrees: nll" in capsys.readouterr().out
    strict = dataclasses.replace(TINY, tolerance={"nll": -1.0})  # nothing agrees to less than 0
    monkeypatch.setattr("augflow_mini.experiments.__main__.EXPERIMENTS", {"tiny": strict})
    assert main(["reproduce", "--quiet", "--out", str(tmp_path)]) == 1
    assert "is recorded, allowed" in capsys.readouterr().out


# ---- what is recorded -----------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_librarys_records_are_in_order(name):
    assert check(EXPERIMENTS[name]) == []


def test_the_librarys_records_are_small_and_sealed():
    files = [p for p in RECORDS.iterdir() if p.is_file()]
    assert max(p.stat().st_size for p in files) <= LIMIT
    assert sum(p.stat().st_size for p in files) <= 20 * 1024**2
    assert (RECORDS / "e2-gap.pt").stat().st_size <= 30_000
    for path in RECORDS.glob("*.json"):
        load_record(path.stem)


def test_a_record_is_reproduced_from_scratch(tmp_path):
    experiment = EXPERIMENTS["e2-affine"]
    came, recorded = run_seed(experiment, 1, tmp_path, progress=False), load_record("e2-affine")
    for name, allowed in experiment.tolerance.items():
        assert came["metrics"][name] == pytest.approx(
            recorded["metrics"][name]["each"][1], abs=allowed
        )


def test_digits_reach_what_is_promised():
    bits = {n: load_record(f"digits-{n}")["metrics"] for n in ("realnvp", "anf", "vflow")}
    assert bits["realnvp"]["bits"]["mean"] <= 2.05
    assert bits["anf"]["bits"]["mean"] <= 2.25
    for name, metrics in bits.items():
        assert len(metrics["bits"]["each"]) == 3
        assert metrics["bits"]["mean"] < metrics["bits_elbo"]["mean"]
        assert metrics["bits"]["mean"] < metrics["histogram_bits"]["mean"] - 0.2
        record = load_record(f"digits-{name}")
        assert 70_000 < record["parameters"] < 90_000
        assert max(record["seconds"]) < 180


def test_e2_shows_what_augmentation_wins():
    nll = lambda name: load_record(name)["metrics"]["nll"]  # noqa: E731
    entropy, gaussian = 1.4188449981, 2.1423980247
    assert nll("e2-affine")["mean"] == pytest.approx(gaussian, abs=1e-3)
    for n in (2, 3, 5):
        each = nll(f"e2-anf-{n}")["each"]
        assert len(each) == 5
        assert all(entropy <= v < entropy + 0.03 for v in each)
    collapsed = load_record("e2-collapsed")["metrics"]
    assert collapsed["gap"]["mean"] < 1e-3
    assert collapsed["nll"]["mean"] == pytest.approx(gaussian, abs=1e-3)


def test_a_recorded_model_is_ready_to_use():
    flow = load_model("e2-anf-3")
    assert not flow.training
    with torch.no_grad():
        assert flow.sample(5).shape == (5, 1)
        assert flow.elbo(torch.zeros(2, 1)).isfinite().all()
    with pytest.raises(ValueError, match="no experiment 'e2-anf-4'; there are: e2-affine"):
        load_model("e2-anf-4")
