"""The 2-D suite: list, run one, run all within a time budget, collect the records.

    python -m augflow_mini.experiments.toys list
    python -m augflow_mini.experiments.toys run two_modes/anf-n3
    python -m augflow_mini.experiments.toys run-all --workers 2 --out toys-out
    python -m augflow_mini.experiments.toys collect toys-out/toys.jsonl
    python -m augflow_mini.experiments.toys reproduce two_modes/affine-1d-c1
    python -m augflow_mini.experiments.toys check

Every job runs in a process and on a thread of its own and starts from its seeds, so its result
does not depend on the others. Finished jobs are lines of `toys.jsonl`; a run that is stopped goes
on with the jobs that are missing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from multiprocessing.connection import Connection, wait
from pathlib import Path

from ..checkpoint import write_atomic
from .toy_jobs import Job, suite
from .toy_run import run_job

FILE = "toys.jsonl"


def find(name: str) -> Job:
    """The job of that name.

    Raises:
        ValueError: there is none.
    """
    jobs = {j.name: j for j in suite()}
    if name not in jobs:
        close = [n for n in jobs if name.split("/")[-1] in n or n.split("/")[0] == name][:8]
        raise ValueError(
            f"no toy job {name!r}; {'near it: ' + ', '.join(close) if close else 'see list'}"
        )
    return jobs[name]


def read_rows(path: str | os.PathLike) -> dict[str, dict]:
    """Finished jobs by name; a last line cut off by a crash is left out.

    Raises:
        ValueError: another line than the last is damaged.
    """
    path, rows = Path(path), {}
    if not path.exists():
        return rows
    lines = path.read_text().splitlines()
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if i + 1 == len(lines):
                break
            raise ValueError(
                f"{path}, line {i + 1} is damaged: {error}; delete that line"
            ) from error
        rows[row["job"]] = row
    return rows


def is_current(row: dict, job: Job) -> bool:
    """Whether a row was made with the job as it is defined now."""
    return row["spec"] == json.loads(json.dumps(asdict(job)))


def run_all(
    jobs: Sequence[Job],
    out: str | os.PathLike,
    *,
    workers: int,
    budget: float | None = None,
    have: str | os.PathLike | None = None,
    work: Callable[[Job], dict] = run_job,
    headline: str = "nll",
) -> dict[str, dict]:
    """Run the jobs that are missing, most important first; returns all finished rows.

    Args:
        jobs: in order of importance.
        out: folder; rows are added to `toys.jsonl` there.
        workers: processes.
        budget: seconds; no job starts that would hardly end in time, none runs on after it.
        have: a file of rows from an earlier run, copied into `out` first.
        work: job -> row.
        headline: the number in a row to print.

    Rows of other jobs in those files are kept; those of jobs defined otherwise now are dropped.
    """
    began, out = time.monotonic(), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / FILE
    rows = {**(read_rows(have) if have else {}), **read_rows(path)}
    stale = [j.name for j in jobs if j.name in rows and not is_current(rows[j.name], j)]
    rows = {name: row for name, row in rows.items() if name not in stale}
    write_atomic(path, "".join(json.dumps(r) + "\n" for r in rows.values()).encode())
    todo = [j for j in jobs if j.name not in rows]
    cost = sum(j.estimate for j in todo)
    say(
        f"{len(jobs) - len(todo)} of {len(jobs)} jobs are done; the rest takes about "
        f"{cost / 3600:.1f} CPU hours, {cost / workers / 60:.0f} minutes on {workers} workers"
    )
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    running: dict[Connection, tuple[Job, multiprocessing.Process, float]] = {}
    speed = Speed()
    with path.open("a") as file:
        while True:
            left = None if budget is None else budget - (time.monotonic() - began)
            while len(running) < workers:
                job = next((j for j in todo if left is None or speed.seconds(j) < left), None)
                if job is None:
                    break
                todo.remove(job)
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(work, job, there), daemon=True)
                process.start()
                there.close()
                running[here] = (job, process, time.monotonic())
            if not running or (left is not None and left <= 0):
                break
            for pipe in wait(list(running), timeout=left):
                job, process, start = running.pop(pipe)
                try:
                    row = pipe.recv()
                except EOFError:
                    row = {"error": "the process ended without an answer"}
                process.join()
                if "error" in row:
                    say(f"FAILED {job.name}: {row['error']}")
                    continue
                rows[job.name] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
                speed.add(job, time.monotonic() - start)
                total = time.monotonic() - began
                say(
                    f"{total:6.0f} s  {job.name}  {headline} {_mean(row[headline]):.4f}  "
                    f"({row['cpu_seconds']:.0f} CPU s, {job.estimate:.0f} expected)"
                )
        for job, process, _ in running.values():
            process.terminate()
            say(f"stopped {job.name}: out of time")
    say(f"{sum(j.name in rows for j in jobs)} of {len(jobs)} jobs are done, in {path}")
    return rows


class Speed:
    """How long jobs take here compared with their estimates."""

    def __init__(self) -> None:
        self.expected = self.took = 20.0  # a weak belief that the estimates hold

    def add(self, job: Job, seconds: float) -> None:
        self.expected += job.estimate
        self.took += seconds

    def seconds(self, job: Job) -> float:
        """Expected wall seconds, with some room."""
        return 1.15 * job.estimate * self.took / self.expected + 3


def _work(work: Callable[[Job], dict], job: Job, pipe: Connection) -> None:
    """In a process of its own: run a job and send its row back."""
    try:
        pipe.send(work(job))
    except Exception as error:  # the parent reports it
        pipe.send({"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"})


def _reproduce(patterns: Sequence[str]) -> int:
    from .toy_check import reproduce
    from .toy_records import recorded_cell

    jobs = [j for j in suite() if any(fnmatch(j.name, p) for p in patterns)]
    if not jobs:
        find(patterns[0])  # names what is near
    seconds = sum(recorded_cell(j.name)["cpu_seconds"] for j in jobs)
    say(f"{len(jobs)} job(s), about {seconds / 60:.1f} min on one CPU thread")
    failed = 0
    for job in jobs:
        came, wrong = reproduce(job)
        failed += bool(wrong)
        mean = came["metrics"]["nll"]["mean"]
        allowed = recorded_cell(job.name)["tolerance"]["nll"]
        text = "; ".join(wrong) or f"agrees: NLL {mean:.4f} (within {allowed:.4f} of the record)"
        say(f"{job.name}  {came['cpu_seconds']:.0f} CPU s  {text}")
    return 1 if failed else 0


def _complete() -> int:
    from .toy_check import complete
    from .toy_records import FOLDER, load_toys

    jobs, refused = {j.name: j for j in suite()}, 0
    for group in sorted(p.stem for p in FOLDER.glob("*.json") if p.stem in ("factorial", "grid")):
        for name, cell in load_toys(group)["cells"].items():
            if jobs[name].model.dims == 1 and "steepness" not in cell["metrics"]:
                try:
                    say(f"{name}  {complete(jobs[name])}")
                except ValueError as error:  # the others can still be completed
                    refused += 1
                    say(f"REFUSED {error}")
    return 1 if refused else 0


def _check() -> int:
    from .toy_check import check

    failed = 0
    for name, wrong in check():
        failed += bool(wrong)
        say(f"{name:28s} {'; '.join(wrong) or 'in order'}")
    return 1 if failed else 0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def say(text: str) -> None:
    print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m augflow_mini.experiments.toys")
    sub = parser.add_subparsers(dest="command", required=True)
    sub.add_parser("list", help="names, groups and expected CPU seconds")
    one = sub.add_parser("run", help="run one job and print its row")
    one.add_argument("name")
    every = sub.add_parser("run-all", help="run all missing jobs")
    every.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    every.add_argument("--budget-seconds", type=float)
    every.add_argument("--out", default="toys-out")
    every.add_argument("--have", help="rows of an earlier run")
    every.add_argument("--only", default="", help="jobs whose name starts so")
    collect = sub.add_parser("collect", help="rows -> records")
    collect.add_argument("rows")
    collect.add_argument("--to", help="folder; default: the package's records")
    again = sub.add_parser("reproduce", help="run recorded jobs from scratch and compare")
    again.add_argument("names", nargs="+", help="names or patterns, as 'two_modes/*'")
    sub.add_parser("complete", help="add the steepness to recorded 1-D cells that lack it")
    sub.add_parser("check", help="verify the records: seal, definition, weights")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the daemonic workers, too
    if args.command == "list":
        jobs = suite()
        for job in jobs:
            say(f"{job.estimate:7.0f} s  {job.name}")
        say(f"{sum(j.estimate for j in jobs) / 3600:.2f} CPU hours, {len(jobs)} jobs")
    elif args.command == "run":
        job = find(args.name)
        say(f"about {job.estimate:.0f} CPU seconds")
        row = run_job(job)
        say(json.dumps({k: v for k, v in row.items() if k not in ("weights", "curve")}, indent=1))
    elif args.command == "run-all":
        jobs = [j for j in suite() if j.name.startswith(args.only)]
        run_all(jobs, args.out, workers=args.workers, budget=args.budget_seconds, have=args.have)
    elif args.command == "collect":
        from .toy_records import collect as write  # reads results only; not needed to make them

        for path in write(args.rows, args.to):
            say(f"{path}  {path.stat().st_size / 1024:.0f} KiB")
    elif args.command == "reproduce":
        sys.exit(_reproduce(args.names))
    elif args.command == "complete":
        sys.exit(_complete())
    else:
        sys.exit(_check())


if __name__ == "__main__":
    main()
