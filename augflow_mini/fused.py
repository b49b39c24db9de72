"""A run of couplings written out, with its backward pass: the same numbers as by modules, sooner.

On small batches a flow spends its time on calling modules and on autograd's many nodes, not on
products. Where every network is an `MLP` of plain layers there is nothing to ask a module for, so
`Chain` hands the run to `run`: two loops over the couplings, one there and one back. In the backward
loop each line is the derivative of one line of the forward loop, in autograd's own order: gradients
come out equal bit for bit (`tests/test_fused.py`). Whatever is not plain goes the usual way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

aten = torch.ops.aten
IN_PLACE = {nn.ReLU: torch.relu_, nn.Tanh: torch.tanh_}
# Of each activation: g, h = activation(...) -> g times its derivative, written over g.
BACK = {
    nn.ReLU: lambda g, h: aten.threshold_backward.grad_input(g, h, 0, grad_input=g),
    nn.Tanh: lambda g, h: aten.tanh_backward.grad_input(g, h, grad_input=g),
}


class Step(NamedTuple):
    """One coupling: which half it writes, its kind and direction, and its network's activations."""

    written: int
    affine: bool
    back: bool
    clamp: float | None
    activations: list[type]


def watched(module: nn.Module) -> object:
    """True where someone listens when the module is called, so that it has to be."""
    return (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def possible(x: Tensor) -> bool:
    """Whether products need not be seen one by one: no trace, autocast or transform of functions."""
    return not (
        x.dim() != 2
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled(x.device.type)
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def plan(
    layers: list[tuple[nn.Module, bool]], widths: tuple[int, int]
) -> tuple[list[Step], list[Tensor]] | None:
    """Steps and weights of couplings, each with whether it is undone; None if one has its own way."""
    steps, weights = [], []
    for coupling, back in layers:
        found = coupling.step(back, widths)
        if found is None:
            return None
        steps.append(found[0])
        weights += found[1]
    return steps, weights


def run(x: Tensor, k: int, steps: list[Step], weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Couplings of the features before k and after it on x (B, D): (z, contrib)."""
    if torch.is_grad_enabled():
        return _Run.apply(k, steps, x, *weights)
    return _forward(k, steps, x, weights, None)


def _forward(
    k: int, steps: list[Step], x: Tensor, weights: Iterable[Tensor], tape: list[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """The run; `tape` gets what the way back needs, for each step in `_backward`'s order."""
    halves, total, weights = list(x.split([k, x.shape[1] - k], dim=1)), None, iter(weights)
    for written, affine, back, clamp, activations in steps:
        given, h = halves[written], halves[1 - written]
        kept = [h]
        for kind in activations:
            h = IN_PLACE[kind](F.linear(h, next(weights), next(weights)))
            kept.append(h)
        out = F.linear(h, next(weights), next(weights))
        if affine:
            log_s, m = out.chunk(2, dim=1)
            if clamp is not None:
                bent = torch.tanh(log_s / clamp)
                log_s = clamp * bent
                kept.append(bent)
            if back:
                log_s = -log_s
                given = given - m
            s = log_s.exp()
            kept += [given, s]
            halves[written] = given * s if back else torch.addcmul(m, given, s)
            contrib = log_s.squeeze(1) if log_s.shape[1] == 1 else log_s.sum(1)
            total = contrib if total is None else total + contrib
        else:
            halves[written] = given - out if back else given + out
        if tape is not None:
            tape += kept
    total = x.new_zeros(x.shape[0]) if total is None else total
    return torch.cat(halves, dim=1), total


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx, k: int, steps: list[Step], x: Tensor, *weights: Tensor):
        tape: list[Tensor] = []
        out = _forward(k, steps, x, weights, tape)
        ctx.k, ctx.steps = k, steps
        ctx.save_for_backward(x, *weights, *tape)
        return out

    @staticmethod
    def backward(ctx, grad_z: Tensor, grad_total: Tensor):
        x, *saved = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        weights, tape = saved[: len(needs) - 1], saved[len(needs) - 1 :]
        if torch.is_grad_enabled():  # the gradient's own graph is asked for: autograd makes it
            inputs = [t for t, need in zip([x, *weights], needs, strict=True) if need]
            out = _forward(ctx.k, ctx.steps, x, weights, None)
            grads = iter(
                torch.autograd.grad(
                    out, inputs, (grad_z, grad_total), create_graph=True, allow_unused=True
                )
            )
            return None, None, *(next(grads) if need else None for need in needs)
        grads = _backward(ctx.k, ctx.steps, weights, needs[1:], tape, grad_z, grad_total)
        return None, None, *grads


def _backward(
    k: int,
    steps: list[Step],
    weights: list[Tensor],
    needs: tuple[bool, ...],
    tape: list[Tensor],
    grad_z: Tensor,
    grad_total: Tensor,
) -> list[Tensor | None]:
    """Gradients of x and of each weight."""
    half = list(grad_z.split([k, grad_z.shape[1] - k], dim=1))
    every = grad_total.unsqueeze(1)  # each log-scale counts in the sum
    grads: list[Tensor | None] = [None] * len(weights)
    at, tape = len(weights), list(tape)
    for written, affine, back, clamp, activations in reversed(steps):
        g = half[written]
        if affine:
            s, given = tape.pop(), tape.pop()
            g_given, g_log_s = g * s, g * given * s + every
            half[written] = g_given
            g_m = -g_given if back else g
            g_log_s = -g_log_s if back else g_log_s
            if clamp is not None:
                g_log_s = aten.tanh_backward(g_log_s * clamp, tape.pop()) / clamp
            g = torch.cat([g_log_s, g_m], dim=1)
        elif back:
            g = -g
        for i in range(len(activations), -1, -1):
            h = tape.pop()
            at -= 2
            if needs[at]:
                grads[at] = g.t() @ h
            if needs[at + 1]:
                grads[at + 1] = g.sum(0)
            g = g @ weights[at]
            if i:
                g = BACK[activations[i - 1]](g, h)
        half[1 - written] = half[1 - written] + g
    return [torch.cat(half, dim=1), *grads]
