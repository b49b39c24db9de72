"""Fixed layers that act on each number alone: sigmoid, logit, scale."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .transform import Inverse, Transform, may_look, sum_event


class Sigmoid(Transform):
    """Squash the line to the open unit interval.

    forward   z = 1 / (1 + exp(-x)), kept off 0 and 1 in floating point
    inverse   x = log z - log(1 - z)
    contrib   sum of log z + log(1 - z)

    Args:
        validate: raise at numbers outside (0, 1) in `inverse`. False moves them to the nearest number
            inside without a look at them, so that an accelerator need not wait for the answer.

    Raises:
        ValueError: `inverse` got a number outside (0, 1).
    """

    def __init__(self, *, validate: bool = True) -> None:
        super().__init__()
        self.validate = validate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._inside(torch.sigmoid(x)), sum_event(F.logsigmoid(x) + F.logsigmoid(-x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if may_look(self.validate) and not ((z > 0) & (z < 1)).all():
            raise ValueError(
                f"Logit got numbers in [{z.min():.6g}, {z.max():.6g}], expected the open interval "
                "(0, 1); scale the data into it first, as in Scale(0.9, shift=0.05)"
            )
        x = torch.logit(z if may_look(self.validate) else self._inside(z))
        return x, -sum_event(F.logsigmoid(x) + F.logsigmoid(-x))

    @staticmethod
    def _inside(z: Tensor) -> Tensor:
        info = torch.finfo(z.dtype)
        return z.clamp(info.tiny, 1 - info.eps)


class Logit(Inverse):
    """Stretch the open unit interval to the line: `Inverse(Sigmoid())`.

    forward   z = log x - log(1 - x)
    inverse   x = 1 / (1 + exp(-z))
    contrib   -(sum of log x + log(1 - x))

    Args:
        validate: as `Sigmoid`.

    Raises:
        ValueError: `forward` got a number outside (0, 1).
    """

    def __init__(self, *, validate: bool = True) -> None:
        super().__init__(Sigmoid(validate=validate))


class Scale(Transform):
    """Multiply by a constant and add another.

    forward   z = scale * x + shift
    inverse   x = (z - shift) / scale
    contrib   D log |scale|

    Args:
        scale: a number other than 0.
        shift: a number.
    """

    def __init__(self, scale: float, *, shift: float = 0.0) -> None:
        super().__init__()
        if not (math.isfinite(scale) and scale != 0 and math.isfinite(shift)):
            raise ValueError(
                f"Scale(scale={scale}, shift={shift}): expected finite numbers and scale != 0"
            )
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * x + self.shift, self._contrib(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (z - self.shift) / self.scale, -self._contrib(z)

    def _contrib(self, x: Tensor) -> Tensor:
        return x.new_full((x.shape[0],), x.shape[1:].numel() * math.log(abs(self.scale)))

    def extra_repr(self) -> str:
        return f"{self.scale}, shift={self.shift}"
