"""Records of the 2-D suite: are they in order, and does a run from scratch give them again?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ..data import TOYS
from .record import load_record, summary, write_record
from .runner import compare
from .toy_jobs import Job, suite
from .toy_measure import measure, points, rows_of
from .toy_models import Model
from .toy_records import ABOUT, FOLDER, cell, load_toy_model, recorded_cell
from .toy_run import NOISE, TEST, run_job, train


def reproduce(job: Job, folder: Path | None = None) -> tuple[dict, list[str]]:
    """Run a recorded job from scratch; returns its cell and where it is off the record.

    On the kind of machine that made the record the numbers come out alike. Elsewhere sums are
    taken in another order, and a seed may end as another seed would: the tolerance that stands in
    the record is three standard errors of the difference of two such means, and 0.002 nats.
    """
    recorded = recorded_cell(job.name, folder)
    came = cell(run_job(job))
    return came, compare(came, recorded, recorded["tolerance"])


def check(folder: Path | None = None, *, weights: Sequence[str] | None = None) -> Iterator[tuple]:
    """(record, what is wrong with it) for every record of the suite; an empty list: in order.

    The seal is checked, that each cell was made with the job as it is defined now, and that the
    recorded weights give the recorded NLL.

    Args:
        folder: of the records; the library's by default.
        weights: names of the weights' records to measure again; all by default.
    """
    folder, jobs = folder or FOLDER, {j.name: j for j in suite()}
    for path in sorted(folder.glob("*.json")):
        try:
            record = load_record(path.stem, folder=folder)
        except ValueError as error:
            yield path.stem, [str(error)]
            continue
        if path.stem in ABOUT:
            stale = [n for n, c in record["cells"].items() if not _is_current(c, jobs.get(n))]
            yield path.stem, [f"{n} was made with another definition of its job" for n in stale]
        elif weights is None or path.stem in weights:
            yield path.stem, _check_weights(record, jobs[record["job"]], folder)


def complete(job: Job, folder: Path | None = None) -> str:
    """Add the steepness to a recorded cell of 1-D data that lacks it; returns what was done.

    The models are trained again from the tuning's recorded choice. They are the recorded ones:
    their NLL must come out as it stands in the record.

    Raises:
        ValueError: it does not.
    """
    folder = folder or FOLDER
    record, old = load_record(job.group, folder=folder), recorded_cell(job.name, folder)
    toy, model = TOYS[job.toy], Model(**old["model"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in the order of the run
    flows, _ = train(job, model, old["lr"])
    at = points(toy, job.test, TEST)
    found = rows_of(
        [measure(f, toy, at, by_quadrature=model.integrable, k=job.k, seed=NOISE) for f in flows]
    )
    torch.set_num_threads(threads)
    off = max(abs(a - b) for a, b in zip(found["nll"], old["metrics"]["nll"]["each"], strict=True))
    if off > 1e-5:
        raise ValueError(
            f"{job.name}: the NLL came out {off:.2g} off the record; run the job again"
        )
    if None in found["steepness"]:
        return "its sampler draws noise between layers"
    old["metrics"]["steepness"] = summary([round(v, 6) for v in found["steepness"]])
    record["cells"][job.name] = old
    write_record(job.group, {k: v for k, v in record.items() if k != "seal"}, folder=folder)
    return (
        f"steepness {old['metrics']['steepness']['mean']:.1f}, NLL within {off:.1g} of the record"
    )


def _is_current(made: dict, job: Job | None) -> bool:
    return job is not None and made["spec"] == json.loads(json.dumps(asdict(job)))


def _check_weights(record: dict, job: Job, folder: Path) -> list[str]:
    try:
        flow = load_toy_model(job.name, folder=folder)
    except (ValueError, RuntimeError) as error:  # RuntimeError: load_state_dict, wrong shapes
        return [str(error)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in the order of the run
    toy = TOYS[job.toy]
    found = measure(
        flow,
        toy,
        points(toy, job.test, TEST),
        by_quadrature=job.model.integrable,
        k=job.k,
        seed=NOISE,
    )
    torch.set_num_threads(threads)
    if abs(found["nll"] - record["nll"]) <= 1e-4:
        return []
    return [f"the weights give an NLL of {found['nll']:.6f}, {record['nll']:.6f} is recorded"]
