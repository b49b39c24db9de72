"""Measure a trained toy model: likelihood, bound, gap, steepness, leaked mass."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..data import Toy
from ..distributions import LOG_2PI
from ..flow import Flow

REACH = 7.0  # N(0, 1) holds 3e-12 outside [-7, 7]
# (nodes, reach): a row stops when halving the step and the edge change it by less than TOL
GRIDS = (
    (129, REACH),
    (257, REACH),
    (513, REACH),
    (1025, REACH),
    (2049, 2 * REACH),
    (4097, 4 * REACH),
)
TOL = 1e-3
FLOOR = -1e4  # float32 log-weights that overflow far out in the tails count as this


@dataclass(frozen=True)
class Points:
    """Where the mean over the data is taken: a test sample, or a grid with the true density.

    Attributes:
        x: (n, D_X).
        weight: (n,), sums to 1.
        sampled: True for a test sample, whose mean has a standard error.
    """

    x: Tensor
    weight: Tensor
    sampled: bool

    def mean(self, value: Tensor) -> float:
        return (self.weight * value.double()).sum().item()

    def se(self, value: Tensor) -> float:
        return value.double().std().item() / math.sqrt(len(value)) if self.sampled else 0.0


def points(toy: Toy, n: int, seed: int) -> Points:
    """n test points in 2-D; in 1-D a grid of n midpoints, so that nothing is left to chance."""
    if toy.dims > 1:
        return Points(toy.sample(n, seed), torch.full((n,), 1 / n, dtype=torch.float64), True)
    x = (torch.arange(n, dtype=torch.float64) + 0.5) * (12 / n) - 6
    weight = toy.log_prob(x[:, None]).exp()
    return Points(x[:, None].float(), weight / weight.sum(), False)


@dataclass(frozen=True)
class Measured:
    """Nats; means over the points.

    Attributes:
        nll, nll_se: -log p(x); standard error of the choice of points.
        nll_error: how far the numbers may be off: change when the step of the quadrature is
            halved, or L_K - L_{K/2}, which is about the bias that is left.
        elbo: the bound, the negative of the training loss.
        gap: nll + elbo, log p(x) - ELBO(x).
        var_log_weight: mean variance of log w under q.
        leak: share of the model's samples where the true density is below that of 99.9 % of
            the data.
        steepness: largest gradient norm found of the sampler x(base noise), 1-D data only.
        method: 'exact', 'quadrature' or 'K = ...'.
    """

    nll: float
    nll_se: float
    nll_error: float
    elbo: float
    gap: float
    var_log_weight: float
    leak: float
    steepness: float | None
    method: str


def measure(flow: Flow, toy: Toy, at: Points, *, by_quadrature: bool, k: int, seed: int) -> dict:
    """`Measured` as a dictionary; k draws where log p(x) is neither exact nor integrable."""
    flow.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if flow.exact:
            log_p = elbo = flow.log_prob(at.x)
            error, variance, method = torch.zeros(1), torch.zeros_like(log_p), "exact"
            off = 0.0
        elif by_quadrature:
            log_p, elbo, variance, error = integrate(flow, at.x)
            off, method = at.mean(error), "quadrature"
        else:
            log_p, elbo, variance, change = bound(flow, at.x, k)
            off, method = abs(at.mean(change)), f"K = {k}"
        leak = leaked(flow, toy)
    nll = -at.mean(log_p)
    return asdict(
        Measured(
            nll=nll,
            nll_se=at.se(log_p),
            nll_error=off,
            elbo=at.mean(elbo),
            gap=-nll - at.mean(elbo),
            var_log_weight=at.mean(variance),
            leak=leak,
            steepness=steepness(flow) if toy.dims == 1 else None,
            method=method,
        )
    )


def integrate(flow: Flow, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p(x), ELBO, variance of log w, error, (B,) each, by the trapezoid rule over one feature.

    Twice as many nodes for the rows where halving the step still changes log p or the bound,
    then a wider window where the posterior lies at its edge.
    (`gap.quadrature` follows each posterior in float64: more exact and some twenty times dearer.)
    """
    joint = Flow(list(flow.chain)[1:], flow.base, validate=False)
    out = x.new_zeros(4, len(x), dtype=torch.float64)
    rows = torch.arange(len(x))
    for n, reach in GRIDS:
        e = torch.linspace(-reach, reach, n)
        log_q, step = -0.5 * (e * e + LOG_2PI), 2 * reach / (n - 1)
        q = log_q.exp().double() * step
        for part in rows.split(max(1, 16_384 // n)):
            many = torch.cat([x[part].repeat_interleave(n, 0), e.repeat(len(part))[:, None]], 1)
            log_joint = joint.log_prob(many).view(-1, n).nan_to_num(FLOOR, FLOOR, FLOOR)
            log_joint = log_joint.double().clamp_min(FLOOR)
            log_w = log_joint - log_q
            log_p = torch.logsumexp(log_joint, 1) + math.log(step)
            elbo = (q * log_w).sum(1)
            coarse = torch.logsumexp(log_joint[:, ::2], 1) + math.log(2 * step)
            coarse_elbo = (2 * q[::2] * log_w[:, ::2]).sum(1)
            edge = (
                (log_joint[:, [0, -1]] - log_p[:, None]).exp().amax(1)
            )  # of the posterior density
            error = torch.stack([(log_p - coarse).abs(), (elbo - coarse_elbo).abs(), edge]).amax(0)
            variance = (q * (log_w - elbo[:, None]) ** 2).sum(1)
            out[:, part] = torch.stack([log_p, elbo, variance, error])
        rows = rows[out[3, rows] > TOL]
        if not len(rows):
            break
    return tuple(out)


def bound(flow: Flow, x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L_K(x), ELBO, variance of log w, L_K - L_{K/2}, (B,) each; the halves share their draws."""
    flow.validate = False
    first, second = flow.iw_bound(x, k // 2), flow.iw_bound(x, k // 2)
    whole = torch.logaddexp(first.value, second.value) - math.log(2)
    half = 0.5 * (first.value + second.value)
    elbo = 0.5 * (first.elbo + second.elbo)
    return whole, elbo, 0.5 * (first.var_log_weight + second.var_log_weight), whole - half


def leaked(flow: Flow, toy: Toy, n: int = 4096) -> float:
    """Share of n samples that lie where there is hardly any data; 0.001 for a perfect model."""
    true = toy.log_prob(toy.sample(20_000, 99).double())
    threshold = true.sort().values[20] - 1e-6
    x = flow.sample(n).double()
    inside = x.isfinite().all(1)
    inside[inside.clone()] = toy.log_prob(x[inside]) >= threshold
    return 1 - inside.double().mean().item()


def steepness(
    flow: Flow, *, start: int = 16_384, keep: int = 64, rounds: int = 12
) -> float | None:
    """Largest norm found of dx / d(base noise), the steepness of the sampler of 1-D data.

    At a point (x, e) it is the norm of the first row of the inverse Jacobian of the layers, so no
    layer has to be inverted, in float64. Steep places are narrow: the best of random points are
    followed by ever smaller steps. None where the sampler draws noise between its layers.
    """
    if flow.chain.stochastic_inverse:
        return None
    double = copy.deepcopy(flow).double()
    layers = list(double.chain)[0 if flow.exact else 1 :]  # the first one draws e
    g = torch.Generator().manual_seed(0)

    def slope(v: Tensor) -> Tensor:
        with torch.enable_grad():
            z = v.requires_grad_()
            for layer in layers:
                z, _ = layer(z)
            rows = [torch.autograd.grad(c.sum(), v, retain_graph=True)[0] for c in z.T]
        first = torch.zeros_like(v)
        first[:, 0] = 1
        return torch.linalg.solve(torch.stack(rows, 2), first).norm(dim=1)

    v = torch.randn(start, flow.base.shape[0], generator=g, dtype=torch.float64) * 1.5
    v[:, 0] = torch.linspace(-5, 5, start, dtype=torch.float64)
    for i in range(rounds + 1):
        if i:  # the best so far, and others around them
            near = torch.randn(start // keep // 8, *v.shape, generator=g, dtype=torch.float64)
            v = torch.cat([v, (v + 0.3 * 0.4**i * near).flatten(0, 1)])
        found = slope(v)
        best = found.topk(keep)
        v = v.detach()[best.indices]
    return best.values[0].item()


def rows_of(measured: list[dict]) -> dict[str, list]:
    """[{name: value}] of several seeds -> {name: [values]}."""
    return {name: [m[name] for m in measured] for name in measured[0]}
