"""Faults that break the claims of "Discrete data"; the form is that of `gap.py` here."""

from __future__ import annotations

from dataclasses import replace

from augflow_mini import dequantize, gap, pointwise
from augflow_mini.explorers import DigitsExplorer, dequantise

NOTEBOOK = "10_discrete_data.ipynb"


def levels_forgotten(mp):
    """Carry contributes nothing: the density of y = t / L passes for that of t."""
    mp.setattr(dequantize.Carry, "_contrib", lambda self, x: x.new_zeros(len(x)))


def sigmoid_without_slope(mp):
    """The sigmoid contributes nothing, so r(u | x) is that of the number before it."""
    forward = pointwise.Sigmoid.forward
    mp.setattr(
        pointwise.Sigmoid, "forward", lambda self, x: (lambda z, c: (z, 0 * c))(*forward(self, x))
    )


def logit_sign(mp):
    back = pointwise.Sigmoid.inverse
    mp.setattr(
        pointwise.Sigmoid, "inverse", lambda self, z: (lambda x, c: (x, -c))(*back(self, z))
    )


def scalar_gap_halved(mp):
    original = gap.ScalarANF.gap
    mp.setattr(gap.ScalarANF, "gap", lambda self, x: original(self, x) / 2)


def leans_away(mp):
    """The terms of the first picture with noise that leans away from the centre."""
    original = dequantise.Bins.terms
    mp.setattr(dequantise.Bins, "terms", lambda self: original(replace(self, lean=-self.lean)))


def rounds_to_the_nearest(mp):
    """Carry goes back to the nearest integer, not to the one below."""
    back = dequantize.Carry.inverse
    mp.setattr(dequantize.Carry, "inverse", lambda self, z: back(self, z + 0.5 / self.levels))


def one_digit_ten_times(mp):
    """All ten digits of the explorer are measured with the image and the noise of the first."""
    measured = DigitsExplorer.log_weights
    mp.setattr(DigitsExplorer, "log_weights", lambda self, digit: measured(self, 0))


FAULTS = {
    "levels forgotten": (
        [f"discrete-{n}" for n in (1, 3, 4, 5, 6, 8, 9, 10, 21)],
        levels_forgotten,
        None,
    ),
    "sigmoid without slope": (
        ["discrete-1", "discrete-2", "discrete-3"],
        sigmoid_without_slope,
        None,
    ),
    "logit sign": (["discrete-6", "discrete-9"], logit_sign, None),
    "augmentation gap halved": (["discrete-5"], scalar_gap_halved, None),
    "divided by D_X + D_Z": (
        ["discrete-9"],
        None,
        ("log_w.mean() / (64", "log_w.mean() / (80"),
    ),
    "KL the other way round": (
        ["discrete-2"],
        None,
        ("-(log_posterior @ du)", "(log_posterior.exp() * log_posterior) @ du"),
    ),
    "spikes evaluated without noise": (
        ["discrete-7"],
        None,
        ("x[:, None] + middle", "x[:, None]"),
    ),
    "learned noise not trained": (["discrete-11"], None, ("optimiser.step(loss)", "loss()")),
    "rounds to the nearest": (["discrete-14"], rounds_to_the_nearest, None),
    "y and z exchanged": (
        ["discrete-15"],
        None,
        ("[start[:, :64], end[:, 64:]]", "[end[:, :64], start[:, 64:]]"),
    ),
    "paths exchanged": (
        ["discrete-16", "discrete-17", "discrete-18"],
        None,
        ("straight, kept = between(", "kept, straight = between("),
    ),
    "one digit ten times": (["discrete-19"], one_digit_ten_times, None),
    "bound in the place of the gap": (
        ["discrete-20"],
        None,
        ("[bound.value - bound.elbo", "[-bound.elbo"),
    ),
    "leans away": (["discrete-12", "discrete-13"], leans_away, None),
}
