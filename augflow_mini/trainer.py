"""The moving parts of `fit`: steps, averages, checkpoints.

Everything random in step t is a function of (seed, t), so a checkpoint needs no generator state
and resuming is exact, on another number of processes too.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .checkpoint import check_state, load_tensors, tensor_sha256, to_bytes, write_atomic
from .flow import Flow

KIND = "augflow_mini.fit.1"
SKIPS_IN_A_ROW = 50  # so many non-finite gradients one after another: the run is lost
AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}

Loss = Callable[[Flow, Tensor], Tensor]


@dataclass
class Fit:
    """What `fit` did.

    Attributes:
        step: steps done.
        loss: training loss of every step, nats.
        valid: (step, validation loss) pairs, nats, of the EMA weights where there are any.
        clipped: steps whose gradient was shortened.
        skipped: steps left out because the gradient was not finite although the loss was.
        ema: averaged parameters by name, or None; see `ema_weights`.
        best: the parameters of the lowest validation loss by name, or None.
        best_step: where they were found.
        seconds: spent in training steps, those before a resume included.
        device: where it ran.
    """

    step: int = 0
    loss: list[float] = field(default_factory=list)
    valid: list[tuple[int, float]] = field(default_factory=list)
    clipped: int = 0
    skipped: int = 0
    ema: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None
    best_step: int = 0
    seconds: float = 0.0
    device: str = "cpu"


class Trainer:
    """One run of `fit`: model, optimiser, averages and history. Use `fit`.

    Args:
        flow, train, valid, loss, channels_last: as in `fit`.
        options: what tells one run from another; stored in the checkpoint and compared on resume.
        device: where everything is moved to.
    """

    def __init__(
        self,
        flow: Flow,
        train: Tensor,
        valid: Tensor | None,
        loss: Loss,
        *,
        options: dict,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        self.flow, self.loss, self.options, self.device = flow.to(device), loss, options, device
        self.train, self.valid = train.to(device), None if valid is None else valid.to(device)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            flow.to(memory_format=torch.channels_last)
        self.parameters = {n: p for n, p in flow.named_parameters() if p.requires_grad}
        self.dtype = next(iter(self.parameters.values())).dtype
        self.order = Order(len(train), options["batch"], options["seed"])
        fused = device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=options["lr"], fused=fused)
        self.scaler = torch.amp.GradScaler(device.type, enabled=options["amp"] == "fp16")
        self.fit = Fit(device=device_name(device))
        self.skips_in_a_row = 0

    def begin(self, checkpoint: Path | None, *, compile: bool) -> None:
        """Start afresh, or from a checkpoint, and prepare the loss."""
        self.flow.train()
        if checkpoint is None:
            with torch.no_grad():  # ActNorm takes scale and shift from the whole first batch
                seed_noise(self.options["seed"], 0, 0)
                self.loss(self.flow, self.take(self.train, self.order.rows(0)))
            if self.options["ema"] is not None:
                self.fit.ema = self.copy_of_weights()
        else:
            self.restore(checkpoint)
        self.objective: nn.Module = Objective(self.flow, self.loss)
        if compile:
            self.objective = torch.compile(self.objective)
        if world() > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            self.objective = nn.parallel.DistributedDataParallel(self.objective, device_ids=ids)

    def advance(self, asked: Callable[[], bool], path: Path | None) -> tuple[float, bool]:
        """One step of Adam: (loss, whether any process was asked to stop by now)."""
        began, fit, options = time.perf_counter(), self.fit, self.options
        rows, shards = self.order.rows(fit.step), options["shards"]
        for group in self.optimizer.param_groups:
            group["lr"] = options["lr"] * schedule(fit.step, options)
        self.optimizer.zero_grad(set_to_none=True)
        mine = range(rank(), shards, world())
        total = 0.0
        for shard in mine:
            seed_noise(options["seed"], 1 + fit.step, shard)
            exchange = world() == 1 or shard == mine[-1]  # gradients, once a step
            with contextlib.nullcontext() if exchange else self.objective.no_sync():
                with self.autocast():
                    part = self.objective(self.take(self.train, rows[shard::shards])) / len(mine)
                self.scaler.scale(part).backward()
            total = total + part.detach().double()
        value, stop = over_processes(total, asked())
        if not math.isfinite(value):
            raise FloatingPointError(self.not_finite(f"the loss is {value}", rows, path))
        self.update(rows, path)
        fit.loss.append(value)
        fit.step += 1
        fit.seconds += time.perf_counter() - began
        return value, stop

    def update(self, rows: Tensor, path: Path | None) -> None:
        """Clip the gradient, move the weights and their averages."""
        fit, clip = self.fit, self.options["clip"]
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), clip or math.inf).item()
        if math.isfinite(norm):
            self.scaler.step(self.optimizer)
            fit.clipped += int(clip is not None and norm > clip)
            self.skips_in_a_row = 0
        else:
            fit.skipped += 1
            self.skips_in_a_row += 1
            if self.skips_in_a_row == SKIPS_IN_A_ROW:
                what = f"the gradient was not finite for {SKIPS_IN_A_ROW} steps in a row"
                raise FloatingPointError(self.not_finite(what, rows, path))
        self.scaler.update()
        if fit.ema is not None:
            # A growing memory: the average forgets the random start as fast as the run allows.
            memory = min(self.options["ema"], (1 + fit.step) / (10 + fit.step))
            now = [p.detach() for p in self.parameters.values()]
            get_ema_multi_avg_fn(memory)(list(fit.ema.values()), now, None)

    @torch.no_grad()
    def validate(self) -> None:
        """Measure the validation loss, with the same noise each time; keep the best weights."""
        if self.valid is None:
            return
        fit, total = self.fit, 0.0
        with ema_weights(self.flow, fit.ema or {}):
            self.flow.eval()
            for i, rows in enumerate(torch.arange(len(self.valid)).split(self.options["batch"])):
                seed_noise(self.options["seed"], -1 - i, 0)
                with self.autocast():
                    value = self.loss(self.flow, self.take(self.valid, rows))
                total += value.item() * len(rows) / len(self.valid)
            self.flow.train()
            if self.options["keep_best"] and total < min((v for _, v in fit.valid), default=1e999):
                fit.best, fit.best_step = self.copy_of_weights(), fit.step
        fit.valid.append((fit.step, total))

    def save(self, path: Path) -> None:
        """Write everything the run needs to go on; never replaces a good file by NaN."""
        if not all(p.isfinite().all() for p in self.parameters.values()):
            rows = self.order.rows(self.fit.step - 1)
            raise FloatingPointError(self.not_finite("a parameter is not finite", rows, path))
        content = {
            "kind": KIND,
            "run": self.identity(),
            "model": self.flow.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "fit": dict(vars(self.fit), loss=torch.tensor(self.fit.loss, dtype=torch.float64)),
        }
        write_atomic(path, to_bytes(content))

    def restore(self, path: Path) -> None:
        """Take up the run that `save` wrote; the model is touched only after everything fits."""
        saved = load_tensors(path, kind=KIND, device=self.device)
        with _damaged(path):
            came, weights = dict(saved["run"]), dict(saved["model"])
            if not all(isinstance(t, Tensor) for t in weights.values()):
                raise TypeError("its model holds more than tensors")
            history = dict(saved["fit"], loss=saved["fit"]["loss"].tolist())
            fit = Fit(**dict(history, device=self.fit.device))
            if len(fit.loss) != fit.step:
                raise ValueError(f"{len(fit.loss)} losses for {fit.step} steps")
        expected = self.identity()
        differ = [k for k in expected if repr(came.get(k)) != repr(expected[k])]
        if expected["decay"] is None and "steps" in differ and fit.step < expected["steps"]:
            differ.remove("steps")  # a longer run of the same kind
        if differ:
            lines = ", ".join(f"{k} is {came.get(k)!r}, expected {expected[k]!r}" for k in differ)
            raise ValueError(
                f"checkpoint {path} belongs to another run: {lines}. Pass the same arguments to "
                "go on, another checkpoint= for a new run, or resume=False to overwrite it"
            )
        check_state(weights, self.flow.state_dict(), f"checkpoint {path}")
        with _damaged(path):
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
        self.flow.load_state_dict(weights)
        self.fit = fit

    def identity(self) -> dict:
        """What two runs must share for one to go on where the other stopped."""
        if not hasattr(self, "_data_hash"):
            self._data_hash = tensor_sha256(self.train)[:16]
        return {**self.options, "rows": len(self.train), "data": self._data_hash}

    def copy_of_weights(self) -> dict[str, Tensor]:
        """The trained parameters as they are now."""
        return {n: p.detach().clone() for n, p in self.parameters.items()}

    def take(self, data: Tensor, rows: Tensor) -> Tensor:
        """A batch in the model's dtype and memory format."""
        x = data[rows.to(data.device)].to(self.dtype)
        return x.contiguous(memory_format=self.format) if x.dim() == 4 else x

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context in which the loss is computed."""
        amp = self.options["amp"]
        return torch.autocast(self.device.type, AMP[amp]) if amp else contextlib.nullcontext()

    def not_finite(self, what: str, rows: Tensor, path: Path | None) -> str:
        """The message that names step, batch, checkpoint and remedies."""
        kept = "nothing was saved, as no checkpoint= was given"
        if path is not None:
            kept = f"the last good checkpoint is kept in {path}"
            kept = kept if path.exists() else "no checkpoint was due yet"
        shown = ", ".join(map(str, rows[:8].tolist())) + (", ..." if len(rows) > 8 else "")
        return (
            f"{what} at step {self.fit.step} (training rows {shown}); {kept}. Lower lr or clip, "
            "add warmup, or bound the couplings' log-scales with clamp="
        )


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is the file's fault, and said so."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged: {type(error).__name__} {error}; expected what fit "
            "saves. Delete it, or name another"
        ) from error


class Objective(nn.Module):
    """The loss as a module, which is what `torch.compile` and DistributedDataParallel wrap."""

    def __init__(self, flow: Flow, loss: Loss) -> None:
        super().__init__()
        self.flow, self.loss = flow, loss

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(self.flow, x)


class Order:
    """Which rows step t sees: epoch after epoch, each shuffled anew; a function of (seed, t)."""

    def __init__(self, n: int, batch: int, seed: int) -> None:
        self.n, self.batch, self.seed = n, batch, seed
        self._shuffled: dict[int, Tensor] = {}  # the running epoch's order, and the next one's

    def rows(self, step: int) -> Tensor:
        """Row numbers of a step's whole batch: (batch,)."""
        place = torch.arange(step * self.batch, (step + 1) * self.batch)
        epochs = range(int(place[0]) // self.n, int(place[-1]) // self.n + 1)
        self._shuffled = {k: self._shuffled[k] for k in epochs if k in self._shuffled}
        for k in epochs:
            if k not in self._shuffled:
                generator = torch.Generator().manual_seed(mix(self.seed, "order", k))
                self._shuffled[k] = torch.randperm(self.n, generator=generator)
        return torch.cat([self._shuffled[k][place[place // self.n == k] % self.n] for k in epochs])


@contextlib.contextmanager
def ema_weights(flow: Flow, weights: dict[str, Tensor]) -> Iterator[Flow]:
    """`with ema_weights(flow, fit.ema):` the flow has these weights inside, its own after.

    Args:
        weights: parameters by name, `Fit.ema` or `Fit.best`; those not named stay.

    Raises:
        ValueError: a name or shape is not the flow's.
    """
    own = {n: p.detach().clone() for n, p in flow.named_parameters() if n in weights}
    try:
        set_weights(flow, weights)
        yield flow
    finally:
        set_weights(flow, own)


@torch.no_grad()
def set_weights(flow: Flow, weights: dict[str, Tensor]) -> None:
    """Copy parameters by name into the flow; ValueError for a name or shape it does not have."""
    own = {n: p for n, p in flow.named_parameters() if n in weights}
    check_state(weights, own, "set_weights: the dictionary")
    for name, value in weights.items():
        own[name].copy_(value)


def schedule(step: int, options: dict) -> float:
    """Factor of the step size: linear growth over `warmup` steps, then constant or cosine to 0."""
    warmup, steps = options["warmup"], options["steps"]
    if step < warmup:
        return (step + 1) / warmup
    if options["decay"] is None:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def mix(*key: object) -> int:
    """A seed that depends on every part of the key."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=7).digest(), "little")


def seed_noise(seed: int, step: int, shard: int) -> None:
    """Make the noise that comes next a function of (seed, step, shard)."""
    number = mix(seed, "noise", step, shard)
    torch.default_generator.manual_seed(number)  # torch.manual_seed would take 80 microseconds
    if torch.cuda.is_available():
        torch.cuda.manual_seed(number)


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if world() > 1 else 0


def over_processes(loss: Tensor, stop: bool) -> tuple[float, bool]:
    """Mean loss over the processes, and whether any of them was asked to stop."""
    if world() == 1:
        return loss.item(), stop
    both = torch.stack([loss / world(), loss.new_tensor(float(stop))])
    dist.all_reduce(both)
    return both[0].item(), both[1].item() > 0


def device_name(device: torch.device) -> str:
    """What to write into a record."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
