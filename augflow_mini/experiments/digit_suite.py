"""The digits suite: six models and two kinds of rounding noise; width, depth and D_E at one budget.

    python -m augflow_mini.experiments.digit_suite list
    python -m augflow_mini.experiments.digit_suite run-all --out digits-out
    python -m augflow_mini.experiments.digit_suite collect digits-out/toys.jsonl
    python -m augflow_mini.experiments.digit_suite reproduce models/realnvp-uniform

A cell is tuned on the validation images, trained from three fresh seeds and then measured on the
test images, once. It is resumed as the 2-D suite is: finished cells are lines of a file.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ..bounds import bits_per_dim
from ..data import digits, histogram_bits
from ..flow import Flow
from ..nets import count_parameters
from .digits import build
from .many import ManyFit, fit_many
from .record import RECORDS, load_record, multiply_adds, provenance, write_record
from .runner import compare
from .toy_measure import bound, rows_of
from .toy_models import nearest_width
from .toy_records import cell, differences
from .toys import is_current, read_rows, run_all, say

NAME = "digits-suite"
PARAMETERS = 85_000
RATES = (1e-3, 2e-3, 4e-3)
ORDER, TRIAL_SEED, NOISE = 1, 100, 4  # seeds of the data order, the trials, the measuring noise


@dataclass(frozen=True)
class Cell:
    """One model of the suite with all its seeds.

    Attributes:
        name: 'models/...' or 'budget/...'.
        model: as in `digits.build`; 'hidden' is the number of hidden layers, whose width follows.
        parameters: wanted in all, or None where 'width' is given.
        width: of the hidden layers, or None.
        steps, trial_steps: of the final runs and of each trial of the tuning.
        k: importance samples of the measurement.
        last_gains: initial scales of the networks' last layers that the tuning tries.
        estimate: CPU seconds, about.
    """

    name: str
    model: dict = field(hash=False)
    parameters: int | None = PARAMETERS
    width: int | None = None
    steps: int = 800
    trial_steps: int = 150
    batch: int = 128
    k: int = 128
    seeds: tuple[int, ...] = (1, 2, 3)
    last_gains: tuple[float, ...] = (0.1, 1.0)
    estimate: float = 30.0

    def config(self, width: int, last_gain: float = 0.1) -> dict:
        """The configuration for `digits.build`."""
        hidden = [width] * self.model["hidden"]
        return {"model": {**self.model, "hidden": hidden, "margin": 0.003, "last_gain": last_gain}}

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape that the model takes."""
        return (1, 8, 8) if self.model["flow"] == "glow" else (64,)

    def fitted_width(self) -> int:
        """The width that comes nearest to the wanted number of parameters."""
        if self.width is not None:
            return self.width
        with torch.random.fork_rng(devices=[]):
            return nearest_width(
                lambda w: count_parameters(build(self.config(w))), self.parameters
            )


def suite() -> list[Cell]:
    """All cells, the most important first."""
    models = {
        "realnvp": {"flow": "realnvp", "couplings": 6},
        "vflow": {"flow": "vflow", "couplings": 6, "noise": 16, "posterior": 2},
        "anf": {"flow": "anf", "steps": 2, "noise": 16},
        "vae": {"flow": "anf", "steps": 1, "noise": 16},
        "hierarchical": {"flow": "hierarchical", "steps": 2, "noise": 16},
        "glow": {"flow": "glow", "steps": 4},
    }
    cells = []
    for rounding, learned in (("uniform", 0), ("variational", 2)):
        for name, model in models.items():
            own = {}
            if (
                name == "glow"
            ):  # its weights work at 16 places: as many multiply-adds, not parameters
                own = {"parameters": None, "width": 16, "last_gains": (0.0,), "estimate": 70}
            model = {**model, "hidden": 2, "dequantiser": learned}
            cells.append(Cell(f"models/{name}-{rounding}", model, **own))
    for depth, noise in product((6, 3, 12), (0, 16, 64)):
        if (depth, noise) != (6, 0):  # that one is models/realnvp-uniform
            model = {"flow": "vflow", "couplings": depth, "noise": noise, "posterior": 0}
            if not noise:
                model = {"flow": "realnvp", "couplings": depth}
            cells.append(Cell(f"budget/e{noise}-c{depth}", {**model, "hidden": 2}))
    # depth 12 and Glow cost most
    return sorted(cells, key=lambda c: (c.name.endswith("c12"), "glow" in c.name))


