"""One log-weight under three names: ANF, VFlow and VAE, term by term."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import traitlets
from torch import nn
from torch.distributions import Normal

from .. import plots
from ..augment import Augment
from ..coupling import AdditiveCoupling, AffineCoupling
from ..distributions import StandardNormal
from ..flow import Flow
from ..tables import ledger
from ..transform import Inverse
from .base import Explorer, source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTED = ("nothing", "scale a", "scale a, shift b x")
X, E = slice(0, 1), slice(1, 2)


class SameNumberExplorer(Explorer):
    """Move the first layers between q and f: terms trade places, the log-weight stays.

        u = a e,   z = u + b x,   y = (x - c z) / d;   e, y, z ~ N(0, 1)

    ANF runs the layers; VFlow takes the density of q by the way back to the noise; VAE adds the
    densities of prior, decoder and encoder.

    Traits:
        counted: which of the first layers VFlow counts to q.
        a: scale of the encoder, the layer whose term changes its bracket.
        x, e: the example and the draw of noise.
        b, c, d: the rest of the scalar model, set from Python only.
    """

    _esm = source("arrays.js", "base.js", "plot.js", "same_number.js")
    _css = source("base.css")
    alt = (
        "Six terms of one log-weight laid end to end, and how ANF, VFlow and VAE group them under "
        "three names with the same total."
    )
    controls = ("counted", "a", "x", "e")

    counted = traitlets.Unicode(COUNTED[2]).tag(sync=True, label="VFlow counts to q")
    a = traitlets.Float(0.7, min=0.2, max=1.5).tag(sync=True, label="scale a", step=0.01)
    x = traitlets.Float(1.0, min=-3.0, max=3.0).tag(sync=True, label="example x", step=0.05)
    e = traitlets.Float(0.4, min=-3.0, max=3.0).tag(sync=True, label="noise e", step=0.05)
    b = traitlets.Float(0.3, min=-1.0, max=1.0).tag(sync=True)
    c = traitlets.Float(1.1, min=-2.0, max=2.0).tag(sync=True)
    d = traitlets.Float(0.6, min=0.4, max=1.5).tag(sync=True)

    @traitlets.validate("counted")
    def _known(self, proposal: dict[str, str]) -> str:
        if proposal["value"] not in COUNTED:
            raise traitlets.TraitError(
                f"SameNumberExplorer: counted is {proposal['value']!r}, expected one of {COUNTED}"
            )
        return proposal["value"]

    def options(self, name: str) -> list[str]:
        return list(COUNTED)

    def flow(self) -> Flow:
        """The model as layers: augment, scale, shift, decode."""
        scale = AffineCoupling(_constant(math.log(self.a), 0.0), writes=E, reads=X)
        decode = AffineCoupling(_constant(math.log(self.d), self.c), writes=X, reads=E)
        shift = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.constant_(shift.weight, self.b)
        layers = [
            Augment(StandardNormal(1), keep=1), scale, AdditiveCoupling(shift, writes=E, reads=X),
            Inverse(decode),
        ]  # fmt: skip
        return Flow(layers, StandardNormal(2))

    def ledgers(self) -> dict[str, dict[str, float]]:
        """Name -> row -> nats; ANF and VFlow by the library's layers, VAE by torch's densities."""
        x, e = (torch.tensor([[v]], dtype=torch.float64) for v in (self.x, self.e))
        flow, z = self.flow(), self.a * e + self.b * x
        rows = {
            "log p(z)": Normal(0.0, 1.0).log_prob(z),
            "log p(x | z)": Normal(self.c * z, self.d).log_prob(x),
            "- log q(z | x)": -Normal(self.b * x, self.a).log_prob(z),
        }
        return {
            "ANF": ledger(flow, x, e),
            "VFlow": ledger(flow, x, e, posterior=COUNTED.index(self.counted)),
            "VAE": {k: v.item() for k, v in rows.items()} | {"total": sum(rows.values()).item()},
        }

    def compute(self) -> dict[str, float]:
        return {name.lower(): rows["total"] for name, rows in self.ledgers().items()}

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 2.4), layout="constrained")
        axes = figure.subplots()
        colours = (plots.BLUE, plots.GREEN, plots.ORANGE)
        for i, (name, rows) in enumerate(self.ledgers().items()):
            at = 0.0
            for j, (part, value) in enumerate(list(rows.items())[:3]):
                row = -4 * i - j
                axes.barh(row, value, left=at, color=colours[j])
                axes.text(2.1, row, f"{part} {value:.4f}", va="center", fontsize="small")
                at += value
            axes.text(-5.4, -4 * i - 1, name, va="center", weight="bold")
            axes.axvline(rows["total"], color="black", linewidth=1, linestyle=":")
        axes.set(
            xlim=(-5.5, 4.5), yticks=[], xlabel="nats, each part starts where the last one ends"
        )
        return figure


def _constant(log_s: float, slope: float) -> nn.Module:
    """(log_s, slope v): a constant scale and a linear shift."""
    net = nn.Linear(1, 2, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0], [slope]], dtype=torch.float64))
        net.bias.copy_(torch.tensor([log_s, 0.0], dtype=torch.float64))
    return net
