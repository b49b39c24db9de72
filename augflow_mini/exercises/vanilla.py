"""Exercises of the chapter "Back to vanilla flows"."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from ..data import TOYS
from ..gap import ScalarANF
from . import Exercise

MODEL = ScalarANF(0.7, 0.3, 1.1, 0.6)


def _sigmoid_loss(low: float = 0.0, high: float = 1.0) -> float:
    z = Normal(2 * MODEL.k, math.sqrt(MODEL.v))
    ends = torch.tensor([low, high], dtype=torch.float64)
    return -(z.cdf(ends).diff().log().item())


def _noise(z: Tensor) -> Independent:
    return Independent(Normal(torch.zeros_like(z), torch.ones_like(z)), 1)


def _log_weight(log_p: Tensor, z: Tensor, entropy_form: bool) -> Tensor:
    law = _noise(z)
    return log_p + (law.log_prob(z) + law.entropy() if entropy_form else 0.0 * z.sum(1))


LOG_P = torch.tensor([-1.0, -2.5], dtype=torch.float64)
Z = torch.tensor([[0.3, -1.2, 0.5], [2.0, 0.1, -0.4]], dtype=torch.float64)
W = torch.tensor([[2.0, 1.0], [0.5, -1.0]], dtype=torch.float64)


def _block(w: Tensor, noise: int) -> Tensor:
    out = torch.eye(len(w) + noise, dtype=w.dtype)
    out[: len(w), : len(w)] = w
    return out


EXERCISES = {
    "floor": Exercise(
        expected=lambda: -TOYS["two_modes"].gaussian,
        mistakes={
            "this is the NLL; the left side of (7.1) is a log-likelihood, with the other sign.": (
                lambda: TOYS["two_modes"].gaussian
            ),
            "the quadratic term is missing: a Gaussian's entropy is half the log of 2 pi e "
            "variance.": lambda: -0.5 * math.log(2 * math.pi * 4.25),
            "4.25 is the variance, not the deviation.": (
                lambda: -0.5 * math.log(2 * math.pi * math.e * 4.25**2)
            ),
        },
    ),
    "sigmoid": Exercise(
        expected=_sigmoid_loss,
        mistakes={
            "the sign: a probability below one has a negative log, the loss is positive.": (
                lambda: -_sigmoid_loss()
            ),
            "this is the probability itself; the loss is minus its logarithm.": (
                lambda: math.exp(-_sigmoid_loss())
            ),
            "only one end is cut off here: z must be below 1 and above 0, at x = 2 and not at the "
            "prior.": lambda: -Normal(0.0, 1.0).cdf(torch.tensor(1.0)).log().item(),
        },
    ),
    "log-weight": Exercise(
        expected=_log_weight,
        mistakes={
            "log q is not subtracted: what is left is the joint density, not a weight.": (
                lambda log_p, z, entropy_form: (
                    log_p + _noise(z).log_prob(z) + (_noise(z).entropy() if entropy_form else 0)
                )
            ),
            "the entropy enters with a plus: it stands for the mean of minus log q.": (
                lambda log_p, z, entropy_form: (
                    log_p + (_noise(z).log_prob(z) - _noise(z).entropy() if entropy_form else 0)
                )
            ),
        },
        on=((LOG_P, Z, False), (LOG_P, Z, True)),
        atol=1e-6,
    ),
    "block": Exercise(
        expected=_block,
        mistakes={
            "z is dropped: its diagonal block must be the identity, or nothing can be inverted.": (
                lambda w, noise: torch.block_diag(w, torch.zeros(noise, noise, dtype=w.dtype))
            ),
            "the order is (x, z): the data's block comes first.": (
                lambda w, noise: torch.block_diag(torch.eye(noise, dtype=w.dtype), w)
            ),
        },
        on=((W, 1), (W, 3)),
        atol=1e-9,
    ),
}
