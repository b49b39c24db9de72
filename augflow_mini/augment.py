"""Slice and Augment: the one non-bijective pair. Augmentation is factor-out run backwards."""

from __future__ import annotations

import torch
from torch import Tensor

from .distributions import Law
from .transform import Inverse, Transform, checked_count


class Slice(Transform):
    """Drop the features after the first `keep`; a law says how likely they were.

    forward   (kept, dropped) -> kept
    inverse   kept -> (kept, dropped),   dropped ~ p(dropped | kept)
    contrib   log p(dropped | kept)

    Args:
        law: p(dropped | kept), see `distributions`.
        keep: how many features of dimension 1 stay.

    Raises:
        ValueError: nothing is left to drop (forward), or the input is not `keep` wide (inverse).

    Dinh et al. 2017, Real NVP, section 3.6 (factoring out); "inference slicing" in Nielsen et al.
    2020, SurVAE Flows.
    """

    stochastic_inverse = True

    def __init__(self, law: Law, *, keep: int) -> None:
        super().__init__()
        self.law, self.keep = law, checked_count(keep, "Slice: keep", of=" feature")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, dropped = self.record(x)
        return kept, self.law.log_prob(dropped, kept)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self._check_kept(z)
        dropped, log_prob = self.law.draw(z)
        if z.shape[2:] != dropped.shape[2:]:
            raise ValueError(
                f"Slice/Augment: the noise has event shape {tuple(dropped.shape[1:])}, the data "
                f"{tuple(z.shape[1:])}; expected the same positions after dimension 1: give the law "
                "the data's shape, as in StandardNormal(3, 32, 32)"
            )
        return torch.cat([z, dropped], dim=1), -log_prob

    def record(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() < 2 or x.shape[1] <= self.keep:
            raise ValueError(
                f"Slice(keep={self.keep}) got an input of shape {tuple(x.shape)}, expected more "
                f"than {self.keep} features in dimension 1; check the layer before it"
            )
        return x[:, : self.keep], x[:, self.keep :]

    def replay(self, z: Tensor, dropped: Tensor) -> Tensor:
        self._check_kept(z)
        return torch.cat([z, dropped], dim=1)

    def _check_kept(self, z: Tensor) -> None:
        if z.dim() < 2 or z.shape[1] != self.keep:
            width = z.shape[1] if z.dim() > 1 else "its width"
            raise ValueError(
                f"Slice/Augment(keep={self.keep}) got an input of shape {tuple(z.shape)}, expected "
                f"{self.keep} features in dimension 1; build it with keep={width} or check "
                "the data's width"
            )

    def extra_repr(self) -> str:
        return f"keep={self.keep}"


class Augment(Inverse):
    """Add noise features to the data: `Inverse(Slice(law))`.

    forward   x -> (x, e),   e ~ q(e | x)
    inverse   (x, e) -> x
    contrib   -log q(e | x)

    Args:
        law: q(e | x); `StandardNormal(D_E)` is ANF's choice. A richer q is this noise followed by
            couplings that read x and write e.
        keep: D_X, the width of the data.

    Raises:
        ValueError: the data is not `keep` wide.

    Huang et al. 2020, Augmented Normalizing Flows, section 3; Chen et al. 2020, VFlow, section 3;
    "generative slicing" in Nielsen et al. 2020.
    """

    def __init__(self, law: Law, *, keep: int) -> None:
        super().__init__(Slice(law, keep=keep))
