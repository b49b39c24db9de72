"""`fit`: one training loop with checkpoints, exact resume and errors that say what to do."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from .dequantize import Carry
from .flow import Flow
from .trainer import Fit, Loss, Trainer, device_name, ema_weights, rank, set_weights, world
from .transform import checked_count


def negative_elbo(flow: Flow, x: Tensor) -> Tensor:
    """-mean ELBO in nats; -mean log p(x) where the flow is exact. The default loss of `fit`."""
    return -flow.elbo(x).mean()


def fit(
    flow: Flow,
    train: Tensor,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    loss: Loss = negative_elbo,
    valid: Tensor | None = None,
    keep_best: bool = False,
    clip: float | None = 1.0,
    ema: float | None = None,
    warmup: int = 0,
    decay: str | None = None,
    amp: str | None = None,
    channels_last: bool = False,
    compile: bool = False,
    shards: int | None = None,
    device: str | torch.device | None = None,
    checkpoint: str | os.PathLike | None = None,
    every: int = 500,
    resume: bool = True,
    progress: bool = True,
) -> Fit:
    """Train `flow` in place with Adam; returns what happened. The flow keeps the last weights.

    The first batch initialises data-dependent layers (`ActNorm`). Under `torch.distributed` every
    process calls this with the same arguments: the batch is split over the processes, and the
    first one writes the checkpoint.

    Args:
        flow: the model; it is moved to `device` and stays there.
        train: data (N, ...), floating or integer; kept on the device, batches are cast to the
            model's dtype. Rows come in a new order each epoch.
        steps: in all, those before a resume included.
        batch: rows a step, over all processes.
        lr: Adam's step size after `warmup` steps of linear growth.
        seed: of the data order and of all noise. The caller's random state is left alone; the
            model's initial weights are the caller's (`torch.manual_seed` before building it).
        loss: (flow, x) -> scalar in nats; K-sample training is
            `lambda flow, x: -flow.iw_bound(x, K).value.mean()`. With a checkpoint give a `def`
            of its own name: a resume tells losses apart by name, and all lambdas have one.
        valid: data for the validation loss, measured each `every` steps with fixed noise.
        keep_best: keep the weights of the lowest validation loss in `Fit.best`.
        clip: largest gradient norm, or None.
        ema: decay of the averaged weights in `Fit.ema`, for example 0.999, or None.
        decay: None, or 'cosine': the step size falls to 0 over the run.
        amp: None, 'bf16' or 'fp16' (with loss scaling): autocast of the networks.
        channels_last: memory format for images.
        compile: pass the loss through `torch.compile`.
        shards: parts of a batch, each with a noise stream of its own, taken one after another
            (gradients add up) or by several processes; the result is the same. Default: one for
            each process.
        device: automatic: a GPU if there is one.
        checkpoint: file to save to, each `every` steps, at the end and on Ctrl-C.
        resume: go on from `checkpoint` if it exists; False starts afresh and overwrites it.
        progress: show a progress bar.

    Raises:
        ValueError: an argument or the data is unusable, or the checkpoint is truncated, foreign
            or belongs to another run.
        FloatingPointError: the loss is not finite; names the step and the batch. The last good
            checkpoint is kept.
        KeyboardInterrupt: Ctrl-C, after the running step was finished and saved.
        OSError: the checkpoint cannot be written; the one before is intact.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options = {
        "steps": steps,
        "batch": batch,
        "lr": lr,
        "seed": seed,
        "loss": getattr(loss, "__name__", type(loss).__name__),
        "keep_best": keep_best,
        "clip": clip,
        "ema": ema,
        "warmup": warmup,
        "decay": decay,
        "amp": amp,
        "shards": shards or world(),
    }
    _check_options(options, every, device)
    _check_data(flow, train, "train")
    if valid is not None:
        _check_data(flow, valid, "valid")
    elif keep_best:
        raise ValueError("fit: keep_best=True chooses by the validation loss; pass valid=, too")
    path = None if checkpoint is None else Path(checkpoint)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), _interrupt() as interrupted:
        trainer = Trainer(
            flow, train, valid, loss, options=options, device=device, channels_last=channels_last
        )
        found = path is not None and resume and path.exists()
        trainer.begin(path if found else None, compile=compile)
        with _Bar(flow, train, steps, shown=progress and rank() == 0) as bar:
            while trainer.fit.step < steps:
                value, stop = trainer.advance(interrupted, path)
                due = trainer.fit.step % every == 0 or trainer.fit.step == steps
                if due:
                    trainer.validate()
                if path is not None and (due or stop) and rank() == 0:
                    trainer.save(path)
                bar.show(trainer.fit, value)
                if stop and trainer.fit.step < steps:
                    raise KeyboardInterrupt(_how_to_resume(path, trainer.fit.step, steps))
    return trainer.fit


