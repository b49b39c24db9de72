"""The augmentation gap: log p(x) - E_q[log w] = KL(q(e|x) || p(e|x)), exact where it can be.

Closed forms for linear models (`LinearGaussian`, `ScalarANF`), quadrature for one or two noise
features (`quadrature`), and a panel for any flow (`measure_gap`). A gap is never read alone: a
model that ignores its noise has none, so the negative log-likelihood always stands beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .augment import Augment
from .coupling import AffineCoupling
from .distributions import LOG_2PI, StandardNormal
from .flow import Flow
from .integrate import (
    Quadrature,
    as_double,
    augment_law,
    integrable,
    log_joint,
    noise_features,
    quadrature,
    run_on,
)
from .transform import Inverse, checked_count

# ---- linear models: everything in closed form -----------------------------------------------


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """Any linear augmented flow: u = A [x; e] + t with u ~ N(0, I) and q(e) = N(0, I).

    With Lambda = A^T A, mu = -A^{-1} t and blocks by x and e:

        p(e | x) = N(m(x), Lambda_ee^{-1}),   m(x) = mu_e - Lambda_ee^{-1} Lambda_ex (x - mu_x)
        gap(x)   = 1/2 [tr Lambda_ee - D_E - log det Lambda_ee + m(x)^T Lambda_ee m(x)]

    The gap is 0 for every x exactly where Lambda_ee = I, Lambda_ex = 0 and mu_e = 0.

    Args:
        a: A, (D, D) with D = D_X + D_E, x first.
        t: (D,).
        features: D_X.
    """

    a: Tensor
    t: Tensor
    features: int

    def __post_init__(self) -> None:
        d = self.t.shape[0]
        if self.a.shape != (d, d) or not 0 < self.features <= d:
            raise ValueError(
                f"LinearGaussian: a {tuple(self.a.shape)}, t {tuple(self.t.shape)}, features "
                f"{self.features}; expected (D, D), (D,) and 1 <= features <= D"
            )

    @classmethod
    def from_flow(cls, flow: Flow, *, atol: float = 1e-9) -> LinearGaussian:
        """Read A and t off a flow of linear layers, with `StandardNormal` noise and base.

        Raises:
            ValueError: the flow is not linear, or its noise or base is not standard normal.
        """
        flow = as_double(flow)
        augments = [la.layer for la in flow.chain if augment_law(la) is not None]
        laws = [flow.base, *(augment.law for augment in augments)]
        if not augments or not all(isinstance(law, StandardNormal) for law in laws):
            raise ValueError(
                "LinearGaussian.from_flow: expected Augment(StandardNormal(D_E)) and a "
                f"StandardNormal base, got the laws {', '.join(map(str, laws))}"
            )
        features, d = augments[0].keep, flow.base.shape[0]

        def latent(v: Tensor) -> Tensor:
            return run_on(flow, v[:, :features], v[:, features:])[3]

        with torch.no_grad():  # a linear map is its values at 0 and at the unit vectors
            t = latent(torch.zeros(1, d, dtype=torch.float64))[0]
            a = (latent(torch.eye(d, dtype=torch.float64)) - t).T
            probe = torch.linspace(-3, 3, 5 * d, dtype=torch.float64).sin().view(5, d) * 3
            off = (latent(probe) - probe @ a.T - t).abs().max().item()
        if not off <= atol * max(1.0, a.abs().max().item()):
            raise ValueError(
                f"LinearGaussian.from_flow: the flow is off a linear map by {off:.3g}; use "
                "quadrature, or couplings whose scales are constant and whose shifts are linear"
            )
        return cls(a, t, features)

    @property
    def marginal(self) -> tuple[Tensor, Tensor]:
        """Mean (D_X,) and covariance (D_X, D_X) of p(x)."""
        inverse = torch.linalg.inv(self.a)
        mu, cov, n = -inverse @ self.t, inverse @ inverse.T, self.features
        return mu[:n], cov[:n, :n]

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x): (B,)."""
        mean, cov = self.marginal
        root = torch.linalg.cholesky(cov)
        u = torch.linalg.solve_triangular(root, (x - mean).T, upper=False)
        return -0.5 * ((u * u).sum(0) + x.shape[1] * LOG_2PI) - root.diagonal().log().sum()

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """p(e | x): means (B, D_E) and precision Lambda_ee (D_E, D_E)."""
        (offset, slope), lee = self._mean_map(), self._lee
        return offset + x @ slope.T, lee

    def elbo(self, x: Tensor) -> Tensor:
        """L_A(x) = E_q[log p(x, e) - log q(e)]: (B,)."""
        d, n = self.t.shape[0], self.features
        u = x @ self.a[:, :n].T + self.t  # the latent at e = 0
        square = (u * u).sum(1) + self._lee.trace()
        entropy = 0.5 * (d - n) * (1 + LOG_2PI)
        return torch.linalg.slogdet(self.a).logabsdet - 0.5 * (square + d * LOG_2PI) + entropy

    def gap(self, x: Tensor) -> Tensor:
        """KL(q(e) || p(e | x)): (B,)."""
        m, lee = self.posterior(x)
        return self._gap_floor() + 0.5 * ((m @ lee) * m).sum(1)

    def has_zero_gap(self, *, atol: float = 1e-10) -> bool:
        """Whether Lambda_ee = I, Lambda_ex = 0 and mu_e = 0: q is the posterior for every x."""
        offset, slope = self._mean_map()
        eye = torch.eye(self._lee.shape[0], dtype=self.a.dtype)
        return all(bool((v.abs() <= atol).all()) for v in (self._lee - eye, slope, offset))

    def expected_gap(self, mean: Tensor, cov: Tensor) -> Tensor:
        """E gap(x) for data x ~ N(mean, cov): the second bar."""
        offset, slope = self._mean_map()
        m, lee = offset + slope @ mean, self._lee
        return self._gap_floor() + 0.5 * (m @ lee @ m + (lee @ slope @ cov @ slope.T).trace())

    def model_error(self, mean: Tensor, cov: Tensor) -> Tensor:
        """KL(data || p) for data x ~ N(mean, cov): the first bar."""
        mu, c = self.marginal
        solve = torch.linalg.solve(c, cov)
        step = mu - mean
        trace = solve.trace() - self.features + step @ torch.linalg.solve(c, step)
        return 0.5 * (trace - torch.linalg.slogdet(solve).logabsdet)

    def diagonal_floor(self) -> Tensor:
        """The gap that no diagonal Gaussian q closes: 1/2 [sum log Lambda_ii - log det Lambda]."""
        return 0.5 * (self._lee.diagonal().log().sum() - torch.logdet(self._lee))

    @property
    def _lee(self) -> Tensor:
        return self.a[:, self.features :].T @ self.a[:, self.features :]

    def _mean_map(self) -> tuple[Tensor, Tensor]:
        """m(x) = offset + slope x: the e that brings the latent nearest to 0."""
        a_x, a_e = self.a[:, : self.features], self.a[:, self.features :]
        solve = -torch.linalg.solve(self._lee, a_e.T @ torch.cat([self.t[:, None], a_x], dim=1))
        return solve[:, 0], solve[:, 1:]

    def _gap_floor(self) -> Tensor:
        lee = self._lee
        return 0.5 * (lee.trace() - lee.shape[0] - torch.logdet(lee))


