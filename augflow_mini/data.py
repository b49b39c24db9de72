"""Data whose answer is known (toys with density and entropy) and real digits in a fixed split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Toy:
    """A density to learn, with its truth.

    Attributes:
        name: also the key in `TOYS`.
        dims: D_X.
        entropy: of the density, nats: no model's mean NLL is below it.
        gaussian: NLL of the best Gaussian, nats; all that a 1-D affine flow can reach.
    """

    name: str
    dims: int
    entropy: float
    gaussian: float
    _draw: Callable[[int, torch.Generator], Tensor] = field(repr=False)
    _density: Callable[[Tensor], Tensor] = field(repr=False)

    def sample(self, n: int, seed: int | torch.Generator) -> Tensor:
        """n draws (n, D_X), float32; the same seed gives the same draws."""
        if isinstance(seed, int):
            seed = torch.Generator().manual_seed(seed)
        return self._draw(n, seed).float()

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (B,), in the dtype of x.

        Raises:
            ValueError: x is not (B, D_X) floating.
        """
        if x.dim() != 2 or x.shape[1] != self.dims or not x.is_floating_point():
            raise ValueError(
                f"{self.name}.log_prob got {x.dtype} {tuple(x.shape)}, expected a floating-point "
                f"tensor (B, {self.dims})"
            )
        return torch.cat([self._density(part) for part in x.split(4096)])


# ---- Gaussian mixtures ----------------------------------------------------------------------


def _mixture(
    name: str,
    means: Sequence[Sequence[float]],
    sigma: float,
    entropy: float,
) -> Toy:
    """Equally weighted Gaussians of deviation sigma."""
    centres = torch.tensor(means, dtype=torch.float64)
    dims = centres.shape[1]
    covariance = centres.T.cov(correction=0).view(dims, dims) + sigma**2 * torch.eye(dims)

    def draw(n: int, g: torch.Generator) -> Tensor:
        which = torch.randint(len(centres), (n,), generator=g)
        return centres[which] + sigma * torch.randn(n, dims, generator=g, dtype=torch.float64)

    return Toy(
        name,
        dims,
        entropy=entropy,
        gaussian=0.5 * (dims * (1 + LOG_2PI) + torch.logdet(covariance).item()),
        _draw=draw,
        _density=lambda x: _log_mean_gaussian(x, centres, sigma),
    )


def _log_mean_gaussian(
    x: Tensor, centres: Tensor, sigma: float, log_weights: Tensor | float = 0.0
) -> Tensor:
    """log of the mean over centres (M, D) of N(x; centre, sigma^2 I), or of their weighted sum."""
    centres = centres.to(x)
    square = sum((x[:, i, None] - centres[:, i]).square() for i in range(x.shape[1]))
    log_p = -square / (2 * sigma**2) - x.shape[1] * (0.5 * LOG_2PI + math.log(sigma))
    if isinstance(log_weights, float):
        return torch.logsumexp(log_p, 1) - math.log(len(centres))
    return torch.logsumexp(log_p + log_weights.to(x), 1)


def _circle(n: int, radius: float) -> list[list[float]]:
    turn = 2 * math.pi / n
    return [[radius * math.cos(turn * i), radius * math.sin(turn * i)] for i in range(n)]


# ---- noisy curves ---------------------------------------------------------------------------


def _curve(
    name: str,
    curve: Callable[[Tensor], Tensor],
    sigma: float,
    entropy: float,
    gaussian: float,
    *,
    power: int = 1,
    nodes: int,
) -> Toy:
    """A point of a curve plus N(0, sigma^2 I), reflected (x -> -x) with chance 1/2.

    The place t on the curve has density power * t^(power - 1) on [0, 1]. The toy's density is an
    integral over t, by Gauss-Legendre with nodes closer than sigma: exact to rounding.
    """
    nodes_t, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(nodes))
    t = (nodes_t + 1) / 2
    both = torch.cat([curve(t), -curve(t)])
    log_weights = (weight / 4 * power * t ** (power - 1)).log().repeat(2)

    def draw(n: int, g: torch.Generator) -> Tensor:
        on_curve = curve(torch.rand(n, generator=g, dtype=torch.float64) ** (1 / power))
        sign = 1 - 2 * torch.randint(2, (n, 1), generator=g, dtype=torch.float64)
        return sign * on_curve + sigma * torch.randn(n, 2, generator=g, dtype=torch.float64)

    density = lambda x: _log_mean_gaussian(x, both, sigma, log_weights)  # noqa: E731
    return Toy(name, 2, entropy, gaussian, draw, density)


