"""The augmentation gap, exact where it can be: log p(x) - E_q[log w] = KL(q(e|x) || p(e|x)).

Closed forms for linear models (`LinearGaussian`, `ScalarANF`), quadrature for one or two noise
features (`quadrature`), and one panel for any flow (`measure_gap`). A gap is never read alone: a
model that ignores its noise has none, so the negative log-likelihood always stands beside it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .augment import Augment, Slice
from .coupling import AffineCoupling
from .distributions import LOG_2PI, GaussianNet, Law, StandardNormal, StandardUniform
from .flow import Flow
from .transform import Inverse

# ---- the chain with its noise given, not drawn ----------------------------------------------


def log_joint(flow: Flow, x: Tensor, e: Tensor) -> Tensor:
    """log p(x, e): the density of data and noise together, with e given. (B,), nats.

    Args:
        flow: a model whose only source of noise is `Augment`.
        x: data (B, D_X).
        e: noise (B, D_E), as `Augment` would have drawn it; several `Augment`s share it in order.

    Raises:
        ValueError: another layer draws noise, or e has another width.
    """
    return _walk(flow, x, e, lambda law, given, part: part)[0]


def _walk(
    flow: Flow, x: Tensor, noise: Tensor, shape: Callable[[Law, Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the chain on given noise: (log p(x, e), log q(e | x), e, base latent)."""
    total, log_q, used, at = 0.0, 0.0, [], 0
    for layer in flow.chain:
        if isinstance(layer, Inverse) and isinstance(layer.layer, Slice):
            law = layer.layer.law
            width = _width(law, x)
            if at + width > noise.shape[1]:
                raise ValueError(
                    f"noise of shape {tuple(noise.shape)} is too narrow: {type(layer).__name__} "
                    f"takes features {at}:{at + width} of it"
                )
            e = shape(law, x, noise[:, at : at + width])
            log_q = log_q + law.log_prob(e, x)
            x, at = layer.layer.replay(x, e), at + width
            used.append(e)
        elif layer.stochastic_forward:
            raise ValueError(
                f"{type(layer).__name__} draws noise that cannot be given; only chains whose noise "
                "comes from Augment can be integrated. Use iw_bound(x, k)"
            )
        else:
            x, contrib = layer(x)
            total = total + contrib
    if at != noise.shape[1]:
        raise ValueError(f"noise has {noise.shape[1]} features, the flow's Augments take {at}")
    return flow.base.log_prob(x) + total, log_q, torch.cat(used, dim=1) if used else noise, x


def _width(law: Law, given: Tensor) -> int:
    """How many noise features a law draws beside (B, D) data."""
    if isinstance(law, GaussianNet):
        return law.net(given).shape[1] // 2
    if isinstance(law, StandardNormal | StandardUniform) and len(law.shape) == 1:
        return law.shape[0]
    raise ValueError(
        f"noise law {law} is not known here; expected StandardNormal(D_E), StandardUniform(D_E) or "
        "a GaussianNet beside (B, D) data. Use iw_bound(x, k)"
    )


def _from_normal(law: Law, given: Tensor, standard: Tensor) -> Tensor:
    """Standard normal numbers -> noise with the given law, smoothly."""
    if isinstance(law, StandardUniform):  # kept off 1, which is outside [0, 1)
        return torch.special.ndtr(standard).clamp(max=1 - torch.finfo(standard.dtype).eps)
    if isinstance(law, GaussianNet):
        log_s, mean = law.net(given).chunk(2, dim=1)
        return mean + log_s.exp() * standard
    return standard


