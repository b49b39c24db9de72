"""Faults that break the claims of "Normalizing flows in one sitting".

name -> (claims that must fail, what to plant in the library, edit of the chapter's code or None)
"""

from __future__ import annotations

from planted import log_det_sign

from augflow_mini import coupling, linear, mixlogistic, pointwise

NOTEBOOK = "01_normalizing_flows.ipynb"


def inverse_in_the_wrong_order(mp):
    """Scaled back before the shift is taken off."""

    def back(self, z, params):
        log_s, m = self._log_s_and_m(params)
        return z * (-log_s).exp() - m, -log_s.flatten(1).sum(1)

    mp.setattr(coupling.AffineCoupling, "move_back", back)


def scale_contributes_nothing(mp):
    mp.setattr(pointwise.Scale, "_contrib", lambda self, x: x.new_zeros(len(x)))


def logit_contributes_nothing(mp):
    original = pointwise.Sigmoid.inverse
    mp.setattr(
        pointwise.Sigmoid, "inverse", lambda self, z: (lambda x, c: (x, 0 * c))(*original(self, z))
    )


def sigmoid_slope_upside_down(mp):
    original = pointwise.Sigmoid.forward
    mp.setattr(
        pointwise.Sigmoid, "forward", lambda self, x: (lambda z, c: (z, -c))(*original(self, x))
    )


def one_position_only(mp):
    """A 1x1 convolution counts its log-det once, not for each position."""
    mp.setattr(linear, "_places", lambda x: 1)


def slope_without_the_upper_tail(mp):
    """log pdf - log CDF: the logit's second term is forgotten."""
    original = mixlogistic.mixture_logit

    def forgetful(x, log_weight, mean, log_scale):
        y, log_slope = original(x, log_weight, mean, log_scale)
        return y, log_slope - (1 + y.exp()).log()

    mp.setattr(mixlogistic, "mixture_logit", forgetful)


FAULTS = {
    "log-det sign": (
        ["nf-3", "nf-5", "nf-6", "nf-10", "nf-11", "nf-12"],
        log_det_sign,
        None,
    ),
    "inverse in the wrong order": (["nf-4", "nf-12"], inverse_in_the_wrong_order, None),
    "scale contributes nothing": (["nf-1"], scale_contributes_nothing, None),
    "logit contributes nothing": (["nf-2"], logit_contributes_nothing, None),
    "sigmoid's slope upside down": (["nf-13"], sigmoid_slope_upside_down, None),
    "one position only": (["nf-8"], one_position_only, None),
    "slope without a tail": (["nf-9"], slope_without_the_upper_tail, None),
    "no training": (["nf-7"], None, ("steps=500", "steps=1")),
}
