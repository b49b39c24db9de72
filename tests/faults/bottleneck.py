"""Faults that break the claims of "The bottleneck problem".

name -> (claims that must fail, what to plant in the library, edit of the chapter's code or None)
"""

from __future__ import annotations

import dataclasses
import math

import torch

from augflow_mini import augment, coupling, data, floors, image_recipes, mixlogistic, pointwise

NOTEBOOK = "02_bottleneck.ipynb"


def slice_contributes_nothing(mp):
    original = augment.Slice.forward
    mp.setattr(
        augment.Slice, "forward", lambda self, x: (lambda h, c: (h, 0 * c))(*original(self, x))
    )


def slice_sign(mp):
    """What was dropped is charged with the wrong sign."""
    original = augment.Slice.forward
    mp.setattr(
        augment.Slice, "forward", lambda self, x: (lambda h, c: (h, -c))(*original(self, x))
    )


def narrower_couplings(mp):
    config = {**image_recipes.IMAGE_CONFIGS["flowpp_cifar10"], "filters": 64}
    mp.setitem(image_recipes.IMAGE_CONFIGS, "flowpp_cifar10", config)


def shift_forgotten(mp):
    """A coupling scales and does not shift: nothing is written into the noise."""
    original = coupling.AffineCoupling._log_s_and_m
    mp.setattr(
        coupling.AffineCoupling,
        "_log_s_and_m",
        lambda self, params: (lambda log_s, m: (log_s, 0 * m))(*original(self, params)),
    )


def wrong_entropy(mp):
    wrong = dataclasses.replace(data.TOYS["two_modes"], entropy=1.5)
    mp.setitem(data.TOYS, "two_modes", wrong)


def wrong_checkerboard_entropy(mp):
    wrong = dataclasses.replace(data.TOYS["checkerboard"], entropy=math.log(64))
    mp.setitem(data.TOYS, "checkerboard", wrong)


def scale_contributes_nothing(mp):
    mp.setattr(pointwise.Scale, "_contrib", lambda self, x: x.new_zeros(len(x)))


def mixture_slope_forgotten(mp):
    """The curve is trained on a contribution that is always zero."""
    original = mixlogistic.mixture_logit
    mp.setattr(
        mixlogistic,
        "mixture_logit",
        lambda *args: (lambda y, s: (y, 0 * s))(*original(*args)),
    )


def variance_doubled(mp):
    original = floors.one_coupling_floor
    mp.setattr(
        floors, "one_coupling_floor", lambda *a, **kw: original(*a, **kw) + 0.5 * math.log(2)
    )


def twice_the_steepness(mp):
    original = floors.steepness_frontier
    mp.setattr(floors, "steepness_frontier", lambda p, L, **kw: original(p, 2 * L, **kw))


def steepness_ignored(mp):
    original = floors.steepness_frontier
    mp.setattr(floors, "steepness_frontier", lambda p, L, **kw: original(p, 5.0, **kw))


def noise_entropy_forgotten(mp):
    """The noise's entropy is not subtracted."""
    original = floors.constant_jacobian_floor
    mp.setattr(
        floors,
        "constant_jacobian_floor",
        lambda k, dims=2: original(k, dims=dims) + 0.5 * k * math.log(2 * math.pi * math.e),
    )


def floor_without_volume(mp):
    """The volume of the ball is left out."""
    original = floors.constant_jacobian_floor
    mp.setattr(
        floors,
        "constant_jacobian_floor",
        lambda k, dims=2: original(k, dims=dims) + floors.log_ball_volume(dims + k),
    )


def cells_not_sorted(mp):
    """The balls are filled from thin to dense."""
    original = torch.Tensor.sort

    def ascending(self, *args, descending=False, **kw):
        return original(self, *args, descending=False, **kw)

    mp.setattr(torch.Tensor, "sort", ascending)


def entropy_of_the_target_forgotten(mp):
    original = floors.rearrangement_floor
    mp.setattr(floors, "rearrangement_floor", lambda *a, **kw: original(*a, **kw) + 0.7)


FAULTS = {
    "slice contributes nothing": (
        ["bottleneck-1", "bottleneck-2"],
        slice_contributes_nothing,
        None,
    ),
    "slice sign": (["bottleneck-1", "bottleneck-2"], slice_sign, None),
    "narrower couplings": (["bottleneck-3"], narrower_couplings, None),
    "shift forgotten": (["bottleneck-4"], shift_forgotten, None),
    "wrong entropy": (["bottleneck-5"], wrong_entropy, None),
    "scale contributes nothing": (
        ["bottleneck-5", "bottleneck-15"],
        scale_contributes_nothing,
        None,
    ),
    "mixture's slope forgotten": (["bottleneck-6"], mixture_slope_forgotten, None),
    "variance doubled": (["bottleneck-7"], variance_doubled, None),
    "twice the steepness": (["bottleneck-8"], twice_the_steepness, None),
    "steepness ignored": (["bottleneck-9"], steepness_ignored, None),
    "noise's entropy forgotten": (
        ["bottleneck-10", "bottleneck-13"],
        noise_entropy_forgotten,
        None,
    ),
    "ball's volume forgotten": (["bottleneck-10", "bottleneck-12"], floor_without_volume, None),
    "cells not sorted": (["bottleneck-11", "bottleneck-14"], cells_not_sorted, None),
    "target's entropy forgotten": (["bottleneck-14"], entropy_of_the_target_forgotten, None),
    "checkerboard entropy": (["bottleneck-13", "bottleneck-16"], wrong_checkerboard_entropy, None),
}
