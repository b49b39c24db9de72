"""Model error and gap as two stacked bars, and the steps in q and in p that lower their sum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import traitlets
from torch import Tensor, nn

from .. import plots
from ..augment import Augment
from ..coupling import AffineCoupling
from ..data import TOYS
from ..distributions import StandardNormal
from ..flow import Flow
from ..gap import LinearGaussian, ScalarANF
from ..integrate import quadrature
from ..transform import Inverse, Transform
from .base import Explorer, source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANCE = 4.0  # of the linear problem's data


class TwoBarsExplorer(Explorer):
    """Joint KL = model error + gap for a linear model of data N(0, 4), where both are formulas.

        q: z = a e + b x,   p: x = c z + d y;   e, y, z standard normal

    The page's buttons find the best value of each parameter of q, or of p, in turn, or go down the
    gradient in all of them. A step in q lowers the gap and leaves the model error; a step in p
    lowers the sum and may raise the gap.

    Traits:
        a, b: scale and slope of q.
        c, d: slope and noise of p.
    """

    _esm = source("arrays.js", "joint_kl.js", "base.js", "plot.js", "two_bars.js")
    _css = source("base.css")
    alt = (
        "The laws p and q over data and noise, and the joint KL as a bar: the model error with "
        "the gap on top."
    )
    controls: tuple[str, ...] = ("a", "b", "c", "d")
    reach = 5.0

    problem = traitlets.Unicode("linear", read_only=True).tag(sync=True)
    a = traitlets.Float(0.7, min=0.1, max=1.5).tag(sync=True, label="q: scale a", step=0.01)
    b = traitlets.Float(0.3, min=-0.2, max=1.2).tag(sync=True, label="q: slope b", step=0.01)
    c = traitlets.Float(1.1, min=0.0, max=2.6).tag(sync=True, label="p: slope c", step=0.01)
    d = traitlets.Float(0.6, min=0.3, max=2.4).tag(sync=True, label="p: noise d", step=0.01)

    def flow(self) -> Flow:
        """The model of the present state: `Augment`, the layers of q, the decoder's inverse."""
        return ScalarANF(self.a, self.b, self.c, self.d).flow()

    def compute(self) -> dict[str, float]:
        linear, one = LinearGaussian.from_flow(self.flow()), torch.ones(1, 1, dtype=torch.float64)
        error, gap = (
            f(0 * one[0], VARIANCE * one).item() for f in (linear.model_error, linear.expected_gap)
        )
        entropy = 0.5 * (1 + math.log(2 * math.pi * VARIANCE))
        return {"error": error, "gap": gap, "sum": error + gap, "nll": error + entropy}

    def data_density(self, x: Tensor) -> Tensor:
        """Density of the data."""
        return torch.exp(-0.5 * x**2 / VARIANCE) / math.sqrt(2 * math.pi * VARIANCE)

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        x = torch.linspace(-self.reach, self.reach, 121, dtype=torch.float64)
        at, now = quadrature(self.flow(), x[:, None]), self.compute()
        figure = Figure(figsize=(6.4, 2.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        left.fill_between(x, self.data_density(x), color=plots.GREEN, alpha=0.3, label="data")
        left.plot(x, at.log_p.exp(), color=plots.BLUE, label="p(x)")
        left.set(xlabel="data x", ylabel="density")
        right.bar("now", now["error"], color=plots.BLUE, label="model error")
        right.bar(
            "now", now["gap"], bottom=now["error"], color=plots.PURPLE, hatch="//", label="gap"
        )
        right.set(ylabel="nats", xlim=(-1.5, 1.5))
        for axes in (left, right):
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        return figure


class TwoModesBarsExplorer(TwoBarsExplorer):
    """The same two bars for two modes and a curved decoder, by quadrature; q from three families.

        p: x = c tanh(t z) + d y,   z, y ~ N(0, 1)
        q: z = e;   z = b x + a e;   z = b x + a sinh(asinh(e) + h tanh(x))

    Each family holds the one before it. The page moves a, b and h by its buttons only.

    Traits:
        family: "N(0, 1)", "Gaussian" or "flow".
        a, b, h: scale, slope and skew of q.
        c, t, d: height, steepness and noise of p.
    """

    alt = (
        "Two modes of data, the model's density and its noise given x against q, and the joint KL "
        "as a bar: the model error with the gap on top."
    )
    controls = ("family", "c", "t", "d", "a", "b", "h")
    reach = 4.0
    families = ("N(0, 1)", "Gaussian", "flow")

    problem = traitlets.Unicode("two modes", read_only=True).tag(sync=True)
    family = traitlets.Unicode("N(0, 1)").tag(sync=True, label="q is in the family")
    a = traitlets.Float(1.0, min=0.1, max=1.5).tag(sync=True, label="a", step=0.01, hidden=True)
    b = traitlets.Float(0.0, min=-0.2, max=1.2).tag(sync=True, label="b", step=0.01, hidden=True)
    h = traitlets.Float(0.0, min=0.0, max=2.0).tag(sync=True, label="h", step=0.01, hidden=True)
    c = traitlets.Float(1.5, min=0.0, max=2.6).tag(sync=True, label="p: height c", step=0.01)
    t = traitlets.Float(1.0, min=0.2, max=5.0).tag(sync=True, label="p: steepness t", step=0.01)
    d = traitlets.Float(0.8, min=0.4, max=2.2).tag(sync=True, label="p: noise d", step=0.01)

    @traitlets.validate("family")
    def _known(self, proposal: dict[str, str]) -> str:
        if proposal["value"] not in self.families:
            raise traitlets.TraitError(
                f"TwoModesBarsExplorer: family is {proposal['value']!r}, expected one of "
                f"{self.families}"
            )
        return proposal["value"]

    def options(self, name: str) -> list[str]:
        return list(self.families)

    def flow(self) -> Flow:
        rank = self.families.index(self.family)
        a, b, h = self.a if rank else 1.0, self.b if rank else 0.0, self.h if rank == 2 else 0.0
        x, e = slice(0, 1), slice(1, 2)
        encode = AffineCoupling(_Curve(math.log(a), b), writes=e, reads=x)
        decode = AffineCoupling(_Curve(math.log(self.d), self.c, self.t), writes=x, reads=e)
        layers = [Augment(StandardNormal(1), keep=1), Skew(h), encode, Inverse(decode)]
        return Flow(layers, StandardNormal(2))

    def compute(self) -> dict[str, float]:
        toy = TOYS["two_modes"]
        x = torch.linspace(-6.5, 6.5, 261, dtype=torch.float64)
        weight = self.data_density(x) * 0.05
        at = quadrature(self.flow(), x[:, None], tol=1e-10)
        nll, gap = -(weight @ at.log_p).item(), (weight @ at.gap).item()
        error = nll - toy.entropy
        return {"error": error, "gap": gap, "sum": error + gap, "nll": nll}

    def data_density(self, x: Tensor) -> Tensor:
        return TOYS["two_modes"].log_prob(x[:, None]).exp()


class Skew(Transform):
    """e -> sinh(asinh(e) + h tanh(x)) for the last feature, which leans away from 0 on x's side.

    forward  as above; the other features pass.
    inverse  e = sinh(asinh(z) - h tanh(x)).
    contrib  log cosh(asinh(e) + h tanh(x)) - 1/2 log(1 + e^2).

    Args:
        h: the skew; 0 changes nothing.
    """

    def __init__(self, h: float) -> None:
        super().__init__()
        self.h = h

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._turn(x, self.h)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._turn(z, -self.h)

    def _turn(self, v: Tensor, h: float) -> tuple[Tensor, Tensor]:
        e = v[:, -1]
        angle = torch.asinh(e) + h * torch.tanh(v[:, 0])
        turned = torch.cat([v[:, :-1], torch.sinh(angle)[:, None]], dim=1)
        return turned, torch.log(torch.cosh(angle)) - 0.5 * torch.log1p(e * e)


class _Curve(nn.Module):
    """(log_s, mean): a constant scale, and the mean `slope v`, or `slope tanh(steepness v)`."""

    def __init__(self, log_s: float, slope: float, steepness: float | None = None) -> None:
        super().__init__()
        self.log_s, self.slope, self.steepness = log_s, slope, steepness

    def forward(self, v: Tensor) -> Tensor:
        mean = v if self.steepness is None else torch.tanh(self.steepness * v)
        return torch.cat([torch.full_like(v, self.log_s), self.slope * mean], dim=1)