def noise_features(flow: Flow) -> int:
    """D_E: how many noise features the flow's `Augment`s draw beside (B, D) data."""
    total = 0
    for layer in flow.chain:
        if isinstance(layer, Inverse) and isinstance(layer.layer, Slice):
            like = next(layer.parameters(), torch.empty(0))
            total += _width(layer.layer.law, like.new_zeros(1, layer.layer.keep))
    return total


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
        flow = _double(flow)
        augments = [la.layer for la in flow.chain if isinstance(la, Inverse) and isinstance(la.layer, Slice)]
        laws = [flow.base, *(s.law for s in augments)]
        if not augments or not all(isinstance(law, StandardNormal) for law in laws):
            raise ValueError("LinearGaussian.from_flow: expected Augment(StandardNormal(D_E)) and a "
                             f"StandardNormal base, got {', '.join(map(str, laws))}")  # fmt: skip
        features, d = augments[0].keep, flow.base.shape[0]

        def latent(v: Tensor) -> Tensor:
            return _walk(flow, v[:, :features], v[:, features:], lambda law, x, part: part)[3]

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
        return _gaussian_log_prob(x, mean, cov)

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
    v = d^2 / (c^2 + d^2). In the noise: p(e | x) = N((k - b) x / a, v / a^2). The gap is 0 for every
    x exactly where a^2 = v and b = k. Methods take x of any shape and work number by number.

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
        """log p(x) - E[L_K(x)], exact by quadrature, for any K."""
        e, mass = _normal_nodes(801)
        mean, var = (t.reshape(-1, 1).double() for t in self.posterior(x))
        log_r = 0.5 * (e**2 - (e - mean) ** 2 / var - var.log())  # log p(e | x) / q(e)
        return -expected_iw_bound(log_r, mass, k).reshape(x.shape).to(x.dtype)

    def flow(self) -> Flow:
        """The same model as a `Flow` of (B, 1) data, in float64."""

        def affine(log_s: float, slope: float, writes: slice, reads: slice) -> AffineCoupling:
            net = nn.Linear(1, 2, dtype=torch.float64)
            with torch.no_grad():
                net.weight.copy_(torch.tensor([[0.0], [slope]]))
                net.bias.copy_(torch.tensor([log_s, 0.0], dtype=torch.float64))
                net.weight[1, 0] = slope
            return AffineCoupling(net, writes=writes, reads=reads)

        x, e = slice(0, 1), slice(1, 2)
        encode = affine(math.log(self.a), self.b, e, x)
        decode = Inverse(affine(math.log(self.d), self.c, x, e))
        return Flow([Augment(StandardNormal(1), keep=1), encode, decode], StandardNormal(2))


def expected_iw_bound(log_w: Tensor, mass: Tensor, k: int) -> Tensor:
    """E[log (1/K) sum_k w_k] for independent w_k, by quadrature: (B,).

    Uses E[log S] = integral of (exp(-e^u) - phi(e^u)^K) du, phi(s) = E[exp(-s w)], so that K enters
    as a power and costs nothing (Frullani's integral).

    Args:
        log_w: log-weights (B, N) at N nodes.
        mass: probability (N,) of each node under q.
        k: K >= 1.
    """
    if int(k) != k or k < 1:
        raise ValueError(f"expected_iw_bound: k is {k}, expected an integer of at least 1 sample")
    used = mass > 1e-17
    log_w, mass = log_w[:, used], mass[used] / mass[used].sum()
    out = []
    for row in log_w:  # w relative to its maximum: the integrand lives on u in about -40 .. spread
        row, top = row - row.max(), row.max()
        u = torch.arange(-40 - math.log(k), 5 - row.min().item(), 0.2, dtype=row.dtype)
        phi = torch.exp(-torch.exp(u[:, None] + row)) @ mass
        out.append(top + 0.2 * (torch.exp(-torch.exp(u)) - phi**k).sum() - math.log(k))
    return torch.stack(out)


# ---- one or two noise features: quadrature --------------------------------------------------


