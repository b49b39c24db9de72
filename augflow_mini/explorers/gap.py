"""The augmentation gap where everything is a formula: a scalar linear-Gaussian flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import traitlets

from .. import plots
from ..gap import ScalarANF, quadrature
from .base import Explorer, source

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GapExplorer(Explorer):
    """Move the encoder of a one-step flow and watch the gap take its share of a fixed log p(x).

        z = a e + b x,   y = (x - c z) / d;   gap(x) = KL(N(0, 1) || p(e | x))

    Only the decoder (c, d) decides log p(x); a and b decide the gap, which is 0 at a^2 = v, b = k.

    Traits:
        a, b: scale and slope of the encoder.
        x: the example.
        k: importance samples K.
        c, d: slope and scale of the decoder, set from Python only.
    """

    _esm = source("arrays.js", "closed_form.js", "base.js", "plot.js", "noise.js", "gap.js")
    _css = source("base.css")
    alt = (
        "Two bell curves over the noise, q(e) and p(e given x), and two bars: the negative "
        "log-likelihood with the gap on top, for one importance sample and for K."
    )
    controls = ("a", "b", "x", "k")

    a = traitlets.Float(0.7, min=0.2, max=1.2).tag(sync=True, label="encoder scale a", step=0.01)
    b = traitlets.Float(0.3, min=-0.2, max=1.2).tag(sync=True, label="encoder slope b", step=0.01)
    x = traitlets.Float(1.0, min=-3.0, max=3.0).tag(sync=True, label="example x", step=0.05)
    k = traitlets.Int(8, min=1, max=64).tag(sync=True, label="samples K", step=1)
    c = traitlets.Float(1.1, min=-3.0, max=3.0).tag(sync=True)
    d = traitlets.Float(0.6, min=0.05, max=3.0).tag(sync=True)

    def model(self) -> ScalarANF:
        """The model of the present state."""
        return ScalarANF(self.a, self.b, self.c, self.d)

    def compute(self) -> dict[str, float]:
        model, x = self.model(), torch.tensor([[self.x]], dtype=torch.float64)
        exact = quadrature(model.flow(), x)  # through the layers, not through the formulas
        gap_k = model.iw_gap(x, self.k).item()
        log_prob = exact.log_p.item()
        return {
            "log_prob": log_prob, "elbo": exact.elbo.item(), "gap": exact.gap.item(),
            "bound": log_prob - gap_k, "gap_k": gap_k,
        }  # fmt: skip

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        model, x = self.model(), torch.tensor(self.x, dtype=torch.float64)
        e = torch.linspace(-5, 5, 301, dtype=torch.float64)
        mean, var = model.posterior(x)
        normal = torch.distributions.Normal
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        q, p = normal(0.0, 1.0).log_prob(e).exp(), normal(mean, var.sqrt()).log_prob(e).exp()
        left.plot(e, q, "--", color=plots.ORANGE, label="q(e)")
        left.plot(e, p, color=plots.BLUE, label="p(e | x)")
        left.set(xlabel="noise e", ylabel="density")
        left.legend()
        nll, gaps = -model.log_prob(x).item(), [model.iw_gap(x, k).item() for k in (1, self.k)]
        rows = ["K = 1", f"K = {self.k} "]
        right.barh(rows, nll, color=plots.BLUE, label="-log p(x), the NLL")
        right.barh(rows, gaps, left=nll, color=plots.PURPLE, hatch="//", label="gap")
        right.set(xlabel="nats, less is better")
        right.invert_yaxis()
        right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        return figure
