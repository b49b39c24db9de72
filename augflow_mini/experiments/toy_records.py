"""Rows of the 2-D suite -> sealed records with means, spreads and paired differences."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..floors import constant_jacobian_floor
from ..flow import Flow
from .record import RECORDS, load_record, load_weights, summary, write_record
from .toy_jobs import Job, suite
from .toy_models import Model
from .toy_run import unpack
from .toys import is_current, read_rows

FOLDER = RECORDS / "toys"
ABOUT = {
    "floor": "Checkerboard, additive couplings: a constant Jacobian, with extra dimensions",
    "two_modes": "E2 in 1-D: affine, monotone, and ANF with N = 1, 2, 3, 5",
    "joint": "A fixed joint p(z) p(x | z), only q refitted: N(0, I), Gaussian, flow",
    "eight": "Eight Gaussians, affine couplings, 6 k parameters: with and without a noise feature",
    "factorial": "Couplings x D_E x depth at 6 k parameters on three targets, one tuning grid",
    "parts": "A VAE and an ANF taken apart: model error, gap, estimator bias, optimisation, noise",
    "ablation": "Initial scales, padding, K in training, cost of unmixed noise, CIF",
    "grid": "D_E x N on E2 and eight Gaussians",
    "other": "RealNVP, VAE, ANF, VFlow with a flow q on five more targets",
}
METRICS = (
    "nll",
    "elbo",
    "gap",
    "leak",
    "steepness",
    "var_log_weight",
    "nll_se",
    "nll_error",
    "model_error",
    "optimisation",
    "var_log_q_form",
    "var_entropy_form",
    "elbo_se",
)
TESTED = ("nll", "gap")  # a second run must give these again
DROPPED = ("job", "group", "run_on", "chosen", "curve", "weights")


def collect(rows: str | os.PathLike, folder: str | os.PathLike | None = None) -> list[Path]:
    """Write one record for each group, and one with weights for each job that kept them.

    Cells that `folder` holds already and `rows` does not are kept where their jobs are the same.

    Args:
        rows: `toys.jsonl`.
        folder: where; the library's `records/toys` by default.

    Raises:
        ValueError: a row was made with another definition of its job.
    """
    folder, found, jobs = Path(folder or FOLDER), read_rows(rows), suite()
    stale = [j.name for j in jobs if j.name in found and not is_current(found[j.name], j)]
    if stale:
        raise ValueError(
            f"{rows}: {len(stale)} rows, as {stale[0]}, were made with another definition of "
            "their job; run `toys run-all` again with this file as --have"
        )
    paths = []
    for group, about in ABOUT.items():
        mine = [j for j in jobs if j.group == group]
        done = {j.name: found[j.name] for j in mine if j.name in found}
        if not done:
            continue
        held, run_on = {}, [row["run_on"] for row in done.values()]
        if (folder / f"{group}.json").exists():
            record = load_record(group, folder=folder)
            held, run_on = record["cells"], record["run_on"] + run_on
        new = {name: cell(row) for name, row in done.items()}
        cells = {j.name: new.get(j.name) or held[j.name] for j in mine if _has(j, new, held)}
        content = {
            "about": about,
            "cells": cells,
            "differences": differences(cells, PAIRS.get(group, lambda name: None)),
            "missing": [j.name for j in mine if j.name not in cells],
            "cpu_seconds": round(sum(c["cpu_seconds"] for c in cells.values()), 1),
            "run_on": _once(run_on),
        }
        if group == "floor":
            content["floors"] = {
                str(k): {
                    "excess": constant_jacobian_floor(k),
                    "negative_elbo": math.log(32) + constant_jacobian_floor(k),
                }
                for k in (0, 1, 2, 3, 4, 8)
            }
        paths.append(write_record(group, content, folder=folder))
        paths += [_with_weights(found[j.name], j, folder) for j in mine if _has_weights(found, j)]
    return paths


def _has(job: Job, new: dict[str, dict], held: dict[str, dict]) -> bool:
    return job.name in new or (job.name in held and is_current(held[job.name], job))


def _once(machines: Iterable[dict]) -> list[dict]:
    """Each kind of place that cells were made at, once."""
    seen = {json.dumps(m, sort_keys=True) for m in machines}
    return [json.loads(text) for text in sorted(seen)]


def cell(row: dict, names: Sequence[str] = METRICS, *, tested: Sequence[str] = TESTED) -> dict:
    """A row as it stands in a record: configuration, and metrics as mean, sd and each seed.

    Args:
        names: of the metrics, one number a seed.
        tested: those with a tolerance for a second run.
    """
    out = {k: v for k, v in row.items() if k not in names and k not in DROPPED}
    out |= {"model": row.get("chosen", row["spec"]["model"]), "metrics": {}}
    for name in names:
        values = row.get(name)
        if values and all(v is not None and math.isfinite(v) for v in values):
            out["metrics"][name] = summary([round(v, 6) for v in values])
        elif values and any(v is not None for v in values):
            out.setdefault("not_finite", {})[name] = [str(v) for v in values]
    found = {k: out["metrics"][k] for k in tested if k in out["metrics"]}
    out["tolerance"] = {k: round(tolerance(m), 6) for k, m in found.items()}
    return {k: v for k, v in out.items() if v != []}


def tolerance(metric: dict) -> float:
    """How far the mean over S seeds may be off when run again: as if the seeds were new ones."""
    return 0.002 + 3 * metric["sd"] * math.sqrt(2 / len(metric["each"]))


# ---- paired differences ---------------------------------------------------------------------


def _factorial_pair(name: str) -> str | None:
    """D_E > 0 against D_E = 0, all else equal."""
    bare = re.sub(r"([-/])e[1-9]-", r"\1e0-", name)
    return None if bare == name else bare


def _eight_pair(name: str) -> str | None:
    if name.startswith("eight/anf"):
        return "eight/cycle-e0-c8"
    return _factorial_pair(name)


PAIRS: dict[str, Callable[[str], str | None]] = {
    "factorial": _factorial_pair,
    "eight": _eight_pair,
    "floor": _factorial_pair,
    "grid": _factorial_pair,
    "ablation": lambda n: (
        n.replace("unmixed-e1", "cycle-e0").replace("unmixed-e2", "cycle-e0")
        if "unmixed" in n
        else None
    ),
}


def differences(
    cells: dict[str, dict], pair: Callable[[str], str | None], metric: str = "nll"
) -> dict[str, dict]:
    """The metric of each cell minus that of its partner, seed by seed, with a 95 % t-interval."""
    out = {}
    for name, one in cells.items():
        other = cells.get(pair(name) or "")
        if other is None or not all(metric in c["metrics"] for c in (one, other)):
            continue
        a, b = (c["metrics"][metric]["each"] for c in (one, other))
        if len(a) == len(b) > 1:
            out[name] = {
                "against": pair(name),
                **paired([x - y for x, y in zip(a, b, strict=True)]),
            }
    return out


def paired(each: Sequence[float]) -> dict:
    """Mean difference with its 95 % interval by Student's t over the seeds."""
    from scipy.stats import t  # only records need it

    mean, n = statistics.fmean(each), len(each)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(each) / math.sqrt(n)
    return {
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "each": [round(v, 6) for v in each],
    }


