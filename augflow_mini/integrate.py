"""Integrate the augmentation noise out by quadrature: log p(x), the bound and the posterior.

For one or two noise features. The grid follows the posterior of each example and says how far it
may be off: a fixed grid can miss a narrow posterior without a sign.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .augment import Slice
from .distributions import LOG_2PI, Fixed, GaussianNet, Law, StandardNormal, StandardUniform
from .flow import Flow
from .transform import Inverse, Transform

# By the number of noise features: how many deviations a grid covers to each side (1e-13 lies
# beyond 7.5), and how many times wider the first look for the posterior is.
REACH, START = {1: 9.0, 2: 7.5}, {1: 3.0, 2: 2.0}

# ---- the chain with its noise given, not drawn ----------------------------------------------


def log_joint(flow: Flow, x: Tensor, e: Tensor) -> Tensor:
    """log p(x, e): the model's density of data and noise together, with e given. (B,), nats.

    Args:
        flow: a model whose only source of noise is `Augment`.
        x: data (B, D_X).
        e: noise (B, D_E) as `Augment` draws it; several `Augment`s share it in their order.

    Raises:
        ValueError: another layer draws noise, or e has another width.
    """
    return run_on(flow, x, e)[0]


def run_on(
    flow: Flow,
    x: Tensor,
    noise: Tensor,
    shape: Callable[[Law, Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the chain on given noise: log p(x, e), log q(e | x), e and the base's latent.

    `shape(law, given, noise)` turns the noise into e; without it the noise is e.
    """
    total, log_q, used, at = 0.0, 0.0, [], 0
    for layer in flow.chain:
        law = augment_law(layer)
        if law is not None:
            width = _width(law, x)
            part = noise[:, at : at + width]
            at += width
            if part.shape[1] < width:
                break  # too narrow: said below
            e = shape(law, x, part) if shape else part
            log_q = log_q + law.log_prob(e, x)
            x = layer.layer.replay(x, e)
            used.append(e)
        elif layer.stochastic_forward:
            raise ValueError(
                f"{type(layer).__name__} draws noise that cannot be given, expected a chain whose "
                "noise comes from Augment; use iw_bound(x, k)"
            )
        else:
            x, contrib = layer(x)
            total = total + contrib
    if at != noise.shape[1]:
        raise ValueError(
            f"got noise of shape {tuple(noise.shape)}, expected (B, {noise_features(flow)}): what "
            "the flow's Augments draw together"
        )
    return flow.base.log_prob(x) + total, log_q, torch.cat(used, 1) if used else noise, x


def augment_law(layer: Transform) -> Law | None:
    """q(e | x) where the layer is an `Augment`, else None."""
    is_augment = isinstance(layer, Inverse) and isinstance(layer.layer, Slice)
    return layer.layer.law if is_augment else None


def noise_features(flow: Flow) -> int:
    """D_E: how many noise features the flow's `Augment`s draw beside (B, D) data."""
    total = 0
    for layer in flow.chain:
        law = augment_law(layer)
        if law is not None:
            like = next(law.parameters(), torch.empty(0))
            total += _width(law, like.new_zeros(1, layer.layer.keep))
    return total


def integrable(flow: Flow) -> bool:
    """Whether `quadrature` takes this flow of (B, D) data."""
    laws = [augment_law(layer) for layer in flow.chain if layer.stochastic_forward]
    return all(map(_is_known, laws)) and noise_features(flow) in (1, 2)


def _is_known(law: Law | None) -> bool:
    fixed = isinstance(law, StandardNormal | StandardUniform) and len(law.shape) == 1
    return fixed or isinstance(law, GaussianNet)


def _width(law: Law, given: Tensor) -> int:
    if _is_known(law):
        return law.shape[0] if isinstance(law, Fixed) else law.net(given).shape[1] // 2
    raise ValueError(
        f"got noise from {law}, expected StandardNormal(D_E), StandardUniform(D_E) or a "
        "GaussianNet beside (B, D) data; use iw_bound(x, k)"
    )


def _from_normal(law: Law, given: Tensor, noise: Tensor) -> Tensor:
    """Standard normal numbers -> noise with the given law, smoothly: the rule stays fast."""
    if isinstance(law, StandardUniform):  # kept off 1, which is outside [0, 1), and off logit(0)
        info = torch.finfo(noise.dtype)
        return torch.special.ndtr(noise).clamp(info.tiny, 1 - info.eps)
    if isinstance(law, GaussianNet):
        log_s, mean = law.net(given).chunk(2, dim=1)
        return mean + log_s.exp() * noise
    return noise


def as_double(flow: Flow) -> Flow:
    """A float64 copy on the CPU in eval mode; the caller's flow is left as it is."""
    return copy.deepcopy(flow).to("cpu", torch.float64).eval()


