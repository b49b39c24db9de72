"""Image experiments at small size: whole runs, resume, kill, two processes, probe, records."""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from augflow_mini import Flow, StandardNormal
from augflow_mini.checkpoint import load_tensors
from augflow_mini.experiments import (
    image_probe,
    image_programme,
    image_records,
    image_results,
    image_setups,
    image_speed,
    images,
)
from augflow_mini.experiments.image_models import MODELS, build
from augflow_mini.experiments.record import load_record, load_weights
from augflow_mini.train import negative_elbo
from augflow_mini.trainer import KIND

MODULE = "augflow_mini.experiments.images"
QUICK = ["--k", "1", "--no-probe", "--quiet", "--device", "cpu"]


def start(*args, processes=0):
    """The command line of a run, alone or under torchrun."""
    launcher = [sys.executable, "-m"]
    if processes:
        port = str(20_000 + random.randrange(20_000))
        launcher += [
            "torch.distributed.run",
            "--nproc-per-node",
            str(processes),
            "--master-port",
            port,
            "-m",
        ]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.Popen(
        [*launcher, MODULE, *map(str, args)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process, code=0):
    out = process.communicate(timeout=300)[0]
    assert process.returncode == code, out
    return out


def losses(path):
    return load_tensors(path, kind=KIND)["fit"]["loss"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One uninterrupted run in two shards: what every other way of running must give."""
    out = tmp_path_factory.mktemp("whole")
    finish(
        start(
            "train", "tiny-3ch", "--steps", 10, "--every", 2, "--shards", 2, "--out", out, *QUICK
        )
    )
    return out


def test_a_run_leaves_curve_result_and_weights_that_agree(whole):
    result = json.loads((whole / "tiny-3ch-s0.json").read_text())
    flow, again = image_results.load_model(whole / "tiny-3ch-s0")
    assert again == result and sum(p.numel() for p in flow.parameters()) == result["parameters"]
    setup = image_setups.Setup(**result["setup"])
    valid = image_setups.load(setup)[1]
    measured = image_results.evaluate(flow, valid, k=1, rows=8, seed=0)
    assert measured["elbo"] == pytest.approx(result["valid"]["elbo"], abs=1e-6)
    rows = list(csv.DictReader((whole / "tiny-3ch-s0.csv").open()))
    shown = [float(r["valid_bits_per_dim"]) for r in rows if r["valid_bits_per_dim"]]
    assert shown == pytest.approx([bits for _, bits in result["curve"]], abs=1e-5)
    assert shown[-1] < shown[0]  # it learned something
    assert result["provenance"]["device"] == "cpu" and result["train_images"] == 512


def test_two_processes_equal_one(whole, tmp_path):
    command = ["train", "tiny-3ch", "--steps", 10, "--every", 2, "--shards", 2, "--out", tmp_path]
    finish(start(*command, *QUICK, processes=2))
    one, two = losses(whole / "tiny-3ch-s0.ckpt"), losses(tmp_path / "tiny-3ch-s0.ckpt")
    assert len(one) == len(two) == 10
    assert torch.allclose(one, two, rtol=1e-6, atol=1e-4), (one - two).abs().max()
    a, b = (json.loads((f / "tiny-3ch-s0.json").read_text()) for f in (whole, tmp_path))
    assert b["provenance"]["processes"] == 2
    assert a["valid"]["elbo"] == pytest.approx(b["valid"]["elbo"], abs=1e-5)  # sharded evaluation
    assert a["valid"]["elbo_images"] == b["valid"]["elbo_images"] == 128


def test_two_processes_go_on_where_one_stopped(whole, tmp_path):
    command = [
        "train",
        "tiny-3ch",
        "--steps",
        10,
        "--every",
        2,
        "--shards",
        2,
        "--out",
        tmp_path,
        *QUICK,
    ]
    process = start(*command)
    wait_for(tmp_path / "tiny-3ch-s0.ckpt", process)
    process.send_signal(signal.SIGINT)  # saved at the next step
    assert "run the same call to go on" in finish(process, code=3)
    done = len(losses(tmp_path / "tiny-3ch-s0.ckpt"))
    assert 2 <= done < 10
    finish(start(*command, processes=2))
    assert torch.allclose(
        losses(tmp_path / "tiny-3ch-s0.ckpt"), losses(whole / "tiny-3ch-s0.ckpt"), atol=1e-3
    )


def wait_for(path, process):
    for _ in range(1200):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.05)


def test_killed_at_a_random_moment_it_ends_the_same(whole, tmp_path):
    command = [
        "train",
        "tiny-3ch",
        "--steps",
        10,
        "--every",
        2,
        "--shards",
        2,
        "--out",
        tmp_path,
        *QUICK,
    ]
    process = start(*command)
    wait_for(tmp_path / "tiny-3ch-s0.ckpt", process)
    time.sleep(random.random())
    process.kill()  # SIGKILL: nothing can be saved any more
    process.communicate()
    if process.returncode != 0:  # else it was quicker than the blow
        assert not (tmp_path / "tiny-3ch-s0.json").exists()
    finish(start(*command))
    a, b = (load_tensors(f / "tiny-3ch-s0.ckpt", kind=KIND)["model"] for f in (whole, tmp_path))
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_damaged_checkpoint_is_a_clear_error_and_is_kept(whole, tmp_path):
    path = tmp_path / "tiny-3ch-s0.ckpt"
    damaged = (whole / "tiny-3ch-s0.ckpt").read_bytes()[:-2000]
    path.write_bytes(damaged)
    process = start("train", "tiny-3ch", "--steps", 10, "--shards", 2, "--out", tmp_path, *QUICK)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and "cannot be read" in out and str(path) in out
    assert path.read_bytes() == damaged


def test_budget_stops_in_time_with_code_3(tmp_path):
    out = finish(start("train", "tiny-3ch", "--steps", 10_000, "--out", tmp_path, *QUICK,
                       "--budget-seconds", 8), code=3)  # fmt: skip
    assert "stopped at step" in out and (tmp_path / "tiny-3ch-s0.ckpt").exists()
    assert not (tmp_path / "tiny-3ch-s0.json").exists()


def test_side_by_side_runs_and_a_failure_is_reported(tmp_path):
    (tmp_path / "tiny-4ch-s0.ckpt").write_bytes(b"no checkpoint")
    out = finish(
        start("train", "tiny-3ch", "tiny-4ch", "--steps", 2, "--out", tmp_path, *QUICK), code=1
    )
    assert "tiny-3ch seed 0: 116,904 parameters" in out
    assert "tiny-4ch-s0: exit 1" in out and "cannot be read" in out


# ---- programmes -----------------------------------------------------------------------------


def test_a_programme_says_what_it_will_do_and_does_it(tmp_path, capsys):
    command = ["programme", "tiny", "--out", str(tmp_path), "--device", "cpu", "--no-probe"]
    assert images.main([*command, "--plan"]) == 0
    plan = capsys.readouterr().out
    assert "1. step time: about" in plan and "2. equal budget: about" in plan
    assert "train tiny-3ch tiny-6ch --seeds 0 --steps 3 --k 1" in plan and "Together" in plan
    assert not list(tmp_path.iterdir())
    assert images.main([*command, "--job", "2"]) == 0
    records = [load_record(f"tiny-{c}ch", folder=tmp_path / "records") for c in (3, 6)]
    assert [r["setup"]["steps"] for r in records] == [3, 3]
    assert all(r["run_on"][0]["device"] == "cpu" for r in records)
    capsys.readouterr()
    assert images.main(["train", "tiny-3ch", "--steps", "3", "--out", str(tmp_path), *QUICK]) == 0
    assert "finished on" in capsys.readouterr().out  # given again, nothing is trained twice


def test_a_programme_goes_on_until_done_and_stops_at_a_failure_or_its_budget(tmp_path):
    args = argparse.Namespace(
        device="cpu", out=tmp_path, plan=False, job=1, amp=None, mode="eager", probe=None,
        budget_seconds=None, records=None,
    )  # fmt: skip
    calls = []

    def main(codes):
        return lambda argv: calls.append(argv) or codes.pop(0)

    assert image_programme.programme("tiny", args, main([3, 3, 0])) == 0
    assert len(calls) == 3 and calls[0] == calls[2]
    assert calls[0][-2:] == ["--budget-seconds", f"{image_programme.JOB_SECONDS:.0f}"]
    assert image_programme.programme("tiny", args, main([1])) == 1
    args.budget_seconds = 0.001
    assert image_programme.programme("tiny", args, main([])) == 3


def test_every_job_of_a_programme_is_a_command():
    known = image_setups.setups()
    for name, jobs in image_programme.PROGRAMMES.items():
        for job in jobs:
            assert set(job.names) <= set(known), name
            assert job.what in ("train", "timing")


def test_an_estimate_counts_steps_seeds_and_evaluation(monkeypatch):
    monkeypatch.setattr(image_programme, "step_seconds", lambda *_: 0.5)
    cpu = torch.device("cpu")

    def seconds(**changes):
        job = image_programme.Job("", "train", ("tiny-3ch",), **changes)
        return image_programme.job_seconds(job, cpu, None)

    once = seconds(changes=(("steps", 100),))
    assert seconds(seeds=(0, 1), changes=(("steps", 100),)) == 2 * once
    assert seconds(changes=(("steps", 300),)) - once == pytest.approx(100)


def test_timing_gives_ratios_to_the_floor_and_to_the_first(tmp_path):
    small = ["--modes", "eager", "--device", "cpu", "--batch", "2", "--steps", "4"]
    out = ["--out", str(tmp_path), "--records", str(tmp_path), "--seal"]
    assert images.main(["timing", "tiny-3ch", *small, *out]) == 0
    record = load_record("timing-tiny-3ch", folder=tmp_path)
    first, second = record["rows"]
    assert first["tf32"] and not second["tf32"] and second["device"] == "cpu"
    assert first["amp"] is second["amp"] is None and first["peak_mib"] > 50
    assert record["setup"]["batch"] == 2 and record["run_on"]["device"] == "cpu"
    setup = image_setups.setups()["tiny-3ch"]
    flow = build(setup.model, setup.shape, **setup.options)
    assert record["parameters"] == sum(p.numel() for p in flow.parameters())
    assert first["over_floor"] == first["step_ms"] / first["floor_ms"] > 1
    assert second["faster_than_first"] == first["step_ms"] / second["step_ms"]


# ---- models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10-3ch", "cifar10-4ch", "cifar10-6ch"])
def test_equal_budget_models_have_a_million_parameters(name):
    setup = image_setups.setups()[name]
    flow = build(setup.model, setup.shape, **setup.options)
    count = sum(p.numel() for p in flow.parameters())
    assert abs(count - 1e6) < 0.02e6
    assert 16 * count < 16 * 2**20  # weights, average and Adam's two moments travel in 16 MiB


BUDGETS = {"mnist-cpu": 80_900, "cifar10-cpu": 270_900, "mnist": 312_000, "small": 385_000}


@pytest.mark.parametrize(
    "name", [n for n in image_setups.setups() if n.startswith(tuple(BUDGETS))]
)
def test_models_that_are_compared_share_a_budget_and_give_a_bound(name):
    setup = image_setups.setups()[name]
    flow = build(setup.model, setup.shape, **setup.options)
    budget = next(n for start, n in BUDGETS.items() if name.startswith(start))
    assert abs(sum(p.numel() for p in flow.parameters()) / budget - 1) < 0.05
    x = image_setups.made_images(4, setup.shape).float()
    bits = image_results.bits_per_dim(flow.train().elbo(x), x)
    assert bits.isfinite().all() and bits.min() > 0
    assert flow.base.shape == tuple(flow.encode(x).z.shape[1:])


def test_unknown_model_is_an_error():
    with pytest.raises(ValueError, match="expected one of vflow_mini"):
        build("vflo", (1, 28, 28))
    assert "paper" in MODELS


# ---- evaluation and speed -------------------------------------------------------------------


def test_bound_is_above_the_elbo_and_counts_its_images():
    setup = image_setups.setups()["tiny-4ch"]
    train, valid = image_setups.load(setup)
    flow = image_setups.prepare(setup, train, seed=0, device=torch.device("cpu"))
    state = torch.get_rng_state()
    out = image_results.evaluate(flow, valid[:32], k=8, rows=24)
    assert torch.equal(state, torch.get_rng_state())
    same = image_results.evaluate(flow, valid[:24], k=1, rows=0)
    assert out["bound"] < same["elbo"] and out["bound_images"] == 24 and out["elbo_images"] == 32
    assert 1 <= out["ess"] <= 8 and out["var_log_weight"] > 0


def test_floor_runs_the_very_networks_on_what_they_see():
    setup = image_setups.setups()["tiny-3ch"]
    train, _ = image_setups.load(setup)
    flow = image_setups.prepare(setup, train, seed=0, device=torch.device("cpu"))
    x = train[:4].float()
    bare = image_speed.BareNets(flow, x)
    torch.manual_seed(0)
    bare(x).backward()
    nets = sum(p.numel() for net in bare.nets for p in net.parameters())
    with_gradient = sum(p.numel() for p in flow.parameters() if p.grad is not None)
    assert nets == with_gradient > 0.9 * sum(p.numel() for p in flow.parameters())
    assert (
        len(bare.nets) == len(bare.inputs) == 14
    )  # 9 of the joint, 4 and a context of the dequantiser


def test_fast_loss_knows_its_modes():
    setup = image_setups.setups()["tiny-3ch"]
    train, _ = image_setups.load(setup)
    flow = image_setups.prepare(setup, train, seed=0, device=torch.device("cpu"))
    assert image_speed.fast_loss(flow, train[:2].float(), mode="eager", amp=None) is negative_elbo
    with pytest.raises(ValueError, match="expected one of eager"):
        image_speed.fast_loss(flow, train[:2].float(), mode="graphs", amp=None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("mode", ["graph", "compile+graph"])
def test_recorded_graph_gives_the_same_loss_and_gradient(mode):
    setup = image_setups.setups()["tiny-6ch"]
    device = torch.device("cuda")
    train, _ = image_setups.load(setup)
    x = train[:16].float().to(device)
    values = []
    for m in ("eager", mode):
        flow = image_setups.prepare(setup, train, seed=0, device=device)
        loss = image_speed.fast_loss(flow, x, mode=m, amp=None)
        for _ in range(2):  # the second replay must not depend on the first
            flow.zero_grad()
            torch.cuda.manual_seed(5)
            value = loss(flow.train(), x)
            value.backward()
        values.append((value.item(), [p.grad.clone() for p in flow.parameters()]))
    (a, grads), (b, grads_b) = values
    assert a == pytest.approx(b, rel=1e-4)

    def norm(g):
        return sum(t.square().sum() for t in g).sqrt()

    assert norm([u - v for u, v in zip(grads, grads_b, strict=True)]) < 1e-3 * norm(grads)


# ---- the probe ------------------------------------------------------------------------------


def test_probe_finds_what_is_there_and_nothing_else():
    torch.manual_seed(0)
    x = torch.randn(160, 3, 8, 8)
    kernel = torch.randn(4, 3, 3, 3) / 5
    carried = torch.relu(nn.functional.conv2d(x, kernel, padding=1))
    foreign = torch.randn(160, 4, 8, 8)

    def split(t):
        return t[:128], t[128:]

    high = image_probe.r_squared(split(x), split(carried), steps=150, batch=32)
    low = image_probe.r_squared(split(x), split(foreign), steps=150, batch=32)
    assert high > 0.9 and low < 0.1


def test_probe_takes_features_and_tensor_from_one_noise_draw():
    setup = image_setups.setups()["tiny-6ch"]
    train, _ = image_setups.load(setup)
    flow = image_setups.prepare(setup, train, seed=0, device=torch.device("cpu"))
    couplings = image_probe.joint_couplings(flow)
    assert len(couplings) == 9
    hidden, passed = image_probe.collect(flow, train[:8], batch=4)
    assert [len(h) for h in hidden] == [8] * 9 and hidden[0].shape[2:] == passed[0].shape[2:]
    first = couplings[0]
    again = []
    hook = first.net.last.register_forward_pre_hook(lambda _, args: again.append(args[0]))
    with torch.no_grad():
        first.eval().net(passed[0][:, first.reads[0]])  # what it read leaves it unchanged
    hook.remove()
    assert torch.allclose(again[0].permute(0, 3, 1, 2), hidden[0], atol=1e-5)


def test_made_images_are_images():
    made = image_setups.made_images(8, (3, 8, 8))
    assert made.dtype == torch.uint8 and made.shape == (8, 3, 8, 8) and made.float().std() > 20
    assert isinstance(Flow([], StandardNormal(2)), nn.Module)


# ---- records --------------------------------------------------------------------------------


def second_seed(folder, change=None):
    """A run of seed 1 beside that of seed 0: its copy with other numbers."""
    result = json.loads((folder / "tiny-3ch-s0.json").read_text())
    result |= {"seed": 1, "valid": dict(result["valid"], elbo=result["valid"]["elbo"] + 0.2)}
    (folder / "tiny-3ch-s1.json").write_text(json.dumps(result | (change or {})))


def test_runs_become_one_sealed_record_with_the_first_weights(whole, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs)
    second_seed(runs)
    (path,) = image_records.collect(runs, ["tiny-3ch"], tmp_path / "records")
    record = load_record(path.stem, folder=path.parent)
    first = json.loads((whole / "tiny-3ch-s0.json").read_text())["valid"]["elbo"]
    assert record["metrics"]["elbo"]["mean"] == pytest.approx(first + 0.1)
    assert record["metrics"]["elbo"]["sd"] == pytest.approx(0.2 / 2**0.5)
    assert record["seeds"] == [0, 1] and record["run_on"][0]["device"] == "cpu"
    stored = load_weights(path.stem, folder=path.parent)
    trained = image_results.load_model(whole / "tiny-3ch-s0")[0].state_dict()
    assert all(torch.equal(stored[k], v.half()) for k, v in trained.items())
    path.write_text(path.read_text().replace('"seeds": [\n  0', '"seeds": [\n  7'))
    with pytest.raises(ValueError, match="changed after it was written"):
        load_record(path.stem, folder=path.parent)


def test_a_seed_is_added_to_a_record_whose_runs_are_gone(whole, tmp_path):
    runs, folder = tmp_path / "runs", tmp_path / "records"
    shutil.copytree(whole, runs)
    image_records.collect(runs, ["tiny-3ch"], folder)
    before, weights = (f("tiny-3ch", folder=folder) for f in (load_record, load_weights))
    second_seed(runs)
    (runs / "tiny-3ch-s0.json").unlink()
    image_records.collect(runs, ["tiny-3ch"], folder, add=True)
    added, kept = (f("tiny-3ch", folder=folder) for f in (load_record, load_weights))
    again = image_records._content(image_records._results(added))  # a record keeps all it needs
    assert again == {k: v for k, v in added.items() if k not in ("seal", "weights", "name")}
    assert added["seeds"] == [0, 1] and added["weights_of_seed"] == 0
    assert added["metrics"]["elbo"]["each"][0] == before["metrics"]["elbo"]["mean"]
    assert added["metrics"]["elbo"]["sd"] == pytest.approx(0.2 / 2**0.5)
    assert all(torch.equal(kept[k], v) for k, v in weights.items())
    image_records.collect(runs, ["tiny-3ch"], folder, add=True)  # a seed counts once
    assert load_record("tiny-3ch", folder=folder) == added
    second_seed_of_another = json.loads((runs / "tiny-3ch-s1.json").read_text())
    second_seed_of_another |= {"seed": 2, "parameters": 1}
    (runs / "tiny-3ch-s2.json").write_text(json.dumps(second_seed_of_another))
    with pytest.raises(ValueError, match="differ in 'parameters'"):
        image_records.collect(runs, ["tiny-3ch"], folder, add=True)


def test_weights_too_large_for_a_record_stay_with_the_run(whole, tmp_path, monkeypatch):
    """As those of the million-parameter models: their figures must not be lost for it."""
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs)
    image_records.collect(runs, ["tiny-3ch"], tmp_path, weights=False)
    figures = load_record("tiny-3ch", folder=tmp_path)
    monkeypatch.setattr(image_records, "LIMIT", (whole / "tiny-3ch-s0.pt").stat().st_size // 4)
    image_records.collect(runs, ["tiny-3ch"], tmp_path)
    assert load_record("tiny-3ch", folder=tmp_path) == figures
    assert "weights" not in figures and not (tmp_path / "tiny-3ch.pt").exists()
    with pytest.raises(ValueError, match="has no weights"):
        load_weights("tiny-3ch", folder=tmp_path)
    second_seed(runs)
    image_records.collect(runs, ["tiny-3ch"], tmp_path, add=True)
    assert load_record("tiny-3ch", folder=tmp_path)["seeds"] == [0, 1]


def test_runs_of_different_settings_are_not_averaged(whole, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs)
    second_seed(runs, {"parameters": 1})
    with pytest.raises(ValueError, match="differ in 'parameters'"):
        image_records.collect(runs, ["tiny-3ch"], tmp_path)
    with pytest.raises(ValueError, match="no finished run of 'tiny-4ch'"):
        image_records.collect(runs, ["tiny-4ch"], tmp_path)


@pytest.mark.parametrize("name", ["small-3ch", "small-4ch", "small-6ch"])
def test_recorded_models_are_those_of_the_setups(name):
    record, flow = image_records.load_images_record(name), image_records.load_images_model(name)
    setup = image_setups.setups()[name]
    assert image_setups.Setup(**{**record["setup"], **as_tuples(record)}) == setup
    assert sum(p.numel() for p in flow.parameters()) == record["parameters"]
    torch.manual_seed(0)
    made = flow.sample(4)
    assert made.shape == (4, 3, 8, 8) and made.min() >= 0 and made.max() <= 255
    assert torch.equal(made, made.round())


def as_tuples(record):
    """JSON knows no tuples."""
    return {k: tuple(v) for k, v in record["setup"].items() if isinstance(v, list)}


def test_sampled_images_stand_side_by_side():
    picture = image_records.sampled(["small-3ch"], 2, seed=3)
    torch.manual_seed(3)
    one, two = image_records.load_images_model("small-3ch").sample(2).detach().byte()
    assert picture.shape == (8, 16, 3) and picture.dtype == "uint8"
    assert (picture[:, :8] == one.permute(1, 2, 0).numpy()).all()
    assert (picture[:, 8:] == two.permute(1, 2, 0).numpy()).all()


def test_interpolation_stays_on_the_shell_and_ends_where_it_should():
    u, v = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    middle = image_records.norm_corrected(u, 3 * v, 0.5)
    assert middle.norm() == pytest.approx(((u.norm() + 3 * v.norm()) / 2).item())
    assert torch.allclose(image_records.norm_corrected(u, v, 0.0), u)
    picture = image_records.interpolated("small-3ch", 3, pairs=1, seed=3)
    flow = image_records.load_images_model("small-3ch")
    torch.manual_seed(3)
    noise = flow.base.draw(torch.empty(2, 0))[0]
    for place, z in ((slice(0, 8), noise[0]), (slice(16, 24), noise[1])):
        torch.manual_seed(3)
        image = flow.chain.inverse(z[None])[0][0].detach().byte()
        assert (picture[:, place] == image.permute(1, 2, 0).numpy()).all()


def test_codecs_squeeze_what_has_structure_and_nothing_else():
    flat, noise = torch.full((16, 3, 32, 32), 7), torch.randint(0, 256, (16, 3, 32, 32))
    flat, noise = (image_records.codec_bits(t.to(torch.uint8)) for t in (flat, noise))
    assert flat.keys() == noise.keys() and len(flat) == 4
    assert all(8 < bits < 9 for bits in noise.values()) and flat["png of the mosaic"] < 0.1
    with pytest.raises(ValueError, match="make no square"):
        image_records.codec_bits(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        image_records.codec_bits(torch.zeros(4, 1, 8, 8))


def test_pooled_images_are_means_over_squares():
    x = torch.randint(0, 256, (2, 3, 8, 8)).to(torch.uint8)
    small = image_setups._pool(x, 4)
    assert small.dtype == torch.uint8 and small.shape == (2, 3, 2, 2)
    assert small[1, 2, 1, 0] == x[1, 2, 4:, :4].float().mean().round()