@dataclass(frozen=True)
class Quadrature:
    """log p(x), the bound and the posterior by the trapezoid rule, for B examples; float64, nats.

    Attributes:
        log_p: log p(x), (B,).
        elbo: E_q[log w], (B,).
        error: change of the gap when every second node is left out, (B,): an upper estimate.
        edge: share of the mass in the grid's outermost nodes, (B,): near 0, or mass lies outside.
        e: noise at the N nodes, (B, N, D_E).
        log_posterior: log p(e | x) there, (B, N).
        log_q: log q(e | x) there, (B, N).
        mass: posterior probability of each node, (B, N), sums to 1.
    """

    log_p: Tensor
    elbo: Tensor
    error: Tensor
    edge: Tensor
    e: Tensor
    log_posterior: Tensor
    log_q: Tensor
    mass: Tensor

    @property
    def gap(self) -> Tensor:
        """log p(x) - ELBO(x) = KL(q(e|x) || p(e|x)): (B,)."""
        return self.log_p - self.elbo

    @property
    def eubo(self) -> Tensor:
        """E_{p(e|x)}[log w] = log p(x) + KL(p(e|x) || q(e|x)): (B,)."""
        ratio = torch.where(self.mass > 0, self.log_posterior - self.log_q, 0.0)
        return self.log_p + (self.mass * ratio).sum(1)


