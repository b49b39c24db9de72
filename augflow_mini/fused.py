"""A run of couplings written out, with its backward pass: the same numbers as by modules, sooner.

On small batches a flow spends its time on calling modules and on autograd's many nodes, not on
products. Where every network is an `MLP` of plain layers there is nothing to ask a module for, so
`Chain` hands such a run to `run`: two loops over the couplings, one there and one back. Each line of
the loop back is the derivative of a line of the loop there, computed as autograd would, so values and
gradients are equal bit for bit (`tests/test_fused.py`). The exception: where more than two gradients
meet in one tensor (a half or a network that is used several times), or data or weights lie transposed
in memory, a sum has another order and the last bits may differ.

Whoever wants to see the single steps gets them: `possible`, `Coupling.step` and `MLP.plain` look for
hooks, replaced methods, autocast, compilation and the like, and then modules are called as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

# An activation overwrites the product before it, which no one else has seen and whose own derivative
# does not need it.
IN_PLACE = {nn.ReLU: torch.relu_, nn.Tanh: torch.tanh_}
# Gradient and result of an activation -> gradient of its input.
BACK = {
    nn.ReLU: lambda g, h: torch.ops.aten.threshold_backward(g, h, 0),
    nn.Tanh: torch.ops.aten.tanh_backward,
}


EVERYWHERE = (  # hooks of all modules
    nn_module._global_forward_hooks,
    nn_module._global_forward_pre_hooks,
    nn_module._global_backward_hooks,
    nn_module._global_backward_pre_hooks,
)
# What is written out of a coupling: with one of these replaced it goes the usual way.
METHODS = {"forward", "inverse", "ask", "move", "move_back", "_log_s_and_m"}


class Step(NamedTuple):
    """One coupling: which half it writes, its kind and direction, and its network's activations."""

    written: int
    affine: bool
    back: bool
    clamp: float | None
    activations: list[type]


def _hooks(module: nn.Module) -> tuple[dict, ...]:
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


def watched(module: nn.Module) -> bool:
    """Whether someone listens when the module is called, so that it has to be."""
    return any(_hooks(module))


def possible(x: Tensor) -> bool:
    """Whether products need not be seen one by one. torch has no public names for some of these."""
    return (
        x.dim() == 2
        and not torch.compiler.is_compiling()
        and not x.is_meta
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not any(EVERYWHERE)
    )


class Plan:
    """Steps and weights of a run, and all that would have to change for it to be another.

    To look into every module before each pass takes as long as a small product; to see that nothing
    changed is a few comparisons.
    """

    def __init__(
        self,
        couplings: list[tuple[nn.Module, bool]],
        steps: list[Step],
        weights: list[Tensor | None],
    ) -> None:
        self.couplings, self.steps, self.weights = couplings, steps, weights
        modules = [m for coupling, _ in couplings for m in coupling.modules()]
        asked = {type(m) for c, _ in couplings for m in (c, c.net)}
        self.hooks = [hooks for m in modules for hooks in _hooks(m)]
        self.parts = [(m._modules, dict(m._modules)) for m in modules]
        self.fields = [(m.__dict__, len(m.__dict__)) for m in modules]
        self.parameters = [
            (m._parameters, *item) for m in modules for item in m._parameters.items()
        ]
        self.clamps = [(c, getattr(c, "clamp", None)) for c, _ in couplings]
        self.methods = [(kind, n, getattr(kind, n, None)) for kind in asked for n in METHODS]

    def holds(self, couplings: list[tuple[nn.Module, bool]]) -> bool:
        """Same layers, methods, weights and clamps; no hook, part or attribute was added."""
        return (
            self.couplings == couplings
            and not any(self.hooks)
            and all(now == then for now, then in self.parts)
            and all(len(now) == then for now, then in self.fields)
            and all(now.get(name) is then for now, name, then in self.parameters)
            and all(getattr(layer, "clamp", None) is then for layer, then in self.clamps)
            and all(getattr(kind, name, None) is then for kind, name, then in self.methods)
        )


PLANS: WeakKeyDictionary[nn.Module, dict[tuple, Plan]] = WeakKeyDictionary()


def plan(
    chain: nn.Module, couplings: list[tuple[nn.Module, bool]], widths: tuple[int, int]
) -> tuple[list[Step], list[Tensor | None]] | None:
    """Steps and weights of a chain's couplings, each with whether it is undone.

    None if one of them has its own way.
    """
    plans, key = PLANS.setdefault(chain, {}), (couplings[0], widths)
    known = plans.get(key)
    if known is not None and known.holds(couplings):
        return known.steps, known.weights
    plans.pop(key, None)
    steps, weights = [], []
    for coupling, back in couplings:
        found = coupling.step(back, widths)
        if found is None:
            return None
        steps.append(found[0])
        weights += found[1]
    if all(w is None or w.is_leaf for w in weights):  # others hold a graph that should go
        if len(plans) > 100:  # a chain whose layers are replaced again and again
            plans.clear()
        plans[key] = Plan(couplings, steps, weights)
    return steps, weights