def run(job: Cell) -> dict:
    """Tune, train, measure; JSON-ready. One thread, so that the result is the same anywhere."""
    threads, began = torch.get_num_threads(), time.process_time()
    torch.set_num_threads(1)
    try:
        found = _run(job)
    finally:
        torch.set_num_threads(threads)
    return {
        "job": job.name,
        "spec": asdict(job),
        **found,
        "cpu_seconds": round(time.process_time() - began, 2),
        "run_on": provenance(),
    }


def _run(job: Cell) -> dict:
    images, width = digits(), job.fitted_width()
    train, valid, test = (
        t.view(-1, *job.shape) for t in (images.train, images.valid, images.test)
    )
    grid = list(product(RATES, job.last_gains))
    flows = [_start(job, width, gain, TRIAL_SEED, train) for _, gain in grid]
    fit = _train(job, flows, train, [rate for rate, _ in grid], job.trial_steps)
    trials = [
        {
            "lr": rate,
            "last_gain": gain,
            "valid_bits": v if math.isfinite(v) else None,
            "failed": bad,
        }
        for (rate, gain), v, bad in zip(
            grid, (_bits(f, valid, 16)["bits"] for f in flows), fit.failed, strict=True
        )
    ]
    best = min((t for t in trials if t["valid_bits"]), key=lambda t: t["valid_bits"])
    flows = [_start(job, width, best["last_gain"], seed, train) for seed in job.seeds]
    fit = _train(job, flows, train, best["lr"], job.steps)
    rows = rows_of(
        [{**_bits(f, test, job.k), "valid_bits": _bits(f, valid, job.k)["bits"]} for f in flows]
    )
    return {
        "width": width,
        "lr": best["lr"],
        "last_gain": best["last_gain"],
        "trials": trials,
        "parameters": count_parameters(flows[0]),
        "multiply_adds": multiply_adds(flows[0], test[:2]),
        "seeds": list(job.seeds),
        "failed": fit.failed,
        "train_cpu_seconds": round(fit.cpu_seconds, 2),
        **rows,
    }


def _start(job: Cell, width: int, last_gain: float, seed: int, train: Tensor) -> Flow:
    """A flow with fresh weights whose `ActNorm`s have seen images."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        flow = build(job.config(width, last_gain), validate=False).train()
        for _ in range(2):  # the second call notes that the first has initialised
            flow.log_weight(train[:512])
    flow.validate = False
    return flow


def _train(
    job: Cell, flows: list[Flow], train: Tensor, lr: float | list[float], steps: int
) -> ManyFit:
    order = torch.Generator().manual_seed(ORDER)

    def draw(n: int) -> Tensor:
        """n images, each epoch in a new order; the same images at the same place in every cell."""
        epochs = range(-(-n // len(train)))
        rows = [torch.randperm(len(train), generator=order) for _ in epochs]
        return train[torch.cat(rows)[:n]] if rows else train[:0]

    return fit_many(flows, draw, steps=steps, batch=job.batch, lr=lr, seed=ORDER, clip=1.0)


def _bits(flow: Flow, x: Tensor, k: int) -> dict:
    """Bits/dim of L_K, its standard error over the images, of the ELBO; L_K - L_{K/2}; the gap."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(NOISE)
        value, elbo, _, change = bound(flow.eval(), x, k)
    bits = bits_per_dim(value, x)
    return {
        "bits": bits.mean().item(),
        "bits_se": (bits.std() / math.sqrt(len(bits))).item(),
        "bits_elbo": bits_per_dim(elbo, x).mean().item(),
        "bits_change": -bits_per_dim(change, x).mean().item(),  # what twice the samples won
        "gap_at_least": (value - elbo).mean().item(),
    }


