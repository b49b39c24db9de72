"""Integers, their noise and a second noise: both terms of the gap, exact on five bins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import traitlets
from torch import Tensor

from .. import plots
from ..augment import Augment
from ..dequantize import Carry
from ..distributions import StandardNormal, StandardUniform
from ..flow import Flow
from ..gap import ScalarANF, quadrature
from ..pointwise import Scale
from ..transform import Transform
from .base import Explorer, source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = 5


class Lean(Transform):
    """Uniform noise that leans towards a centre: r(u | x) is proportional to exp(kappa u).

    forward   (x, v) -> (x, log(1 + v (e^kappa - 1)) / kappa),   kappa = -lean (x + 1/2 - centre)
    inverse   (x, u) -> (x, (e^(kappa u) - 1) / (e^kappa - 1))
    contrib   log du/dv = -log r(u | x)

    Args:
        lean: 0 for uniform noise; 1 / sigma^2 gives the slope of log N(t; centre, sigma^2).
        centre: where the noise leans to.
    """

    def __init__(self, lean: float, centre: float) -> None:
        super().__init__()
        self.lean, self.centre = lean, centre

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        whole, v = x.chunk(2, dim=1)
        kappa = self._kappa(whole)
        u = torch.log1p(v * torch.expm1(kappa)) / kappa
        u = u.clamp(0.0, 1 - torch.finfo(u.dtype).eps)  # rounding must not lead to the next bin
        return torch.cat([whole, u], dim=1), -self._log_r(u, kappa)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        whole, u = z.chunk(2, dim=1)
        kappa = self._kappa(whole)
        v = torch.expm1(kappa * u) / torch.expm1(kappa)
        return torch.cat([whole, v], dim=1), self._log_r(u, kappa)

    def _kappa(self, whole: Tensor) -> Tensor:
        kappa = -self.lean * (whole + 0.5 - self.centre)
        return torch.where(kappa.abs() < 1e-9, torch.full_like(kappa, 1e-9), kappa)

    @staticmethod
    def _log_r(u: Tensor, kappa: Tensor) -> Tensor:
        return (kappa * u - (torch.expm1(kappa) / kappa).log()).sum(1)


@dataclass(frozen=True)
class Bins:
    """Five integers under N(t; centre, sigma^2), their noise leaning, a noise z beside t.

    Args:
        lean, centre: as in `Lean`.
        sigma: width of the model.
        encoder: slope of q(z | t) in units of the posterior's.
        rho: correlation of t and z; P(x) does not depend on it.
    """

    lean: float
    sigma: float
    encoder: float
    centre: float = 2.65
    rho: float = 0.8

    def scalar(self) -> ScalarANF:
        """The flow behind the integers, on t - centre."""
        v = 1 - self.rho**2
        slope = self.encoder * self.rho / self.sigma
        return ScalarANF(math.sqrt(v), slope, self.rho * self.sigma, math.sqrt(v) * self.sigma)

    def flow(self, *, z: bool = True) -> Flow:
        """The model as layers; without z the same P(x), and only the first term of the gap."""
        front = [
            Augment(StandardUniform(1), keep=1),
            Lean(self.lean, self.centre),
            Carry(LEVELS),
        ]
        if z:
            centred = Scale(LEVELS, shift=-self.centre)
            return Flow([*front, centred, *self.scalar().flow().chain], StandardNormal(2))
        normal = Scale(LEVELS / self.sigma, shift=-self.centre / self.sigma)
        return Flow([*front, normal], StandardNormal(1))

    def terms(self) -> dict[str, Tensor]:
        """log P(x), bound and both terms for each integer: P by the CDF, the rest by nodes."""
        x = torch.arange(LEVELS, dtype=torch.float64)
        u, du = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(80))
        u, du = (u + 1) / 2, du / 2
        t = x[:, None] + u - self.centre
        low, high = (x - self.centre) / self.sigma, (x + 1 - self.centre) / self.sigma
        low, high = (
            torch.where(low + high > 0, -high, low),
            torch.where(low + high > 0, -low, high),
        )
        ndtr = torch.special.ndtr  # in the lower tail, where a difference keeps its digits
        log_p = (ndtr(high) - ndtr(low)).log()
        kappa = -self.lean * (x + 0.5 - self.centre)[:, None]
        log_r = torch.log_softmax(kappa * u + du.log(), dim=1) - du.log()
        mass = log_r.exp() * du
        scalar = self.scalar()
        first = (mass * (log_r - scalar.log_prob(t))).sum(1) + log_p
        second = (mass * scalar.gap(t)).sum(1)
        bound = log_p - first - second
        return {"log_p": log_p, "bound": bound, "dequantisation": first, "augmentation": second}

    def by_layers(self) -> dict[str, Tensor]:
        """The same by the library's quadrature over both noises, for each integer."""
        x = torch.arange(LEVELS, dtype=torch.float64)[:, None]
        both, one = (quadrature(self.flow(z=z), x, tol=1e-7) for z in (True, False))
        return {"log_p": both.log_p, "bound": both.elbo, "dequantisation": one.gap}


