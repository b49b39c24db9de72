"""Additive couplings as leapfrog steps: areas, the way back, the energy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import traitlets
from torch import Tensor, nn

from .. import plots
from ..coupling import AdditiveCoupling
from ..transform import Chain
from .base import Explorer, source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

U, V = slice(0, 1), slice(1, 2)
TIME = 12.0  # the energy error is taken up to here
COUNTS = (256, 512, 1024)  # steps to that time, for the order in h


class Kick(nn.Module):
    """The network of a velocity update: -h/2 V'(u), with V(u) = u^4 / 4 - u^2."""

    def __init__(self, h: float) -> None:
        super().__init__()
        self.h = h

    def forward(self, u: Tensor) -> Tensor:
        return -0.5 * self.h * (u**3 - 2 * u)


class Drift(Kick):
    """The network of a position update: h v."""

    def forward(self, v: Tensor) -> Tensor:
        return self.h * v


def leapfrog(h: float, steps: int) -> Chain:
    """`steps` steps of size h as a chain of additive couplings on (u, v)."""
    kick = AdditiveCoupling(Kick(h), reads=U, writes=V)
    drift = AdditiveCoupling(Drift(h), reads=V, writes=U)
    return Chain([kick, drift, kick] * steps)


def euler(h: float, steps: int, state: Tensor) -> Tensor:
    """The same force with both blocks moved at once: no coupling, areas are not kept."""
    for _ in range(steps):
        u, v = state[:, :1], state[:, 1:]
        state = torch.cat([u + h * v, v - h * (u**3 - 2 * u)], dim=1)
    return state


def energy(state: Tensor) -> Tensor:
    """v^2 / 2 + V(u): (B,)."""
    u, v = state[:, 0], state[:, 1]
    return 0.5 * v**2 + 0.25 * u**4 - u**2


class LeapfrogExplorer(Explorer):
    """Carry a patch of data and noise by leapfrog steps, or by Euler's, which are no couplings.

    Traits:
        h: the step.
        steps: how many.
        update: "leapfrog" or "Euler".
        noise: half the width of the patch in the noise; 0 pads with zeros.
        start: centre (u, v) of the patch and its half width in the data, from Python only.
    """

    _esm = source("base.js", "plot.js", "leapfrog.js")
    _css = source("base.css")
    alt = (
        "A patch of points in the plane of data and noise before and after leapfrog steps, drawn "
        "out along the level lines of an energy with two wells; the energy error against the "
        "step, a line of slope two."
    )
    controls = ("h", "steps", "update", "noise")

    h = traitlets.Float(0.1, min=0.02, max=0.4).tag(sync=True, label="step h", step=0.02)
    steps = traitlets.Int(40, min=0, max=120).tag(sync=True, label="steps", step=1)
    update = traitlets.Unicode("leapfrog").tag(sync=True, label="update")
    noise = traitlets.Float(0.35, min=0.0, max=0.5).tag(
        sync=True, label="width of the noise", step=0.05
    )
    start = traitlets.List([0.9, 0.0, 0.35]).tag(sync=True)

    def options(self, name: str) -> list[str]:
        return ["leapfrog", "Euler"]

    @traitlets.validate("update")
    def _known(self, proposal: dict) -> str:
        if proposal["value"] not in self.options("update"):
            raise traitlets.TraitError(
                f"LeapfrogExplorer: update is {proposal['value']!r}, expected 'leapfrog' or 'Euler'"
            )
        return proposal["value"]

    def move(self, state: Tensor, *, h: float | None = None, steps: int | None = None) -> Tensor:
        """The chosen update, `steps` times: (B, 2) -> (B, 2)."""
        h, steps = self.h if h is None else h, self.steps if steps is None else steps
        if self.update == "Euler":
            return euler(h, steps, state)
        return leapfrog(h, steps)(state)[0] if steps else state

    def area_ratio(self, nodes: int = 40) -> float:
        """Mean of det over the patch, by autograd: polar Gauss-Legendre nodes."""
        r, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(nodes))
        r, weight = (r + 1) / 2, weight * (r + 1) / 2
        angle = torch.arange(2 * nodes, dtype=torch.float64) * math.pi / nodes
        unit = torch.stack([angle.cos(), angle.sin()], dim=1)
        u, v, width = self.start
        scale = torch.tensor([width, self.noise], dtype=torch.float64)
        points = torch.tensor([u, v], dtype=torch.float64) + r[:, None, None] * unit * scale
        det = self.determinants(points.flatten(0, 1)).view(nodes, -1).mean(1)
        return (det @ weight / weight.sum()).item()

    def determinants(self, points: Tensor) -> Tensor:
        """det of the whole map at each point, by autograd: (B,)."""
        rows = torch.autograd.functional.jacobian(
            lambda p: self.move(p).sum(0), points, vectorize=True
        )
        return torch.linalg.det(rows.transpose(0, 1))

    def largest_error(self, h: float, steps: int) -> float:
        """Of the energy, along the path of the patch's centre."""
        path = [torch.tensor([self.start[:2]], dtype=torch.float64)]
        one = leapfrog(h, 1)
        with torch.no_grad():
            for _ in range(steps):
                last = path[-1]
                path.append(one(last)[0] if self.update == "leapfrog" else euler(h, 1, last))
        return (energy(torch.cat(path)) - energy(path[0])).abs().max().item()

    def order(self) -> float:
        """Slope of log(largest energy error up to TIME) against log h."""
        lost = [self.largest_error(TIME / n, n) for n in COUNTS]
        return float(np.polyfit(np.log(TIME / np.array(COUNTS)), np.log(lost), 1)[0])

    def compute(self) -> dict[str, float]:
        start = torch.tensor([self.start[:2]], dtype=torch.float64)
        end = self.move(start)
        back = self.move(end, h=-self.h)
        return {
            "u": end[0, 0].item(), "v": end[0, 1].item(),
            "det": self.determinants(start).item(), "miss": (back - start).norm().item(),
            "lost": self.largest_error(self.h, self.steps),
        }  # fmt: skip

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 2.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        u, v, width = self.start
        angle = torch.linspace(0, 2 * math.pi, 720, dtype=torch.float64)
        rim = torch.stack([u + width * angle.cos(), v + self.noise * angle.sin()], dim=1)
        side = torch.linspace(-2.4, 2.4, 121), torch.linspace(-2, 2, 101)
        levels = energy(torch.cartesian_prod(*side)).view(121, 101).T
        heights = [-0.9, -0.6, -0.3, 0, 0.5, 1.2]
        left.contour(*side, levels, heights, colors=plots.GREY, linewidths=0.6)
        left.fill(*rim.T, color=plots.GREEN, alpha=0.4, label="before")
        left.fill(*self.move(rim).T, color=plots.BLUE, alpha=0.6, label=f"{self.steps} steps")
        left.set(xlabel="data u", ylabel="noise v")
        counts = (32, 64, 128)
        lost = [self.largest_error(TIME / n, n) for n in counts]
        right.loglog([TIME / n for n in counts], lost, ".-", color=plots.BLUE, label=self.update)
        right.set(xlabel="step h", ylabel="energy error")
        for axes in (left, right):
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize="small")
        return figure
