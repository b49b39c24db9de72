"""Exercises of the chapter "Discrete data"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..bounds import bits_per_dim
from ..dequantize import uniform_dequantize
from ..distributions import StandardUniform
from ..flow import Flow
from ..integrate import quadrature
from ..pointwise import Scale, Sigmoid
from . import Exercise

LEVELS, MU, S = 5, 2.2, 0.35


def _bin_mass(x: float) -> float:
    """P(x) of the discretised logistic, by integrating the noise out of the layers."""
    squash = [Scale(LEVELS / S, shift=-MU / S), Sigmoid()]
    flow = Flow([*uniform_dequantize(LEVELS, 1), *squash], StandardUniform(1))
    return quadrature(flow, torch.tensor([[x]], dtype=torch.float64)).log_p.exp().item()


def _density(t: float) -> float:
    low = 1 / (1 + math.exp(-(t - MU) / S))
    return low * (1 - low) / S


def _exact_noise(x: Tensor, v: Tensor, mu: float, s: float) -> Tensor:
    low, high = torch.sigmoid((x - mu) / s), torch.sigmoid((x + 1 - mu) / s)
    return mu + s * torch.logit(low + v * (high - low)) - x


def _bits(log_w: Tensor, dims: int, levels: int) -> Tensor:
    bound = torch.logsumexp(log_w, 0) - math.log(log_w.shape[0]) - dims * math.log(levels)
    return bits_per_dim(bound, bound.new_zeros(len(bound), dims))


def _slope_gap() -> float:
    """KL(U || 2u) in nats, by the midpoint rule."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    return -torch.log(2 * u).mean().item()


PLACES = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64)
UNIFORM = torch.tensor([0.9, 0.2, 0.5, 0.35], dtype=torch.float64)
LOG_W = torch.tensor([[10.0, -3.0], [12.5, -4.0], [9.0, -1.0]], dtype=torch.float64)

EXERCISES = {
    "bin": Exercise(
        expected=lambda: _bin_mass(2.0),
        mistakes={
            "this is the density at 2. The probability is its integral from 2 to 3.": (
                lambda: _density(2.0)
            ),
            "this is the density in the middle of the bin, a rule of thumb and no integral.": (
                lambda: _density(2.5)
            ),
            "this is the bin of 1. The bin of 2 reaches from 2 to 3.": lambda: _bin_mass(1.0),
        },
    ),
    "bits": Exercise(
        expected=lambda: bits_per_dim(torch.tensor([-7000.0]), torch.zeros(1, 3, 32, 32)).item(),
        mistakes={
            "noise channels are no data: divide by 3 x 32 x 32.": (
                lambda: 7000 / (6 * 32 * 32 * math.log(2))
            ),
            "these are nats for each dimension; divide by log 2.": lambda: 7000 / (3 * 32 * 32),
            "8 bits belong to a density on the unit interval; this bound is one for integers.": (
                lambda: 7000 / (3 * 32 * 32 * math.log(2)) + 8
            ),
        },
    ),
    "exact-noise": Exercise(
        expected=_exact_noise,
        mistakes={
            "this is x + u. The noise alone lies in [0, 1): subtract x.": (
                lambda x, v, mu, s: _exact_noise(x, v, mu, s) + x
            ),
            "this draws from the whole logistic; v must be squeezed between F(x) and F(x + 1).": (
                lambda x, v, mu, s: mu + s * torch.logit(v) - x
            ),
            "this is uniform noise; the posterior follows the density within the bin.": (
                lambda x, v, mu, s: v
            ),
        },
        on=((PLACES, UNIFORM, 2.2, 0.35), (PLACES, UNIFORM, 1.0, 0.8)),
        atol=1e-6,
    ),
    "log-weights": Exercise(
        expected=_bits,
        mistakes={
            "the levels are missing: add log2 L bits for each dimension.": (
                lambda log_w, dims, levels: _bits(log_w, dims, 1)
            ),
            "the levels have the wrong sign: integers cost more bits than the density says.": (
                lambda log_w, dims, levels: _bits(log_w, dims, 1) - math.log2(levels)
            ),
            "this is the mean of the log-weights, K = 1; L_K is the logarithm of the mean.": (
                lambda log_w, dims, levels: _bits(log_w.mean(0, keepdim=True), dims, levels)
            ),
            "the sum over samples is not divided by K.": (
                lambda log_w, dims, levels: _bits(log_w + math.log(len(log_w)), dims, levels)
            ),
        },
        on=((LOG_W, 4, 17), (LOG_W, 2, 256)),
        atol=1e-6,
    ),
    "slope": Exercise(
        expected=lambda: _slope_gap() / math.log(2),
        mistakes={
            "right, but in nats: divide by log 2.": _slope_gap,
            "this is KL(p || U). The gap is KL(U || p): noise first, then posterior.": (
                lambda: (math.log(2) - 0.5) / math.log(2)
            ),
            "the sign is turned: a gap is never negative.": lambda: -_slope_gap() / math.log(2),
        },
    ),
}
