"""Many image experiments by one command: it says what it will do and how long, then does it.

    python -m augflow_mini.experiments.images programme gpu --plan
    python -m augflow_mini.experiments.images programme gpu --amp bf16 --mode graph

A programme is a list of jobs, each an ordinary command of `images` that ends within `JOB_SECONDS`:
what is not finished by then is saved (a checkpoint of the million-parameter models has 16 MiB) and
goes on in the next call. Given again, the whole command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from ..train import negative_elbo
from ..trainer import AMP, device_name
from .image_records import collect
from .image_results import say
from .image_setups import Setup, made_images, prepare, setups
from .image_speed import MODES, median_ms

JOB_SECONDS = 540.0  # so that a job with its start and end stays below ten minutes


@dataclass(frozen=True)
class Job:
    """One command of `images`.

    Attributes:
        why: what it is for, in a line.
        what: 'train' or 'timing'.
        names, seeds: experiments; all runs of a job are on the device side by side.
        changes: fields of `Setup` that differ from the named experiment's.
    """

    why: str
    what: str
    names: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    changes: tuple[tuple[str, int], ...] = ()

    def command(self) -> list[str]:
        """The arguments of `images`."""
        options = [word for key, value in self.changes for word in (f"--{key}", str(value))]
        return [self.what, *self.names, "--seeds", *map(str, self.seeds), *options]


def _channels(start: str, end: str = "") -> tuple[str, ...]:
    return tuple(f"{start}-{c}ch{end}" for c in (3, 4, 6))


_MNIST = ("vae", "anf-2", "anf-4", "hanf", "glow", "flowpp", "vflow")
_SHORT = ("vae", "anf-2", "hanf", "glow", "vflow")
_PAPER = ("cifar10-flowpp-paper", "cifar10-vflow-paper")
PROGRAMMES: dict[str, tuple[Job, ...]] = {
    "gpu": (
        Job("step time against the floor and against eager TF32", "timing", ("cifar10-6ch",)),
        Job("step time and memory of the papers' sizes", "timing", _PAPER),
        Job("equal budget with the probe: 3, 4, 6 channels", "train", _channels("cifar10"), (0,)),
        Job("the second seed", "train", _channels("cifar10"), (1,)),
        Job("the third seed", "train", _channels("cifar10"), (2,)),
        Job("the family on MNIST", "train", tuple(f"mnist-{n}" for n in _MNIST)),
    ),
    "chapter": (  # what chapter 12 shows; minutes on a small GPU, an hour and more on a CPU
        Job("MNIST", "train", tuple(f"mnist-cpu-{n}" for n in _SHORT)),
        Job("equal budget at 8 x 8 pixels", "train", _channels("small"), (0, 1)),
        Job("CIFAR-10 at 32 x 32", "train", ("cifar10-cpu-3ch", "cifar10-cpu-6ch")),
        Job("learned dequantisation", "train", ("small-3ch-variational",), (0, 1)),
        Job("three times the steps", "train", ("small-3ch-long", "small-6ch-long"), (0, 1)),
        Job("the width of 3 channels", "train", ("wide-6ch",), (0, 1)),
    ),
    "tiny": (  # the same on computed images, for proofs
        Job("step time", "timing", ("tiny-3ch",)),
        Job("equal budget", "train", ("tiny-3ch", "tiny-6ch"), (0,), (("steps", 3), ("k", 1))),
    ),
}


def step_seconds(setup: Setup, device: torch.device, amp: str | None) -> float:
    """Measured time of one eager step's loss and gradient, the median of three; seconds.

    On computed images, so that a plan needs no data. On a CPU a part of a batch of large images
    stands for the whole.
    """
    part = max(1, 2**14 // math.prod(setup.shape))
    few = setup.batch if device.type == "cuda" else min(part, setup.batch)
    made = made_images(max(32, few), setup.shape)
    flow = prepare(setup, made, seed=0, device=device).train()
    x = made[:few].float().to(device)
    kind = AMP[amp] if amp else torch.bfloat16

    def step() -> None:
        with torch.autocast(device.type, kind, enabled=amp is not None):
            value = negative_elbo(flow, x)
        value.backward()
        flow.zero_grad(set_to_none=True)

    seconds = median_ms(step, device, repeats=3, unmeasured=1) / 1000
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return seconds * setup.batch / few


def job_seconds(job: Job, device: torch.device, amp: str | None) -> float:
    """Estimate of a job from measured steps, as if its runs came one after another.

    A pass without gradient counts as a third of a step. A training run has its steps, 20
    validations on 2048 images, the ELBO on 5000 and K passes of the bound's rows; a timing takes
    about 100 steps in each mode.
    """
    total = 0.0
    for name in job.names:
        setup = replace(setups()[name], **dict(job.changes))
        step = step_seconds(setup, device, amp)
        if job.what == "timing":
            total += 100 * step * (1 + (len(MODES) if device.type == "cuda" else 2))
        else:
            passes = (20 * 2048 + 5000 + setup.k * setup.rows) / setup.batch
            total += len(job.seeds) * step * (setup.steps + passes / 3)
    return total


def programme(name: str, args: argparse.Namespace, main: Callable[[list[str]], int]) -> int:
    """Print the plan of a programme with measured estimates; do it unless `args.plan`.

    Args:
        name: one of `PROGRAMMES`.
        args: of the command line: device, amp, mode, out, plan, job, budget_seconds.
        main: the command line of `images`, for the jobs.

    Returns:
        0 when all is finished, 3 when the budget ended first, 1 when a job failed.
    """
    began = time.perf_counter()
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    chosen = [j for i, j in enumerate(PROGRAMMES[name], 1) if args.job in (None, i)]
    if not chosen:
        raise SystemExit(f"programme {name}: it has no job {args.job}")
    say(f"Programme {name} on {device_name(device)}; results in {args.out}.")
    say(f"No call of a job trains longer than {JOB_SECONDS:.0f} s; the next one goes on.")
    total = 0.0
    for i, job in enumerate(chosen, 1):
        seconds = job_seconds(job, device, args.amp)
        total += seconds
        say(f"{i}. {job.why}: about {_minutes(seconds)}\n     {' '.join(job.command())}")
    say(
        f"Together about {_minutes(total)}: an upper estimate, from eager steps measured just now, "
        "runs one after another; runs side by side and graphs take less."
    )
    if args.plan:
        return 0
    shared = ["--out", str(args.out)]
    for key in ("device", "amp"):
        shared += [f"--{key}", getattr(args, key)] if getattr(args, key) else []
    codes = []
    for job in chosen:
        say(f"-- {job.why}")
        extra = ["--mode", args.mode, *(["--no-probe"] if args.probe is False else [])]
        options = [*shared, *(extra if job.what == "train" else [])]
        for seconds in _calls(args.budget_seconds, began):
            codes.append(main([*job.command(), *options, "--budget-seconds", f"{seconds:.0f}"]))
            if codes[-1] != 3:
                break
        else:
            say("The time given is over; the same command goes on.")
            return 3
        if job.what == "train" and codes[-1] == 0:
            for path in collect(args.out, job.names, args.records or args.out / "records"):
                say(f"wrote {path}")
    return 1 if any(code not in (0, 3) for code in codes) else 0


def _calls(budget: float | None, began: float) -> Iterator[float]:
    """Seconds for each call of a job, until the budget of the whole is used."""
    while (left := (budget or math.inf) - (time.perf_counter() - began)) > 1:
        yield min(JOB_SECONDS, left)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
