"""The 2-D suite: batched training, models at equal parameters, measurements, runner, records."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import replace

import pytest
import torch

from augflow_mini import Augment, Flow, InvertibleLinear, StandardNormal, count_parameters
from augflow_mini.data import TOYS
from augflow_mini.experiments import toy_check, toy_records, toys
from augflow_mini.experiments.many import fit_many, negative_iw_bound
from augflow_mini.experiments.record import (
    LIMIT,
    RECORDS,
    load_record,
    multiply_adds,
    seal,
    write_record,
)
from augflow_mini.experiments.toy_jobs import Job, Tuning, suite
from augflow_mini.experiments.toy_measure import integrate, measure, points, steepness
from augflow_mini.experiments.toy_models import Model
from augflow_mini.experiments.toy_run import pack, run_job, unpack
from augflow_mini.gap import quadrature

TINY = Job(
    "tiny",
    "two_modes",
    "two_modes",
    Model("anf", 1, 1, 1, 300),
    steps=12,
    batch=32,
    seeds=(1, 2),
    test=64,
    k=16,
)


def stream(toy, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return lambda n: TOYS[toy].sample(n, generator)


def test_each_flow_of_a_batch_trains_as_if_alone():
    """Against torch's own Adam, one flow at a time, on the same data."""
    model, steps, batch, rates = Model("cycle", 2, 0, 4, 500), 30, 16, [3e-3, 1e-2]
    flows = [model.build(s).double() for s in (1, 2)]
    alone = [model.build(s).double() for s in (1, 2)]
    draw = stream("checkerboard")
    fit_many(
        flows, lambda n: draw(n).double(), steps=steps, batch=batch, lr=rates, seed=0, warmup=5
    )
    data = stream("checkerboard")(steps * 2 * batch).double().view(steps, 2, batch, 2)
    for i, flow in enumerate(alone):
        adam = torch.optim.Adam(flow.parameters(), lr=1.0)
        for t in range(steps):
            warm = min(1.0, (t + 1) / 5)
            adam.param_groups[0]["lr"] = (
                rates[i] * warm * 0.5 * (1 + math.cos(math.pi * t / steps))
            )
            adam.zero_grad()
            (-flow.log_prob(data[t, i]).mean()).backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            adam.step()
        for a, b in zip(flow.parameters(), flows[i].parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


def test_seeds_draw_their_own_noise_and_runs_repeat():
    model = Model("anf", 1, 1, 2, 300)

    def trained():
        flows = [model.build(1), model.build(1)]  # the same weights: only data and noise differ
        fit_many(flows, stream("two_modes"), steps=5, batch=16, lr=1e-2, seed=3)
        return [torch.cat([p.flatten() for p in f.parameters()]) for f in flows]

    first, second = trained(), trained()
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_frozen_weights_stay_and_k_samples_train():
    flows = [Model("anf", 1, 1, 1, 300).build(s) for s in (1, 2)]
    for flow in flows:
        list(flow.chain)[-1].requires_grad_(False)
    before = [p.clone() for p in flows[0].parameters()]
    fit_many(
        flows, stream("two_modes"), steps=3, batch=8, lr=1e-2, seed=1, loss=negative_iw_bound(4)
    )
    moved = [not torch.equal(a, b) for a, b in zip(before, flows[0].parameters(), strict=True)]
    assert moved == [p.requires_grad for p in flows[0].parameters()]


def test_a_flow_with_a_bad_loss_stays_and_is_marked():
    flows = [Model("anf", 1, 1, 1, 300).build(s) for s in (1, 2)]
    with torch.no_grad():
        flows[1].chain[1].net.layers[0].weight.fill_(math.nan)
    done = fit_many(flows, stream("two_modes"), steps=4, batch=8, lr=1e-2, seed=1)
    assert done.failed == [False, True]
    assert all(p.isfinite().all() for p in flows[0].parameters())


def test_flows_of_two_shapes_are_refused():
    flows = [Model("anf", 1, 1, n, 300).build(1) for n in (1, 2)]
    with pytest.raises(ValueError, match="one shape"):
        fit_many(flows, stream("two_modes"), steps=1, batch=8, lr=1e-2, seed=1)


@pytest.mark.parametrize("coupling", ["additive", "affine", "mixlogistic"])
@pytest.mark.parametrize("noise", [0, 1, 2])
def test_models_have_the_parameters_asked_for(coupling, noise):
    for hidden in (1, 2):
        model = Model("cycle", 2, noise, 8, 6000, coupling, hidden=hidden)
        flow = model.build(1)
        assert abs(count_parameters(flow) / 6000 - 1) < 0.08
        assert 0 < multiply_adds(flow, torch.zeros(2, 2)) < count_parameters(flow) + 100


def test_additive_models_have_a_constant_jacobian():
    flow = Model("cycle", 2, 0, 6, 1000, "additive", last_gain=1.0).build(1)
    contrib = flow.chain(torch.randn(50, 2))[1]
    assert contrib.std() < 1e-5


def test_quadrature_agrees_with_the_library_and_with_a_closed_form():
    flow = Model("anf", 1, 1, 2, 600, last_gain=1.0).build(4)
    x = torch.linspace(-3, 3, 9)[:, None]
    with torch.no_grad():
        log_p, elbo, variance, error = integrate(flow, x)
    exact = quadrature(flow, x)
    sound = (
        error < 1e-3
    )  # some posteriors of this untrained model lie far outside: those are marked
    assert 4 <= sound.sum() <= 7 and (variance > 0).all()
    torch.testing.assert_close(log_p[sound], exact.log_p[sound], atol=2e-3, rtol=0)
    torch.testing.assert_close(elbo, exact.elbo, atol=2e-3, rtol=0)
    bare = Flow([Augment(StandardNormal(1), keep=1), InvertibleLinear(2)], StandardNormal(2))
    with torch.no_grad():
        log_p, elbo, *_ = integrate(bare, x)  # a rotation of N(0, I): p(x) = N(0, 1), no gap
    torch.testing.assert_close(log_p, StandardNormal(1).density(x).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(elbo, log_p, atol=1e-4, rtol=0)


def test_steepness_of_linear_flows():
    flow = Flow([InvertibleLinear(1)], StandardNormal(1))
    with torch.no_grad():
        flow.chain[0].lu.fill_(-math.log(3.0))
    assert abs(steepness(flow) - 3) < 1e-4
    flow = Flow([Augment(StandardNormal(2), keep=1), InvertibleLinear(3)], StandardNormal(3))
    with torch.no_grad():
        flow.chain[1].lu.copy_(torch.tensor([[0.3, 2.0, -1.0], [0.5, -0.2, 0.7], [1.0, 0.4, 0.1]]))
        inverse = flow.chain[1].inverse(torch.eye(3))[0]  # row i is the image of unit vector i
    assert abs(steepness(flow) - inverse[:, 0].norm().item()) < 1e-4


def test_steepness_of_a_monotone_flow_is_that_of_its_density():
    flow = toy_records.load_toy_model("two_modes/mixlogistic-1d-c1").double()
    x = torch.linspace(-6, 6, 100_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        steepest = (-flow.chain(x)[1]).exp().max().item()
    assert steepness(flow) == pytest.approx(steepest, rel=1e-3)


def test_a_grid_in_one_dimension_gives_the_entropy():
    toy = TOYS["two_modes"]
    at = points(toy, 600, 1)
    assert abs(-at.mean(toy.log_prob(at.x.double())) - toy.entropy) < 1e-4
    found = measure(Model("anf", 1, 1, 1, 300).build(1), toy, at, by_quadrature=True, k=8, seed=1)
    assert found["nll"] > toy.entropy and found["gap"] >= 0 and found["nll_se"] == 0


def test_packed_weights_come_back():
    model = Model("cycle", 2, 1, 4, 500)
    flow = model.build(3)
    back = unpack(pack(flow), lambda: model.build(9))
    x = torch.randn(5, 3)
    joint = [Flow(list(f.chain)[1:], f.base).log_prob(x) for f in (flow, back)]
    assert torch.equal(*joint)


def test_the_suite_is_well_formed():
    jobs = suite()
    assert len({j.name for j in jobs}) == len(jobs)
    assert {j.group for j in jobs} == set(toy_records.ABOUT)
    assert sum(j.estimate for j in jobs) < 6 * 3600 and max(j.estimate for j in jobs) < 180 * 5
    assert all(j.name.startswith(j.group + "/") for j in jobs)


def test_runner_resumes_with_the_same_rows(tmp_path):
    """Stopped after one job, or run in one go: the same numbers, bit for bit."""
    grid = Tuning(rates=(1e-2,), last_gains=(0.01, 1.0), hidden=(2,), steps=4)
    jobs = [
        replace(TINY, name="two_modes/a", keep=True),
        replace(TINY, name="two_modes/b", tuning=grid),
    ]
    whole = toys.run_all(jobs, tmp_path / "whole", workers=1)
    toys.run_all(jobs[:1], tmp_path / "part", workers=1)
    with (tmp_path / "part" / toys.FILE).open("a") as file:
        file.write('{"job": "two_modes/b", "nll": [1.')  # cut off while it was written
    again = toys.run_all(jobs, tmp_path / "rest", workers=2, have=tmp_path / "part" / toys.FILE)
    for name, row in whole.items():
        for key in ("nll", "elbo", "leak", "trials"):
            assert row[key] == again[name][key]
    changed = replace(jobs[0], steps=13)
    assert not toys.is_current(whole["two_modes/a"], changed)
    toys.run_all(jobs[1:], tmp_path / "rest", workers=1)  # a part of the jobs: all rows stay
    assert list(toys.read_rows(tmp_path / "rest" / toys.FILE)) == ["two_modes/a", "two_modes/b"]


@pytest.mark.skipif(sys.platform != "linux", reason="the fault is planted by forking")
def test_a_run_killed_three_times_ends_as_an_uninterrupted_one(tmp_path):
    """SIGKILL at random steps, to the runner and its worker: no clean-up, no last word."""
    grid = Tuning(rates=(1e-2,), last_gains=(0.01, 1.0), hidden=(2,), steps=4)
    jobs = [
        replace(TINY, name=f"two_modes/{i}", tuning=grid, keep=True, seeds=(2 * i, 2 * i + 1))
        for i in range(4)
    ]
    each = grid.steps + TINY.steps  # training steps of one job
    whole = toys.run_all(jobs, tmp_path / "whole", workers=1)
    context, done = multiprocessing.get_context("fork"), []
    for kill in torch.randint(each, 2 * each, (3,), generator=torch.Generator().manual_seed(2)):
        taken, original = context.Value("i", 0), torch.autograd.grad

        def step(*args, kill=int(kill), taken=taken, original=original, **options):
            taken.value += not options  # training; the measurements pass options
            if taken.value == kill:  # in the worker: its runner dies, then it
                os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        def run(step=step):
            torch.autograd.grad = step  # in this process only
            toys.run_all(jobs, tmp_path / "killed", workers=1)

        runner = context.Process(target=run)
        runner.start()
        runner.join()
        assert runner.exitcode == -signal.SIGKILL
        done.append(len(toys.read_rows(tmp_path / "killed" / toys.FILE)))
    assert done == [1, 2, 3]  # each kill came in the middle of the next job
    again = toys.run_all(jobs, tmp_path / "killed", workers=1)
    for name, row in whole.items():
        one, other = (
            {k: v for k, v in json.loads(json.dumps(r)).items() if "seconds" not in k}
            for r in (row, again[name])
        )
        assert one == other  # every number, the weights and the curve, bit for bit


def test_runner_keeps_to_its_budget_and_survives_a_failure(tmp_path, capsys):
    broken = replace(TINY, name="two_modes/broken", model=replace(TINY.model, recipe="none"))
    long = replace(TINY, name="two_modes/long", steps=10**7)
    rows = toys.run_all([broken, long, TINY], tmp_path, workers=1, budget=60)
    said = capsys.readouterr().out
    assert list(rows) == ["tiny"] and "FAILED two_modes/broken: ValueError" in said


def test_records_carry_intervals_and_weights(tmp_path, monkeypatch):
    jobs = [
        replace(
            TINY,
            name=f"factorial/x-e{k}-c1",
            group="factorial",
            keep=k == 1,
            model=replace(TINY.model, recipe="cycle", depth=2, noise=k),
        )
        for k in (0, 1)
    ]
    (tmp_path / "rows").write_text("".join(json.dumps(run_job(j)) + "\n" for j in jobs))
    monkeypatch.setattr(toy_records, "suite", lambda: jobs)
    paths = toy_records.collect(tmp_path / "rows", tmp_path)
    assert [p.stem for p in paths] == ["factorial", "factorial-x-e1-c1"]
    monkeypatch.setattr(toy_records, "FOLDER", tmp_path)
    record = toy_records.load_toys("factorial")
    nll = [record["cells"][j.name]["metrics"]["nll"]["each"] for j in jobs]
    found = record["differences"]["factorial/x-e1-c1"]
    assert abs(found["mean"] - sum(b - a for a, b in zip(*nll, strict=True)) / 2) < 1e-6
    assert found["low"] < found["mean"] < found["high"]
    (tmp_path / "few").write_text(json.dumps(run_job(jobs[0])) + "\n")
    toy_records.collect(tmp_path / "few", tmp_path)  # the other cell is kept as it stands
    kept = toy_records.load_toys("factorial")
    assert kept["cells"]["factorial/x-e1-c1"] == record["cells"]["factorial/x-e1-c1"]
    assert kept["missing"] == [] and kept["differences"] == record["differences"]
    there = kept["cells"]["factorial/x-e1-c1"]["metrics"]
    steepness = there.pop("steepness")
    write_record("factorial", kept, folder=tmp_path)
    toy_check.complete(jobs[1], tmp_path)
    made = toy_records.load_toys("factorial")["cells"]["factorial/x-e1-c1"]["metrics"]
    assert made["steepness"] == steepness
    there["nll"]["each"][0] -= 0.001
    write_record("factorial", kept, folder=tmp_path)
    with pytest.raises(ValueError, match="off the record"):
        toy_check.complete(jobs[1], tmp_path)
    write_record("factorial", record, folder=tmp_path)
    flow = toy_records.load_toy_model("factorial/x-e1-c1")
    again = measure(
        flow, TOYS["two_modes"], points(TOYS["two_modes"], 64, 3), by_quadrature=True, k=16, seed=4
    )
    assert abs(again["nll"] - min(nll[1])) < 1e-5
    monkeypatch.setattr(toy_records, "suite", lambda: [replace(jobs[0], steps=1), jobs[1]])
    with pytest.raises(ValueError, match="another definition"):
        toy_records.collect(tmp_path / "rows", tmp_path)


def test_t_interval_against_a_table():
    found = toy_records.paired([1.0, 2.0, 3.0, 4.0, 5.0])
    assert abs(found["high"] - 3 - 2.776445 * math.sqrt(2.5 / 5)) < 1e-5


# ---- what is recorded -----------------------------------------------------------------------

GROUPS = [p.stem for p in sorted(toy_records.FOLDER.glob("*.json")) if p.stem in toy_records.ABOUT]


def test_the_suites_records_are_in_order():
    """Seals and definitions of all; two sets of weights measured again."""
    cheap = ["two_modes-anf-n1", "two_modes-mixlogistic-1d-c1"]
    found = dict(toy_check.check(weights=cheap))
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
    assert set(cheap) <= found.keys() and set(GROUPS) <= found.keys()


def test_the_suites_records_are_small():
    files = [p for p in RECORDS.rglob("*") if p.is_file()]
    assert max(p.stat().st_size for p in files) <= LIMIT
    assert sum(p.stat().st_size for p in files) <= 20 * 1024**2


def test_each_recorded_run_took_less_than_three_minutes_and_all_less_than_six_hours():
    cells = [c for g in GROUPS for c in toy_records.load_toys(g)["cells"].values()]
    assert max(c["cpu_seconds"] for c in cells) < 180
    assert sum(c["cpu_seconds"] for c in cells) < 6 * 3600


def test_edited_records_are_found(tmp_path):
    """A number changed by hand; one changed and sealed anew; weights of another seed."""
    source = toy_records.FOLDER
    for name in ("two_modes", "two_modes-anf-n1"):
        for path in source.glob(f"{name}.*"):
            shutil.copy(path, tmp_path)
    assert dict(toy_check.check(tmp_path)) == {"two_modes": [], "two_modes-anf-n1": []}

    def edit(name, change):
        path = tmp_path / f"{name}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    edit("two_modes", lambda r: r["cells"]["two_modes/anf-n1"]["metrics"]["nll"].update(mean=1.41))

    def forge(record):
        record["nll"] -= 0.01
        record["seal"] = seal(record)

    edit("two_modes-anf-n1", forge)
    found = dict(toy_check.check(tmp_path))
    assert "was changed after it was written" in found["two_modes"][0]
    assert "the weights give an NLL of" in found["two_modes-anf-n1"][0]
    with pytest.raises(ValueError, match="was changed after"):
        load_record("two_modes", folder=tmp_path)


def test_a_recorded_job_is_reproduced_from_scratch(capsys):
    with pytest.raises(SystemExit) as status:
        toys.main(["reproduce", "two_modes/affine-1d-c1"])
    said = capsys.readouterr().out
    assert status.value.code == 0 and "about 0." in said.splitlines()[0] and "agrees: NLL" in said


def test_a_run_that_is_off_its_record_is_reported(tmp_path, monkeypatch, capsys):
    job = replace(TINY, name="two_modes/off")
    row = run_job(job)
    row["nll"] = [v + 0.5 for v in row["nll"]]
    (tmp_path / "rows").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(toys, "suite", lambda: [job])
    monkeypatch.setattr(toy_records, "suite", lambda: [job])
    monkeypatch.setattr(toy_records, "FOLDER", tmp_path)
    toy_records.collect(tmp_path / "rows", tmp_path)
    with pytest.raises(SystemExit) as status:
        toys.main(["reproduce", job.name])
    assert status.value.code == 1 and "is recorded, allowed" in capsys.readouterr().out