def _moon(t: Tensor) -> Tensor:
    """The upper half circle, moved so that its mirror image is the other moon."""
    angle = math.pi * t
    return 2 * torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)


def _spiral(t: Tensor) -> Tensor:
    """Radius 0.5 to 3 over one and a half turns; power 2 makes arcs about equally likely."""
    angle = 3 * math.pi * t
    radius = 0.5 + 2.5 * t
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


# ---- others ---------------------------------------------------------------------------------


def _checkerboard() -> Toy:
    """Uniform on 8 of the 16 squares of side 2 in [-4, 4]^2."""

    def draw(n: int, g: torch.Generator) -> Tensor:
        row = torch.randint(4, (n,), generator=g)
        column = 2 * torch.randint(2, (n,), generator=g) + row % 2
        inside = torch.rand(n, 2, generator=g, dtype=torch.float64)
        return 2 * (torch.stack([column, row], dim=1) + inside) - 4

    def density(x: Tensor) -> Tensor:
        column, row = ((x + 4) / 2).floor().unbind(1)
        inside = (x.abs() < 4).all(1) & ((column + row) % 2 == 0)
        return torch.where(inside, x.new_tensor(-math.log(32)), -math.inf)

    entropy = math.log(32)
    determinant = (16 / 3) ** 2 - 1  # variances 16/3; even rows have even columns: covariance 1
    gaussian = 1 + LOG_2PI + 0.5 * math.log(determinant)
    return Toy("checkerboard", 2, entropy, gaussian, draw, density)


def _rings(radii: Sequence[float] = (1.0, 2.0, 3.0), sigma: float = 0.1) -> Toy:
    """A point of one of the circles, equally likely, plus N(0, sigma^2 I)."""
    circles = torch.tensor(radii, dtype=torch.float64)

    def draw(n: int, g: torch.Generator) -> Tensor:
        radius = circles[torch.randint(len(circles), (n,), generator=g)]
        angle = 2 * math.pi * torch.rand(n, generator=g, dtype=torch.float64)
        on_circle = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
        return on_circle + sigma * torch.randn(n, 2, generator=g, dtype=torch.float64)

    def density(x: Tensor) -> Tensor:  # the integral over the angle is a Bessel function
        r, c = x.norm(dim=1, keepdim=True), circles.to(x)
        bessel = torch.special.i0e(r * c / sigma**2).log()
        log_p = bessel - (r - c).square() / (2 * sigma**2) - LOG_2PI - 2 * math.log(sigma)
        return torch.logsumexp(log_p, 1) - math.log(len(circles))

    variance = (circles.square().mean() / 2 + sigma**2).item()
    return Toy("rings", 2, 2.6489489950, 1 + LOG_2PI + math.log(variance), draw, density)


def _pinwheel(arms: int = 5, rate: float = 1.0) -> Toy:
    """Gaussian arms, deviations 0.5 along and 0.15 across at radius 2, twisted by rate * radius.

    A twist keeps areas, so the density is that of the untwisted point and so is the entropy.
    """
    deviation = torch.tensor([0.5, 0.15], dtype=torch.float64)

    def turn(x: Tensor, angle: Tensor) -> Tensor:
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], dim=1)

    def draw(n: int, g: torch.Generator) -> Tensor:
        arm = torch.randn(n, 2, generator=g, dtype=torch.float64) * deviation
        arm = arm + torch.tensor([2.0, 0.0], dtype=torch.float64)
        which = torch.randint(arms, (n,), generator=g, dtype=torch.float64)
        return turn(arm, which * 2 * math.pi / arms + rate * arm.norm(dim=1))

    def density(x: Tensor) -> Tensor:
        back, terms = -rate * x.norm(dim=1), []
        for i in range(arms):
            arm = turn(x, back - i * 2 * math.pi / arms)
            standard = (arm - torch.tensor([2.0, 0.0]).to(x)) / deviation.to(x)
            terms.append(-0.5 * standard.square().sum(1))
        norm = LOG_2PI + deviation.log().sum().item() + math.log(arms)
        return torch.logsumexp(torch.stack(terms, dim=1), 1) - norm

    variance = (4 + deviation.square().sum().item()) / 2  # radii stay; five arms balance
    gaussian = 1 + LOG_2PI + math.log(variance)
    return Toy("pinwheel", 2, 1.8564619342, gaussian, draw, density)


