"""A flow that trains in the page: choose data, noise and layers, press Train, watch the gap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import traitlets

from .. import plots
from ..data import TOYS
from ..floors import constant_jacobian_floor
from ..flow import Flow
from ..gap import quadrature
from ..integrate import run_on
from .base import Explorer, source
from .draws import normals
from .export import import_flow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {  # as the page calls them -> augflow_mini.data
    "two moons": "two_moons",
    "eight Gaussians": "eight_gaussians",
    "checkerboard": "checkerboard",
    "rings": "rings",
    "spirals": "spirals",
    "two modes, 1-D": "two_modes",
}
OPTIONS = {
    "target": [*NAMES, "your drawing"],
    "kind": ["affine", "additive"],
    "q": ["N(0, I)", "Gaussian", "flow"],
    "rate": ["0.001", "0.002", "0.005", "0.01", "0.02"],
}
DRAWS = 100  # K of the page's estimate
EIGHT = [  # a drawing to start from: it crosses itself
    [round(3 * math.sin(t / 32 * math.pi), 2), round(1.6 * math.sin(t / 16 * math.pi), 2)]
    for t in range(64)
]


def _choice(name: str, label: str) -> Any:
    return traitlets.Unicode(OPTIONS[name][0]).tag(sync=True, label=label)


class Playground(Explorer):
    """Train vflow(D_X, D_E, ...) in the page: couplings of tanh networks, Adam, batches of 128.

    Noise e ~ q(e | x) beside the data, `ActNorm`, then couplings that move the two halves in turn
    with an `InvertibleLinear` before every second one. No weight starts at zero.

    Args:
        controls: names of the traits that get a control; all eight by default.
        traits: initial values of the traits below.

    Traits:
        target, kind, noise, couplings, width, q, rate, seed: the setting. noise is D_E.
        drawn: points [[x1, x2], ...] of "your drawing"; the data are Gaussians around them.
        trained: the model that the page trained, written when training pauses; see `flow`.
    """

    _esm = source(
        "arrays.js", "layers.js", "flow.js", "quadrature.js", "draws.js", "base.js", "plot.js",
        "playground_data.js", "playground_model.js", "playground_draw.js", "playground_session.js",
        "playground.js",
    )  # fmt: skip
    _css = source("base.css", "playground.css")
    alt = (
        "Data points over the density of a model, samples of the model, and curves of the negative "
        "log-likelihood, the bound and the gap while it trains."
    )
    controls = ("target", "noise", "kind", "couplings", "width", "q", "rate", "seed")

    target = _choice("target", "data")
    kind = _choice("kind", "couplings are")
    noise = traitlets.Int(1, min=0, max=4).tag(sync=True, label="noise D_E", step=1)
    couplings = traitlets.Int(6, min=1, max=12).tag(sync=True, label="couplings", step=1)
    width = traitlets.Int(16, min=4, max=32).tag(sync=True, label="width", step=4)
    q = _choice("q", "q(e | x)")
    rate = traitlets.Unicode("0.005").tag(sync=True, label="learning rate")
    seed = traitlets.Int(1, min=1, max=10).tag(sync=True, label="seed", step=1)
    drawn = traitlets.List(EIGHT).tag(sync=True)
    known = traitlets.Dict().tag(sync=True)
    trained = traitlets.Dict().tag(sync=True)

    def __init__(self, *, controls: tuple[str, ...] | None = None, **traits: Any) -> None:
        if controls is not None:
            self.controls = tuple(controls)
        super().__init__(**{"known": _known(), **traits})

    @traitlets.validate("target", "kind", "q", "rate")
    def _offered(self, proposal: dict[str, Any]) -> str:
        name, value = proposal["trait"].name, proposal["value"]
        if value not in OPTIONS[name]:
            raise traitlets.TraitError(
                f"Playground: {name} is {value!r}, expected one of {OPTIONS[name]}"
            )
        return value

    def options(self, name: str) -> list[str]:
        return OPTIONS[name]

    def flow(self) -> Flow:
        """The model that the page trained, in torch, float64.

        Raises:
            ValueError: nothing has been trained yet.
        """
        if not self.trained:
            raise ValueError("Playground: no model yet; show it, press Train, then Pause")
        return import_flow(self.trained["flow"])

    def compute(self) -> dict[str, float]:
        """NLL, bound and gap on the page's test points; empty before the page has a model.

        Exact without noise and by quadrature for one number of noise; for more, log (1/K) sum_k w_k
        and mean_k log w_k from the page's own K = 100 draws a point.
        """
        if not self.trained:
            return {}
        flow, dims = self.flow(), self.trained["dims"]
        x = torch.tensor(self.trained["test"], dtype=torch.float64).view(dims, -1).T
        noise = flow.base.shape[0] - dims
        with torch.no_grad():
            if noise == 0:
                log_p = elbo = flow.log_prob(x)
            elif noise == 1:
                exact = quadrature(flow, x)
                log_p, elbo = exact.log_p, exact.elbo
            else:
                n = noise * DRAWS
                e = torch.cat([normals(i, n).view(noise, DRAWS).T for i in range(len(x))])
                log_joint, log_q, *_ = run_on(flow, x.repeat_interleave(DRAWS, 0), e)
                log_w = (log_joint - log_q).view(-1, DRAWS)
                log_p, elbo = log_w.logsumexp(1) - math.log(DRAWS), log_w.mean(1)
        nll, bound = -log_p.mean().item(), elbo.mean().item()
        return {"nll": nll, "bound": bound, "gap": -bound - nll}

    def picture(self) -> Figure:
        """The data, and the entropy that no model's NLL can pass."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        if self.target in NAMES:
            x = TOYS[NAMES[self.target]].sample(500, seed=0)
        else:
            x = torch.tensor(self.drawn or [[0.0, 0.0]])
        across = x[:, 1] if x.shape[1] > 1 else torch.zeros(len(x))
        left.plot(x[:, 0], across, ".", color=plots.GREEN, markersize=3)
        left.set(xlabel="x1", ylabel="x2", xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), title=self.target)
        fact = self.known.get(self.target)
        if fact:
            for key, colour in (("gaussian", plots.BLUE), ("entropy", plots.GREEN)):
                right.axhline(fact[key], color=colour, linestyle="--", label=key)
            right.legend(loc="center", bbox_to_anchor=(0.5, 0.5))
        right.set(xlabel="steps of training", ylabel="NLL, nats", xlim=(0, 2000))
        return figure


def _known() -> dict[str, dict[str, Any]]:
    """Of each target: its entropy, the best Gaussian's NLL, floors of additive flows by D_E."""
    known: dict[str, dict[str, Any]] = {
        name: {"entropy": TOYS[key].entropy, "gaussian": TOYS[key].gaussian}
        for name, key in NAMES.items()
    }
    board = known["checkerboard"]  # uniform on a set, so its floors are a formula
    board["floors"] = [board["entropy"] + constant_jacobian_floor(k) for k in range(5)]
    return known