# ---- weights --------------------------------------------------------------------------------


def _has_weights(found: dict[str, dict], job: Job) -> bool:
    return job.name in found and "weights" in found[job.name]


def weights_name(job: str) -> str:
    """Name of the record that carries a job's weights."""
    return job.replace("/", "-")


def _with_weights(row: dict, job: Job, folder: Path) -> Path:
    model = Model(**row["chosen"])
    flow = unpack(row["weights"]["float32"], lambda: model.build(0))
    seed = row["weights"]["seed"]
    content = {
        "about": f"weights of {job.name}, seed {seed}, the best of {len(row['seeds'])}",
        "job": job.name,
        "toy": job.toy,
        "seed": seed,
        "model": row["chosen"],
        "nll": row["nll"][row["seeds"].index(seed)],
    }
    return write_record(weights_name(job.name), content, weights=flow.state_dict(), folder=folder)


def load_toys(group: str) -> dict:
    """The record of a group: 'floor', 'two_modes', 'joint', 'eight', 'factorial', 'parts', ..."""
    return load_record(group, folder=FOLDER)


def recorded_cell(job: str, folder: Path | None = None) -> dict:
    """What is recorded of one job.

    Raises:
        ValueError: the suite's records do not hold it.
    """
    record = load_record(job.split("/")[0], folder=folder or FOLDER)
    if job not in record["cells"]:
        raise ValueError(f"{job} is not recorded; there are: {', '.join(record['cells'])}")
    return record["cells"][job]


def load_toy_model(job: str, *, folder: Path | None = None) -> Flow:
    """The trained flow of a job that kept its weights, for example 'two_modes/anf-n5'."""
    name, folder = weights_name(job), folder or FOLDER
    flow = Model(**load_record(name, folder=folder)["model"]).build(0)
    flow.load_state_dict(load_weights(name, folder=folder))
    return flow.eval()


def table(group: str, metric: str = "nll") -> list[tuple[str, float, float | None]]:
    """(job, mean, sd) of a metric for each cell of a record."""
    cells = load_toys(group)["cells"]
    rows = [(n, c["metrics"].get(metric)) for n, c in cells.items()]
    return [(n, m["mean"], m["sd"]) for n, m in rows if m is not None]


__all__ = [
    "cell",
    "collect",
    "differences",
    "load_toy_model",
    "load_toys",
    "paired",
    "recorded_cell",
    "table",
]