# Entropies are quadratures of the densities in float64; tests repeat them on another grid.
TOYS: dict[str, Toy] = {
    toy.name: toy
    for toy in (
        _mixture("two_modes", [[-2.0], [2.0]], 0.5, 1.4188449981),
        _mixture("three_modes", [[-2.0], [0.0], [2.0]], 0.25, 1.1311317473),
        _mixture("eight_gaussians", _circle(8, 2.0), 0.15, 1.1230776272),
        _checkerboard(),
        _curve("two_moons", _moon, 0.15, 2.0945576398, 3.2802493029, nodes=160),
        _rings(),
        _pinwheel(),
        _curve("spirals", _spiral, 0.1, 2.6035954877, 3.7483737254, power=2, nodes=400),
    )
}


# ---- digits ---------------------------------------------------------------------------------

DIGITS_SHA256 = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
DIGITS_SPLIT = (1200, 300, 297)


@dataclass(frozen=True)
class Dataset:
    """Integer data in a fixed split.

    Attributes:
        name: of the data set.
        train, valid, test: integers 0 .. levels-1 as float32 (N, D) or (N, C, H, W).
        levels: how many values a number may take.
        labels: class numbers (N,) for 'train', 'valid' and 'test'.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    levels: int
    labels: dict[str, Tensor] = field(repr=False)


def digits() -> Dataset:
    """scikit-learn's handwritten digits: 1797 images 8 x 8 with 17 grey levels, as (N, 64).

    The split is one fixed permutation: 1200 train, 300 valid, 297 test. (Alpaydin & Kaynak 1998,
    UCI; scikit-learn carries the part that UCI calls test, so the split is ours.)

    Raises:
        ValueError: scikit-learn's copy is not the one that all results here were made with.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = bunch.data.astype(np.uint8)
    found = hashlib.sha256(pixels.tobytes()).hexdigest()
    if found != DIGITS_SHA256:
        raise ValueError(
            f"digits: the array has sha256 {found[:16]}..., expected {DIGITS_SHA256[:16]}...; "
            "this scikit-learn carries other data, results would not compare; install 1.3 or later"
        )
    order = np.random.RandomState(0).permutation(len(pixels))  # a stream numpy keeps unchanged
    chunks = np.split(order, np.cumsum(DIGITS_SPLIT)[:-1])
    parts = dict(zip(("train", "valid", "test"), chunks, strict=True))
    images = {name: torch.from_numpy(pixels[rows]).float() for name, rows in parts.items()}
    labels = {name: torch.from_numpy(bunch.target[rows]) for name, rows in parts.items()}
    return Dataset("digits", **images, levels=17, labels=labels)


def histogram_bits(train: Tensor, test: Tensor, levels: int) -> float:
    """Bits/dim on `test` of independent positions, each a histogram of `train` plus one count.

    The baseline that any model of how positions go together must beat.

    Args:
        train, test: integers 0 .. levels-1, (N, ...).
        levels: number of values.
    """
    one_hot = torch.nn.functional.one_hot(train.flatten(1).long(), levels)  # (N, D, levels)
    log_p = torch.log2((one_hot.sum(0) + 1) / (len(train) + levels))
    found = log_p.gather(1, test.flatten(1).long().T)  # (D, N)
    return -found.mean().item()
