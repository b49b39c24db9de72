"""What importance weights say about log p(x): bounds, effective sample size, sandwich.

With log w_k = log p(x, e_k) - log q(e_k | x), e_k ~ q:

    L_K = log (1/K) sum_k w_k  <=  log p(x)  in expectation, and L_1 <= L_2 <= ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Z95 = 1.96  # of the standard normal
TAIL_LIMIT = 0.35  # below it the estimated tail index is safely under 1/2


@dataclass(frozen=True)
class ImportanceBound:
    """K importance samples for each of B examples, in nats.

    Attributes:
        value: L_K = log (1/K) sum w_k, (B,). A lower bound on log p(x) in expectation.
        elbo: mean of log w_k over the same draws, (B,).
        ess: effective sample size (sum w)^2 / sum w^2, (B,), between 1 and K.
        var_log_weight: unbiased variance of log w_k, (B,); 0 up to rounding for an exact flow,
            NaN for K = 1.
        k: K.

    A weight of 0 counts in `value` as what it is and makes `elbo` -inf and the variance inf; where
    all weights are 0, `value` is -inf and `ess` 0.

    Burda et al. 2016, IWAE; Huang et al. 2020 and Chen et al. 2020 estimate log p(x) with it.
    """

    value: Tensor
    elbo: Tensor
    ess: Tensor
    var_log_weight: Tensor
    k: int


class LogWeights:
    """Running sums over log-weights, so that K samples need the memory of one chunk.

    `add` takes (k, B) log-weights; `bound` gives what all of them together say. Every sum is kept
    relative to the running maximum (for w, w^2) or mean (for the variance), so nothing overflows.
    """

    def __init__(self) -> None:
        self.k = 0

    def add(self, log_w: Tensor) -> LogWeights:
        """Take in log-weights of shape (k, B); returns itself."""
        batch = "B" if self.k == 0 else len(self.top)
        if log_w.dim() != 2 or batch not in ("B", log_w.shape[1]):
            raise ValueError(
                f"LogWeights.add got log-weights of shape {tuple(log_w.shape)}, expected "
                f"(k, {batch}): one row for each draw, one column for each example"
            )
        n, top = log_w.shape[0], log_w.max(0).values.detach()
        mean = log_w.mean(0)
        spread = _where_finite(mean, ((log_w - mean) ** 2).sum(0))
        if self.k == 0:
            self.top, self.mean, self.spread = top, mean, spread
            self.sum_w, self.sum_w2 = self._sums(log_w, top)
        else:
            new_top = torch.maximum(self.top, top)
            shrink = torch.exp(_difference(self.top, new_top))
            sum_w, sum_w2 = self._sums(log_w, new_top)
            self.sum_w = self.sum_w * shrink + sum_w
            self.sum_w2 = self.sum_w2 * shrink**2 + sum_w2
            self.top = new_top
            step = _difference(mean, self.mean)  # Chan et al.: joining two means and spreads
            self.spread = self.spread + spread + step**2 * (self.k * n / (self.k + n))
            self.mean = self.mean * (self.k / (self.k + n)) + mean * (n / (self.k + n))
        self.k += n
        return self

    @staticmethod
    def _sums(log_w: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
        w = torch.exp(log_w - torch.where(top.isfinite(), top, torch.zeros_like(top)))
        return w.sum(0), (w * w).sum(0)

    def bound(self) -> ImportanceBound:
        """The `ImportanceBound` of everything added so far."""
        if self.k == 0:
            raise ValueError("LogWeights.bound: no log-weights were added")
        variance = self.spread / (self.k - 1) if self.k > 1 else self.spread * math.nan
        return ImportanceBound(
            value=self.top + self.sum_w.log() - math.log(self.k),
            elbo=self.mean,
            ess=self.sum_w**2 / self.sum_w2.clamp_min(torch.finfo(self.sum_w2.dtype).tiny),
            var_log_weight=variance,
            k=self.k,
        )


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """a - b, and 0 where both are the same infinity."""
    return torch.where(a == b, torch.zeros_like(a), a - b)


def _where_finite(mean: Tensor, spread: Tensor) -> Tensor:
    """Spread about the mean; infinite where a log-weight is -inf."""
    return torch.where(mean == -math.inf, math.inf, spread)


@dataclass(frozen=True)
class Sandwich:
    """Bounds from both sides on the mean log p(x) over the model's own samples, in nats.

    A sample (x, e) of the model carries an exact posterior draw e ~ p(e | x), so on these x

        mean ELBO <= mean log p(x) <= mean EUBO,  EUBO = E_{p(e|x)} log w = log p(x) + KL(p||q).

    With K fresh draws e_k ~ q(e | x) both sides close in: L_K from below and, with the posterior
    draw's weight w_0 among them, U_K = log (1/(K+1)) (w_0 + sum_k w_k) from above.

    It says nothing about data: on data no exact posterior draw is at hand.

    Attributes:
        elbo, eubo: means over n samples; elbo_se, eubo_se: their standard errors; n.
        log_p: 95 % interval of mean log p(x): from L_K less to U_K plus 1.96 standard errors.
        gap: 95 % interval of mean log p(x) - ELBO(x), made in the same way from differences.
        k: K.
        tail: index t of the fresh weights' tail, P(w > c) ~ c^(-1/t), by Hill's estimator; NaN
            where K is below 25. At t >= 1/2 their variance is infinite: more draws then hardly
            help, and an interval may be wide.
    """

    elbo: float
    elbo_se: float
    eubo: float
    eubo_se: float
    n: int
    log_p: tuple[float, float] = (math.nan, math.nan)
    gap: tuple[float, float] = (math.nan, math.nan)
    k: int = 1
    tail: float = math.nan

    @property
    def finite_variance(self) -> bool:
        """Whether the weights' variance is seen to be finite; False where that cannot be known."""
        return self.tail < TAIL_LIMIT

    def __str__(self) -> str:
        text = (
            f"log p(x) in [{self.log_p[0]:.4f}, {self.log_p[1]:.4f}], gap in [{self.gap[0]:.4f}, "
            f"{self.gap[1]:.4f}] nats (95 %; {self.n} samples of the model, K = {self.k})"
        )
        if math.isnan(self.tail):
            return (
                f"{text}; too few draws to know whether the weights' variance is finite: K >= 25"
            )
        if not self.finite_variance:
            return (
                f"{text}; the weights' variance is not known to be finite: their tail index is "
                f"{self.tail:.2f}, below {TAIL_LIMIT} is safe. Widen q, or improve it"
            )
        return f"{text}; weights' tail index {self.tail:.2f}: finite variance"


