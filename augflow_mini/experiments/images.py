"""Image experiments by name: each is one command, stops in time, resumes, leaves a record.

    python -m augflow_mini.experiments.images list
    python -m augflow_mini.experiments.images train cifar10-3ch cifar10-4ch cifar10-6ch --seeds 0
    torchrun --nproc-per-node 2 -m augflow_mini.experiments.images train cifar10-6ch-4M
    python -m augflow_mini.experiments.images timing cifar10-6ch
    python -m augflow_mini.experiments.images codecs small-3ch mnist-vae
    python -m augflow_mini.experiments.images collect small-3ch small-4ch small-6ch
    python -m augflow_mini.experiments.images programme gpu --plan

Several runs in one `train` are processes of their own, side by side on the device. Under
`torchrun` one run is shared by all processes. A run leaves in `--out`: its checkpoint (`.ckpt`),
the curve (`.csv`), the result (`.json`) and the averaged weights (`.pt`); `collect` seals
the runs of one experiment as a record of the library. `codecs` measures PNG and WebP on its images.
`programme` does all of a list of jobs (`image_programme.py`) and says first how long it will take.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ..checkpoint import tensor_sha256, write_atomic
from ..flow import Flow
from ..nets import count_parameters
from ..train import ema_weights, fit
from ..trainer import device_name, rank
from .image_programme import PROGRAMMES, programme
from .image_records import FOLDER, codec_bits, collect
from .image_results import KIND, evaluate, finished, probe, provenance, save, say, show
from .image_setups import Setup, load, prepare, setups
from .image_speed import MODES, fast_loss, measure
from .record import provenance as record_provenance
from .record import write_record


def run(
    name: str, setup: Setup, *, seed: int, out: Path, mode: str = "eager", amp: str | None = None,
    budget: float | None = None, every: int | None = None, shards: int | None = None,
    device: str | None = None, progress: bool = True,
) -> dict | None:  # fmt: skip
    """Train, evaluate and record one run; None where the budget ended before the steps did.

    A run whose result lies in `out` already is not repeated.

    Args:
        mode: one of `MODES`; the graph modes need a GPU and one process.
        budget: seconds after which training stops at the next step, saved to go on.
        every: steps between checkpoints and validations; a twentieth of the run unless told.
    """
    began = time.perf_counter()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    stem = f"{name}-s{seed}"
    if earlier := finished(out / stem, setup, mode, amp):
        say(f"{stem}: finished on {earlier['provenance']['finished']}, nothing to do")
        return earlier
    out.mkdir(parents=True, exist_ok=True)
    train, valid = load(setup)
    flow = prepare(setup, train, seed=seed, device=device)
    x = train[: setup.batch].float().to(device)
    if device.type == "cuda":
        flow.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
        torch.cuda.reset_peak_memory_stats()
        torch.backends.cudnn.allow_tf32 = False  # what is not under autocast stays exact
    loss = fast_loss(flow, x, mode=mode, amp=amp)
    checkpoint = out / f"{stem}.ckpt"
    options = dict(
        steps=setup.steps, batch=setup.batch, lr=setup.lr, warmup=setup.warmup, ema=setup.ema,
        clip=setup.clip, decay="cosine", seed=seed, loss=loss, amp=amp, shards=shards,
    )  # fmt: skip
    try:
        with _stop_after(None if budget is None else budget - (time.perf_counter() - began)):
            done = fit(
                flow, train, valid=valid[:2048], channels_last=device.type == "cuda",
                device=device, checkpoint=checkpoint, every=every or max(1, setup.steps // 20),
                progress=progress, **options,
            )  # fmt: skip
    except KeyboardInterrupt as stopped:
        say(f"{stem}: {stopped}")
        return None
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    result = {
        "kind": KIND, "name": name, "seed": seed, "setup": asdict(setup),
        "train_images": len(train), "train_sha256": tensor_sha256(train),
        "parameters": count_parameters(flow), "mode": mode, "amp": amp,
        "seconds": done.seconds, "step_ms": 1000 * done.seconds / setup.steps, "peak_mib": peak,
        "clipped": done.clipped, "skipped": done.skipped, "provenance": provenance(done),
    }  # fmt: skip
    dims = train[0].numel() * math.log(2)
    result["curve"] = [(step, nats / dims) for step, nats in done.valid]
    with ema_weights(flow, done.ema or {}):
        result["valid"] = evaluate(flow, valid, k=setup.k, rows=setup.rows, seed=seed)
        if setup.probe and rank() == 0:
            result["probe"] = probe(flow, setup, train, valid, seed=seed)
        # Copies: on leaving, the flow's own weights come back into the same memory.
        weights = {n: t.detach().cpu().clone() for n, t in flow.state_dict().items()}
    if rank() == 0:
        save(out / stem, result, weights, done, dims)
        show(result)
    return result


@contextlib.contextmanager
def _stop_after(seconds: float | None) -> Iterator[None]:
    """Send this process a Ctrl-C after so many seconds: `fit` ends the step and saves."""
    if seconds is None:
        yield
        return
    previous = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# ---- command line ---------------------------------------------------------------------------


WHAT = ("list", "train", "timing", "codecs", "collect")
CHANGES = ("steps", "batch", "lr", "warmup", "k", "rows", "batches", "probe")  # fields of Setup
PER_RUN = (
    "steps", "batch", "lr", "warmup", "k", "rows", "batches", "mode", "amp", "every", "shards",
    "device", "out",
)  # fmt: skip


def side_by_side(chosen: dict[str, Setup], args: argparse.Namespace) -> int:
    """Start one process for each run and wait for all; the exit status, as of `main`."""
    began = time.perf_counter()
    for data in {(s.data, s.batches): s for s in chosen.values()}.values():
        load(data)  # once, so that the processes find it in the cache
    options = []
    for key in PER_RUN:
        if (value := getattr(args, key)) is not None:
            options += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    if args.probe is False:
        options.append("--no-probe")
    if args.budget_seconds is not None:
        options += ["--budget-seconds", str(args.budget_seconds - (time.perf_counter() - began))]
    args.out.mkdir(parents=True, exist_ok=True)
    share = max(1, (os.cpu_count() or 1) // (len(chosen) * len(args.seeds)))
    # More threads than cores stand still.
    environment = {"OMP_NUM_THREADS": str(share), **os.environ}
    started = {}
    for name in chosen:
        for seed in args.seeds:
            log = args.out / f"{name}-s{seed}.log"
            command = [sys.executable, "-m", __spec__.name, "train", name, "--quiet"]
            command += ["--seeds", str(seed), *options]
            with log.open("w") as file:
                started[log] = subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, env=environment
                )
    for log, process in started.items():
        code = process.wait()
        lines = log.read_text().strip().split("\n")
        say(lines[-1] if code in (0, 3) else "\n".join([f"{log.stem}: exit {code}", *lines[-12:]]))
    codes = {process.returncode for process in started.values()}
    return 1 if codes - {0, 3} else max(codes)


def main(argv: list[str] | None = None) -> int:
    """Exit 0 when every run finished, 3 when one stopped at its budget, 1 when one failed."""
    known = setups()
    parser = argparse.ArgumentParser(prog="augflow_mini.experiments.images", description=__doc__)
    parser.add_argument("what", choices=[*WHAT, "programme"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/images"))
    parser.add_argument("--steps", type=int, help="other than the named experiment's")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--k", type=int, help="importance samples; 1 for none")
    parser.add_argument("--rows", type=int, help="images for the importance bound")
    parser.add_argument("--probe", action=argparse.BooleanOptionalAction)
    parser.add_argument("--batches", type=int, nargs="+", help="CIFAR-10 training batches to use")
    parser.add_argument("--mode", choices=MODES, default="eager")
    parser.add_argument("--modes", choices=MODES, nargs="+", default=MODES, help="for timing")
    parser.add_argument("--amp", choices=["bf16", "fp16"])
    parser.add_argument("--budget-seconds", type=float)
    parser.add_argument("--every", type=int)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--device")
    parser.add_argument("--records", type=Path, help="for collect, --seal; the library's by default")
    parser.add_argument("--seal", action="store_true", help="for timing: leave a record, too")
    parser.add_argument("--add", action="store_true", help="for collect: to the record's seeds")
    parser.add_argument("--no-weights", action="store_false", dest="weights", help="for collect")
    parser.add_argument("--plan", action="store_true", help="of a programme, and no more")
    parser.add_argument("--job", type=int, help="of a programme, and no other")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    names = PROGRAMMES if args.what == "programme" else known
    unknown = [n for n in args.names if n not in names]
    if unknown or (args.what != "list" and not args.names):
        parser.error(f"unknown or no {args.what} {unknown}; known: {', '.join(names)}")
    if args.what == "programme":
        return max(programme(name, args, main) for name in args.names)
    changed = {
        key: value for key, value in vars(args).items() if key in CHANGES and value is not None
    }
    chosen = {n: replace(known[n], **changed) for n in args.names}
    if args.what == "list":
        for name, setup in known.items():
            work = f"{setup.steps} steps of {setup.batch}"
            say(f"{name}: {setup.model} {setup.options} on {setup.data}, {work}")
        return 0
    if args.what == "timing":
        return timing(chosen, args)
    if args.what == "codecs":
        return codecs(chosen)
    if args.what == "collect":
        options = dict(add=args.add, weights=args.weights)
        for path in collect(args.out, args.names, args.records, **options):
            say(f"wrote {path}")
        return 0
    began = time.perf_counter()
    runs = [(name, seed) for name in chosen for seed in args.seeds]
    if len(runs) > 1 and "RANK" not in os.environ:
        return side_by_side(chosen, args)
    if "RANK" in os.environ and not dist.is_initialized():
        gpu = torch.cuda.is_available() and args.device != "cpu"
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if gpu else "gloo")
    finished = True
    for name, seed in runs:
        left = None
        if args.budget_seconds is not None:
            left = args.budget_seconds - (time.perf_counter() - began)
        result = run(
            name, chosen[name], seed=seed, out=args.out, mode=args.mode, amp=args.amp, budget=left,
            every=args.every, shards=args.shards, device=args.device, progress=not args.quiet,
        )  # fmt: skip
        finished = finished and result is not None
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0 if finished else 3


def codecs(chosen: dict[str, Setup]) -> int:
    """Bits/dim of PNG and WebP on 1024 validation images of each data set, as sealed records."""
    for setup in {(s.data, s.shape): s for s in chosen.values()}.values():
        images = load(setup)[1][:1024]
        c, h, w = setup.shape
        content = {
            "images": len(images), "sha256": tensor_sha256(images), "bits": codec_bits(images)
        }  # fmt: skip
        say(f"wrote {write_record(f'codecs-{setup.data}-{c}x{h}x{w}', content, folder=FOLDER)}")
    return 0


def timing(chosen: dict[str, Setup], args: argparse.Namespace) -> int:
    """Step times in every mode, over the floor and against the first; in `timing-NAME.json`.

    With `--seal` also as a record `timing-NAME`. On a CPU the numbers are float32 unless `--amp`
    says otherwise, and there are no graphs.
    """
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = device.type == "cuda"
    amp = args.amp or ("bf16" if on_gpu else None)
    tried = [(m, amp, False, True) for m in args.modes if on_gpu or "graph" not in m]
    if "eager" in args.modes:  # what an untuned program does
        tried.insert(0, ("eager", None, True, False))
    for name, setup in chosen.items():
        train = load(setup)[0][: max(32, setup.batch)]
        rows = []

        def make(setup: Setup = setup, train: Tensor = train) -> tuple[Flow, Tensor]:
            flow = prepare(setup, train, seed=0, device=device)
            return flow, train[: setup.batch].to(device)

        for mode, amp, tf32, last in tried:
            try:
                options = dict(mode=mode, amp=amp, tf32=tf32, channels_last=last)
                row = measure(make, steps=args.steps or 40, **options)
                row["over_floor"] = row["step_ms"] / row["floor_ms"]
                if rows and "step_ms" in rows[0]:
                    row["faster_than_first"] = rows[0]["step_ms"] / row["step_ms"]
            except Exception as error:  # noqa: BLE001  a mode that fails is a result too
                row = {"mode": mode, "amp": amp, "error": f"{type(error).__name__}: {error}"[:500]}
            rows.append({"name": name, "device": device_name(device), **row})
            say(json.dumps(rows[-1]))
            args.out.mkdir(parents=True, exist_ok=True)
            write_atomic(args.out / f"timing-{name}.json", json.dumps(rows, indent=1).encode())
        if args.seal:
            content = {"setup": asdict(setup), "rows": rows, "run_on": record_provenance(str(device))}
            content["parameters"] = count_parameters(make()[0])
            say(f"wrote {write_record(f'timing-{name}', content, folder=args.records or FOLDER)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
