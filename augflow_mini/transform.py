"""The one idea of the library: a layer maps data towards noise and says what it contributes.

`forward(x) -> (z, contrib)` and `inverse(z) -> (x, -contrib)`; `Inverse` turns a layer round,
`Chain` runs several, `On` applies one to a block of the features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from . import fused


def sum_event(t: Tensor) -> Tensor:
    """Sum over every dimension but the batch: (B, ...) -> (B,)."""
    if t.dim() == 2 and t.shape[1] == 1:
        return t.squeeze(1)  # a view, where a sum would be a pass over the batch
    return t.flatten(1).sum(1) if t.dim() > 1 else t


class Transform(nn.Module, ABC):
    """A step of a flow. Data is (B, D) or (B, C, H, W); blocks lie along dimension 1.

    forward   z, contrib = layer(x)
    inverse   x, -contrib = layer.inverse(z)
    contrib   (B,), nats: log |det dz/dx| for a bijection; others: `Slice`, `Augment`, `Carry`

    With all contributions of a chain, `log p(x) = log base(z) + sum of contrib` where no layer
    draws noise on the way forward; otherwise `E[exp(log base(z) + sum of contrib)] = p(x)`.

    The two flags say where noise is drawn. A layer that draws noise in `inverse` loses something
    in `forward`; `record` returns that something too and `replay` puts it back.

    `cut` is only about speed: (k, D) for a coupling on D features, or its `Inverse`, in which those
    before k move all others, or the other way round. A chain cuts once for several of them.
    """

    stochastic_forward: bool = False
    stochastic_inverse: bool = False
    cut: tuple[int, int] | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data towards noise: `(z, contrib)`."""

    @abstractmethod
    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Noise towards data: `(x, -contrib)` of the same pair."""

    def record(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Forward without losing anything: `(z, what forward drops or None)`."""
        return self(x)[0], None

    def replay(self, z: Tensor, dropped: Tensor | None) -> Tensor:
        """Undo `record` exactly."""
        return self.inverse(z)[0]


