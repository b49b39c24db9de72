"""Models of the 2-D suite, from one short description, at a given number of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from ..augment import Augment
from ..coupling import AdditiveCoupling, AffineCoupling, Coupling
from ..distributions import StandardNormal
from ..flow import Flow
from ..linear import InvertibleLinear
from ..mixlogistic import MixLogisticCoupling
from ..nets import MLP, count_parameters
from ..pointwise import Scale
from ..recipes import cif
from ..transform import Inverse, On, Transform

COMPONENTS = 8  # logistics in a mixture-of-logistics coupling
CLAMP = 3.0  # bound of affine log-scales: without it, large step sizes overflow


def nearest_width(count: Callable[[int], int], wanted: int) -> int:
    """The width of a model whose number of parameters, count(width), comes nearest to `wanted`."""
    low, high = 1, 2
    while count(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if count(middle) < wanted:
            low = middle
        else:
            high = middle
    return low if abs(count(low) - wanted) <= abs(count(high) - wanted) else high


@dataclass(frozen=True)
class Model:
    """What to build.

    Attributes:
        recipe: 'cycle' (couplings that write one number each, in turn, and read all others, a
            learned matrix before every second one), 'anf' (encode e, decode x), 'unmixed' ('cycle'
            on the data beside noise that no layer touches), 'cif' (`recipes.cif`, fresh noise at
            each step).
        dims, noise: D_X, D_E.
        depth: couplings ('cycle', 'unmixed') or steps N ('anf', 'cif').
        parameters: wanted in all; the networks' width follows.
        coupling: 'additive', 'affine' or 'mixlogistic'.
        hidden: hidden layers of each network.
        posterior: q(e | x): 'noise' is N(0, I), 'gaussian' one affine coupling in front, 'flow'
            six that write one noise feature each.
        hidden_gain, last_gain: initial weights are N(0, gain^2 / inputs).
        noise_scale: standard deviation of the noise; near 0 it pads with zeros.
    """

    recipe: str
    dims: int
    noise: int
    depth: int
    parameters: int
    coupling: str = "affine"
    hidden: int = 2
    posterior: str = "noise"
    hidden_gain: float = 1.4
    last_gain: float = 0.01
    noise_scale: float = 1.0

    def build(self, seed: int) -> Flow:
        """The flow with initial weights drawn from `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            flow = self._flow(self.width)
            for net in flow.modules():
                if isinstance(net, MLP):
                    self._initialise(net)
        return flow

    @cached_property
    def width(self) -> int:
        """Width of the hidden layers that comes nearest to the wanted number of parameters."""
        with torch.random.fork_rng(devices=[]):
            return nearest_width(lambda w: count_parameters(self._flow(w)), self.parameters)

    @property
    def integrable(self) -> bool:
        """Whether the noise is one standard normal number, so that quadrature gives log p(x)."""
        return self.noise == 1 and self.recipe != "cif"

    def _flow(self, width: int) -> Flow:
        if self.recipe == "cif":
            options = {"hidden": [width] * self.hidden, "clamp": CLAMP}
            between = 2 if self.dims > 1 else 0
            layers = cif(self.dims, self.noise, steps=self.depth, couplings=between, **options)
            return Flow(layers, StandardNormal(self.dims))
        total = self.dims + self.noise
        layers: list[Transform] = []
        if self.noise:
            layers.append(Augment(StandardNormal(self.noise), keep=self.dims))
            e = slice(self.dims, total)
            if self.noise_scale != 1.0:
                layers.append(On(e, Scale(self.noise_scale)))
            if self.posterior == "gaussian":
                layers.append(self._coupling("affine", e, [slice(0, self.dims)], width))
            elif self.posterior == "flow":
                layers += self._posterior_flow(width)
        body = {"cycle": self._cycle, "anf": self._anf, "unmixed": self._cycle}
        if self.recipe not in body:
            raise ValueError(
                f"Model: recipe is {self.recipe!r}, expected one of {', '.join(body)}, cif"
            )
        layers += body[self.recipe](width)
        return Flow(layers, StandardNormal(total))

    def _cycle(self, width: int) -> Iterator[Transform]:
        mixed = self.dims + (self.noise if self.recipe == "cycle" else 0)
        for i in range(self.depth):
            if i % 2 == 0:
                matrix = InvertibleLinear(mixed)
                yield matrix if self.recipe == "cycle" else On(slice(0, mixed), matrix)
            j = i % mixed
            reads = [slice(0, j), slice(j + 1, mixed)]
            yield self._coupling(self.coupling, slice(j, j + 1), reads, width)

    def _anf(self, width: int) -> Iterator[Transform]:
        x, e = slice(0, self.dims), slice(self.dims, self.dims + self.noise)
        for _ in range(self.depth):
            yield self._coupling(self.coupling, e, [x], width)
            yield Inverse(self._coupling(self.coupling, x, [e], width))

    def _posterior_flow(self, width: int) -> Iterator[Transform]:
        total = self.dims + self.noise
        for i in range(6):
            j = self.dims + i % self.noise
            yield self._coupling(
                "affine", slice(j, j + 1), [slice(0, j), slice(j + 1, total)], width
            )

    def _coupling(self, kind: str, writes: slice, reads: list[slice], width: int) -> Coupling:
        reads = [b for b in reads if b.stop > b.start]
        seen, moved = sum(b.stop - b.start for b in reads), writes.stop - writes.start
        per = {"additive": 1, "affine": 2, "mixlogistic": 2 + 3 * COMPONENTS}
        if kind not in per:
            raise ValueError(f"Model: coupling is {kind!r}, expected one of {', '.join(per)}")
        net = MLP(seen, per[kind] * moved, hidden=[width] * self.hidden)
        reads = reads or None  # one number alone: nothing to read
        if kind == "additive":
            return AdditiveCoupling(net, writes=writes, reads=reads)
        if kind == "affine":
            return AffineCoupling(net, writes=writes, reads=reads, clamp=CLAMP)
        return MixLogisticCoupling(
            net, writes=writes, reads=reads, components=COMPONENTS, clamp=CLAMP
        )

    def _initialise(self, net: MLP) -> None:
        *hidden, last = (m for m in net.layers if isinstance(m, nn.Linear))
        with torch.no_grad():
            for layer in (*hidden, last):
                gain = self.last_gain if layer is last else self.hidden_gain
                layer.weight.normal_(0, gain / layer.in_features**0.5)
            last.bias.zero_()  # hidden biases keep torch's draw: kinks lie at different places
            if self.coupling == "mixlogistic" and last.out_features % (2 + 3 * COMPONENTS) == 0:
                # equal components would stay equal: their means start apart, over the data's range
                spread = torch.linspace(-3, 3, COMPONENTS)
                moved = last.out_features // (2 + 3 * COMPONENTS)
                start = 2 * moved + COMPONENTS * moved
                last.bias[start : start + COMPONENTS * moved] = spread.repeat(moved)
