"""The plane of data and noise after every half-step of a trained augmented flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import traitlets
from torch import Tensor

from .. import plots
from ..coupling import AffineCoupling
from ..flow import Flow
from ..gap import noise_features, quadrature
from ..transform import Inverse
from .base import Explorer, source
from .draws import normals, uniforms
from .export import export_flow, import_flow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 1200


class JointExplorer(Explorer):
    """Follow data and noise, or the model's samples, through a 1 + 1-dimensional ANF.

    Half-step 2n - 1 is the encoder of step n (it moves the noise), half-step 2n its decoder (it moves
    the data); between half-steps points glide on straight lines. A line at one x is carried along:
    on it lie p(e | x) and q(e), whose KL divergence is gap(x).

    Args:
        flow: `Augment`, then encoders and decoders in turn; one feature of data, one of noise.
        traits: initial values of the traits below.

    Traits:
        step: half-steps done, 0 to 2N.
        x: the example.
        cloud: "data with noise", or "samples of the model".
        spec: the flow as the page reads it.

    Raises:
        ValueError: a flow of another kind.
    """

    _esm = source(
        "arrays.js", "layers.js", "flow.js", "quadrature.js", "draws.js",
        "base.js", "plot.js", "noise.js", "joint.js",
    )  # fmt: skip
    _css = source("base.css", "joint.css")
    alt = (
        "The plane of data and noise after a half-step of a trained augmented flow, with a cloud of "
        "points, the model's density and the line of one example; beside it q(e) and p(e given x)."
    )
    controls = ("step", "x", "cloud")

    step = traitlets.Float(0.0, min=0.0, max=10.0).tag(sync=True, label="half-steps", step=0.25)
    x = traitlets.Float(1.0, min=-4.0, max=4.0).tag(sync=True, label="example x", step=0.05)
    cloud = traitlets.Unicode("data with noise").tag(sync=True, label="points")
    spec = traitlets.Dict().tag(sync=True)

    def __init__(self, flow: Flow, **traits: Any) -> None:
        layers = list(flow.chain)
        kinds = [
            isinstance(
                layer.layer if i % 2 and isinstance(layer, Inverse) else layer, AffineCoupling
            )
            for i, layer in enumerate(layers[1:])
        ]
        if (
            flow.base.shape != (2,)
            or noise_features(flow) != 1
            or len(kinds) % 2
            or not all(kinds)
        ):
            raise ValueError(
                f"JointExplorer: got {flow}, expected Augment, then N times an AffineCoupling and "
                "the Inverse of one, on one feature of data and one of noise"
            )
        self.half_steps = len(kinds)
        spec = export_flow(flow)
        self._flow = import_flow(spec).double()
        super().__init__(**{"spec": spec, **traits})

    @traitlets.validate("step", "cloud")
    def _known(self, proposal: dict[str, Any]) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name == "cloud" and value not in self.options("cloud"):
            raise traitlets.TraitError(f"JointExplorer: cloud is {value!r}, expected one of "
                                       f"{self.options('cloud')}")  # fmt: skip
        if name == "step" and value > self.half_steps:
            raise traitlets.TraitError(
                f"JointExplorer: step is {value}, should not be greater than {self.half_steps}"
            )
        return value

    def options(self, name: str) -> list[str]:
        return ["data with noise", "samples of the model"]

    def _control(self, name: str) -> dict[str, Any]:
        control = super()._control(name)
        return {**control, "max": self.half_steps} if name == "step" else control

    def compute(self) -> dict[str, float]:
        at = quadrature(self._flow, torch.tensor([[self.x]], dtype=torch.float64))
        return {"log_prob": at.log_p.item(), "elbo": at.elbo.item(), "gap": at.gap.item()}

    def points(self) -> Tensor:
        """The cloud after 0, 1, ..., 2N half-steps, (2N + 1, 1200, 2): first block, second block."""
        layers = list(self._flow.chain)[1:]
        if self.cloud == "data with noise":
            x = 4.0 * (uniforms(1, POINTS) < 0.5) - 2 + 0.5 * normals(2, POINTS)
            stages = [torch.stack([x, normals(3, POINTS)], dim=1)]
            for layer in layers:
                stages.append(layer(stages[-1])[0].detach())
            return torch.stack(stages)
        stages = [torch.stack([normals(4, POINTS), normals(5, POINTS)], dim=1)]
        for layer in reversed(layers):
            stages.append(layer.inverse(stages[-1])[0].detach())
        return torch.stack(stages[::-1])

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        stages, names = self.points(), ["(x, e)"]
        names += [f"{kind} {n}" for n in range(1, 10) for kind in ("encoder", "decoder")]
        figure = Figure(figsize=(6.4, 1.9), layout="constrained")
        for axes, stage, name in zip(
            figure.subplots(1, len(stages), sharey=True), stages, names, strict=False
        ):
            axes.scatter(*stage.T, s=1, c=(stages[0][:, 0] > 0), cmap=plots.DENSITY)
            axes.set(xlim=(-6, 6), ylim=(-6, 6), xticks=(-4, 0, 4), aspect="equal")
            axes.set_title(name, fontsize=8)
        return figure