# ---- quadrature -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Quadrature:
    """log p(x), the bound and the posterior by the trapezoid rule, for B examples; float64, nats.

    Attributes:
        log_p: log p(x), (B,).
        elbo: E_q[log w], (B,).
        error: what leaving out every second node changes, (B,), summed over the two integrals; as
            a rule it overstates the error of the full grid.
        edge: share of either integral in the outermost sixteenth of the grid, (B,): near 0, or
            mass lies outside.
        e: noise at the N nodes that cover the posterior, (B, N, D_E).
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
        log_ratio = torch.where(self.mass > 0, self.log_posterior - self.log_q, 0.0)
        return self.log_p + (self.mass * log_ratio).sum(1)


def quadrature(
    flow: Flow, x: Tensor, *, tol: float = 1e-6, max_nodes: int | None = None
) -> Quadrature:
    """Integrate the noise out, on a grid that follows the posterior of each example.

    A window is moved, turned and shrunk until it fits the posterior; then the nodes are doubled
    where the step-halving error or the mass at the edge asks for it. The bound is integrated over
    q on a grid of its own. Work is done in float64 on a copy of the flow.

    With smooth networks (tanh, SiLU) the error falls faster than any power of the step; with ReLU
    the log-weight has kinks and it falls with the step's square. A mode of the posterior much
    narrower than 1/5 of the noise's deviation *beside a broad one* (in two dimensions: 3/4), or a
    second mode more than 27 (15) deviations out, can be missed by the first scan, and no error
    estimate on the grid can see that.

    Args:
        flow: a model of (B, D) data whose noise comes from `Augment` and has 1 or 2 features; a
            posterior flow after it, uniform or `GaussianNet` noise are welcome.
        x: data (B, D_X).
        tol: step-halving error to reach, of each integral; the mass at the edge is brought below
            tol / 100.
        max_nodes: nodes for each noise feature at most, 9 or more; 2049 for one feature, 129 for
            two. Where that is not enough, `error` and `edge` say so.

    Raises:
        ValueError: not 1 or 2 noise features, noise that cannot be given (see `log_joint`), or
            fewer than 9 nodes.
    """
    flow._check(x)
    flow, x = as_double(flow), x.detach().to("cpu", torch.float64)
    d = noise_features(flow)
    if d not in (1, 2) or x.dim() != 2:
        raise ValueError(
            f"quadrature: got data of shape {tuple(x.shape)} and {d} noise features, expected "
            "(B, D_X) and 1 or 2; use iw_bound(x, k) or measure_gap(flow, x)"
        )
    limit = (2049 if d == 1 else 129) if max_nodes is None else max_nodes
    if limit < 9:
        raise ValueError(f"quadrature: max_nodes is {max_nodes}, expected at least 9")

    def joint_at(rows: Tensor, t: Tensor) -> list[Tensor]:
        """log p(x, e), log q(e | x) and e at the nodes t (b, N, d) of some examples, in parts."""
        out = []
        per = max(1, 65_536 // t.shape[1])  # bounded memory
        for r, part in zip(rows.split(per), t.split(per), strict=True):
            many = x[r].repeat_interleave(part.shape[1], dim=0)
            joint, log_q, e, _ = run_on(flow, many, part.flatten(0, 1), _from_normal)
            out.append((joint.view(len(r), -1), log_q.view(len(r), -1), e.view(part.shape)))
        return [torch.cat(parts) for parts in zip(*out, strict=True)]

    def log_w(rows: Tensor, t: Tensor) -> Tensor:  # (b,), (b, N, d) -> (b, N)
        joint, log_q, _ = joint_at(rows, t)
        return joint - log_q

    def posterior(rows: Tensor, t: Tensor) -> Tensor:  # unnormalised; no mass where it overflows
        values = log_w(rows, t) + _log_normal(t)
        return torch.where(values.isnan(), -math.inf, values)

    with torch.no_grad():
        centre, axes = _find(posterior, x, d)
        nodes = 129 if d == 1 else 65
        while nodes > limit:  # odd, so that every second node is a grid too
            nodes = (nodes + 1) // 2
        log_p, error, edge = _integrate(posterior, centre, axes, nodes, limit, tol, over_q=False)
        zero, eye = torch.zeros_like(centre), torch.eye(d, dtype=x.dtype).expand_as(axes)
        elbo, error_q, edge_q = _integrate(log_w, zero, eye, nodes, limit, tol, over_q=True)

        s, log_cell = _grid(nodes, d)
        t = centre[:, None] + s @ axes.mT
        joint, log_q, e = joint_at(torch.arange(len(x)), t)
        mass = torch.softmax(joint - log_q + _log_normal(t) + log_cell, dim=1)
    return Quadrature(
        log_p=log_p,
        elbo=elbo,
        error=error + error_q,
        edge=torch.maximum(edge, edge_q),
        e=e,
        log_posterior=joint - log_p[:, None],
        log_q=log_q,
        mass=mass,
    )


def _log_normal(t: Tensor) -> Tensor:
    return -0.5 * ((t * t).sum(-1) + t.shape[-1] * LOG_2PI)


def _grid(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Nodes (n^d, d) on [-reach, reach]^d and their log trapezoid weights (n^d,)."""
    line = torch.linspace(-REACH[d], REACH[d], n, dtype=torch.float64)
    weight = torch.full((n,), math.log(2 * REACH[d] / (n - 1)), dtype=torch.float64)
    weight[[0, -1]] -= math.log(2)
    nodes, weights = (
        torch.stack(torch.meshgrid(*[v] * d, indexing="ij"), dim=-1).reshape(-1, d)
        for v in (line, weight)
    )
    return nodes, weights.sum(1)


