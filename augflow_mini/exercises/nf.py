"""Exercises of the chapter "Normalizing flows in one sitting"."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal, SigmoidTransform, TransformedDistribution

from ..bounds import bits_per_dim
from ..coupling import AffineCoupling
from ..distributions import StandardNormal
from ..flow import Flow
from . import Exercise


class _Half(torch.nn.Module):
    """log_s = x1 / 2 and m = x1^2, the coupling of the exercises."""

    def forward(self, x1: Tensor) -> Tensor:
        return torch.cat([0.5 * x1, x1**2], dim=1)


COUPLING = AffineCoupling(_Half(), writes=slice(1, 2), reads=slice(0, 1))
POINT = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
UNIT = Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
LOGIT_NORMAL = TransformedDistribution(UNIT, SigmoidTransform())
X = torch.tensor(0.8).double()
LATENTS = torch.tensor([[0.3, -1.2], [2.0, 0.1], [-1.5, 3.0]], dtype=torch.float64)


def _log_prob() -> float:
    return Flow([COUPLING], StandardNormal(2)).log_prob(POINT).item()


def _base_log_prob() -> float:
    return StandardNormal(2).log_prob(COUPLING(POINT)[0]).item()


def _inverse(z: Tensor) -> Tensor:
    return COUPLING.inverse(z)[0]


def _bits(z: Tensor, log_det: Tensor) -> Tensor:
    log_p = StandardNormal(z.shape[1]).log_prob(z) + log_det
    return bits_per_dim(log_p, z).mean()


LOG_DET = torch.tensor([0.5, -0.25, 1.0], dtype=torch.float64)
WIDE = torch.tensor([[0.3, -1.2, 0.4, 1.0]], dtype=torch.float64)


EXERCISES = {
    "log-prob": Exercise(
        expected=_log_prob,
        mistakes={
            "the log-det has the wrong sign: from data to noise it is added.": (
                lambda: _base_log_prob() - 1.0
            ),
            "the log-det is missing: only the base density of the output is counted.": (
                _base_log_prob
            ),
            "exp(log_s) is the factor; its logarithm, log_s, is what is added.": (
                lambda: _base_log_prob() + math.e
            ),
        },
    ),
    "logit-normal": Exercise(
        expected=lambda: LOGIT_NORMAL.log_prob(X).exp(),
        mistakes={
            "this is N(logit x) alone: the slope of the logit is missing.": (
                lambda: math.exp(UNIT.log_prob(X.logit()).item())
            ),
            "the slope of the sigmoid stands for the slope of the logit: which map goes from data "
            "to noise?": lambda: math.exp(UNIT.log_prob(X.logit()).item()) * 0.16,
            "this is the logarithm of the density.": lambda: LOGIT_NORMAL.log_prob(X),
        },
    ),
    "inverse": Exercise(
        expected=_inverse,
        mistakes={
            "the order: first take off m, then divide by the scale.": lambda z: torch.stack(
                [z[:, 0], z[:, 1] * torch.exp(-0.5 * z[:, 0]) - z[:, 0] ** 2], dim=1
            ),
            "this is the forward map again: subtract m, and divide by the scale.": (
                lambda z: COUPLING(z)[0]
            ),
            "the scale is divided out as exp(-log_s), not multiplied again.": lambda z: (
                torch.stack([z[:, 0], (z[:, 1] - z[:, 0] ** 2) * torch.exp(0.5 * z[:, 0])], dim=1)
            ),
        },
        on=((LATENTS,),),
        atol=1e-6,
    ),
    "bits": Exercise(
        expected=_bits,
        mistakes={
            "the log-det enters the log-likelihood with a plus.": lambda z, log_det: _bits(
                z, -log_det
            ),
            "these are nats: divide by log 2.": lambda z, log_det: _bits(z, log_det) * math.log(2),
            "this is for the whole row: divide by the number of dimensions.": (
                lambda z, log_det: _bits(z, log_det) * z.shape[1]
            ),
            "this is the log-likelihood; the loss has the other sign.": lambda z, log_det: (
                -_bits(z, log_det)
            ),
        },
        on=((LATENTS, LOG_DET), (WIDE, LOG_DET[:1])),
        atol=1e-6,
    ),
    "pixels": Exercise(
        expected=lambda: 16 * 16 * math.log(0.5 * 2**11),
        mistakes={
            "the same matrix acts at each position, so its log-det counts once for each.": (
                lambda: math.log(0.5 * 2**11)
            ),
            "this is the logarithm of base 2: contributions are in nats.": lambda: 16 * 16 * 10.0,
            "the factor 0.5 counts too, with a negative logarithm.": (
                lambda: 16 * 16 * 11 * math.log(2)
            ),
        },
        atol=0.01,
    ),
    "how-many": Exercise(
        expected=lambda: 3,
        mistakes={
            "after two, the half that was written first has seen the other half, but of its own "
            "half only the number it started from.": lambda: 2,
            "one fewer is enough: go through what each half has seen after each coupling.": (
                lambda: 4
            ),
        },
        atol=0.4,
    ),
}
