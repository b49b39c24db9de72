"""Where augmentation must win and where it cannot: two floors, with trained models above them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import traitlets
from scipy.optimize import brentq
from torch import Tensor

from .. import plots
from ..data import TOYS
from ..distributions import LOG_2PI
from ..floors import constant_jacobian_floor, rearrangement_floor
from .base import Explorer, source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST, TOP = 8, 3.1  # largest D_E; largest log10 of the steepness, below that of the exact map
REGIONS = {"checkerboard": 2, "region of a line": 1, "region of space": 3}  # target -> D_X
ROUND = {"eight Gaussians": "eight_gaussians", "two modes": "two_modes"}


class FloorsExplorer(Explorer):
    """The constant-Jacobian floor over D_E, and the least excess loss at a given steepness.

    Args:
        dots: trained flows for the first picture, {"target", "name", "noise": D_E, "family",
            "nll": [one for each seed], "loss": [-ELBO for each seed]}.
        steep: trained flows on the two modes for the second picture, {"name", "noise",
            "steepness": [...], "excess": [NLL - entropy for each seed]}. A steepness is
            searched for, so the true dot lies no further left.
        traits: initial values of the traits below.

    Traits:
        target: the data of the first picture.
        noise: D_E.
        log10_steepness: log10 of L, the Lipschitz constant of the sampler.
    """

    _esm = source("arrays.js", "base.js", "plot.js", "floors.js")
    _css = source("base.css", "floors.css")
    alt = (
        "Floors of the loss over the dimension of the noise, with trained models above them; the "
        "least excess loss over the steepness of the sampler; the best density at one steepness."
    )
    controls = ("target", "noise", "log10_steepness")

    target = traitlets.Unicode("checkerboard").tag(sync=True, label="data, first picture")
    noise = traitlets.Int(1, min=0, max=MOST).tag(sync=True, label="noise dimensions D_E", step=1)
    log10_steepness = traitlets.Float(0.7, min=0.0, max=TOP).tag(
        sync=True, label="steepness, log10 L", step=0.05
    )
    floors = traitlets.Dict().tag(sync=True)
    frontier = traitlets.List().tag(sync=True)
    dots = traitlets.List().tag(sync=True)
    steep = traitlets.List().tag(sync=True)

    def __init__(
        self, dots: Sequence[dict] = (), steep: Sequence[dict] = (), **traits: Any
    ) -> None:
        steps = round(TOP / 0.05)
        frontier = [[0.05 * i, *two_mode_optimum(10 ** (0.05 * i))] for i in range(steps + 1)]
        given = {"dots": [*dots], "steep": [*steep], "floors": all_floors(), "frontier": frontier}
        super().__init__(**{**given, **traits})

    @classmethod
    def from_records(cls, **traits: Any) -> FloorsExplorer:
        """With the models of the recorded 2-D suite."""
        from ..experiments.toy_records import load_toys

        def each(cell: dict, metric: str, sign: float = 1.0, off: float = 0.0) -> list[float]:
            return [round(sign * v - off, 6) for v in cell["metrics"][metric]["each"]]

        dots = [
            {
                "target": "checkerboard", "name": name, "noise": cell["model"]["noise"],
                "family": cell["model"]["coupling"], "parameters": cell["parameters"],
                "nll": each(cell, "nll"), "loss": each(cell, "elbo", -1.0),
            }
            for name, cell in load_toys("floor")["cells"].items()
        ]  # fmt: skip
        steep = [
            {
                "name": name, "noise": cell["model"]["noise"],
                "steepness": each(cell, "steepness"),
                "excess": each(cell, "nll", off=TOYS["two_modes"].entropy),
            }
            for name, cell in load_toys("two_modes")["cells"].items()
            if "steepness" in cell["metrics"]
        ]  # fmt: skip
        return cls(dots, steep, **traits)

    @traitlets.validate("target")
    def _known(self, proposal: dict[str, Any]) -> str:
        if proposal["value"] not in self.options("target"):
            raise traitlets.TraitError(
                f"FloorsExplorer: target is {proposal['value']!r}, expected one of "
                f"{self.options('target')}"
            )
        return proposal["value"]

    def options(self, name: str) -> list[str]:
        return [*REGIONS, *ROUND]

    def compute(self) -> dict[str, float]:
        if self.target in REGIONS:
            floor = constant_jacobian_floor(self.noise, dims=REGIONS[self.target])
        else:
            floor = round_floor(ROUND[self.target], min(self.noise, 1))
        excess, valley, kappa = two_mode_optimum(10**self.log10_steepness)
        return {"floor": floor, "excess": excess, "valley": valley, "kappa": kappa}

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        own = self.floors[self.target]
        left.bar(range(len(own["floor"])), own["floor"], color=plots.GREY, label="out of reach")
        for dot in (d for d in self.dots if d["target"] == self.target):
            at = [dot["noise"]] * len(dot["nll"])
            left.plot(at, [v - own["entropy"] for v in dot["nll"]], ".", color=plots.BLUE)
            left.plot(at, [v - own["entropy"] for v in dot["loss"]], "x", color=plots.ORANGE, ms=4)
        left.set(xlabel=f"noise dimensions ({self.target})", ylabel="loss - entropy, nats")
        left.legend()
        steepness, excess = zip(*[(10 ** row[0], row[1]) for row in self.frontier], strict=True)
        right.loglog(steepness, excess, color=plots.GREY, label="least excess, any dimension")
        for dot in self.steep:
            marker = "o" if dot["noise"] else "s"
            right.plot(dot["steepness"], dot["excess"], marker, ms=4, color=plots.BLUE)
        right.set(xlabel="steepness L (two modes)", ylabel="NLL - entropy, nats", ylim=(1e-4, 3))
        right.legend()
        return figure


def all_floors() -> dict[str, dict[str, Any]]:
    """For each target its entropy (where a picture needs it) and F(k), k = 0, 1, ..."""
    out: dict[str, dict[str, Any]] = {
        name: {"floor": [constant_jacobian_floor(k, dims=dims) for k in range(MOST + 1)]}
        for name, dims in REGIONS.items()
    }
    out |= {n: {"floor": [round_floor(toy, k) for k in (0, 1)]} for n, toy in ROUND.items()}
    for name, toy in {"checkerboard": "checkerboard", **ROUND}.items():
        out[name]["entropy"] = TOYS[toy].entropy
    return out


@cache
def round_floor(toy: str, noise: int) -> float:
    """F(0) or F(1) of a mixture of round modes, by sorting cells; about 0."""
    data, per_axis = TOYS[toy], 2400 if TOYS[toy].dims == 1 else 100
    reach = 5.0 if data.dims == 1 else 3.0
    axes, cell = [_centres(reach, per_axis)] * data.dims, (2 * reach / per_axis) ** data.dims
    log_p = data.log_prob(torch.cartesian_prod(*axes).view(-1, data.dims))
    if noise:
        e = _centres(5.0, 50)
        log_p = log_p[:, None] - 0.5 * (e**2 + LOG_2PI)
    return rearrangement_floor(log_p, cell * 0.2**noise, dims=data.dims + noise)


def _centres(reach: float, cells: int) -> Tensor:
    """Middles of equal cells on [-reach, reach]."""
    edges = torch.linspace(-reach, reach, cells + 1, dtype=torch.float64)
    return (edges[1:] + edges[:-1]) / 2


def two_mode_optimum(steepness: float) -> tuple[float, float, float]:
    """The best L-Lipschitz sampler of the two modes: (excess, v, kappa), exact to rounding.

    `floors.steepness_frontier` solves the problem on a grid for any density. For a symmetric one
    with a single valley the conditions of optimality say what the solution looks like: S = x / L
    for |x| < v, and outside p_model = p / kappa, with the two unknowns from

        1 - F(v) = kappa (1 - Phi(v / L)),        p(v) = kappa phi(v / L) / L

    (mass, and a slope S' that does not jump).

    Args:
        steepness: L, 1 <= L < 1490 = phi(0) / p(0), where the constraint ends.
    """
    L, modes, sd = steepness, (-2.0, 2.0), 0.5

    def tail(z: float) -> float:
        return 0.5 * math.erfc(z / math.sqrt(2))

    def phi(z: float) -> float:
        return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)

    def kappa_at(v: float) -> float:
        return sum(tail((v - m) / sd) for m in modes) / 2 / tail(v / L)

    def jump(v: float) -> float:
        return sum(phi((v - m) / sd) for m in modes) / 2 / sd - kappa_at(v) * phi(v / L) / L

    valley = brentq(jump, 1e-6, 2.5, xtol=1e-13)
    kappa = kappa_at(valley)
    x = torch.linspace(-valley, valley, 2001, dtype=torch.float64)
    log_p = TOYS["two_modes"].log_prob(x[:, None])
    log_model = -0.5 * ((x / L) ** 2 + LOG_2PI) - math.log(L)
    inside = torch.trapezoid(log_p.exp() * (log_p - log_model), x).item()
    outside = 2 * kappa * tail(valley / L)  # what the data have there
    return outside * math.log(kappa) + inside, valley, kappa