class Inverse(Transform):
    """A layer read in the other direction.

    forward   z, contrib = layer.inverse(x)
    inverse   x, -contrib = layer(z)
    contrib   minus that of `layer` on the same pair

    Args:
        layer: any `Transform`. `Inverse(Inverse(t))` computes what `t` computes.
    """

    def __init__(self, layer: Transform) -> None:
        super().__init__()
        self.layer = layer
        self.stochastic_forward = layer.stochastic_inverse
        self.stochastic_inverse = layer.stochastic_forward
        self.cut = layer.cut if type(self) is Inverse else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer.inverse(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(z)

    def record(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        same = self._written_out()
        return same.record(x) if same else super().record(x)

    def replay(self, z: Tensor, dropped: Tensor | None) -> Tensor:
        same = self._written_out()
        return same.replay(z, dropped) if same else super().replay(z, dropped)

    def _written_out(self) -> Transform | None:
        """The same step without this `Inverse`, so that a `Slice` turned round twice is seen."""
        if isinstance(self.layer, Inverse):
            return self.layer.layer
        if isinstance(self.layer, Chain):
            return Chain([Inverse(layer) for layer in reversed(self.layer.layers)])
        return None


class Chain(Transform):
    """Layers in data -> noise order; the only place where contributions are added up.

    forward   z = layer_N(... layer_1(x))
    inverse   x = layer_1.inverse(... layer_N.inverse(z))
    contrib   sum of the layers' contributions

    Args:
        layers: `Transform`s; a `Chain` among them is spliced in, so a chain is always flat.

    Raises:
        TypeError: an element is not a `Transform`.
        ValueError: a layer returned a contribution of a shape other than (B,).
    """

    def __init__(self, layers: Sequence[Transform]) -> None:
        super().__init__()
        flat: list[Transform] = []
        for i, layer in enumerate(layers):
            if not isinstance(layer, Transform):
                raise TypeError(
                    f"Chain: element {i} is a {type(layer).__name__}, expected a Transform; "
                    "put recipes' lists together with [*a, *b]"
                )
            flat.extend(layer.layers if isinstance(layer, Chain) else [layer])
        self.layers = nn.ModuleList(flat)
        self.stochastic_forward = any(layer.stochastic_forward for layer in flat)
        self.stochastic_inverse = any(layer.stochastic_inverse for layer in flat)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(x, self.layers, backwards=False)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(z, [*self.layers][::-1], backwards=True)

    def _run(
        self, x: Tensor, layers: Iterable[Transform], *, backwards: bool
    ) -> tuple[Tensor, Tensor]:
        total = None
        for cut, run in _runs(layers):
            if cut is not None and cut[1] == x.shape[1]:
                x, contrib = self._run_halves(x, cut[0], run, backwards=backwards)
                total = contrib if total is None else total + contrib
                continue
            for layer in run:
                x, contrib = layer.inverse(x) if backwards else layer(x)
                total = _added(total, contrib, layer, x.shape[:1])
        return x, x.new_zeros(x.shape[0]) if total is None else total

    def _run_halves(
        self, x: Tensor, k: int, layers: Iterable[Transform], *, backwards: bool
    ) -> tuple[Tensor, Tensor]:
        """Couplings of the features before k and after it: cut once for all, not once for each."""
        turned, widths = [], (k, x.shape[1] - k)
        for layer in layers:
            back = backwards
            while type(layer) is Inverse:  # isinstance would ask the abstract class, which is slow
                layer, back = layer.layer, not back
            turned.append((layer, back))
        if fused.possible(x):
            plan = fused.plan(self, turned, widths)
            if plan is not None:
                return fused.run(x, k, *plan)
        halves, total, batch = list(x.split(widths, dim=1)), None, x.shape[:1]
        for layer, back in turned:
            written = 0 if layer.writes.start == 0 else 1
            move = layer.move_back if back else layer.move
            halves[written], contrib = move(halves[written], layer.ask(halves[1 - written]))
            total = _added(total, contrib, layer, batch)
        return torch.cat(halves, dim=1), total

    def record(self, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        dropped = []
        for layer in self.layers:
            x, lost = layer.record(x)
            dropped.append(lost)
        return x, dropped

    def replay(self, z: Tensor, dropped: Sequence[Tensor | None]) -> Tensor:
        for layer, lost in zip(reversed(self.layers), reversed(dropped), strict=True):
            z = layer.replay(z, lost)
        return z

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.layers)

    def __getitem__(self, i: int | slice) -> Transform | Chain:
        return Chain(list(self.layers[i])) if isinstance(i, slice) else self.layers[i]


class On(Transform):
    """Apply a layer to one block of the features and pass the rest on.

    forward   z[block] = layer(x[block]), the rest is copied
    inverse   x[block] = layer.inverse(z[block])
    contrib   that of `layer`

    Args:
        block: slice of dimension 1 with both ends given.
        layer: a layer that keeps the block's width.

    Raises:
        ValueError: the input is narrower than the block, or the layer changed the block's width.
    """

    def __init__(self, block: slice, layer: Transform) -> None:
        super().__init__()
        self.block, self.layer = checked_block(block, "On: block"), layer
        self.stochastic_forward = layer.stochastic_forward
        self.stochastic_inverse = layer.stochastic_inverse

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_width(x, self.block, self)
        part, contrib = self.layer(x[:, self.block])
        return self._put(x, part), contrib

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        check_width(z, self.block, self)
        part, contrib = self.layer.inverse(z[:, self.block])
        return self._put(z, part), contrib

    def record(self, x: Tensor) -> tuple[Tensor, object]:
        check_width(x, self.block, self)
        part, lost = self.layer.record(x[:, self.block])
        return self._put(x, part), lost

    def replay(self, z: Tensor, dropped: object) -> Tensor:
        check_width(z, self.block, self)
        return self._put(z, self.layer.replay(z[:, self.block], dropped))

    def _put(self, x: Tensor, part: Tensor) -> Tensor:
        width = self.block.stop - self.block.start
        if part.shape[1] != width:
            raise ValueError(
                f"On: {type(self.layer).__name__} made {part.shape[1]} features of the block's "
                f"{width}; a layer that adds or drops features must stand in the chain itself"
            )
        return replace_block(x, self.block, part)

    def extra_repr(self) -> str:
        return f"block={self.block.start}:{self.block.stop}"


def _runs(layers: Iterable[Transform]) -> list[tuple[tuple[int, int] | None, list[Transform]]]:
    """Neighbours of one cut, together: `itertools.groupby`, which torch 2.6 cannot compile."""
    runs: list[tuple[tuple[int, int] | None, list[Transform]]] = []
    for layer in layers:
        cut = None if _heard(layer) else layer.cut
        if runs and runs[-1][0] == cut:
            runs[-1][1].append(layer)
        else:
            runs.append((cut, [layer]))
    return runs


def _heard(layer: nn.Module) -> bool:
    """Whether someone listens to the layer, or to what is turned round in it, and so wants a call."""
    while type(layer) is Inverse and not fused.watched(layer):
        layer = layer.layer
    return fused.watched(layer)


def may_look(validate: bool) -> bool:
    """Whether a layer may read its input's numbers to check them: not inside a compiled graph."""
    return validate and not torch.compiler.is_compiling()


def _added(total: Tensor | None, contrib: Tensor, layer: Transform, batch: torch.Size) -> Tensor:
    """total + contrib, never +=: a contribution may be an expanded view."""
    if contrib.shape != batch:
        raise ValueError(
            f"{type(layer).__name__} returned a contribution of shape {tuple(contrib.shape)}, "
            f"expected {tuple(batch)}; sum it over every dimension but the batch (sum_event)"
        )
    return contrib if total is None else total + contrib


def checked_count(value: object, what: str, *, least: int = 1, of: str = "") -> int:
    """A whole number of at least `least`, or ValueError that says what came."""
    try:
        whole = int(value) == value and value >= least
    except (TypeError, ValueError, OverflowError):  # a text, a list, NaN, infinity
        whole = False
    if not whole:
        raise ValueError(f"{what} is {value!r}, expected an integer of at least {least}{of}")
    return int(value)


def checked_block(block: slice, what: str) -> slice:
    """A slice with 0 <= start < stop and step 1, or ValueError."""
    if not isinstance(block, slice) or block.stop is None or block.step not in (None, 1):
        raise ValueError(f"{what} is {block!r}, expected slice(start, stop) with step 1")
    start = block.start or 0
    if not (isinstance(start, int) and isinstance(block.stop, int) and 0 <= start < block.stop):
        raise ValueError(f"{what} is {block!r}, expected 0 <= start < stop")
    return slice(start, block.stop)


def check_width(x: Tensor, block: slice, layer: nn.Module) -> None:
    """Raise ValueError when dimension 1 of x ends before the block does."""
    if x.dim() < 2 or x.shape[1] < block.stop:
        raise ValueError(
            f"{type(layer).__name__} works on features {block.start}:{block.stop} of dimension 1, "
            f"got an input of shape {tuple(x.shape)}; check the layer's blocks or the width"
        )


def replace_block(x: Tensor, block: slice, part: Tensor) -> Tensor:
    """A copy of x whose `block` of dimension 1 is `part`."""
    pieces = [x[:, : block.start], part, x[:, block.stop :]]
    return torch.cat([p for p in pieces if p.shape[1]], dim=1)
