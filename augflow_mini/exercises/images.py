"""Exercises of the chapter "Experiments on images"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..bounds import bits_per_dim
from . import Exercise

FIRST, SECOND = [5.142, 5.151, 5.139], [5.150, 5.163, 5.146]
T_2 = 4.303  # 97.5 % point of Student's t with 2 degrees of freedom


def _half_width(first: list[float], second: list[float], factor: float = T_2) -> float:
    d = torch.tensor(first, dtype=torch.float64) - torch.tensor(second, dtype=torch.float64)
    return factor * (d.std() / math.sqrt(len(d))).item()


def _unpaired() -> float:
    a, b = (torch.tensor(s, dtype=torch.float64).var() / 3 for s in (FIRST, SECOND))
    return T_2 * (a + b).sqrt().item()


def _r_squared(wanted: Tensor, predicted: Tensor) -> Tensor:
    mean = wanted.mean(0, keepdim=True)
    return 1 - (wanted - predicted).square().sum() / (wanted - mean).square().sum()


GENERATOR = torch.Generator().manual_seed(12)
WANTED = torch.randn(20, 4, generator=GENERATOR, dtype=torch.float64) + 3
PREDICTED = WANTED + 0.4 * torch.randn(20, 4, generator=GENERATOR, dtype=torch.float64)

EXERCISES = {
    "bits": Exercise(
        expected=lambda: bits_per_dim(torch.tensor([-690.0]), torch.zeros(1, 3, 8, 8)).item(),
        mistakes={
            "the noise channels are no data: divide by 3 x 8 x 8.": (
                lambda: 690 / (6 * 8 * 8 * math.log(2))
            ),
            "these are nats for each dimension; divide by log 2.": lambda: 690 / (3 * 8 * 8),
            "an image has 3 x 8 x 8 dimensions, not 8 x 8.": lambda: 690 / (64 * math.log(2)),
        },
    ),
    "interval": Exercise(
        expected=lambda: _half_width(FIRST, SECOND),
        mistakes={
            "1.96 belongs to many seeds; with three, Student's t says 4.303.": (
                lambda: _half_width(FIRST, SECOND, 1.96)
            ),
            "the seeds are paired: take the standard deviation of the differences.": _unpaired,
            "this is the spread of one difference; the mean of three has it over sqrt(3).": (
                lambda: _half_width(FIRST, SECOND, T_2 * math.sqrt(3))
            ),
        },
        atol=1e-4,
    ),
    "r-squared": Exercise(
        expected=_r_squared,
        mistakes={
            "the features must be compared with their own mean: subtract it in the denominator.": (
                lambda wanted, predicted: (
                    1 - (wanted - predicted).square().sum() / wanted.square().sum()
                )
            ),
            "this is the share that is not explained; R^2 is one minus it.": (
                lambda wanted, predicted: 1 - _r_squared(wanted, predicted)
            ),
            "each feature has a mean of its own: average over the rows only.": (
                lambda wanted, predicted: (
                    1
                    - (wanted - predicted).square().sum() / (wanted - wanted.mean()).square().sum()
                )
            ),
        },
        on=((WANTED, PREDICTED), (WANTED * torch.arange(1.0, 5.0), PREDICTED)),
        atol=1e-9,
    ),
}