@dataclass(frozen=True)
class ScalarANF:
    """One number of data, one of noise, one linear step: z = a e + b x, y = (x - c z) / d.

    A VAE with encoder q(z | x) = N(b x, a^2) and decoder p(x | z) = N(c z, d^2), so that
    p(x) = N(0, c^2 + d^2) and p(z | x) = N(k x, v) with k = c / (c^2 + d^2),
    v = d^2 / (c^2 + d^2). In the noise: p(e | x) = N((k - b) x / a, v / a^2). The gap is 0 for
    every x exactly where a^2 = v and b = k. Methods take x of any shape, number by number.

    Args:
        a, d: positive scales.  b, c: slopes.
    """

    a: float
    b: float
    c: float
    d: float

    def __post_init__(self) -> None:
        values = (self.a, self.b, self.c, self.d)
        if not all(map(math.isfinite, values)) or self.a <= 0 or self.d <= 0:
            raise ValueError(f"ScalarANF{values}: expected finite numbers with a > 0 and d > 0")

    @property
    def k(self) -> float:
        """Slope of the posterior mean of z."""
        return self.c / (self.c**2 + self.d**2)

    @property
    def v(self) -> float:
        """Posterior variance of z."""
        return self.d**2 / (self.c**2 + self.d**2)

    @property
    def tau2(self) -> float:
        """Posterior variance of e; the weights have finite variance exactly where tau2 < 2."""
        return self.v / self.a**2

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x)."""
        var = self.c**2 + self.d**2
        return -0.5 * (x**2 / var + math.log(var) + LOG_2PI)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """p(e | x): mean and variance."""
        return (self.k - self.b) * x / self.a, torch.full_like(x, self.tau2)

    def gap(self, x: Tensor) -> Tensor:
        """KL(N(0, 1) || p(e | x))."""
        mean, var = self.posterior(x)
        return 0.5 * (var.log() + (1 + mean**2) / var - 1)

    def elbo(self, x: Tensor) -> Tensor:
        """L_A(x) = log p(x) - gap(x)."""
        return self.log_prob(x) - self.gap(x)

    def with_best_encoder(self) -> ScalarANF:
        """The same p(x), with the encoder that closes the gap: a^2 = v, b = k."""
        return ScalarANF(math.sqrt(self.v), self.k, self.c, self.d)

    def chi2(self, x: Tensor) -> Tensor:
        """chi^2(p(e|x) || q) = Var(w) / p(x)^2; infinite where tau2 >= 2."""
        if self.tau2 >= 2:
            return torch.full_like(x, math.inf)
        mean, var = self.posterior(x)
        return torch.exp(mean**2 / (2 - var)) / torch.sqrt(var * (2 - var)) - 1

    def iw_gap(self, x: Tensor, k: int) -> Tensor:
        """log p(x) - E[L_K(x)] by quadrature, for any K; exact to rounding where tau > 0.02.

        Raises:
            ValueError: the posterior is narrower than the grid's step.
        """
        if self.tau2 <= 0.02**2:
            raise ValueError(
                f"iw_gap: the posterior's deviation is {math.sqrt(self.tau2):.3g}, expected more than "
                "0.02, the step of the grid over the noise; use a larger d or a smaller a"
            )
        e = torch.linspace(-9, 9, 801, dtype=torch.float64)
        mass = torch.softmax(-0.5 * e * e, dim=0)  # trapezoid for N(0, 1): exact to rounding
        mean, var = (t.reshape(-1, 1).double() for t in self.posterior(x))
        log_r = 0.5 * (e**2 - (e - mean) ** 2 / var - var.log())  # log p(e | x) / q(e)
        return -expected_iw_bound(log_r, mass, k).reshape(x.shape).to(x.dtype)

    def flow(self) -> Flow:
        """The same model as a `Flow` of (B, 1) data, in float64."""

        def affine(log_s: float, slope: float, writes: slice, reads: slice) -> AffineCoupling:
            net = nn.Linear(1, 2, dtype=torch.float64)
            with torch.no_grad():
                net.weight.copy_(torch.tensor([[0.0], [slope]], dtype=torch.float64))
                net.bias.copy_(torch.tensor([log_s, 0.0], dtype=torch.float64))
            return AffineCoupling(net, writes=writes, reads=reads)

        x, e = slice(0, 1), slice(1, 2)
        encode = affine(math.log(self.a), self.b, e, x)
        decode = Inverse(affine(math.log(self.d), self.c, x, e))
        return Flow([Augment(StandardNormal(1), keep=1), encode, decode], StandardNormal(2))


def expected_iw_bound(log_w: Tensor, mass: Tensor, k: int) -> Tensor:
    """E[log (1/K) sum_k w_k] for independent w_k, by quadrature: (B,).

    Uses E[log S] = integral of (exp(-e^u) - phi(e^u)^K) du, phi(s) = E[exp(-s w)], so that K
    enters as a power and costs nothing (Frullani's integral).

    Args:
        log_w: log-weights (B, N) at N nodes.
        mass: probability (N,) of each node under q.
        k: K >= 1.
    """
    k = checked_count(k, "expected_iw_bound: k", of=" sample")
    used = mass > 1e-17
    log_w, mass = log_w[:, used], mass[used] / mass[used].sum()
    out = []
    for row in log_w:  # w relative to its maximum: the integrand lives on u in about -40 .. spread
        row, top = row - row.max(), row.max()
        u = torch.arange(-40 - math.log(k), 5 - row.min().item(), 0.2, dtype=row.dtype)
        phi = torch.exp(-torch.exp(u[:, None] + row)) @ mass
        out.append(top + 0.2 * (torch.exp(-torch.exp(u)) - phi**k).sum() - math.log(k))
    return torch.stack(out)


# ---- any flow: the gap panel ----------------------------------------------------------------


@dataclass(frozen=True)
class GapReport:
    """Means over n examples, in nats; `_se` are standard errors.

    Attributes:
        nll, nll_se: -mean log p(x); the error is that of the choice of examples.
        elbo, elbo_se: mean Monte-Carlo ELBO; the error is that of the noise alone.
        bound, k: mean L_K with the same draws.
        gap: mean log p(x) - ELBO; without `exact` a lower estimate, as L_K stands for log p(x).
        gap_se: its Monte-Carlo error, 0 by quadrature.
        error: largest quadrature error (step halving); 0 for an exact flow, NaN without either.
        exact: log p(x) comes from quadrature or an exact flow.
        ess, var_log_weight: mean effective sample size of K, mean variance of log w.
        n: examples.
    """

    nll: float
    nll_se: float
    elbo: float
    elbo_se: float
    bound: float
    k: int
    gap: float
    gap_se: float
    error: float
    exact: bool
    ess: float
    var_log_weight: float
    n: int

    def __str__(self) -> str:
        sign = "=" if self.exact else ">="
        return (
            f"NLL {'' if self.exact else '<= '}{self.nll:.4f} (se {self.nll_se:.4f})   "
            f"ELBO {self.elbo:.4f} (se {self.elbo_se:.4f})   L_{self.k} {self.bound:.4f}   "
            f"gap {sign} {self.gap:.4f} (se {self.gap_se:.4f})   ESS {self.ess:.1f} of {self.k}"
        )


def measure_gap(flow: Flow, x: Tensor, *, k: int = 1000) -> GapReport:
    """The gap of a flow on a batch, with the negative log-likelihood beside it.

    log p(x) is exact where the flow is, or where it draws 1 or 2 noise features beside (B, D) data
    (`quadrature`); otherwise L_K stands in for it and the gap is a lower estimate.

    Args:
        flow: any flow.
        x: data (B, ...), B >= 2.
        k: noise draws for each example, K >= 2, for the ELBO, L_K and the weights.

    Raises:
        ValueError: fewer than 2 examples or draws.
    """
    if len(x) < 2 or (isinstance(k, int) and k < 2):
        raise ValueError(
            f"measure_gap: {len(x)} examples and k = {k}, expected at least 2 of each for errors"
        )
    k, n = checked_count(k, "measure_gap: k", least=2, of=" draws"), len(x)
    with torch.no_grad():
        iw = flow.iw_bound(x, k)
        elbo_se = (iw.var_log_weight.mean() / (k * n)).sqrt().item()
        log_p, gap, gap_se, error, exact = iw.value, iw.value - iw.elbo, elbo_se, math.nan, False
        if flow.exact:
            gap_se, error, exact = 0.0, 0.0, True
        elif x.dim() == 2 and integrable(flow):
            q = quadrature(flow, x)
            log_p, gap, gap_se, error, exact = q.log_p, q.gap, 0.0, q.error.max().item(), True
    return GapReport(
        nll=-log_p.mean().item(),
        nll_se=(log_p.std() / math.sqrt(n)).item(),
        elbo=iw.elbo.mean().item(),
        elbo_se=elbo_se,
        bound=iw.value.mean().item(),
        k=k,
        gap=gap.mean().item(),
        gap_se=gap_se,
        error=error,
        exact=exact,
        ess=iw.ess.mean().item(),
        var_log_weight=iw.var_log_weight.mean().item(),
        n=n,
    )


__all__ = [
    "GapReport",
    "LinearGaussian",
    "Quadrature",
    "ScalarANF",
    "expected_iw_bound",
    "log_joint",
    "measure_gap",
    "noise_features",
    "quadrature",
]
