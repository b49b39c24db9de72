"""Train many small flows of one shape at once, for little more than the price of one.

`fit` is the library's training loop. A study over seeds and step sizes trains dozens of tiny
networks, where the computer spends its time on starting operations, not on numbers. Here the
weights of S flows are stacked and every operation runs once for all of them. Each flow sees its
own data and its own noise and has its own Adam, so it trains as if it were alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ..flow import Flow

Loss = Callable[["Weights", Tensor], Tensor]


class Weights(nn.Module):
    """The log-weights of a flow, (B, D) -> (B,), without the checks that look at the numbers.

    `Flow.log_weight` raises on bad numbers; a check of numbers cannot run for S flows at once.
    """

    def __init__(self, flow: Flow, loss: Loss) -> None:
        super().__init__()
        self.flow, self.loss = flow, loss

    def log_weight(self, x: Tensor) -> Tensor:
        z, contrib = self.flow.chain(x)
        return self.flow.base.log_prob(z) + contrib

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(self, x)


def negative_elbo(weights: Weights, x: Tensor) -> Tensor:
    """-mean log w, nats; the negative log-likelihood where the flow is exact."""
    return -weights.log_weight(x).mean()


def negative_iw_bound(k: int) -> Loss:
    """-mean L_K, nats: training with K importance samples."""

    def loss(weights: Weights, x: Tensor) -> Tensor:
        log_w = weights.log_weight(x.repeat(k, 1)).view(k, -1)
        return math.log(k) - torch.logsumexp(log_w, 0).mean()

    return loss


@dataclass
class ManyFit:
    """What `fit_many` did.

    Attributes:
        curve: training loss of each flow, mean over each fiftieth of the run, (points, S), nats.
        failed: flows whose loss was not finite at some step; such steps leave a flow as it is.
        cpu_seconds: processor time of the training of all S flows together.
    """

    curve: list[list[float]] = field(default_factory=list)
    failed: list[bool] = field(default_factory=list)
    cpu_seconds: float = 0.0


def fit_many(
    flows: Sequence[Flow],
    draw: Callable[[int], Tensor],
    *,
    steps: int,
    batch: int,
    lr: float | Sequence[float],
    seed: int,
    loss: Loss = negative_elbo,
    warmup: int = 100,
    clip: float = 5.0,
) -> ManyFit:
    """Train flows of one shape in place with Adam, cosine decay to 0 and fresh data at every step.

    Args:
        flows: S flows that differ in their weights only; weights without `requires_grad` stay.
        draw: n -> data (n, D) or (n, C, H, W), new draws at each call.
        steps, batch: of each flow.
        lr: Adam's largest step size, one number or one for each flow.
        seed: of the augmentation noise; the caller's random state is left alone.
        loss: `negative_elbo` or `negative_iw_bound(k)`.
        warmup: steps over which the step size grows linearly.
        clip: largest gradient norm of a flow.

    Raises:
        ValueError: the flows have different shapes, or another number of step sizes came.
    """
    size = len(flows)
    rates = [lr] * size if isinstance(lr, int | float) else list(lr)
    shapes = {tuple((n, p.shape) for n, p in f.named_parameters()) for f in flows}
    if len(shapes) != 1 or len(rates) != size:
        raise ValueError(
            f"fit_many: {size} flows of {len(shapes)} shapes and {len(rates)} step sizes; "
            "expected flows of one shape and one step size for each"
        )
    began = time.process_time()
    modules = [Weights(f, loss).train() for f in flows]
    stacked, buffers = stack_module_state(modules)
    names = [n for n, p in modules[0].named_parameters() if p.requires_grad]
    frozen = {n: t for n, t in stacked.items() if n not in names}
    # One row of numbers holds a flow: Adam is then a few operations for any number of layers.
    flat = torch.cat([stacked[n].detach().reshape(size, -1) for n in names], dim=1)
    cuts = [stacked[n][0].numel() for n in names]
    views = [v.view(stacked[n].shape) for v, n in zip(flat.split(cuts, dim=1), names, strict=True)]
    views = [v.requires_grad_() for v in views]
    rate = flat.new_tensor(rates)[:, None]
    mean, square = torch.zeros_like(flat), torch.zeros_like(flat)

    def one(parameters: dict, buffers: dict, x: Tensor) -> Tensor:
        return functional_call(modules[0], (parameters, buffers), (x,))

    every = vmap(one, randomness="different")

    def losses(x: Tensor) -> Tensor:
        if size > 1:
            return every({**frozen, **dict(zip(names, views, strict=True))}, buffers, x)
        # vmap of one flow would cost twice as much as the flow
        first = {n: v[0] for n, v in zip(names, views, strict=True)}
        first |= {n: v[0] for n, v in frozen.items()}
        return one(first, {n: b[0] for n, b in buffers.items()}, x[0])[None]

    out = ManyFit(failed=[False] * size)
    bad = torch.zeros(size, dtype=torch.bool)
    total, points = flat.new_zeros(size), max(1, steps // 50)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pool, at = draw(0), 0
        for step in range(steps):
            if at + size * batch > len(pool):
                pool, at = draw(max(size * batch, min(steps - step, 50) * size * batch)), 0
            x = pool[at : at + size * batch].view(size, batch, *pool.shape[1:])
            at += size * batch
            value = losses(x)
            finite = value.isfinite()
            grads = torch.autograd.grad(torch.where(finite, value, 0.0).sum(), views)
            with torch.no_grad():
                bad |= ~finite
                g = torch.cat([t.reshape(size, -1) for t in grads], dim=1)
                norm = g.norm(dim=1, keepdim=True)
                bad |= ~norm.isfinite()[:, 0]
                g = torch.where(norm.isfinite(), g * (clip / norm.clamp_min(clip)), 0.0)
                mean.lerp_(g, 0.1)
                square.mul_(0.999).addcmul_(g, g, value=0.001)
                t = step + 1
                grow = min(1.0, t / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * step / steps))
                root = math.sqrt(1 - 0.999**t)  # Adam's bias corrections
                denominator = square.sqrt().add_(1e-8 * root)
                flat.addcdiv_(mean * rate, denominator, value=-grow * root / (1 - 0.9**t))
                total += value.detach()
                if t % points == 0:
                    out.curve.append([round(v, 4) for v in (total / points).tolist()])
                    total.zero_()
    with torch.no_grad():
        for name, view in zip(names, views, strict=True):
            for i, module in enumerate(modules):
                module.get_parameter(name).copy_(view[i])
    out.failed = bad.tolist()
    out.cpu_seconds = time.process_time() - began
    return out