class DequantiseExplorer(Explorer):
    """Lean the noise of an integer and watch both terms of its gap.

    Five integers; the model's density is N(t; centre, sigma^2) on t = x + u, and beside t it has
    a noise z as in `ScalarANF`, so that every term is known:

        gap(x) = KL(r(u | x) || p(u | x)) + E_r KL(q(z | t) || p(z | t))

    Traits:
        x: the integer.
        lean: slope of log r(u | x) towards the centre; 0 is uniform noise.
        sigma: width of the model.
        encoder: slope of q(z | t) in units of the posterior's; at 1 the second term is 0.
        frequency: the data's law on 0 to 4.
        centre: of the model, set from Python only.
    """

    _esm = source("base.js", "plot.js", "dequantise.js")
    _css = source("base.css")
    alt = (
        "A bell curve over five bins with their areas and the data's frequencies; the posterior "
        "of the noise within one bin against the law of the noise; bars of the negative "
        "log-likelihood with the gaps of dequantisation and augmentation on top."
    )
    controls = ("x", "lean", "sigma", "encoder")

    x = traitlets.Int(1, min=0, max=4).tag(sync=True, label="integer x", step=1)
    lean = traitlets.Float(0.0, min=-1.0, max=6.0).tag(
        sync=True, label="lean of the noise", step=0.05
    )
    sigma = traitlets.Float(0.8, min=0.4, max=2.0).tag(sync=True, label="model width", step=0.05)
    encoder = traitlets.Float(0.7, min=0.0, max=1.5).tag(
        sync=True, label="encoder slope", step=0.05
    )
    frequency = traitlets.List([0.05, 0.2, 0.4, 0.25, 0.1]).tag(sync=True)
    centre = traitlets.Float(2.65, min=0.0, max=5.0).tag(sync=True)
    rho = traitlets.Float(0.8, min=0.0, max=0.99).tag(sync=True)

    @traitlets.validate("frequency")
    def _a_law(self, proposal: dict) -> list[float]:
        values = proposal["value"]
        if len(values) != LEVELS or min(values) <= 0 or abs(sum(values) - 1) > 1e-9:
            raise traitlets.TraitError(
                f"DequantiseExplorer: frequency is {values}, expected five positive numbers "
                "with the sum 1"
            )
        return values

    def model(self) -> Bins:
        """The model of the present state."""
        return Bins(self.lean, self.sigma, self.encoder, self.centre, self.rho)

    def compute(self) -> dict[str, float]:
        found, weight = self.model().terms(), torch.tensor(self.frequency, dtype=torch.float64)
        mean = {f"mean_{k}": (weight @ v).item() for k, v in found.items()}
        return {k: v[self.x].item() for k, v in found.items()} | mean

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        found, normal = self.model().terms(), torch.distributions.Normal(self.centre, self.sigma)
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        t = torch.linspace(-0.5, 5.5, 200, dtype=torch.float64)
        middles = [i + 0.5 for i in range(LEVELS)]
        left.bar(middles, found["log_p"].exp().tolist(), 0.96, color=plots.SKY, label="P(x)")
        left.plot(t, normal.log_prob(t).exp(), color=plots.BLUE, label="p(t)")
        left.plot(middles, self.frequency, "_", color=plots.GREEN, markersize=16, label="data")
        left.set(xlabel="t = x + u")
        u = torch.linspace(0.0, 1.0, 200, dtype=torch.float64)
        posterior = (normal.log_prob(self.x + u) - found["log_p"][self.x]).exp()
        kappa = -self.lean * (self.x + 0.5 - self.centre)
        r = torch.softmax(kappa * u, dim=0) * len(u)
        middle.plot(u, posterior, color=plots.BLUE, label=f"p(u | x = {self.x})")
        middle.plot(u, r, "--", color=plots.ORANGE, label="r(u | x)")
        middle.set(xlabel="noise u", ylim=(0, None))
        bottom = torch.zeros(LEVELS, dtype=torch.float64)
        for name, height, colour, hatch in (
            ("-log P(x)", -found["log_p"], plots.BLUE, ""),
            ("dequantisation", found["dequantisation"], plots.PURPLE, ""),
            ("augmentation", found["augmentation"], plots.PURPLE, "//"),
        ):
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": name}
            right.bar(range(LEVELS), height.tolist(), bottom=bottom.tolist(), **look)
            bottom = bottom + height
        right.set(xlabel="integer x; nats")
        for axes in (left, middle, right):
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="x-small")
        return figure