def sandwich(own: Tensor, fresh: Tensor) -> Sandwich:
    """The two-sided interval of any latent-variable model, from its log-weights.

    log w = log p(x, e) - log q(e | x), at n pairs (x_i, e_i) that the model generated.

    Args:
        own: log w at the model's own pairs, (n,).
        fresh: log w at the same x_i and K fresh draws e ~ q(e | x_i), (K, n).

    Raises:
        ValueError: the shapes do not fit, n < 2, or a log-weight is NaN or +inf.
    """
    n = own.shape[0] if own.dim() else 0
    if own.dim() != 1 or n < 2 or fresh.dim() != 2 or fresh.shape[1] != n or not len(fresh):
        raise ValueError(
            f"sandwich: own has shape {tuple(own.shape)}, fresh {tuple(fresh.shape)}; expected "
            "(n,) and (K, n) with n >= 2 samples of the model and K >= 1 draws for each"
        )
    own, fresh = own.detach().double(), fresh.detach().double()
    worst = torch.cat([own[None], fresh]).max()
    if not worst < math.inf:  # NaN, too
        raise ValueError(
            f"sandwich: a log-weight is {worst.item()}, expected finite numbers (-inf for a weight "
            "of 0); check log p(x, e) and log q(e | x) at the model's samples"
        )
    k = len(fresh)
    below = torch.logsumexp(fresh, 0) - math.log(k)
    above = torch.logsumexp(torch.cat([own[None], fresh]), 0) - math.log(k + 1)
    elbo = fresh.mean(0)
    mean = lambda t: t.mean().item()  # noqa: E731
    se = lambda t: (t.std() / math.sqrt(n)).item()  # noqa: E731
    interval = lambda low, high: (mean(low) - Z95 * se(low), mean(high) + Z95 * se(high))  # noqa: E731
    return Sandwich(
        mean(elbo), se(elbo), mean(own), se(own), n,
        log_p=interval(below, above), gap=interval(below - elbo, above - elbo),
        k=k, tail=_tail_index(fresh),
    )  # fmt: skip


def _tail_index(log_w: Tensor) -> float:
    """Hill's estimator: how far the largest log-weights stand above the next one, on average."""
    k = len(log_w)
    if k < 25:
        return math.nan
    top = log_w.topk(int(min(k / 5, 3 * math.sqrt(k))) + 1, dim=0).values
    return (top[:-1] - top[-1]).mean().nan_to_num(nan=math.inf).item()  # NaN: all weights 0


def bits_per_dim(log_prob: Tensor, x: Tensor) -> Tensor:
    """-log p(x) / (D_X log 2): nats per example to bits per dimension.

    Divides by the data's dimensions only, never the augmentation's. `log_prob` is that of the
    integers (after `Carry`); for a density on pixels divided by 256 add 8 bits yourself.

    Args:
        log_prob: (B,), log p(x) or a bound on it, nats.
        x: the data (B, ...), for D_X.
    """
    if log_prob.shape != x.shape[:1]:
        raise ValueError(
            f"bits_per_dim: log_prob has shape {tuple(log_prob.shape)}, x {tuple(x.shape)}; "
            "expected one log-probability for each row of x"
        )
    return -log_prob / (x.shape[1:].numel() * math.log(2))
