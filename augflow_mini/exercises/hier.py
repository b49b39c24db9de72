"""Exercises of the chapter "Hierarchical ANF"."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from ..gap import LinearGaussian, ScalarANF
from ..recipes import hierarchical_anf
from ..transform import Inverse
from . import Exercise

ONE_LEVEL = ScalarANF(0.7, 0.3, 1.1, 0.6)
RHO, S = 0.8, 0.6  # z_1 = RHO z_2 + S y_1
ONE = torch.ones(1, 1, dtype=torch.float64)


def _gap(z1: tuple[float, ...], z2: tuple[float, ...]) -> float:
    """Gap at x = 1 of the two-level running example; z1, z2 as rows over (x, e_1, e_2)."""
    x = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    row1, row2 = (torch.tensor(z, dtype=torch.float64) for z in (z1, z2))
    a = torch.stack([(x - 1.1 * row1) / 0.6, (row1 - RHO * row2) / S, row2])
    return LinearGaussian(a, torch.zeros(3, dtype=torch.float64), 1).gap(ONE).item()


def _levels() -> tuple[float, float]:
    first = ONE_LEVEL.gap(ONE).item()
    return first, _gap((0.3, 0.7, 0.0), (0.2 * 0.3, 0.2 * 0.7, 0.7)) - first


def _levels_with(second_moment: float) -> tuple[float, float]:
    """The second level with a wrong E z_1^2."""
    t = 0.49 / S**2
    second = 0.5 * (t - 1 - math.log(t)) + (RHO - 0.2) ** 2 * second_moment / (2 * S**2)
    return ONE_LEVEL.gap(ONE).item(), second


WIDE = ScalarANF(1.5 * math.sqrt(ONE_LEVEL.v), ONE_LEVEL.k, 1.1, 0.6)
CHI2 = WIDE.chi2(torch.tensor(1.0, dtype=torch.float64)).item()


def _encode(x: Tensor, e1: Tensor, e2: Tensor) -> Tensor:
    z1 = 0.3 * x + 0.7 * e1
    z2 = 0.2 * z1 + 0.7 * e2
    return torch.stack([z1, z2, _log_q(e1, e2) - 2 * math.log(0.7)])


def _log_q(e1: Tensor, e2: Tensor) -> Tensor:
    return Normal(0.0, 1.0).log_prob(e1) + Normal(0.0, 1.0).log_prob(e2)


def _encode_from_noise(x: Tensor, e1: Tensor, e2: Tensor) -> Tensor:
    z1, _, log_q = _encode(x, e1, e2)
    return torch.stack([z1, 0.2 * e1 + 0.7 * e2, log_q])


def _encode_with_log_det(x: Tensor, e1: Tensor, e2: Tensor, times: float) -> Tensor:
    z1, z2, _ = _encode(x, e1, e2)
    return torch.stack([z1, z2, _log_q(e1, e2) + times * 2 * math.log(0.7)])


DRAWS = tuple(torch.tensor(t, dtype=torch.float64) for t in ([1.0, -2.0], [0.4, 1.5], [-0.3, 0.8]))


def _plan(levels: int) -> list[tuple[int, int]]:
    """(block written, blocks read) of each coupling, from the recipe; every block one wide."""
    layers = [
        layer.layer if isinstance(layer, Inverse) else layer
        for layer in hierarchical_anf(1, [1] * levels, hidden=())[1:]
    ]
    return [(layer.writes.start, len(layer.reads)) for layer in layers]


EXERCISES = {
    "levels": Exercise(
        expected=_levels,
        mistakes={
            "the second moment of z_1 is taken under the posterior; the chain rule averages over "
            "the encoder q.": lambda: _levels_with(ONE_LEVEL.v + ONE_LEVEL.k**2),
            "E z_1^2 is variance plus squared mean: the mean b_1 x is missing.": (
                lambda: _levels_with(0.49)
            ),
            "the order is (level 1, level 2).": lambda: _levels()[::-1],
        },
    ),
    "samples": Exercise(
        expected=lambda: math.ceil(((1 + CHI2) ** 10 - 1) / (2 * 0.01)),
        mistakes={
            "chi2 does not add up over levels: 1 + chi2 multiplies.": (
                lambda: math.ceil(10 * CHI2 / (2 * 0.01))
            ),
            "this uses 1 + chi2 of the whole model; subtract the 1 at the end.": (
                lambda: math.ceil((1 + CHI2) ** 10 / (2 * 0.01))
            ),
            "the rate is chi2/(2K): the factor 2 is missing.": (
                lambda: math.ceil(((1 + CHI2) ** 10 - 1) / 0.01)
            ),
        },
        atol=0.4,
    ),
    "encode": Exercise(
        expected=_encode,
        mistakes={
            "level 2 reads z_1, which is already encoded, not the noise e_1.": _encode_from_noise,
            "log q is the density of e, not of z: the log-scales are missing.": (
                lambda x, e1, e2: _encode_with_log_det(x, e1, e2, 0.0)
            ),
            "the sign of the log-scales: a narrower z has a higher density.": (
                lambda x, e1, e2: _encode_with_log_det(x, e1, e2, 1.0)
            ),
        },
        on=(DRAWS,),
        atol=1e-6,
    ),
    "plan": Exercise(
        expected=_plan,
        mistakes={
            "the decoders run the wrong way: x must be decoded while all z are still there; with "
            "x last it would read numbers that are decoded already.": (
                lambda levels: (
                    [(i, i) for i in range(1, levels + 1)]
                    + [(i, levels - i) for i in reversed(range(levels))]
                )
            ),
            "the top level is not decoded: its prior is the base already.": (
                lambda levels: (
                    [(i, i) for i in range(1, levels + 1)]
                    + [(i, levels - i) for i in range(levels + 1)]
                )
            ),
            "each encoder reads x and all levels below it, not only the block before.": (
                lambda levels: (
                    [(i, 1) for i in range(1, levels + 1)]
                    + [(i, levels - i) for i in range(levels)]
                )
            ),
        },
        on=((2,), (3,), (4,)),
    ),
    "no-link": Exercise(
        expected=lambda: _gap(
            (ONE_LEVEL.k, math.sqrt(ONE_LEVEL.v), 0.0), (RHO * ONE_LEVEL.k, 0.0, S)
        ),
        mistakes={
            "this is the least gap when level 1 may move too; here it is held at the posterior.": (
                lambda: 0.5 * math.log(1 + ONE_LEVEL.v * RHO**2 / S**2)
            ),
            "the mean of z_1 given x can be followed by reading x; only its variance costs.": (
                lambda: RHO**2 * (ONE_LEVEL.v + ONE_LEVEL.k**2) / (2 * S**2)
            ),
            "a factor one half is missing.": lambda: RHO**2 * ONE_LEVEL.v / S**2,
        },
    ),
}
