"""What a family of flows cannot do, computed before any training: three floors, in nats.

They separate three things that are easily mixed up: how a coupling may change volume
(`constant_jacobian_floor`), how steep a map may be (`steepness_frontier`), and what one affine
coupling can see (`one_coupling_floor`). Each is a lower bound on a loss, not a promise that training
reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]


def log_ball_volume(n: int) -> float:
    """log volume of the unit ball in n dimensions; 0 for n = 0."""
    return 0.5 * n * math.log(math.pi) - math.lgamma(0.5 * n + 1)


def constant_jacobian_floor(noise: int, *, dims: int = 2) -> float:
    """Least excess loss of a constant-|det| flow on data uniform over a set, nats.

    For additive couplings and linear layers |det| is one number c. A target uniform on any set of
    finite volume A in R^dims, augmented with k = `noise` standard normal dimensions, n = dims + k:

        KL(p(x) q(e) || p_model(x, e)) >= F(k)
        F(k) = -(k/2) log(2 pi e) + (n/2) log(2 pi) + n/2 - (n/2) log(n / M) - log(V_n / V_k)

    with V_d the unit ball's volume and M = E[r^(2k/n)], r chi-distributed with k degrees of freedom;
    F(0) for dims = 2 is 1 - log 2. The loss itself, the negative AMLE objective plus H(e) left out,
    is F(k) + log A. For k >= 1 it bounds the ELBO's loss, not the marginal NLL.

    Args:
        noise: k = D_E >= 0.
        dims: D_X >= 1.

    Raises:
        ValueError: noise < 0 or dims < 1.

    Superlevel sets of p(x) q(e) keep their volume times c; E||f||^2 is least when their images are
    nested balls (rearrangement); the best c makes E||f||^2 = n.
    """
    if noise < 0 or dims < 1:
        raise ValueError(
            f"constant_jacobian_floor(noise={noise}, dims={dims}): expected >= 0, >= 1"
        )
    k, n = noise, dims + noise
    if k == 0:  # every point of the set is alike: it fills a ball evenly, E r^2 = n/(n+2) R^2
        log_m = math.log(n / (n + 2))
    else:
        log_m = k / n * math.log(2) + math.lgamma(0.5 * k + k / n) - math.lgamma(0.5 * k)
    return (
        -0.5 * k * math.log(2 * math.pi * math.e)
        + 0.5 * n * math.log(2 * math.pi)
        + 0.5 * n
        - 0.5 * n * (math.log(n) - log_m)
        - log_ball_volume(n)
        + log_ball_volume(k)
    )


def rearrangement_floor(log_density: Tensor, cell: float, *, dims: int) -> float:
    """`constant_jacobian_floor` for any density, from its values on a grid, nats.

    The grid's cells, sorted from dense to thin, fill nested balls; the floor follows from
    E||f||^2 there and the best constant determinant. On a set-uniform target times N(0, I_k) it is
    an independent computation of the closed form.

    Args:
        log_density: log p at the centres of equal cells that cover its mass (any shape).
        cell: volume of one cell in R^dims.
        dims: n, dimension of the space the grid lies in (data and noise together).

    Raises:
        ValueError: the cells hold less than 99 % of the mass.
    """
    log_p = log_density.flatten().double().sort(descending=True).values
    log_p = log_p[log_p > -math.inf]  # empty cells hold nothing and need no room
    p = log_p.exp() * cell
    mass = p.sum().item()
    if abs(mass - 1) > 0.01:
        raise ValueError(
            f"rearrangement_floor: the grid holds a mass of {mass:.4f}, expected 1 within 0.01; "
            "widen or refine it"
        )
    p = p / mass
    entropy = -(p * log_p).sum().item()
    middle = (torch.arange(len(p), dtype=torch.float64) + 0.5) * cell  # volume filled so far
    radius2 = torch.exp(2 / dims * (middle.log() - log_ball_volume(dims)))
    # |det| = c scales radius^2 by c^(2/n); C = E||f||^2 = n is best, so log c = n/2 log(n / E r^2)
    log_c = 0.5 * dims * (math.log(dims) - math.log((p * radius2).sum().item()))
    return -entropy + 0.5 * dims * math.log(2 * math.pi) + 0.5 * dims - log_c


def steepness_frontier(
    log_density: LogDensity, steepness: float, *, low: float, high: float, cells: int = 2000
) -> float:
    """Least KL(data || model) of any L-Lipschitz sampler of 1-D data, in nats.

    The law of a Lipschitz map of Gaussian noise, of any dimension, is also the law of a monotone
    1-D map with the same constant (Gaussian isoperimetry), so extra dimensions do not help here.
    With S = T^{-1} the monotone map from data to noise, S' >= 1/L, the excess is

        min over S of  E_p[S^2 / 2 - log S'] + (1/2) log 2 pi - H(p),

    a convex problem, solved on a grid.

    Args:
        log_density: log p on points (N, 1).
        steepness: L, the Lipschitz constant of the sampler.
        low, high: interval that holds the data's mass.
        cells: grid size; halve or double it to see the discretisation error.

    Raises:
        ValueError: steepness is not positive, or the interval misses mass.
    """
    if not steepness > 0:
        raise ValueError(
            f"steepness_frontier: steepness is {steepness}, expected a positive number"
        )
    dx = (high - low) / cells
    x = low + (np.arange(cells) + 0.5) * dx
    log_p = log_density(torch.as_tensor(x)[:, None]).double().numpy()
    p = np.exp(log_p) * dx
    if abs(p.sum() - 1) > 1e-3:
        raise ValueError(
            f"steepness_frontier: [{low}, {high}] holds a mass of {p.sum():.4f}, expected 1"
        )
    entropy = -(p * log_p).sum()

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        start, slope = v[0], v[1:]  # S at `low`, S' on each cell
        s = start + (np.cumsum(slope) - 0.5 * slope) * dx  # S at the centres
        ps = p * s
        tail = np.cumsum(ps[::-1])[
            ::-1
        ]  # a slope moves its own centre by half, all later ones fully
        grad = np.concatenate([[ps.sum()], (tail - 0.5 * ps) * dx - p / slope])
        return 0.5 * (ps * s).sum() - (p * np.log(slope)).sum(), grad

    # Start at the exact optimum without the constraint, cut off at 1/L: S = Phi^{-1}(F(x))
    uniform = np.clip(np.cumsum(p) - 0.5 * p, 1e-12, 1 - 1e-12)
    free = np.gradient(torch.special.ndtri(torch.as_tensor(uniform)).numpy(), dx)
    slope = np.maximum(free, 1.001 / steepness)
    centre = np.searchsorted(np.cumsum(p), 0.5)
    start = -(slope[:centre].sum() * dx)
    found = minimize(
        loss,
        np.concatenate([[start], slope]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(None, None)] + [(1 / steepness, None)] * cells,
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-13, "gtol": 1e-9, "maxcor": 50},
    )
    return float(found.fun + 0.5 * math.log(2 * math.pi) - entropy)


def one_coupling_floor(
    log_density: LogDensity, *, low: float, high: float, cells: int = 800, angle: float = 0.0
) -> float:
    """Least NLL of one affine coupling that moves x2 given x1 (x1 itself affine), nats.

        1/2 log(2 pi e Var x1) + E 1/2 log(2 pi e Var(x2 | x1))

    Args:
        log_density: log p on points (N, 2).
        low, high: square that holds the data's mass after rotation.
        cells: grid cells along each axis.
        angle: rotation of the axes before the coupling, radians.

    Raises:
        ValueError: the square misses mass.
    """
    width = (high - low) / cells
    axis = low + (torch.arange(cells, dtype=torch.float64) + 0.5) * width
    u, v = torch.meshgrid(axis, axis, indexing="ij")
    c, s = math.cos(angle), math.sin(angle)
    points = torch.stack([c * u - s * v, s * u + c * v], dim=-1).reshape(-1, 2)
    p = log_density(points).double().reshape(cells, cells).exp() * width**2
    if abs(p.sum().item() - 1) > 0.02:
        raise ValueError(
            f"one_coupling_floor: the square holds a mass of {p.sum().item():.4f}, expected 1; widen "
            "it or use more cells"
        )
    p = p / p.sum()
    p1 = p.sum(1)
    inside = width**2 / 12  # variance within a cell: a column of one cell is no point mass
    var1 = (p1 * axis**2).sum() - (p1 * axis).sum() ** 2 + inside
    seen = p1 > 1e-12
    mean2 = (p[seen] * axis).sum(1) / p1[seen]
    var2 = (p[seen] * axis**2).sum(1) / p1[seen] - mean2**2 + inside
    log_2pie = math.log(2 * math.pi * math.e)
    return (
        0.5 * (log_2pie + var1.log()) + (0.5 * p1[seen] * (log_2pie + var2.log())).sum()
    ).item()
