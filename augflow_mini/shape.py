"""Layers that only move numbers about: their Jacobian is a permutation, they contribute 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .transform import Transform


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
        order = [int(i) for i in order]
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"Permute: {order} is not a permutation of 0 .. {len(order) - 1}")
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("back", torch.argsort(self.order))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._take(x, self.order)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._take(z, self.back)

    def _take(self, x: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() < 2 or x.shape[1] != len(order):
            raise ValueError(
                f"Permute of {len(order)} features got an input of shape {tuple(x.shape)}"
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
