"""Exercises of the chapter "Augment the data: AMLE"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..bounds import LogWeights
from ..coupling import AffineCoupling
from ..distributions import StandardNormal
from ..gap import ScalarANF
from ..transform import Inverse
from . import Exercise

MODEL = ScalarANF(0.7, 0.3, 1.1, 0.6)
TWO = torch.tensor([[-1.0], [-3.0]], dtype=torch.float64)
X, MU, LOG_SIGMA = (
    torch.tensor(rows, dtype=torch.float64)
    for rows in (
        [[0.5, -1.0], [2.0, 0.3]],
        [[0.1, 0.2], [-0.4, 1.0]],
        [[-0.5, 0.25], [0.7, -1.2]],
    )
)
LOG_W = torch.tensor(
    [[-1.0, 0.5, -2000.0], [-2.0, 0.25, -2001.0], [-0.5, -3.0, -1999.0]], dtype=torch.float64
)


def _decoder(x: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
    """Through the library's own coupling, whose network is the given (log_sigma, mu)."""

    class Given(torch.nn.Module):
        def forward(self, read: Tensor) -> Tensor:
            return torch.cat([log_sigma, mu], dim=1)

    width = x.shape[1]
    layer = Inverse(AffineCoupling(Given(), writes=slice(0, width)))
    y, contrib = layer(x)
    return torch.cat([y, contrib[:, None]], dim=1)


def _leave_one_out(log_w: Tensor) -> Tensor:
    k = log_w.shape[0]
    keep = [[j for j in range(k) if j != i] for i in range(k)]
    return torch.stack([LogWeights().add(log_w[rows]).bound().value for rows in keep]).mean(0)


def _variance_difference(tau2: float) -> float:
    """Var(log-weight) - Var(entropy form) at m = 0, by a sum over the noise."""
    e = torch.linspace(-9, 9, 3601, dtype=torch.float64)
    mass = torch.softmax(-0.5 * e * e, 0)
    joint = -0.5 * e * e / tau2
    values = torch.stack([joint + 0.5 * e * e, joint])
    weight, entropy = (values**2 @ mass - (values @ mass) ** 2).tolist()
    return weight - entropy


EXERCISES = {
    "constant": Exercise(
        expected=lambda: -9.2 + StandardNormal(4).entropy(),
        mistakes={
            "the entropy is added, not taken away: the bound is above the objective.": (
                lambda: -9.2 - StandardNormal(4).entropy()
            ),
            "this is the entropy of one number of noise; there are four.": (
                lambda: -9.2 + StandardNormal(1).entropy()
            ),
            "the data's dimensions do not count: only the noise has a known law.": (
                lambda: -9.2 + StandardNormal(6).entropy()
            ),
            "the 1 in (1 + log 2 pi) is missing: it comes from the mean of e squared.": (
                lambda: -9.2 + 2 * math.log(2 * math.pi)
            ),
        },
    ),
    "two-weights": Exercise(
        expected=lambda: LogWeights().add(TWO).bound().value[0],
        mistakes={
            "this is the mean of the logarithms, an estimate of L_1.": lambda: -2.0,
            "the sum is not divided by K = 2.": lambda: torch.logsumexp(TWO, 0)[0],
            "this is the mean of the weights; its logarithm is asked for.": (
                lambda: TWO.exp().mean()
            ),
        },
    ),
    "decoder": Exercise(
        expected=_decoder,
        mistakes={
            "this is the generative direction, from y to x. Solve for y.": (
                lambda x, mu, log_sigma: torch.cat(
                    [mu + log_sigma.exp() * x, log_sigma.sum(1, keepdim=True)], 1
                )
            ),
            "y is right; the contribution has the wrong sign: dy/dx is 1 / sigma.": (
                lambda x, mu, log_sigma: torch.cat(
                    [(x - mu) / log_sigma.exp(), log_sigma.sum(1, keepdim=True)], 1
                )
            ),
            "log_sigma is a logarithm: divide by its exponential.": (
                lambda x, mu, log_sigma: torch.cat(
                    [(x - mu) / log_sigma, -log_sigma.sum(1, keepdim=True)], 1
                )
            ),
            "m_dec is -mu / sigma: shift before you scale.": (
                lambda x, mu, log_sigma: torch.cat(
                    [x / log_sigma.exp() - mu, -log_sigma.sum(1, keepdim=True)], 1
                )
            ),
        },
        on=((X, MU, LOG_SIGMA), (X[:1], MU[:1], LOG_SIGMA[:1])),
        atol=1e-6,
    ),
    "leave-one-out": Exercise(
        expected=_leave_one_out,
        mistakes={
            "K - 1 weights are left, so divide by K - 1.": (
                lambda log_w: _leave_one_out(log_w) + math.log(1 - 1 / log_w.shape[0])
            ),
            "this is the bound of all K. Leave out one weight at a time.": (
                lambda log_w: LogWeights().add(log_w).bound().value
            ),
            "this is the mean of the logarithms: it is the same for K and K - 1.": (
                lambda log_w: log_w.mean(0)
            ),
        },
        on=((LOG_W,), (LOG_W[:2],)),
        atol=1e-6,
    ),
    "too-narrow": Exercise(
        expected=lambda: math.sqrt(MODEL.v / 2),
        mistakes={
            "this is the best scale, where tau^2 = 1. The variance is lost at tau^2 = 2.": (
                lambda: math.sqrt(MODEL.v)
            ),
            "this is a squared: take the root.": lambda: MODEL.v / 2,
            "upside down: a smaller a makes tau^2 = v / a^2 larger.": (
                lambda: math.sqrt(2 * MODEL.v)
            ),
        },
    ),
    "which-form": Exercise(
        expected=lambda: _variance_difference(3.0),
        mistakes={
            "the sign is turned: entropy form minus log-weight is 1/tau^2 - 1/2.": (
                lambda: -_variance_difference(3.0)
            ),
            "tau^2 is 3, not tau: 1/tau^2 is one third.": lambda: 0.5 - 1 / 9,
        },
    ),
}
