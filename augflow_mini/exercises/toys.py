"""Exercises of the chapter "Experiments in 2-D"."""

from __future__ import annotations

import math
from statistics import NormalDist, fmean, pstdev, stdev

import torch
from scipy.stats import t
from torch import Tensor

from ..experiments.toy_records import paired
from ..floors import constant_jacobian_floor, log_ball_volume, rearrangement_floor
from . import Exercise

DIFFERENCES = (-0.05, -0.02, 0.01, -0.06, -0.03)


def _interval(half: float) -> tuple[float, float, float]:
    mean = fmean(DIFFERENCES)
    return mean, mean - half, mean + half


def _recorded_way() -> tuple[float, float, float]:
    found = paired(DIFFERENCES)
    return found["mean"], found["low"], found["high"]


T_4 = float(t.ppf(0.975, 4))


def _sorted_floor(
    p: Tensor, cell: float, *, ordered: bool = True, best_scale: bool = True
) -> float:
    """Excess of a density on equal cells of the plane, as `rearrangement_floor` finds it."""
    if ordered and best_scale:
        return rearrangement_floor(p.log(), cell, dims=2)
    p = p.flatten().sort(descending=True).values if ordered else p.flatten()
    mass = p * cell
    volume = (torch.arange(len(p), dtype=p.dtype) + 0.5) * cell
    radius2 = torch.exp(volume.log() - log_ball_volume(2))  # of the disc that holds so much
    mean = (mass * radius2).sum()
    log_c = math.log(2) - mean.log() if best_scale else torch.zeros(())
    square = 2.0 if best_scale else mean
    loss = math.log(2 * math.pi) + 0.5 * square - log_c
    return float(loss + (mass * p.log()).sum())


RAMP = torch.linspace(1, 3, 40, dtype=torch.float64).repeat(40, 1)
RAMP = RAMP / RAMP.sum() / 0.01  # a density on 1600 cells of area 0.01, denser to the right
HILL = torch.linspace(-2, 2, 50, dtype=torch.float64).square()
HILL = torch.exp(-HILL[:, None].abs() - HILL)
HILL = HILL / HILL.sum() / 0.0064


def _parts(entropy: float, nll: float, elbo: float, measured: float) -> Tensor:
    return torch.tensor([nll - entropy, -elbo - nll, measured + elbo])


def _seeds(sd: float, width: float, quantile=lambda n: float(t.ppf(0.975, n - 1))) -> int:
    return next(n for n in range(2, 10**4) if quantile(n) * sd / math.sqrt(n) <= width)


EXERCISES = {
    "area": Exercise(
        expected=lambda: math.log(45) + constant_jacobian_floor(0),
        mistakes={
            "this is the entropy: the floor lies F(0) above it.": lambda: math.log(45),
            "the sign of log 2: a floor is above the entropy by 1 - log 2.": (
                lambda: math.log(45) - 1 + math.log(2)
            ),
            "five squares of side 3 have an area of 45, not of 15.": (
                lambda: math.log(15) + constant_jacobian_floor(0)
            ),
            "this is with one noise dimension, and bounds the loss.": (
                lambda: math.log(45) + constant_jacobian_floor(1)
            ),
        },
    ),
    "interval": Exercise(
        expected=_recorded_way,
        mistakes={
            "1.96 is for a known deviation; with 5 seeds Student's law asks for 2.776.": (
                lambda: _interval(1.959964 * stdev(DIFFERENCES) / math.sqrt(5))
            ),
            "divide the deviation by the root of the number of seeds: it is the mean that is "
            "estimated.": lambda: _interval(T_4 * stdev(DIFFERENCES)),
            "the deviation of a sample divides by S - 1.": (
                lambda: _interval(T_4 * pstdev(DIFFERENCES) / math.sqrt(5))
            ),
        },
    ),
    "sorting": Exercise(
        expected=_sorted_floor,
        mistakes={
            "the cells must be sorted: the densest go to the centre.": (
                lambda p, cell: _sorted_floor(p, cell, ordered=False)
            ),
            "the scale c is free: choose it so that the mean of the squared radius is 2.": (
                lambda p, cell: _sorted_floor(p, cell, best_scale=False)
            ),
            "subtract the entropy: asked is the excess, not the loss.": (
                lambda p, cell: _sorted_floor(p, cell) - float((p * cell * p.log()).sum())
            ),
        },
        on=((RAMP, 0.01), (HILL, 0.0064)),
    ),
    "parts": Exercise(
        expected=_parts,
        mistakes={
            "the gap is NLL + ELBO with the other sign: the ELBO is below log p.": (
                lambda entropy, nll, elbo, measured: torch.tensor(
                    [nll - entropy, nll + elbo, measured + elbo]
                )
            ),
            "the rest is what was measured minus the loss, and the loss is minus the ELBO.": (
                lambda entropy, nll, elbo, measured: torch.tensor(
                    [nll - entropy, -elbo - nll, measured - nll]
                )
            ),
        },
        on=((1.419, 1.442, -1.460, 1.471), (3.466, 3.64, -3.71, 3.70)),
    ),
    "seeds": Exercise(
        expected=lambda: _seeds(0.035, 0.02),
        mistakes={
            "1.96 is for a known deviation; take Student's quantile, which depends on S.": (
                lambda: _seeds(0.035, 0.02, lambda n: NormalDist().inv_cdf(0.975))
            ),
            "0.02 is the half width of the interval, not the whole.": (
                lambda: _seeds(0.035, 0.01)
            ),
        },
    ),
}
