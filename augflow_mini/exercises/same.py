"""Exercises of the chapter "ANF = VFlow"."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from ..distributions import StandardNormal
from . import Exercise

A, E = 0.7, torch.tensor(0.4, dtype=torch.float64)


def _log_q() -> Tensor:
    return Normal(0.3, A).log_prob(0.3 + A * E)


def _fold(log_s1: Tensor, m1: Tensor, log_s2: Tensor, m2: Tensor) -> Tensor:
    """From what two points become: an affine map is known by its values at 0 and 1."""
    at = [(e * log_s1.exp() + m1) * log_s2.exp() + m2 for e in (0.0, 1.0)]
    return torch.stack([(at[1] - at[0]).log(), at[0]])


def _leapfrog(u: Tensor, v: Tensor, h: float) -> Tensor:
    def force(u: Tensor) -> Tensor:
        return 2 * u - u**3

    half = v + 0.5 * h * force(u)
    moved = u + h * half
    return torch.stack([moved, half + 0.5 * h * force(moved)])


def _late_kick(u: Tensor, v: Tensor, h: float) -> Tensor:
    half = v + 0.5 * h * (2 * u - u**3)
    return torch.stack([u + h * half, half + 0.5 * h * (2 * u - u**3)])


def _pair(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


EXERCISES = {
    "entropy": Exercise(
        expected=lambda: StandardNormal(3).entropy(),
        mistakes={
            "this is the entropy of one number of noise; three add up.": (
                lambda: StandardNormal(1).entropy()
            ),
            "the 1 is missing: the mean of e squared over 2 belongs to the entropy.": (
                lambda: 1.5 * math.log(2 * math.pi)
            ),
            "the sign: it is minus the mean of log q.": lambda: -StandardNormal(3).entropy(),
        },
    ),
    "log-q": Exercise(
        expected=lambda: -_log_q(),
        mistakes={
            "the sign: the row holds minus log q.": _log_q,
            "log a enters with the other sign: a narrow q has a high density.": (
                lambda: -_log_q() - 2 * math.log(A)
            ),
            "this is the row of the ANF column; VFlow's q is the law of z, so log a belongs to "
            "it.": lambda: -Normal(0.0, 1.0).log_prob(E),
        },
    ),
    "fold": Exercise(
        expected=_fold,
        mistakes={
            "the second encoder scales the first one's shift too.": (
                lambda s1, m1, s2, m2: torch.stack([s1 + s2, m1 + m2])
            ),
            "scales multiply, so their logarithms add.": (
                lambda s1, m1, s2, m2: torch.stack([s1 * s2, m1 * s2.exp() + m2])
            ),
            "the order is turned: the first encoder acts on e, the second on the result.": (
                lambda s1, m1, s2, m2: torch.stack([s1 + s2, m2 * s1.exp() + m1])
            ),
        },
        on=(
            (_pair(0.3, -0.5), _pair(1.0, 0.2), _pair(-0.7, 0.4), _pair(0.5, -2.0)),
            (_pair(0.0), _pair(2.0), _pair(1.0), _pair(0.0)),
        ),
        atol=1e-6,
    ),
    "leapfrog": Exercise(
        expected=_leapfrog,
        mistakes={
            "the last kick must use the new position, or the step is not reversible.": _late_kick,
            "the force has the wrong sign: v changes by minus h/2 V'(u).": (
                lambda u, v, h: _leapfrog(u, v - h * (2 * u - u**3), h)
            ),
        },
        on=((_pair(0.3), _pair(0.8), 0.1), (_pair(-1.2, 2.0), _pair(0.0, 1.0), 0.3)),
        atol=1e-6,
    ),
}
