"""Exercises of the chapter "The augmentation gap"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..gap import LinearGaussian, ScalarANF
from . import Exercise

MODEL = ScalarANF(0.7, 0.3, 1.1, 0.6)
TWO = torch.tensor(2.0, dtype=torch.float64)


def _reverse_kl() -> float:
    mean, var = (t.item() for t in MODEL.posterior(TWO))
    return 0.5 * (var + mean**2 - 1 - math.log(var))


def _iw_bound(log_w: Tensor) -> Tensor:
    return torch.logsumexp(log_w, dim=0) - math.log(log_w.shape[0])


LOG_W = (
    torch.tensor([[-1.0, 0.5], [-2.0, 0.25], [-0.5, -3.0]], dtype=torch.float64),
    torch.tensor([[-2000.0], [-2001.0]], dtype=torch.float64),  # exp gives 0
)


def _correlated_floor() -> float:
    precision = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    a = torch.eye(3, dtype=torch.float64)  # x independent of e, Lambda_ee = precision
    a[1:, 1:] = torch.linalg.cholesky(precision).T
    return LinearGaussian(a, torch.zeros(3, dtype=torch.float64), 1).diagonal_floor().item()


def _bound_optimal_variance() -> float:
    """Variance of p(x) for the decoder that maximises the mean bound, found numerically."""
    s = torch.tensor([[4.0]], dtype=torch.float64)
    cd = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)  # c, log d
    optimiser = torch.optim.LBFGS([cd], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        c, log_d = cd
        # E log w over x ~ N(0, 4), z ~ N(0.3 x, 0.49): only the decoder's part depends on c, d
        mean_z2, mean_xz = 0.49 + 0.09 * s[0, 0], 0.3 * s[0, 0]
        value = log_d + 0.5 * (s[0, 0] - 2 * c * mean_xz + c**2 * mean_z2) * torch.exp(-2 * log_d)
        value.backward()
        return value

    optimiser.step(loss)
    c, log_d = cd.tolist()
    return c**2 + math.exp(2 * log_d)


EXERCISES = {
    "best-encoder": Exercise(
        expected=lambda: (math.sqrt(MODEL.v), MODEL.k),
        mistakes={
            "the variance of q is a squared: take the root.": lambda: (MODEL.v, MODEL.k),
            "b is the slope of E[z | x], not the decoder's c: divide by the variance of x.": (
                lambda: (math.sqrt(MODEL.v), MODEL.c)
            ),
            "the order is (a, b): first the scale, then the slope.": (
                lambda: (MODEL.k, math.sqrt(MODEL.v))
            ),
        },
    ),
    "at-two": Exercise(
        expected=lambda: MODEL.gap(TWO),
        mistakes={
            "this is KL(p || q). The gap is KL(q || p): noise, then posterior.": _reverse_kl,
            "twice too large: every term carries a factor one half.": lambda: 2 * MODEL.gap(TWO),
            "a gap is never negative: it is log p(x) minus the bound.": lambda: -MODEL.gap(TWO),
        },
    ),
    "k-sample": Exercise(
        expected=_iw_bound,
        mistakes={
            "this is the mean of the logarithms, the ELBO. L_K is the logarithm of the mean.": (
                lambda log_w: log_w.mean(0)
            ),
            "the sum is not divided by K, so the bound is too large by log K.": (
                lambda log_w: torch.logsumexp(log_w, dim=0)
            ),
            "right for moderate weights, but exp(-2000) is 0 in a computer: use torch.logsumexp.": (
                lambda log_w: log_w.exp().mean(0).log()
            ),
        },
        on=tuple((t,) for t in LOG_W),
        atol=1e-6,
    ),
    "bars": Exercise(
        expected=lambda entropy, nll, elbo: (nll - entropy, -nll - elbo),
        mistakes={
            "the gap has the wrong sign: it is log p minus the bound; the NLL is minus log p.": (
                lambda entropy, nll, elbo: (nll - entropy, nll + elbo)
            ),
            "the first bar has the wrong sign: the NLL is never below the entropy.": (
                lambda entropy, nll, elbo: (entropy - nll, -nll - elbo)
            ),
            "this puts the gap into the first bar too; the model error needs the NLL alone.": (
                lambda entropy, nll, elbo: (-elbo - entropy, -nll - elbo)
            ),
        },
        on=((1.5, 2.0, -2.25), (1.4188, 1.4500, -1.5200)),
        atol=1e-6,
    ),
    "how-many": Exercise(
        expected=lambda: math.ceil(MODEL.chi2(TWO).item() / (2 * 0.01)),
        mistakes={
            "the rate is chi2/(2K): the factor 2 is missing.": (
                lambda: math.ceil(MODEL.chi2(TWO).item() / 0.01)
            ),
            "this uses 1 + chi2. The variance of w / p(x) is chi2 itself.": (
                lambda: math.ceil((1 + MODEL.chi2(TWO).item()) / (2 * 0.01))
            ),
            "round up: with one sample fewer the bias is still above the limit.": (
                lambda: math.floor(MODEL.chi2(TWO).item() / (2 * 0.01))
            ),
        },
        atol=0.4,
    ),
    "two-noises": Exercise(
        expected=_correlated_floor,
        mistakes={
            "a factor one half is missing.": lambda: 2 * _correlated_floor(),
            "the sign is turned: log det of a correlated precision is negative.": (
                lambda: -_correlated_floor()
            ),
        },
    ),
    "frozen-encoder": Exercise(
        expected=_bound_optimal_variance,
        mistakes={
            "4 is the maximum-likelihood answer. The bound also pays for the gap, so its best "
            "decoder is another one.": lambda: 4.0,
            "this is d squared, the noise alone; p(x) has variance c squared + d squared.": (
                lambda: 4 - (0.3 * 4) ** 2 / (0.49 + 0.09 * 4)
            ),
        },
    ),
}
