"""Trained augmented flows on a two-mode mixture: p(e | x), the gap over x, model error and gap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import traitlets
from torch import Tensor

from .. import plots
from ..gap import Quadrature, noise_features, quadrature
from .base import Explorer, source
from .export import import_flow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MixtureExplorer(Explorer):
    """Choose a model and an example; see p(e | x) against q(e) and where along x the gap sits.

    Args:
        models: a list of {"name": ..., "flow": export_flow(flow)}, with an optional "note" of a
            sentence; flows with one feature of data and one of noise.
        traits: initial values of the traits below.

    Traits:
        model: name of the model shown.
        x: the example.
        components: the data's law, a mixture of Gaussians [[weight, mean, sd], ...].

    Raises:
        ValueError: no models, or one that is not 1 + 1 dimensional.
    """

    _esm = source(
        "arrays.js", "layers.js", "flow.js", "quadrature.js",
        "base.js", "plot.js", "noise.js", "mixture.js",
    )  # fmt: skip
    _css = source("base.css")
    alt = (
        "Data, model density and bound over x with the gap below; q(e) and p(e given x) over the "
        "noise; model error and mean gap of each model as stacked bars."
    )
    controls = ("model", "x")

    model = traitlets.Unicode().tag(sync=True, label="model")
    x = traitlets.Float(1.0, min=-4.0, max=4.0).tag(sync=True, label="example x", step=0.05)
    models = traitlets.List().tag(sync=True)
    components = traitlets.List([[0.5, -2.0, 0.5], [0.5, 2.0, 0.5]]).tag(sync=True)

    def __init__(self, models: list[dict[str, Any]], **traits: Any) -> None:
        if not models:
            raise ValueError(
                "MixtureExplorer got no models, expected [{'name': ..., 'flow': export_flow(...)}]"
            )
        self._flows = {m["name"]: import_flow(m["flow"]).double() for m in models}
        for name, flow in self._flows.items():
            if flow.base.shape != (2,) or noise_features(flow) != 1:
                raise ValueError(
                    f"MixtureExplorer: {name!r} has base {flow.base} and {noise_features(flow)} "
                    "noise features, expected one feature of data and one of noise"
                )
        super().__init__(**{"models": models, "model": models[0]["name"], **traits})

    @traitlets.validate("model")
    def _known(self, proposal: dict[str, Any]) -> str:
        if proposal["value"] not in self._flows:
            raise traitlets.TraitError(
                f"MixtureExplorer: model is {proposal['value']!r}, expected one of "
                f"{sorted(self._flows)}"
            )
        return proposal["value"]

    def options(self, name: str) -> list[str]:
        return list(self._flows)

    def compute(self) -> dict[str, float]:
        at = self._integrate(torch.tensor([[self.x]], dtype=torch.float64))
        return {"log_prob": at.log_p.item(), "elbo": at.elbo.item(), "gap": at.gap.item()}

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        x = torch.linspace(-4.5, 4.5, 161, dtype=torch.float64)
        curve = self._integrate(x[:, None])
        at = self._integrate(torch.tensor([[self.x]], dtype=torch.float64))
        data = sum(
            w * torch.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))
            for w, m, s in self.components
        )
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.fill_between(x, data, color=plots.GREEN, alpha=0.3, label="data")
        left.plot(x, curve.log_p.exp(), color=plots.BLUE, label="p(x)")
        left.plot(x, curve.elbo.exp(), "--", color=plots.ORANGE, label="exp ELBO(x)")
        left.axvline(self.x, color="black", linewidth=1, linestyle=":")
        left.set(xlabel=f"data x ({self.model})", ylabel="density")
        seen = at.e[0, :, 0].abs() < 5
        e, q, p = at.e[0, seen, 0], at.log_q[0, seen].exp(), at.log_posterior[0, seen].exp()
        right.plot(e, q, "--", color=plots.ORANGE, label="q(e)")
        right.plot(e, p, color=plots.BLUE, label="p(e | x)")
        right.set(xlabel="noise e, at the dotted x", ylabel="density")
        for axes in (left, right):
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize="small")
        return figure

    def _integrate(self, x: Tensor) -> Quadrature:
        return quadrature(self._flows[self.model], x)
