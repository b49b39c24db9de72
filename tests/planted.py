"""Faults of the library that break claims of more than one chapter."""

from __future__ import annotations

import dataclasses

import torch

from augflow_mini import bounds, coupling, gap
from augflow_mini.augment import Slice


def log_det_sign(mp):
    """A coupling contributes minus its log-scales, in both directions."""
    move, back = coupling.AffineCoupling.move, coupling.AffineCoupling.move_back
    flip = lambda method: lambda *args: (lambda z, contrib: (z, -contrib))(*method(*args))  # noqa: E731
    mp.setattr(coupling.AffineCoupling, "move", flip(move))
    mp.setattr(coupling.AffineCoupling, "move_back", flip(back))


def sum_for_mean_of_weights(mp):
    """L_K without the 1/K."""
    original = bounds.LogWeights.bound

    def bound(self):
        right = original(self)
        return dataclasses.replace(right, value=right.value + torch.tensor(float(self.k)).log())

    mp.setattr(bounds.LogWeights, "bound", bound)


def forgotten_log_q(mp):
    """Augment contributes nothing."""
    original = Slice.inverse
    mp.setattr(Slice, "inverse", lambda self, z: (lambda x, c: (x, 0 * c))(*original(self, z)))


def posterior_slope_sign(mp):
    mp.setattr(gap.ScalarANF, "k", property(lambda self: -self.c / (self.c**2 + self.d**2)))
