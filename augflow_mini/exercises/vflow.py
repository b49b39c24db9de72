"""Exercises of the chapter "VFlow: learn q"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..bounds import LogWeights
from ..distributions import LOG_2PI
from ..gap import LinearGaussian
from . import Exercise


def _causes(n: int) -> LinearGaussian:
    """x = z_1 + ... + z_n + 0.5 y, with q = N(0, I)."""
    a = torch.eye(n + 1, dtype=torch.float64)
    a[0, 0], a[0, 1:] = 2.0, -2.0  # y = (x - sum of z) / 0.5
    return LinearGaussian(a, torch.zeros(n + 1, dtype=torch.float64), 1)


def _at(x: float) -> Tensor:
    return torch.tensor([[x]], dtype=torch.float64)


def _reverse_kl(x: float) -> float:
    """KL(p(z | x) || N(0, I)) for two causes."""
    mean, precision = _causes(2).posterior(_at(x))
    trace = torch.linalg.inv(precision).trace()
    return 0.5 * (trace + (mean**2).sum() - 2 + torch.logdet(precision)).item()


def _estimate(log_p_xz: Tensor, log_q: Tensor) -> Tensor:
    return LogWeights().add(log_p_xz - log_q).bound().value


def _floor(precision: Tensor) -> Tensor:
    n = len(precision)
    a = torch.eye(n + 1, dtype=torch.float64)
    a[1:, 1:] = torch.linalg.cholesky(precision).T
    return LinearGaussian(a, torch.zeros(n + 1, dtype=torch.float64), 1).diagonal_floor()


DRAWS = (
    torch.tensor([[-1.0, -2000.0], [-2.5, -2001.0], [-0.5, -1999.0]], dtype=torch.float64),
    torch.tensor([[-0.3, -1.0], [-1.2, 0.5], [0.4, -2.0]], dtype=torch.float64),
)
PRECISIONS = tuple(
    torch.tensor(rows, dtype=torch.float64)
    for rows in (
        [[5.0, 4.0], [4.0, 5.0]],
        [[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 3.0]],
    )
)

EXERCISES = {
    "density": Exercise(
        expected=lambda: torch.distributions.Normal(1.0, 2.0).log_prob(torch.tensor(2.0)),
        mistakes={
            "the sign of log 2 is turned: a stretched density is lower.": (
                lambda: -0.5 * (0.25 + LOG_2PI) + math.log(2)
            ),
            "the log-determinant is missing.": lambda: -0.5 * (0.25 + LOG_2PI),
            "the base density belongs to eps_q = 0.5, not to z = 2.": (
                lambda: -0.5 * (4 + LOG_2PI) - math.log(2)
            ),
        },
    ),
    "ignore": Exercise(
        expected=lambda: _causes(2).gap(_at(3.0))[0],
        mistakes={
            "this is KL(p || q). The gap is KL(q || p): proposal, then posterior.": (
                lambda: _reverse_kl(3.0)
            ),
            "a factor one half is missing.": lambda: 2 * _causes(2).gap(_at(3.0))[0],
            "this is the gap at x = 0: the term with the mean is missing.": (
                lambda: _causes(2).gap(_at(0.0))[0]
            ),
        },
    ),
    "estimate": Exercise(
        expected=_estimate,
        mistakes={
            "log q is forgotten: a weight is p(x, z) / q(z | x).": (
                lambda log_p_xz, log_q: _estimate(log_p_xz, 0 * log_q)
            ),
            "log q has the wrong sign: divide by q.": (
                lambda log_p_xz, log_q: _estimate(log_p_xz, -log_q)
            ),
            "the sum is not divided by K, so the estimate is too large by log K.": (
                lambda log_p_xz, log_q: torch.logsumexp(log_p_xz - log_q, 0)
            ),
            "this is the mean of the logarithms, an estimate of the ELBO.": (
                lambda log_p_xz, log_q: (log_p_xz - log_q).mean(0)
            ),
            "right for moderate weights, but exp(-2000) is 0 here: torch.logsumexp helps.": (
                lambda log_p_xz, log_q: (log_p_xz - log_q).exp().mean(0).log()
            ),
        },
        on=(DRAWS, tuple(t[:2] for t in DRAWS)),
        atol=1e-6,
    ),
    "floor": Exercise(
        expected=_floor,
        mistakes={
            "a factor one half is missing.": lambda precision: 2 * _floor(precision),
            "the sign is turned: by Hadamard's inequality the floor is never negative.": (
                lambda precision: -_floor(precision)
            ),
            "these are the marginal variances of the posterior; q wants 1 / Lambda_ii.": (
                lambda precision: (
                    0.5 * (precision.inverse().diagonal().log().sum() + precision.logdet())
                )
            ),
        },
        on=tuple((p,) for p in PRECISIONS),
        atol=1e-6,
    ),
    "many-causes": Exercise(
        expected=lambda: _causes(10).diagonal_floor(),
        mistakes={
            "this is the answer for two causes.": lambda: _causes(2).diagonal_floor(),
            "a factor one half is missing.": lambda: 2 * _causes(10).diagonal_floor(),
            "the determinant is missing: one eigenvalue is 41.": lambda: 5 * math.log(5),
            "ten times the floor of two is too simple: all ten are tied together.": (
                lambda: 10 * _causes(2).diagonal_floor()
            ),
        },
    ),
}