@contextlib.contextmanager
def _interrupt() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C finish the running step; a second one stops at once."""
    asked = False

    def on_signal(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt("stopped within a step; the last checkpoint is what is saved")
        asked = True

    try:
        previous = signal.signal(signal.SIGINT, on_signal)
    except ValueError:  # not in the main thread: no signal comes here
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)


def _how_to_resume(path: Path | None, step: int, steps: int) -> str:
    if path is None:
        return f"stopped at step {step} of {steps}; nothing is saved, as no checkpoint= was given"
    return f"stopped at step {step} of {steps} and saved in {path}; run the same call to go on"


class _Bar:
    """Progress bar: the loss in bits/dim for discrete data, else in nats, and the time left."""

    def __init__(self, flow: Flow, train: Tensor, steps: int, *, shown: bool) -> None:
        from tqdm import tqdm  # here, so that importing the library stays light

        discrete = any(isinstance(layer, Carry) for layer in flow.chain)
        self.unit = "bits/dim" if discrete else "nats"
        self.scale = 1 / (train[0].numel() * math.log(2)) if discrete else 1.0
        self.tqdm = tqdm(total=steps, disable=not shown, mininterval=0.5, unit="step")
        self.mean: float | None = None

    def show(self, fit: Fit, loss: float) -> None:
        """Move to the latest step; the loss shown is a running mean."""
        if self.mean is None:  # steps before a resume cost no time now
            self.tqdm.initial = fit.step - 1
            self.tqdm.n = fit.step - 1
        self.mean = loss if self.mean is None else 0.98 * self.mean + 0.02 * loss
        text = f"{self.mean * self.scale:.4f} {self.unit}"
        if fit.valid:
            text += f", valid {fit.valid[-1][1] * self.scale:.4f}"
        self.tqdm.set_postfix_str(text, refresh=False)
        self.tqdm.update(1)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.tqdm.close()


def _check_options(options: dict, every: int, device: torch.device) -> None:
    wrong = lambda name, expected: ValueError(  # noqa: E731
        f"fit: {name} is {options[name]!r}, expected {expected}"
    )
    for name in ("steps", "batch", "shards"):
        options[name] = checked_count(options[name], f"fit: {name}")
    checked_count(every, "fit: every", of=" step")
    if options["warmup"] < 0:
        raise wrong("warmup", "a number of steps, 0 for none")
    if not options["lr"] > 0:
        raise wrong("lr", "a positive step size, as 1e-3")
    if options["clip"] is not None and not options["clip"] > 0:
        raise wrong("clip", "a positive gradient norm, or None")
    if options["ema"] is not None and not 0 <= options["ema"] < 1:
        raise wrong("ema", "a decay in [0, 1), as 0.999, or None")
    if options["decay"] not in (None, "cosine"):
        raise wrong("decay", "None or 'cosine'")
    if options["amp"] not in (None, "bf16", "fp16"):
        raise wrong("amp", "None, 'bf16' or 'fp16'")
    if options["amp"] == "bf16" and device.type == "cuda":
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError(f"fit: {device_name(device)} has no bf16; use amp='fp16' or None")
    if options["shards"] % world() or options["batch"] % options["shards"]:
        raise ValueError(
            f"fit: {options['batch']} rows in {options['shards']} shards on {world()} processes "
            "is uneven; make batch a multiple of shards, and shards of the processes"
        )


def _check_data(flow: Flow, data: Tensor, name: str) -> None:
    if not isinstance(data, Tensor) or data.dim() < 2 or not len(data):
        what = tuple(data.shape) if isinstance(data, Tensor) else type(data).__name__
        raise ValueError(f"fit: {name} is {what}, expected a tensor (N, D) or (N, C, H, W)")
    if data.is_floating_point() and not data.isfinite().all():
        bad = (~data.isfinite()).flatten(1).any(1).nonzero().flatten()
        raise ValueError(
            f"fit: {name} holds NaN or infinite numbers in {len(bad)} of {len(data)} rows, the "
            f"first is row {int(bad[0])}; clean the data first"
        )
    if not any(p.requires_grad for p in flow.parameters()):
        raise ValueError("fit: the flow has no trainable parameters; build it with couplings")


__all__ = ["Fit", "ema_weights", "fit", "negative_elbo", "set_weights"]
