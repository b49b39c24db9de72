"""Speed on a GPU: the loss recorded as a CUDA graph, and step times against a floor.

Small networks on small images start thousands of operations a step, and a fast GPU waits for the
next one most of the time. Two remedies, alone or together: *compile* fuses the many elementwise
operations of a block; a *graph* is recorded once and then started as a whole.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..coupling import Coupling
from ..flow import Flow
from ..image_recipes import compile_parts
from ..shape import Append
from ..train import fit, negative_elbo
from ..trainer import AMP

MODES = ("eager", "compile", "graph", "compile+graph")


class _NegativeElbo(nn.Module):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        return negative_elbo(self.flow, x)


def fast_loss(
    flow: Flow, x: Tensor, *, mode: str, amp: str | None
) -> Callable[[Flow, Tensor], Tensor]:
    """`negative_elbo` for `fit`, made fast for batches shaped like x; else the plain one.

    Args:
        flow: on its device, in its memory format, `ActNorm`s initialised; with `validate=False`,
            since a graph cannot look at numbers. Its networks are changed in place (compiled).
        x: an example batch.
        mode: one of `MODES`.
        amp: 'bf16', 'fp16' or None, as for `fit`.
    """
    if mode not in MODES:
        raise ValueError(f"fast_loss: mode is {mode!r}, expected one of {', '.join(MODES)}")
    if "compile" in mode:
        torch._dynamo.config.recompile_limit = 64  # one for each shape, training and evaluation
        compile_parts(flow)
    if "graph" not in mode:
        return negative_elbo
    record = _record(_NegativeElbo(flow), x, amp)

    def loss(flow: Flow, x: Tensor) -> Tensor:
        return record(x) if flow.training and torch.is_grad_enabled() else negative_elbo(flow, x)

    loss.__name__ = negative_elbo.__name__  # the same function: a checkpoint fits either
    return loss


def _record(module: nn.Module, x: Tensor, amp: str | None) -> Callable[[Tensor], Tensor]:
    """`module` on inputs shaped like x, forward and backward each as one CUDA graph."""
    module.train()
    kind = AMP.get(amp, torch.bfloat16)
    with torch.autocast("cuda", kind, enabled=amp is not None, cache_enabled=False):
        return torch.cuda.make_graphed_callables(module, (x,))


class BareNets(nn.Module):
    """The conditioner networks of a flow alone, on inputs they have seen: the floor of a step.

    Args:
        flow: the model.
        x: a batch; one pass records what each network gets.
    """

    def __init__(self, flow: Flow, x: Tensor) -> None:
        super().__init__()
        layers = [m for m in flow.modules() if isinstance(m, (Coupling, Append))]
        self.nets = nn.ModuleList(m.net for m in layers)
        self.inputs: list[Tensor] = []
        hooks = [
            net.register_forward_pre_hook(lambda _, args: self.inputs.append(args[0].detach()))
            for net in self.nets
        ]
        with torch.no_grad():
            flow.chain(x)
        for hook in hooks:
            hook.remove()

    def forward(self, x: Tensor) -> Tensor:
        """The sum of all outputs; x is not looked at."""
        total = 0.0
        for net, seen in zip(self.nets, self.inputs, strict=True):
            total = total + net(seen).float().sum()
        return total + 0 * x.sum()


def median_ms(
    step: Callable[[], object], device: torch.device, *, repeats: int = 20, unmeasured: int = 3
) -> float:
    """Median time of a step in milliseconds, after a few unmeasured ones."""
    times = []
    for _ in range(unmeasured + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times[unmeasured:])[repeats // 2]


def measure(
    make: Callable[[], tuple[Flow, Tensor]], *, mode: str, amp: str | None, tf32: bool = False,
    channels_last: bool = True, steps: int = 40,
) -> dict:  # fmt: skip
    """Times of one model in one mode: a training step of `fit`, loss and gradient, and the floor.

    Args:
        make: returns a fresh initialised flow and a batch of training data, both on the device.
        tf32: allow TF32 in float32 products, as in the usual untuned program.

    Returns:
        milliseconds of a step (`step_ms`), of loss and gradient alone (`loss_ms`), of the bare
        networks forward and backward in the same mode (`floor_ms`); peak memory in MiB, on a GPU of
        its tensors, on a CPU of the whole process so far; seconds of preparation.
    """
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        began = time.perf_counter()
        flow, data = make()
        device = data.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        x = data.float()
        if channels_last:
            flow.to(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
        flow.train()
        bare = BareNets(
            flow, x
        )  # before compilation: the same network objects, compiled with them
        loss = fast_loss(flow, x, mode=mode, amp=amp)
        floor = _record(bare, x, amp) if "graph" in mode else bare

        def gradient(objective: Callable[[], Tensor]) -> None:
            with torch.autocast(device.type, AMP.get(amp), enabled=amp is not None):
                value = objective()
            value.backward()
            flow.zero_grad(set_to_none=True)

        options = dict(batch=len(data), lr=1e-4, seed=0, loss=loss, ema=0.999, amp=amp,
                       channels_last=channels_last, device=device, progress=False)  # fmt: skip
        gradient(lambda: loss(flow, x))
        prepared = time.perf_counter() - began
        out = {
            "loss_ms": median_ms(
                lambda: gradient(lambda: loss(flow, x)), device, repeats=steps // 2
            ),
            "floor_ms": median_ms(lambda: gradient(lambda: floor(x)), device, repeats=steps // 2),
        }
        fit(flow, data, steps=5, **options)
        out["step_ms"] = 1000 * fit(flow, data, steps=steps, **options).seconds / steps
        if device.type == "cuda":
            out["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        elif sys.platform == "linux":  # elsewhere the unit differs, or there is no such call
            import resource

            out["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        return {
            "mode": mode,
            "amp": amp,
            "tf32": tf32,
            "batch": len(data),
            **out,
            "prepare_s": prepared,
        }
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