def _find(f: Callable, x: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Centre (B, d) and axes (B, d, d) of the density exp(f), by moving and shrinking a window.

    A posterior narrower than the grid shows on one node only. So moments are taken of exp(f / T),
    with the T that spreads the mass over a few nodes: for a Gaussian that keeps centre and shape,
    and the next, smaller window needs less of it. Where the top lies on the border the window
    moves there and doubles.
    """
    s, log_cell = _grid(257 if d == 1 else 41, d)
    border, eye = (s.abs() == REACH[d]).any(1), torch.eye(d, dtype=x.dtype)
    centre, axes = x.new_zeros(len(x), d), START[d] * eye.repeat(len(x), 1, 1)
    rows = torch.arange(len(x))
    for _ in range(60):
        values = f(rows, centre[rows, None] + s @ axes[rows].mT)
        top, at = values.max(1, keepdim=True)
        values = (values - top.clamp(min=-1e300)).clamp(min=-1e12)  # no inf - inf
        temper = torch.ones_like(top)
        for _ in range(40):
            w = torch.softmax(values / temper + log_cell, dim=1)
            few = (w * w).sum(1, keepdim=True) * 4**d > 1  # fewer than 4^d nodes count
            if not few.any():
                break
            temper = torch.where(few, 2 * temper, temper)
        mean = w @ s
        off = s - mean[:, None]
        u, size, _ = torch.linalg.svd(torch.einsum("bn,bni,bnj->bij", w, off, off) + 1e-9 * eye)
        # A tempered posterior is wider than itself: it may shrink the window, never widen it.
        size = torch.where(temper > 1, size.sqrt().clamp(max=1), size.sqrt())
        root = u * size[:, None]
        outside = border[at[:, 0]]
        mean = torch.where(outside[:, None], s[at[:, 0]], mean)
        root = torch.where(outside[:, None, None], 2 * eye, root)
        centre[rows] = centre[rows] + (axes[rows] @ mean[:, :, None])[:, :, 0]
        axes[rows] = axes[rows] @ root
        settled = (size > 0.7).all(1) & (size < 1.5).all(1) & (mean.abs() < 1).all(1)
        rows = rows[~settled | outside]
        if len(rows) == 0:
            break
    return centre, axes


def _integrate(
    f: Callable,
    centre: Tensor,
    axes: Tensor,
    n: int,
    limit: int,
    tol: float,
    *,
    over_q: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """log of the integral of exp(f), or (over_q) the mean of f under N(0, I).

    Returns value, error and edge, (B,) each.
    """
    d, rows = centre.shape[1], torch.arange(len(centre))
    result = centre.new_full((3, len(centre)), math.nan)
    axes, known = axes.clone(), None
    while True:
        s, log_cell = _grid(n, d)
        border, even = (s.abs() > REACH[d] * 15 / 16).any(1), _every_second(n, d)
        coarse_cell = _grid((n + 1) // 2, d)[1]
        t = centre[rows, None] + s @ axes[rows].mT
        if known is None:
            values = f(rows, t)
        else:  # every second node was there before
            values = t.new_empty(t.shape[:2])
            values[:, even], values[:, ~even] = known, f(rows, t[:, ~even])
        if over_q:
            mass = torch.exp(_log_normal(t) + log_cell)
            coarse_mass = torch.exp(_log_normal(t[:, even]) + coarse_cell)
            fine, coarse = (mass * values).sum(1), (coarse_mass * values[:, even]).sum(1)
            edge = (mass * values)[:, border].abs().sum(1) / fine.abs().clamp_min(1)
        else:
            volume = torch.linalg.slogdet(axes[rows]).logabsdet
            fine = torch.logsumexp(values + log_cell, 1) + volume
            coarse = torch.logsumexp(values[:, even] + coarse_cell, 1) + volume
            edge = torch.exp((values + log_cell)[:, border] + (volume - fine)[:, None]).sum(1)
        error = (fine - coarse).abs()
        result[:, rows] = torch.stack([fine, error, edge])
        wide = edge > tol / 100
        again = ~(error <= tol) | wide
        n = 2 * n - 1
        if not again.any() or n > limit:
            return tuple(result)
        known = values[again]
        if not over_q and wide.any():
            axes[rows[wide]] *= 2
            known = None
        rows = rows[again]


def _every_second(n: int, d: int) -> Tensor:
    """Which of the n^d nodes also belong to the grid of half as many steps."""
    even = torch.arange(n) % 2 == 0
    return even if d == 1 else (even[:, None] & even).reshape(-1)


__all__ = ["Quadrature", "log_joint", "noise_features", "quadrature"]
