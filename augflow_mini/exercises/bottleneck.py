"""Exercises of the chapter "The bottleneck problem"."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from ..floors import constant_jacobian_floor
from ..image_recipes import IMAGE_CONFIGS
from . import Exercise

RHO = 0.8


def _numbers(extra: int = 3) -> tuple[int, int, int]:
    """Between couplings for Flow++ and VFlow; in a hidden layer on half of the positions."""
    positions = 32 * 32
    filters = IMAGE_CONFIGS["flowpp_cifar10"]["filters"]
    return 3 * positions, (3 + extra) * positions, filters * positions // 2


def _slice_costs() -> tuple[float, float]:
    """Variance of x2 given x1, and the information that x1 holds about x2."""
    covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
    pair = MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance)
    apart = MultivariateNormal(pair.mean, torch.eye(2, dtype=torch.float64))
    return torch.linalg.det(covariance).item(), kl_divergence(pair, apart).item()


def _floor(n: int) -> float:
    return constant_jacobian_floor(0, dims=n)


def _volume(n: int) -> float:
    return math.pi ** (n / 2) / math.gamma(n / 2 + 1)


def _one_coupling(share: Tensor, var1: Tensor, var2: Tensor) -> Tensor:
    gaussian = lambda v: Normal(torch.zeros_like(v), v.sqrt()).entropy()  # noqa: E731
    return gaussian(var1) + (share * gaussian(var2)).sum()


SHARE = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
VAR1 = torch.tensor(16 / 3, dtype=torch.float64)
VAR2 = torch.tensor([13 / 3, 0.5, 2.0], dtype=torch.float64)


EXERCISES = {
    "numbers": Exercise(
        expected=_numbers,
        mistakes={
            "these are channels; count the numbers of the whole tensor, positions included.": (
                lambda: (3, 6, 96)
            ),
            "the hidden layers of a checkerboard coupling stand on half of the positions: "
            "32 x 16.": lambda: (3072, 6144, 98304),
            "D_Z = 3 channels are added to the three of the picture.": (
                lambda: (3072, 3072, 49152)
            ),
        },
        atol=0.4,
    ),
    "slice": Exercise(
        expected=_slice_costs,
        mistakes={
            "the first is a variance, not a deviation: do not take the root.": lambda: (
                math.sqrt(1 - RHO**2),
                -0.5 * math.log(1 - RHO**2),
            ),
            "the second lacks the factor one half.": lambda: (
                1 - RHO**2,
                -math.log(1 - RHO**2),
            ),
            "the second has the wrong sign: ignoring what one knows costs nats.": lambda: (
                1 - RHO**2,
                0.5 * math.log(1 - RHO**2),
            ),
            "the correlation enters by its square.": lambda: (1 - RHO, -0.5 * math.log(1 - RHO)),
        },
    ),
    "interval": Exercise(
        expected=lambda: _floor(1),
        mistakes={
            "this is the value for two dimensions.": lambda: _floor(2),
            "the variance of an interval of length A is A squared over 12, not over 3.": (
                lambda: 0.5 * math.log(2 * math.pi * math.e / 3)
            ),
            "a factor one half is missing: the NLL is half the log of 2 pi e variance.": (
                lambda: math.log(2 * math.pi * math.e / 12)
            ),
            "the sign: the floor is the Gaussian's NLL minus the entropy, and not negative.": (
                lambda: -_floor(1)
            ),
        },
    ),
    "floor": Exercise(
        expected=_floor,
        mistakes={
            "the mean of the squared radius in a ball is n/(n+2) of the largest, not all of it.": (
                lambda n: 0.5 * n * (1 + math.log(2 * math.pi / n)) - math.log(_volume(n))
            ),
            "the volume of the ball enters with a minus.": lambda n: (
                _floor(n) + 2 * math.log(_volume(n))
            ),
            "this holds in two dimensions only: put in n.": lambda n: 1 - math.log(2),
        },
        on=((1,), (2,), (3,), (10,)),
        atol=1e-6,
    ),
    "one-coupling": Exercise(
        expected=_one_coupling,
        mistakes={
            "the logarithm stands inside the mean: each strip has its own Gaussian. This takes "
            "the logarithm of the mean variance.": lambda share, var1, var2: _one_coupling(
                share, var1, (share * var2).sum().expand(3)
            ),
            "the strips do not count alike: weigh each with its share.": (
                lambda share, var1, var2: _one_coupling(torch.full_like(share, 1 / 3), var1, var2)
            ),
            "the first number is missing; it has an NLL of its own.": lambda share, var1, var2: (
                _one_coupling(share, var1, var2) - Normal(0.0, var1.sqrt()).entropy()
            ),
        },
        on=((SHARE, VAR1, VAR2), (SHARE.flip(0), VAR1 / 2, VAR2)),
        atol=1e-6,
    ),
    "zeros": Exercise(
        expected=lambda: 3 * math.log(1000),
        mistakes={
            "each of the three dimensions falls by itself.": lambda: math.log(1000),
            "the deviation falls by 1000; its logarithm is natural, in nats.": lambda: 9.0,
            "the entropy has half the log of the variance, which is the log of the deviation.": (
                lambda: 6 * math.log(1000)
            ),
        },
        atol=0.01,
    ),
}