METRICS = ("bits", "bits_se", "bits_elbo", "bits_change", "gap_at_least", "valid_bits")


def against_realnvp(name: str) -> str | None:
    """RealNVP with the same rounding noise, or with the same depth and no noise."""
    if name.startswith("models/"):
        other = f"models/realnvp-{name.rsplit('-', 1)[1]}"
    else:
        depth = name.rsplit("-", 1)[1]
        other = "models/realnvp-uniform" if depth == "c6" else f"budget/e0-{depth}"
    return None if other == name else other


def against_uniform(name: str) -> str | None:
    """The same model with uniform rounding noise."""
    return name.replace("variational", "uniform") if "variational" in name else None


def collect(rows: str | os.PathLike, folder: str | os.PathLike = RECORDS) -> Path:
    """Write the suite's record from the rows of its finished cells.

    Raises:
        ValueError: a row was made with another definition of its cell.
    """
    found, jobs, images = read_rows(rows), suite(), digits()
    stale = [j.name for j in jobs if j.name in found and not is_current(found[j.name], j)]
    if stale:
        raise ValueError(
            f"{rows}: {', '.join(stale)} made with another definition; run them again"
        )
    done = {j.name: found[j.name] for j in jobs if j.name in found}
    cells = {name: cell(row, METRICS, tested=("bits",)) for name, row in done.items()}
    content = {
        "about": "Digits: models x rounding noise, and depth x D_E at equal parameters",
        "cells": cells,
        "against_realnvp": differences(cells, against_realnvp, "bits"),
        "against_uniform": differences(cells, against_uniform, "bits"),
        "missing": [j.name for j in jobs if j.name not in found],
        "histogram_bits": histogram_bits(images.train, images.test, images.levels),
        "cpu_seconds": round(sum(r["cpu_seconds"] for r in done.values()), 1),
        "run_on": next(iter(done.values()))["run_on"],
    }
    return write_record(NAME, content, folder=folder)


def reproduce(job: Cell) -> list[str]:
    """Run a recorded cell from scratch; where it is off the record by more than the tolerance.

    Raises:
        ValueError: the cell is not recorded.
    """
    recorded = load_record(NAME)["cells"]
    if job.name not in recorded:
        raise ValueError(f"{job.name} is not recorded; there are: {', '.join(recorded)}")
    old = recorded[job.name]
    return compare(cell(run(job), METRICS, tested=("bits",)), old, old["tolerance"])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    jobs = {j.name: j for j in suite()}
    parser = argparse.ArgumentParser("python -m augflow_mini.experiments.digit_suite")
    sub = parser.add_subparsers(dest="command", required=True)
    sub.add_parser("list", help="cells and expected CPU seconds")
    every = sub.add_parser("run-all", help="run all missing cells")
    every.add_argument("--out", default="digits-out")
    every.add_argument("--workers", type=int, default=1)
    every.add_argument("--budget-seconds", type=float)
    put = sub.add_parser("collect", help="rows -> record")
    put.add_argument("rows")
    put.add_argument("--to", default=RECORDS, help="folder; default: the package's records")
    again = sub.add_parser("reproduce", help="run one cell from scratch and compare")
    again.add_argument("name", choices=jobs)
    args = parser.parse_args(argv)
    if args.command == "list":
        for job in jobs.values():
            say(f"{job.estimate:5.0f} s  {job.name}")
        say(f"{sum(j.estimate for j in jobs.values()) / 60:.0f} CPU minutes, {len(jobs)} cells")
    elif args.command == "run-all":
        run_all(
            list(jobs.values()), args.out, workers=args.workers, budget=args.budget_seconds,
            work=run, headline="bits",
        )  # fmt: skip
    elif args.command == "collect":
        say(f"{collect(args.rows, args.to)}")
    else:
        say(f"about {jobs[args.name].estimate:.0f} CPU seconds")
        wrong = reproduce(jobs[args.name])
        say("; ".join(wrong) or "agrees with the record")
        return int(bool(wrong))
    return 0


if __name__ == "__main__":
    sys.exit(main())
