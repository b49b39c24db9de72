"""Layers that only move numbers about, and `Append`: they contribute 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transform import Transform, check_width, checked_block, checked_count


class Permute(Transform):
    """Reorder the features of dimension 1.

    forward   z[:, i] = x[:, order[i]]
    inverse   x[:, order[i]] = z[:, i]
    contrib   0

    Args:
        order: a permutation of 0 .. D-1.

    Raises:
        ValueError: `order` is no permutation, or the input is not D wide.
    """

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        order = [checked_count(i, "Permute: a number of order", least=0) for i in order]
        if sorted(order) != list(range(len(order))):
            raise ValueError(
                f"Permute: {order} is not a permutation of 0 .. {len(order) - 1}, expected each once"
            )
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("back", torch.argsort(self.order))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._take(x, self.order)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._take(z, self.back)

    def _take(self, x: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() < 2 or x.shape[1] != len(order):
            raise ValueError(
                f"Permute got an input of shape {tuple(x.shape)}, expected {len(order)} features "
                "in dimension 1; check the layer before it"
            )
        return x[:, order], x.new_zeros(x.shape[0])

    def extra_repr(self) -> str:
        return str(self.order.tolist())


class Squeeze(Transform):
    """Turn each 2x2 patch of an image into channels.

    forward   (B, C, H, W) -> (B, 4 C, H/2, W/2)
    inverse   (B, 4 C, H, W) -> (B, C, 2 H, 2 W)
    contrib   0

    Raises:
        ValueError: height or width is odd, or the channels are not a multiple of 4 (inverse).

    Dinh et al. 2017, Real NVP, section 3.6.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(
                f"Squeeze got an input of shape {tuple(x.shape)}, expected (B, C, H, W) with even "
                "H and W; pad or crop the images first"
            )
        return F.pixel_unshuffle(x, 2), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if z.dim() != 4 or z.shape[1] % 4:
            raise ValueError(
                f"Squeeze.inverse got an input of shape {tuple(z.shape)}, expected (B, 4 C, H, W)"
            )
        return F.pixel_shuffle(z, 2), z.new_zeros(z.shape[0])


class Checkerboard(Transform):
    """Turn the two colours of a checkerboard into two blocks of channels.

    forward   (B, C, H, W) -> (B, 2 C, H, W/2): channels of the black pixels, then the white
    inverse   (B, 2 C, H, W/2) -> (B, C, H, W)
    contrib   0

    So a coupling on channel blocks is a checkerboard coupling, without masks.

    Args:
        groups: widths of blocks of channels that are split each on its own, one after the other;
            None takes all channels as one block.
        columns: take whole columns by turns, which is what the released Flow++ and VFlow code does
            under this name: each half is then a plain grid, and a convolution means the same in
            every row.

    Raises:
        ValueError: an odd width, or channels that do not fit the groups.

    Dinh et al. 2017, Real NVP, section 3.4.
    """

    def __init__(self, groups: Sequence[int] | None = None, *, columns: bool = False) -> None:
        super().__init__()
        if groups is not None and (not groups or min(groups) < 1):
            raise ValueError(f"Checkerboard: groups {groups}, expected widths of at least 1")
        self.groups, self.columns = groups and tuple(groups), columns

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() != 4 or x.shape[3] % 2 or (self.groups and x.shape[1] != sum(self.groups)):
            raise ValueError(
                f"Checkerboard({self.extra_repr()}) got an input of shape {tuple(x.shape)}, "
                "expected (B, C, H, W) with even W and as many channels as its groups hold"
            )
        pairs = self._swap(x.unflatten(3, (-1, 2)))  # (B, C, H, W/2, 2)
        blocks = pairs.split(self.groups or [x.shape[1]], dim=1)
        halves = [half for block in blocks for half in block.unbind(4)]
        return torch.cat(halves, dim=1), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        groups = self.groups or [z.shape[1] // 2]
        if z.dim() != 4 or z.shape[1] != 2 * sum(groups):
            raise ValueError(
                f"Checkerboard({self.extra_repr()}).inverse got an input of shape "
                f"{tuple(z.shape)}, expected (B, 2 C, H, W) with as many channels "
                "as its groups hold"
            )
        halves = z.split([width for g in groups for width in (g, g)], dim=1)
        pairs = torch.stack([torch.cat(halves[0::2], 1), torch.cat(halves[1::2], 1)], dim=4)
        return self._swap(pairs).flatten(3), z.new_zeros(z.shape[0])

    def _swap(self, pairs: Tensor) -> Tensor:
        """Exchange the two pixels of each pair in every second row; undoes itself."""
        if self.columns:
            return pairs
        odd_row = torch.arange(pairs.shape[2], device=pairs.device).view(-1, 1, 1) % 2 == 1
        return torch.where(odd_row, pairs.flip(4), pairs)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, columns={self.columns}"


class Append(Transform):
    """Append what a network makes of some features, for later layers to read.

    forward   x -> (x, h),   h = net(x[reads])
    inverse   (x, h) -> x
    contrib   0: h is a function of x, not a new random quantity

    `Inverse(Append(...))` drops h again. In between, layers may read h but must write neither h
    nor the features it was made from. It spares several couplings the same work.

    Args:
        net: maps (B, R, ...) to (B, width, ...).
        reads: slice of dimension 1, of width R.
        width: how many features the network returns.

    Raises:
        ValueError: the input is narrower than `reads`, or the network returned another width.
    """

    def __init__(self, net: nn.Module, *, reads: slice, width: int) -> None:
        super().__init__()
        self.net, self.reads, self.width = net, checked_block(reads, "Append: reads"), width

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_width(x, self.reads, self)
        h = self.net(x[:, self.reads]).to(x.dtype)
        if h.shape[1] != self.width:
            raise ValueError(
                f"Append: the network returned {h.shape[1]} features, expected width={self.width}"
            )
        return torch.cat([x, h], dim=1), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        check_width(z, slice(0, self.width + 1), self)
        return z[:, : z.shape[1] - self.width], z.new_zeros(z.shape[0])

    def extra_repr(self) -> str:
        return f"reads {self.reads.start}:{self.reads.stop}, width={self.width}"
