"""Discrete data as augmentation: integers and noise in [0, 1) make a continuous number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .augment import Augment
from .distributions import StandardNormal, StandardUniform
from .pointwise import Sigmoid
from .transform import On, Transform, checked_count, may_look


class Carry(Transform):
    """Join integers and noise, as a digit and its decimals: one number for each pair.

    forward   (x, u) -> (x + u) / levels,   x in 0 .. levels-1, u in [0, 1)
    inverse   y -> (floor(levels y), levels y - floor(levels y))
    contrib   -D log levels

    The pair and the number determine each other (in floating point up to rounding at a bin's edge),
    so the probability of the integers is the integral of the density over their bin. What the chain
    after it puts outside [0, 1) is lost to the integers: end at (0, 1), by a `Logit` after `Carry`.

    Args:
        levels: how many values an integer may take (256 for 8-bit images, 17 for the digits).
        validate: look at the numbers and raise; False spares an accelerator the wait for the answer,
            for data that was checked when it was loaded.

    Raises:
        ValueError: an odd number of features, an x that is no integer in range, a u outside [0, 1).

    Theis et al. 2016, section 3.1; Ho et al. 2019, Flow++, section 3.1.
    """

    def __init__(self, levels: int, *, validate: bool = True) -> None:
        super().__init__()
        self.validate = validate
        self.levels = checked_count(levels, "Carry: levels", least=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() < 2 or x.shape[1] % 2:
            raise ValueError(
                f"Carry got an input of shape {tuple(x.shape)}, expected (B, 2 D, ...): the "
                "integers, then as many noise features; put Augment before it"
            )
        whole, u = x.chunk(2, dim=1)
        if may_look(self.validate):
            self._check(whole, u)
        # In float32 255 + 0.9999999 rounds to 256, the next integer: stay below it.
        edge = (
            whole.detach()
        )  # a bound, not a path for gradients: torch 2.6 has none for nextafter
        below = torch.nextafter(edge + 1, edge)
        return torch.minimum(whole + u, below) / self.levels, self._contrib(whole)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        scaled = z * self.levels
        whole = scaled.floor()
        # A number on a bin's edge leaves u = 0, whose logit is infinite: stay half a step inside.
        eps = torch.finfo(z.dtype).eps
        u = (scaled - whole).clamp(eps / 2, 1 - eps)
        return torch.cat([whole.clamp(0, self.levels - 1), u], dim=1), -self._contrib(z)

    def _contrib(self, x: Tensor) -> Tensor:
        return x.new_full((x.shape[0],), -x.shape[1:].numel() * math.log(self.levels))

    def _check(self, whole: Tensor, u: Tensor) -> None:
        if not ((whole >= 0) & (whole < self.levels) & (whole == whole.floor())).all():
            raise ValueError(
                f"Carry({self.levels}) got data in [{whole.min():.6g}, {whole.max():.6g}], expected "
                f"integers 0 .. {self.levels - 1}; give it the raw levels, not scaled to [0, 1]"
            )
        if not ((u >= 0) & (u < 1)).all():
            raise ValueError(
                f"Carry got noise in [{u.min():.6g}, {u.max():.6g}], expected [0, 1): it would "
                "change the integer; draw it from StandardUniform or end its flow with Sigmoid"
            )

    def extra_repr(self) -> str:
        return str(self.levels)


def uniform_dequantize(levels: int, *shape: int, validate: bool = True) -> list[Transform]:
    """Layers that turn integers 0 .. levels-1 of event shape `shape` into numbers in [0, 1).

    The noise is uniform (Uria et al. 2013; Theis et al. 2016). Gap: KL(U || p(u | x)).
    """
    return [Augment(StandardUniform(*shape), keep=shape[0]), Carry(levels, validate=validate)]


def variational_dequantize(
    levels: int, *shape: int, layers: Sequence[Transform], validate: bool = True
) -> list[Transform]:
    """As `uniform_dequantize`, with noise u = sigmoid(flow(epsilon)), the flow learned.

    Args:
        layers: couplings that read the first `shape[0]` features (the integers) and write the noise
            after them; they are r(u | x).
        validate: as `Carry` and `Sigmoid`.

    Ho et al. 2019, Flow++, section 3.1.
    """
    noise = slice(shape[0], 2 * shape[0])
    return [
        Augment(StandardNormal(*shape), keep=shape[0]),
        *layers,
        On(noise, Sigmoid(validate=validate)),
        Carry(levels, validate=validate),
    ]
