"""The command `python -m augflow_mini.experiments`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path

import torch

from . import EXPERIMENTS
from .record import RECORDS, load_record
from .runner import Experiment, check, compare, run, run_seed


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and do what it says; returns the exit status."""
    parser = argparse.ArgumentParser("python -m augflow_mini.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names, what they are, what is recorded")
    for name, text in (
        ("run", "run experiments; finished seeds are kept, an interrupted one goes on"),
        ("reproduce", "run recorded experiments from scratch and compare; default: all"),
        ("check", "verify records: seal, weights, and the weights' metrics; default: all"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "names", nargs="+" if name == "run" else "*", help="names or patterns, as 'e2-*'"
        )
        if name != "check":
            command.add_argument("--out", type=Path, help="folder of results")
            command.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
            command.add_argument("--quiet", action="store_true", help="no progress bar")
        if name == "run":
            command.add_argument("--seed", type=int, help="this seed only, no record")
            command.add_argument(
                "--record", action="store_true", help="replace the record that the library carries"
            )
    args = parser.parse_args(argv)
    try:
        return {"list": _list, "run": _run, "reproduce": _reproduce, "check": _check}[
            args.command
        ](args)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"\n{stopped}\nThe same command goes on from there.", file=sys.stderr)
        return 130


def _list(args: argparse.Namespace) -> int:
    for e in EXPERIMENTS.values():
        print(f"{e.name:16s} {e.about}\n{'':16s} {len(e.seeds)} seeds, ~{_minutes([e])}", end="")
        if (RECORDS / f"{e.name}.json").exists():
            metrics = load_record(e.name, folder=RECORDS)["metrics"]
            shown = [k for k in e.tolerance if k in metrics]
            print("; recorded: " + ", ".join(f"{k} {_show(metrics[k])}" for k in shown), end="")
        print()
    return 0


def _run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    out = args.out or Path("runs")
    chosen = _chosen(args.names)
    _announce(chosen, one_seed=args.seed is not None)
    for e in chosen:
        print(f"{e.name}: {e.about}", flush=True)
        if args.seed is not None:
            done = run_seed(e, args.seed, out, progress=not args.quiet)
            print("  " + ", ".join(f"{k} {v:.5g}" for k, v in done["metrics"].items()))
            continue
        done = run(e, out, record=RECORDS if args.record else None, progress=not args.quiet)
        for k, v in done["metrics"].items():
            print(f"  {k:18s} {_show(v)}")
        print(f"  written to {(RECORDS if args.record else out) / e.name}.json", flush=True)
    return 0


def _reproduce(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    chosen = [e for e in _chosen(args.names) if (RECORDS / f"{e.name}.json").exists()]
    _announce(chosen)
    failed = 0
    with tempfile.TemporaryDirectory() as fresh:
        for e in chosen:
            recorded = load_record(e.name, folder=RECORDS)
            began = time.perf_counter()
            came = run(e, args.out or Path(fresh), progress=not args.quiet)
            wrong = compare(came, recorded, e.tolerance)
            failed += bool(wrong)
            state = "; ".join(wrong) or "agrees: " + ", ".join(
                f"{k} {_show(came['metrics'][k])} (recorded {_show(recorded['metrics'][k])})"
                for k in e.tolerance
            )
            print(f"{e.name:16s} {time.perf_counter() - began:5.0f} s  {state}", flush=True)
    return 1 if failed else 0


def _check(args: argparse.Namespace) -> int:
    failed = 0
    for e in _chosen(args.names):
        wrong = check(e, folder=RECORDS)
        failed += bool(wrong)
        print(f"{e.name:16s} {'; '.join(wrong) or 'in order'}", flush=True)
    others = {p.stem for p in RECORDS.glob("*.json")} - EXPERIMENTS.keys()
    for name in sorted(others) if not args.names else []:
        load_record(name, folder=RECORDS)  # raises where the seal is broken
        print(f"{name:16s} seal in order")
    return 1 if failed else 0


def _chosen(patterns: list[str]) -> list[Experiment]:
    if not patterns:
        return list(EXPERIMENTS.values())
    found = {n: e for n, e in EXPERIMENTS.items() if any(fnmatch(n, p) for p in patterns)}
    for p in patterns:
        if not any(fnmatch(n, p) for n in EXPERIMENTS):
            raise ValueError(f"there is no experiment {p!r}; there are: {', '.join(EXPERIMENTS)}")
    return list(found.values())


def _announce(chosen: list[Experiment], *, one_seed: bool = False) -> None:
    print(f"{len(chosen)} experiment(s), about {_minutes(chosen, one_seed=one_seed)}", flush=True)


def _minutes(chosen: list[Experiment], *, one_seed: bool = False) -> str:
    seconds = sum(e.seconds * (1 if one_seed else len(e.seeds)) for e in chosen)
    return f"{seconds / 60:.1f} min on one CPU thread"


def _show(values: dict) -> str:
    return f"{values['mean']:.4f}" + (f" ± {values['sd']:.4f}" if values["sd"] is not None else "")


if __name__ == "__main__":
    sys.exit(main())