def run(x: Tensor, k: int, steps: list[Step], weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Couplings of the features before k and after it on x (B, D): (z, contrib)."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *weights)):
        return _Run.apply(k, steps, x, *weights)
    return _forward(k, steps, x, weights)


def _forward(
    k: int,
    steps: list[Step],
    x: Tensor,
    weights: Iterable[Tensor],
    keep: Callable[[Tensor], None] = lambda _: None,
) -> tuple[Tensor, Tensor]:
    """The run. For each step `keep` gets the network's input and hidden layers, then for an affine
    one tanh(log_s / clamp) if it is clamped, what is scaled, and the scale."""
    halves, total, weights = list(x.split([k, x.shape[1] - k], dim=1)), None, iter(weights)
    for written, affine, back, clamp, activations in steps:
        given, h = halves[written], halves[1 - written]
        keep(h)
        for kind in activations:
            h = IN_PLACE[kind](F.linear(h, next(weights), next(weights)))
            keep(h)
        out = F.linear(h, next(weights), next(weights))
        if not affine:
            halves[written] = given - out if back else given + out
            continue
        log_s, m = out.chunk(2, dim=1)
        if clamp is not None:
            bent = torch.tanh(log_s / clamp)
            log_s = clamp * bent
            keep(bent)
        if back:
            log_s = -log_s
            given = given - m
        s = log_s.exp()
        keep(given)
        keep(s)
        halves[written] = given * s if back else torch.addcmul(m, given, s)
        contrib = log_s.squeeze(1) if log_s.shape[1] == 1 else log_s.sum(1)
        total = contrib if total is None else total + contrib
    total = x.new_zeros(x.shape[0]) if total is None else total
    return torch.cat(halves, dim=1), total


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx, k: int, steps: list[Step], x: Tensor, *weights: Tensor):
        tape: list[Tensor] = []
        z, total = _forward(k, steps, x, weights, tape.append)
        total = total.clone() if total._is_view() else total  # the caller may write into it
        ctx.k, ctx.steps = k, steps
        ctx.save_for_backward(x, *weights, *tape)
        ctx.set_materialize_grads(False)
        if not any(step.affine for step in steps):
            ctx.mark_non_differentiable(total)
        return z, total

    @staticmethod
    def backward(ctx, grad_z: Tensor | None, grad_total: Tensor | None):
        needs = ctx.needs_input_grad[2:]
        inputs, tape = ctx.saved_tensors[: len(needs)], list(ctx.saved_tensors[len(needs) :])
        # The gradient's own graph is asked for, or the loss has no z in it: autograd knows how.
        if torch.is_grad_enabled() or grad_z is None:
            return None, None, *_again(ctx.k, ctx.steps, inputs, needs, (grad_z, grad_total))
        return None, None, *_backward(ctx.k, ctx.steps, inputs, needs, tape, grad_z, grad_total)


def _again(
    k: int,
    steps: list[Step],
    inputs: Sequence[Tensor],
    needs: Sequence[bool],
    grads: tuple[Tensor | None, Tensor | None],
) -> list[Tensor | None]:
    """The gradients by running once more, each operation under autograd."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, or what the inputs themselves were made of would be counted here and once more there.
        x, *weights = [None if t is None else t.view_as(t) for t in inputs]
        out = _forward(k, steps, x, weights)
        asked = [t for t, need in zip([x, *weights], needs, strict=True) if need]
        pairs = [(o, g) for o, g in zip(out, grads, strict=True) if g is not None]
        used, given = [o for o, _ in pairs], [g for _, g in pairs]
        found = iter(
            torch.autograd.grad(used, asked, given, create_graph=graph, allow_unused=True)
        )
    return [next(found) if need else None for need in needs]


def _backward(
    k: int,
    steps: list[Step],
    inputs: Sequence[Tensor],
    needs: Sequence[bool],
    tape: list[Tensor],
    grad_z: Tensor,
    grad_total: Tensor | None,
) -> list[Tensor | None]:
    """Gradients of x and of each weight; takes from the end of `tape` what `_forward` put there."""
    g_halves = list(grad_z.split([k, grad_z.shape[1] - k], dim=1))
    grads: list[Tensor | None] = [None] * len(inputs)
    at = len(inputs)  # of the weight whose turn it is: its bias comes after it
    for written, affine, back, clamp, activations in reversed(steps):
        g_moved = g_halves[written]
        if affine:
            s, given = tape.pop(), tape.pop()
            g_halves[written] = g_given = g_moved * s
            g_log_s = g_moved * given * s
            if grad_total is not None:
                g_log_s = g_log_s + grad_total.unsqueeze(1)
            g_m = -g_given if back else g_moved
            g_log_s = -g_log_s if back else g_log_s
            if clamp is not None:
                g_log_s = torch.ops.aten.tanh_backward(g_log_s * clamp, tape.pop()) / clamp
            g = torch.cat([g_log_s, g_m], dim=1)
        else:
            g = -g_moved if back else g_moved
        for i in range(len(activations), -1, -1):
            h = tape.pop()
            at -= 2
            if needs[at]:
                grads[at] = g.t() @ h
            if needs[at + 1]:
                grads[at + 1] = g.sum(0)
            if at == 1 and not needs[0]:
                return grads
            g = g @ inputs[at]
            if i:
                g = BACK[activations[i - 1]](g, h)
        g_halves[1 - written] = g_halves[1 - written] + g
    grads[0] = torch.cat(g_halves, dim=1)
    return grads
