"""Exercises of the chapter "VAE is a one-step flow"."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from ..gap import ScalarANF
from . import Exercise

MODEL = ScalarANF(0.7, 0.3, 1.1, 0.6)
TWO = torch.tensor(2.0, dtype=torch.float64)


def _kl() -> float:
    return kl_divergence(Normal(MODEL.b * TWO, MODEL.a), Normal(0.0 * TWO, 1.0)).item()


def _gaussian(value: Tensor, mean: Tensor, log_s: Tensor) -> Tensor:
    return Independent(Normal(mean, log_s.exp()), 1).log_prob(value)


def _log_weight(
    x: Tensor, z: Tensor, mu_q: Tensor, s_q: Tensor, mu_p: Tensor, s_p: Tensor
) -> Tensor:
    prior = _gaussian(z, torch.zeros_like(z), torch.zeros_like(z))
    return _gaussian(x, mu_p, s_p) + prior - _gaussian(z, mu_q, s_q)


def _rates(mean: Tensor, log_s: Tensor) -> Tensor:
    q, prior = Normal(mean, log_s.exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return kl_divergence(q, prior).mean(0)


def _table(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


WEIGHT_INPUTS = (
    _table([1.0, -0.5, 0.2], [0.3, 0.8, -1.1]),  # x
    _table([0.4, -1.0], [1.5, 0.2]),  # z
    _table([0.1, -0.6], [1.0, 0.0]),  # mu_q
    _table([-0.3, 0.2], [-1.0, 0.1]),  # s_q
    _table([0.8, 0.0, 0.0], [0.5, 0.5, -1.0]),  # mu_p
    _table([-0.5, 0.1, -0.2], [0.3, -0.4, 0.0]),  # s_p
)
CODES = (
    _table([0.0, 2.0], [0.0, -1.0], [0.1, 0.5]),  # mean: the first feature is nearly unused
    _table([0.0, -1.0], [0.01, -1.5], [0.0, -0.5]),  # log_s
)

EXERCISES = {
    "elbo": Exercise(
        expected=lambda: MODEL.elbo(TWO),
        mistakes={
            "the KL term is subtracted, not added.": lambda: MODEL.elbo(TWO).item() + 2 * _kl(),
            "the reconstruction is taken at the mean of q only; the term (c a)^2 is missing.": (
                lambda: MODEL.elbo(TWO).item() + (MODEL.c * MODEL.a / MODEL.d) ** 2 / 2
            ),
            "this is the reconstruction term alone; the KL term is missing.": (
                lambda: MODEL.elbo(TWO).item() + _kl()
            ),
            "this is log p(2), which the bound does not reach.": lambda: MODEL.log_prob(TWO),
        },
    ),
    "residual": Exercise(
        expected=lambda: ((1.0 - 0.4) / math.exp(-0.5), 0.5),
        mistakes={
            "the contribution has the wrong sign: dividing by a small number stretches, "
            "so it is minus log_s.": lambda: ((1.0 - 0.4) / math.exp(-0.5), -0.5),
            "the layer divides by exp(log_s): it runs the decoder backwards.": (
                lambda: ((1.0 - 0.4) * math.exp(-0.5), 0.5)
            ),
            "this is the sampling direction, mean + scale times x.": (
                lambda: (0.4 + math.exp(-0.5) * 1.0, -0.5)
            ),
        },
    ),
    "log-weight": Exercise(
        expected=_log_weight,
        mistakes={
            "log q(z | x) is not subtracted.": (
                lambda x, z, mu_q, s_q, mu_p, s_p: (
                    _log_weight(x, z, mu_q, s_q, mu_p, s_p) + _gaussian(z, mu_q, s_q)
                )
            ),
            "the prior log N(z; 0, I) is missing.": (
                lambda x, z, mu_q, s_q, mu_p, s_p: (
                    _gaussian(x, mu_p, s_p) - _gaussian(z, mu_q, s_q)
                )
            ),
            "s_q and s_p are log-scales; here they are used as log-variances.": (
                lambda x, z, mu_q, s_q, mu_p, s_p: _log_weight(x, z, mu_q, s_q / 2, mu_p, s_p / 2)
            ),
        },
        on=(WEIGHT_INPUTS,),
        atol=1e-6,
    ),
    "rates": Exercise(
        expected=_rates,
        mistakes={
            "one number for each feature: do not sum over the features.": (
                lambda mean, log_s: _rates(mean, log_s).sum()
            ),
            "average over the examples, do not sum.": (
                lambda mean, log_s: _rates(mean, log_s) * len(mean)
            ),
            "log_s is a log-scale: the variance is exp(2 log_s).": (
                lambda mean, log_s: _rates(mean, log_s / 2)
            ),
            "a factor one half is missing.": lambda mean, log_s: 2 * _rates(mean, log_s),
        },
        on=(CODES,),
        atol=1e-6,
    ),
    "round-trip": Exercise(
        expected=lambda: math.sqrt((1 - MODEL.a**2) / (MODEL.c**2 + MODEL.d**2)),
        mistakes={
            "this is the exact posterior's slope k. With a = 0.7 the scale is not its scale, "
            "and with b = k the variance of z is not 1.": lambda: MODEL.k,
            "this is b squared: take the root.": (
                lambda: (1 - MODEL.a**2) / (MODEL.c**2 + MODEL.d**2)
            ),
            "the variance of x is c^2 + d^2 = 1.57, not 1.": lambda: math.sqrt(1 - MODEL.a**2),
        },
    ),
}
