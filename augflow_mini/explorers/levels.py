"""Levels of noise: the shares of a hierarchical model's gap, exact where it is linear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import traitlets
from torch import Tensor

from .. import plots
from ..distributions import StandardNormal
from ..flow import Flow
from ..gap import LinearGaussian, ScalarANF
from ..recipes import hierarchical_anf
from ..transform import Inverse
from .base import Explorer, source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RHO, REST = 0.8, 0.6  # z_l = RHO z_(l+1) + REST y_l keeps every z_l standard normal
ONE = ScalarANF(1.0, 0.0, 1.1, 0.6)  # what is below the levels: p(x | z_1)


@dataclass(frozen=True)
class Levels:
    """A chain of levels above the running example, with encoders that may be off.

    Args:
        levels: L, one number of noise each.
        spread: variance of q(z_1 | x) in units of the posterior's.
        link: slope of every q(z_l | z_(l-1)), l > 1, in units of the posterior's.
        slope: slope of q(z_1 | x) in units of the posterior's.
        width: scale of the upper encoders in units of the posterior's.
    """

    levels: int
    spread: float
    link: float
    slope: float = 1.0
    width: float = 1.0

    def flow(self) -> Flow:
        """The model as `hierarchical_anf`, its networks one linear layer each."""
        n = self.levels
        layers = hierarchical_anf(1, [1] * n, hidden=())
        flow = Flow(layers, StandardNormal(1 + n)).double()
        first = ([self.slope * ONE.k], math.sqrt(self.spread * ONE.v))
        upper = [
            ([0.0] * (level - 1) + [self.link * RHO], self.width * REST)
            for level in range(2, n + 1)
        ]
        decode_x = ([ONE.c] + [0.0] * (n - 1), ONE.d)
        decode_z = [([RHO] + [0.0] * (n - level - 1), REST) for level in range(1, n)]
        settings = [first, *upper, decode_x, *decode_z]
        for layer, (slopes, scale) in zip(list(flow.chain)[1:], settings, strict=True):
            coupling = layer.layer if isinstance(layer, Inverse) else layer
            last = coupling.net.layers[-1]
            if len(slopes) < last.weight.shape[1]:  # an encoder reads x before the levels below
                slopes = [0.0] * (last.weight.shape[1] - len(slopes)) + slopes
            with torch.no_grad():
                last.weight.copy_(torch.tensor([[0.0] * len(slopes), slopes], dtype=torch.float64))
                last.bias.copy_(torch.tensor([math.log(scale), 0.0], dtype=torch.float64))
        return flow

    def shares(self, x: Tensor) -> Tensor:
        """gap_l(x), by the layers' matrix and the chain rule in the encoder's order: (B, L)."""
        mean, precision = (whole := LinearGaussian.from_flow(self.flow())).posterior(x)
        root = torch.linalg.cholesky(torch.linalg.inv(precision))  # e_l given those below it
        back = torch.linalg.inv(root)
        square = (back * back).sum(1) + (mean @ back.T) ** 2
        found = 0.5 * (square - 1) + root.diagonal().log()
        assert torch.allclose(found.sum(1), whole.gap(x), atol=1e-9)
        return found


class LevelsExplorer(Explorer):
    """Widen the first encoder or loosen the links and watch the shares of the levels.

    Traits:
        spread, link, levels: as in `Levels`.
        x: the example.
        slope, width: as in `Levels`, from Python only.
    """

    _esm = source("base.js", "plot.js", "levels.js")
    _css = source("base.css")
    alt = (
        "Stacked bands over the variance of the first encoder, one for each level of noise; "
        "stacked bars of the negative log-likelihood and the levels' shares of the gap, for one "
        "example and for the mean over the data."
    )
    controls = ("spread", "link", "levels", "x")

    spread = traitlets.Float(2.0, min=0.2, max=4.0).tag(
        sync=True, label="variance of level 1", step=0.05
    )
    link = traitlets.Float(0.25, min=0.0, max=1.5).tag(
        sync=True, label="link between levels", step=0.05
    )
    levels = traitlets.Int(2, min=1, max=6).tag(sync=True, label="levels L", step=1)
    x = traitlets.Float(1.0, min=-3.0, max=3.0).tag(sync=True, label="example x", step=0.1)
    slope = traitlets.Float(1.0, min=-2.0, max=3.0).tag(sync=True)
    width = traitlets.Float(1.0, min=0.2, max=3.0).tag(sync=True)

    def model(self) -> Levels:
        """The model of the present state."""
        return Levels(self.levels, self.spread, self.link, self.slope, self.width)

    def compute(self) -> dict[str, float]:
        x = torch.tensor([[self.x]], dtype=torch.float64)
        shares = self.model().shares(x)[0]
        log_prob = ONE.log_prob(x).item()
        gap = shares.sum().item()
        found = {f"level_{i + 1}": share.item() for i, share in enumerate(shares)}
        return {"log_prob": log_prob, "elbo": log_prob - gap, "gap": gap, **found}

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 2.5), layout="constrained")
        axes = figure.subplots()
        spreads = torch.linspace(0.2, 4.0, 60, dtype=torch.float64)
        x = torch.tensor([[self.x]], dtype=torch.float64)
        rows = [
            Levels(self.levels, t, self.link, self.slope, self.width).shares(x)[0]
            for t in spreads.tolist()
        ]
        colours = [plots.PURPLE, plots.SKY, plots.YELLOW, plots.GREEN, plots.ORANGE, plots.GREY]
        names = [f"level {i + 1}" for i in range(self.levels)]
        axes.stackplot(spreads, torch.stack(rows, 1).numpy(), colors=colours, labels=names)
        axes.axvline(self.spread, color="black", linestyle=":", linewidth=1)
        axes.set(
            xlabel="variance of the first encoder, in units of the right one", ylabel="gap, nats"
        )
        axes.legend(ncols=3)
        return figure