def quadrature(
    flow: Flow, x: Tensor, *, tol: float = 1e-6, max_nodes: int | None = None
) -> Quadrature:
    """Integrate the noise out, on a grid that follows the posterior of each example.

    A window over the noise is moved and shrunk until it fits the posterior (its mean and its
    principal axes), then the number of nodes is doubled where the step-halving error or the mass at
    the edge says so. The bound is integrated over q on a grid of its own. The work is done in
    float64 on a copy of the flow; all noise is treated as a map of standard normal numbers.

    A posterior mode much narrower than 1/15 of the noise's deviation, beside a broad one, can be missed
    by the first scan, and no error estimate on the grid can see that.

    Args:
        flow: a model of (B, D) data whose noise comes from `Augment` and has 1 or 2 features.
        x: data (B, D_X).
        tol: step-halving error and edge mass to reach.
        max_nodes: nodes for each noise feature at most; 2049 for one feature, 129 for two. Where
            that is not enough, `error` and `edge` say so.

    Raises:
        ValueError: not 1 or 2 noise features, or noise that cannot be given (see `log_joint`).
    """
    flow._check(x)
    flow, x = _double(flow), x.detach().to("cpu", torch.float64)
    d = noise_features(flow)
    if d not in (1, 2) or x.dim() != 2:
        raise ValueError(
            f"quadrature: data of shape {tuple(x.shape)} with {d} noise features, expected (B, D_X) "
            "and 1 or 2; use iw_bound(x, k) or measure_gap"
        )
    limit = max_nodes or (2049 if d == 1 else 129)

    def log_w(rows: Tensor, t: Tensor) -> Tensor:  # (b,), (b, N, d) -> (b, N)
        per = max(1, 65_536 // t.shape[1])
        out = []
        for r, part in zip(rows.split(per), t.split(per), strict=True):
            many = x[r].repeat_interleave(part.shape[1], dim=0)
            joint, log_q, *_ = _walk(flow, many, part.flatten(0, 1), _from_normal)
            out.append((joint - log_q).view(len(r), -1))
        return torch.cat(out)

    def posterior(rows: Tensor, t: Tensor) -> Tensor:  # overflow far out means no mass there
        values = log_w(rows, t) - 0.5 * ((t * t).sum(-1) + d * LOG_2PI)
        return torch.where(values.isnan(), -math.inf, values)

    with torch.no_grad():
        centre, axes = _find_posterior(posterior, x, d)
        nodes = 257 if d == 1 else 65
        log_p, error, edge = _integrate(posterior, centre, axes, nodes, limit, tol, logs=True)
        zero, eye = torch.zeros_like(centre), torch.eye(d, dtype=x.dtype).expand_as(axes)
        elbo, error_q, edge_q = _integrate(log_w, zero, eye, nodes, limit, tol, logs=False)

        s, log_mass = _grid(nodes, d)
        t = centre[:, None] + s * REACH @ axes.mT
        many = x.repeat_interleave(t.shape[1], dim=0)
        joint, log_q, e, _ = _walk(flow, many, t.flatten(0, 1), _from_normal)
        shape = (len(x), -1)
        mass = torch.softmax((joint - log_q).view(shape) - 0.5 * (t * t).sum(-1) + log_mass, dim=1)
        log_posterior = joint.view(shape) - log_p[:, None]
    return Quadrature(
        log_p, elbo, error + error_q, torch.maximum(edge, edge_q),
        e.view(*shape, d), log_posterior, log_q.view(shape), mass,
    )  # fmt: skip


REACH = 9.0  # a grid reaches this many deviations: N(0, 1) holds 1e-19 beyond


def _grid(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Nodes (n^d, d) on [-1, 1]^d and their log trapezoid weights (n^d,)."""
    line = torch.linspace(-1, 1, n, dtype=torch.float64)
    weight = torch.full((n,), math.log(2 / (n - 1)), dtype=torch.float64)
    weight[[0, -1]] -= math.log(2)
    nodes = torch.stack(torch.meshgrid(*[line] * d, indexing="ij"), dim=-1)
    weights = torch.stack(torch.meshgrid(*[weight] * d, indexing="ij"), dim=-1)
    return nodes.reshape(-1, d), weights.sum(-1).reshape(-1)


def _normal_nodes(n: int) -> tuple[Tensor, Tensor]:
    """Nodes (n,) and probabilities (n,) of the trapezoid rule for N(0, 1)."""
    s, log_weight = _grid(n, 1)
    e = s[:, 0] * REACH
    return e, torch.exp(log_weight + math.log(REACH) - 0.5 * (e * e + LOG_2PI))


def _find_posterior(f: Callable, x: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Centre (B, d) and axes (B, d, d) of exp(f), found by moving and shrinking a window.

    A posterior narrower than the grid shows on one node only. So the moments are taken of
    exp(f / T), with the T that spreads the mass over a few nodes: for a Gaussian that keeps the shape
    and the next, smaller window sees it at a lower T.
    """
    n = 129 if d == 1 else 33
    s, log_weight = _grid(n, d)
    s, border = s * REACH, (s.abs() == 1).any(1)
    centre = x.new_zeros(len(x), d)
    axes = torch.eye(d, dtype=x.dtype).repeat(len(x), 1, 1)
    rows = torch.arange(len(x))
    for _ in range(60):
        values = f(rows, centre[rows, None] + s @ axes[rows].mT)
        top = values.max(1, keepdim=True)
        values = (values - top.values.clamp(min=-1e300)).clamp(min=-1e12)
        temper = x.new_ones(len(rows), 1)
        for _ in range(25):
            w = torch.softmax(values / temper + log_weight, dim=1)
            temper = torch.where((w * w).sum(1, keepdim=True) * 4**d > 1, 4 * temper, temper)
        mean = w @ s
        cov = torch.einsum("bn,bni,bnj->bij", w, s - mean[:, None], s - mean[:, None])
        root = torch.linalg.cholesky(cov + 1e-9 * torch.eye(d, dtype=x.dtype))
        outside = border[top.indices[:, 0]]  # the mass lies beyond the window: go there, look wider
        mean = torch.where(outside[:, None], s[top.indices[:, 0]], mean)
        root = torch.where(outside[:, None, None], 2 * torch.eye(d, dtype=x.dtype), root)
        centre[rows] = centre[rows] + (axes[rows] @ mean[:, :, None])[:, :, 0]
        axes[rows] = axes[rows] @ root
        size = torch.linalg.matrix_norm(root, 2)
        shift = mean.abs().amax(1)
        fits = (size > 0.7) & (torch.linalg.matrix_norm(root, -2) > 0.7) & (size < 1.5) & (shift < 1)
        rows = rows[~fits | outside]
        if len(rows) == 0:
            break
    return centre, axes


def _integrate(
    f: Callable, centre: Tensor, axes: Tensor, n: int, limit: int, tol: float, *, logs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """log of the integral of exp(f), or the mean of f under N(0, I): value, error, edge (B,)."""
    d, rows = centre.shape[1], torch.arange(len(centre))
    out = [centre.new_full((len(centre),), math.nan) for _ in range(3)]
    reach = centre.new_full((len(centre), 1, 1), REACH)
    while True:
        s, log_weight = _grid(n, d)
        border = (s.abs() == 1).any(1)
        keep = (torch.arange(n) % 2 == 0).nonzero()[:, 0]  # every second node of each axis
        second = keep if d == 1 else (keep[:, None] * n + keep).reshape(-1)
        coarse_weight = _grid((n + 1) // 2, d)[1]
        t = centre[rows, None] + (s * reach[rows]) @ axes[rows].mT
        values = f(rows, t)
        if logs:
            scale = torch.linalg.slogdet(axes[rows]).logabsdet + d * reach[rows, 0, 0].log()
            fine = torch.logsumexp(values + log_weight, 1) + scale
            coarse = torch.logsumexp(values[:, second] + coarse_weight, 1) + scale
            edge = torch.exp(values + log_weight + (scale - fine)[:, None])[:, border].sum(1)
        else:
            scale = -0.5 * ((t * t).sum(-1) + d * LOG_2PI) + d * math.log(REACH)
            mass = torch.exp(scale + log_weight)
            fine = (mass * values).sum(1)
            coarse = (torch.exp(scale[:, second] + coarse_weight) * values[:, second]).sum(1)
            edge = (mass * values)[:, border].abs().sum(1)
        error = (fine - coarse).abs()
        for store, value in zip(out, (fine, error, edge), strict=True):
            store[rows] = value
        wide = edge > tol * 1e-3
        again = (error > tol) | wide
        if not again.any() or 2 * n - 1 > limit:
            return tuple(out)
        if logs:
            reach[rows[wide]] *= 2
        rows, n = rows[again], 2 * n - 1


def _gaussian_log_prob(x: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    root = torch.linalg.cholesky(cov)
    u = torch.linalg.solve_triangular(root, (x - mean).T, upper=False)
    return -0.5 * ((u * u).sum(0) + x.shape[1] * LOG_2PI) - root.diagonal().log().sum()


def _double(flow: Flow) -> Flow:
    """A float64 copy on the CPU in eval mode; the caller's flow is left as it is."""
    return copy.deepcopy(flow).to("cpu", torch.float64).eval()


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
    if len(x) < 2 or k < 2:
        raise ValueError(
            f"measure_gap: {len(x)} examples and k = {k}, expected at least 2 of each for errors"
        )
    n = len(x)
    with torch.no_grad():
        iw = flow.iw_bound(x, k)
        elbo_se = (iw.var_log_weight.mean() / (k * n)).sqrt().item()
        log_p, gap, gap_se, error, exact = iw.value, iw.value - iw.elbo, elbo_se, math.nan, False
        if flow.exact:
            gap_se, error, exact = 0.0, 0.0, True
        elif x.dim() == 2 and noise_features(flow) <= 2:
            q = quadrature(flow, x)
            log_p, gap, gap_se, error, exact = q.log_p, q.gap, 0.0, q.error.max().item(), True
    return GapReport(
        nll=-log_p.mean().item(), nll_se=(log_p.std() / math.sqrt(n)).item(),
        elbo=iw.elbo.mean().item(), elbo_se=elbo_se, bound=iw.value.mean().item(), k=k,
        gap=gap.mean().item(), gap_se=gap_se, error=error, exact=exact,
        ess=iw.ess.mean().item(), var_log_weight=iw.var_log_weight.mean().item(), n=n,
    )  # fmt: skip


__all__ = [
    "GapReport", "LinearGaussian", "Quadrature", "ScalarANF", "expected_iw_bound", "log_joint",
    "measure_gap", "noise_features", "quadrature",
]  # fmt: skip
