"""The digits suite: equal budgets, every model whole, rows -> record; and the record itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from augflow_mini.data import digits
from augflow_mini.experiments import digit_suite, toys
from augflow_mini.experiments.digits import build
from augflow_mini.experiments.record import RECORDS, load_record
from augflow_mini.nets import count_parameters

JOBS = {j.name: j for j in digit_suite.suite()}
TINY = {"steps": 2, "trial_steps": 2, "k": 4, "parameters": None, "width": 4, "seeds": (1, 2)}


def test_budgets_are_equal():
    for job in JOBS.values():
        flow = build(job.config(job.fitted_width()))
        if "glow" not in job.name:
            assert abs(count_parameters(flow) / digit_suite.PARAMETERS - 1) < 0.02, job.name


@pytest.mark.parametrize("name", [n for n in JOBS if n.startswith("models/")])
def test_models_give_the_integers_back(name):
    job = JOBS[name]
    x = digits().train[:8].view(-1, *job.shape)
    flow = digit_suite._start(job, 8, job.last_gains[0], 1, x.repeat(8, *[1] * len(job.shape)))
    flow.eval()
    with torch.no_grad():
        assert torch.equal(flow.decode(flow.encode(x)), x)
        assert flow.sample(5).unique().frac().abs().max() == 0  # levels, no fractions
        other = flow.log_weight(x)
        torch.manual_seed(0)
        first = flow.log_weight(x)
        torch.manual_seed(0)
    assert torch.equal(first, flow.log_weight(x)) and not torch.equal(first, other)


def test_rows_become_a_record_with_paired_differences(tmp_path, monkeypatch):
    names = ("models/realnvp-uniform", "models/realnvp-variational", "models/vae-uniform")
    jobs = [replace(JOBS[n], **TINY) for n in names]
    monkeypatch.setattr(digit_suite, "suite", lambda: [*jobs, JOBS["budget/e0-c3"]])
    toys.run_all(jobs, tmp_path, workers=1, work=digit_suite.run, headline="bits")
    digit_suite.collect(tmp_path / toys.FILE, tmp_path)
    record = load_record(digit_suite.NAME, folder=tmp_path)
    each = {n: c["metrics"]["bits"]["each"] for n, c in record["cells"].items()}
    for pairs, one, other in (
        ("against_realnvp", names[2], names[0]),
        ("against_uniform", names[1], names[0]),
    ):
        found = record[pairs]
        assert list(found) == [one] and found[one]["against"] == other
        mean = sum(a - b for a, b in zip(each[one], each[other], strict=True)) / 2
        assert abs(found[one]["mean"] - mean) < 1e-6
    assert record["missing"] == ["budget/e0-c3"]
    again = json.loads(json.dumps(digit_suite.run(jobs[0])))
    assert again["bits"] == toys.read_rows(tmp_path / toys.FILE)[names[0]]["bits"]
    monkeypatch.setattr(digit_suite, "suite", lambda: [replace(jobs[0], steps=3)])
    with pytest.raises(ValueError, match="another definition"):
        digit_suite.collect(tmp_path / toys.FILE, tmp_path)


def test_the_record_is_made_with_the_suite_as_it_is():
    record = load_record(digit_suite.NAME)
    for name, cell in record["cells"].items():
        assert toys.is_current(cell, JOBS[name]), name
        assert not any(cell["failed"]) and len(cell["trials"]) == 3 * len(JOBS[name].last_gains)
        best = min(t["valid_bits"] for t in cell["trials"])
        chosen = [t for t in cell["trials"] if t["valid_bits"] == best][0]
        assert (cell["lr"], cell["last_gain"]) == (chosen["lr"], chosen["last_gain"])
        metrics = {k: v["mean"] for k, v in cell["metrics"].items()}
        assert metrics["bits"] <= metrics["bits_elbo"] and metrics["gap_at_least"] > 0
        assert metrics["bits_change"] > 0  # more samples, a tighter bound
    assert set(record["missing"]) | set(record["cells"]) == set(JOBS)
    assert (RECORDS / f"{digit_suite.NAME}.json").stat().st_size < 200_000
