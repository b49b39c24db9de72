"""Faults that break the claims of "The augmentation gap".

name -> (claims that must fail, what to plant in the library, edit of the chapter's code or None)
"""

from __future__ import annotations

import dataclasses

import torch
from planted import forgotten_log_q, log_det_sign, posterior_slope_sign, sum_for_mean_of_weights

from augflow_mini import data, gap, integrate, tables
from augflow_mini.flow import Flow

NOTEBOOK = "04_augmentation_gap.ipynb"


def expectation_over_the_posterior(mp):
    """The bound as a mean under p(e | x) instead of q(e)."""
    mp.setattr(integrate.Quadrature, "gap", property(lambda self: self.log_p - self.eubo))


def scalar_gap_sign(mp):
    original = gap.ScalarANF.gap
    mp.setattr(gap.ScalarANF, "gap", lambda self, x: -original(self, x))


def posterior_variance_without_square(mp):
    """v = d / (c^2 + d^2)."""
    mp.setattr(gap.ScalarANF, "v", property(lambda self: self.d / (self.c**2 + self.d**2)))


def chi2_without_its_one(mp):
    original = gap.ScalarANF.chi2
    mp.setattr(gap.ScalarANF, "chi2", lambda self, x: original(self, x) + 1)


def one_sample_too_many(mp):
    """E[L_K] computed for K + 1."""
    original = gap.expected_iw_bound
    mp.setattr(gap, "expected_iw_bound", lambda log_w, mass, k: original(log_w, mass, k + 1))


def bound_that_does_not_tighten(mp):
    """E[L_K] stays the ELBO for every K."""
    original = gap.expected_iw_bound
    mp.setattr(gap, "expected_iw_bound", lambda log_w, mass, k: original(log_w, mass, 1))


def grid_that_does_not_follow(mp):
    """The window of the quadrature stays where the noise is, and is not refined."""

    def stay(f, x, d):
        return x.new_zeros(len(x), d), torch.eye(d, dtype=x.dtype).repeat(len(x), 1, 1)

    integral = integrate._integrate
    mp.setattr(integrate, "_find", stay)
    mp.setattr(
        integrate,
        "_integrate",
        lambda f, c, a, n, limit, tol, *, over_q: integral(f, c, a, 65, 65, tol, over_q=over_q),
    )


def mean_of_the_data_forgotten(mp):
    """The expected gap as if x were 0."""
    original = gap.LinearGaussian.expected_gap
    mp.setattr(
        gap.LinearGaussian, "expected_gap", lambda self, mean, cov: original(self, mean, 0 * cov)
    )


def wrong_entropy(mp):
    wrong = dataclasses.replace(data.TOYS["two_modes"], entropy=1.5)
    mp.setitem(data.TOYS, "two_modes", wrong)


def sandwich_sides_swapped(mp):
    original = Flow.sandwich

    def swapped(self, n, **options):
        s = original(self, n, **options)
        return dataclasses.replace(s, elbo=s.eubo, eubo=s.elbo)

    mp.setattr(Flow, "sandwich", swapped)


def ledger_counts_the_encoder_twice(mp):
    original = tables.ledger

    def twice(flow, x, e, *, posterior=0):
        return original(flow, x, e, posterior=posterior) | (
            {"total": original(flow, x, e)["total"] - 0.3567} if posterior else {}
        )

    mp.setattr(tables, "ledger", twice)


FAULTS = {
    "log-det sign": (["gap-2", "gap-4", "gap-6", "gap-19"], log_det_sign, None),
    "no 1/K": (["gap-6"], sum_for_mean_of_weights, None),
    "forgotten log q": (["gap-4", "gap-6"], forgotten_log_q, None),
    "expectation over the posterior": (["gap-8", "gap-10"], expectation_over_the_posterior, None),
    "gap sign": (["gap-1"], scalar_gap_sign, None),
    "posterior variance": (["gap-3", "gap-4", "gap-13"], posterior_variance_without_square, None),
    "posterior slope": (["gap-1", "gap-3", "gap-4"], posterior_slope_sign, None),
    "chi2 without -1": (["gap-7"], chi2_without_its_one, None),
    "K + 1 samples": (["gap-6"], one_sample_too_many, None),
    "bound does not tighten": (["gap-5", "gap-7"], bound_that_does_not_tighten, None),
    "grid stays": (["gap-21"], grid_that_does_not_follow, None),
    "data mean forgotten": (["gap-12"], mean_of_the_data_forgotten, None),
    "wrong entropy": (["gap-9"], wrong_entropy, None),
    "sandwich swapped": (["gap-22"], sandwich_sides_swapped, None),
    "encoder counted twice": (["gap-23"], ledger_counts_the_encoder_twice, None),
    "flow not trained": (["gap-10", "gap-11"], None, ("flow = recorded[1]", "flow = collapsed")),
    "steps uphill": (["gap-13", "gap-14"], None, ("rate=0.02", "rate=-0.02")),
    "no training": (["gap-15", "gap-16", "gap-20"], None, ("lr=0.02", "lr=0.0")),
    "errors read as gaps": (
        ["gap-17"],
        None,
        ('gaps = {t: torch.tensor([m["gap"]', 'gaps = {t: torch.tensor([m["excess"]'),
    ),
    "sum read as a difference": (
        ["gap-18"],
        None,
        ('m["gap"] + m["excess"]', 'm["gap"] - m["excess"]'),
    ),
    "best q left out": (["gap-24"], None, ("moved_q = linear_bars(q_1, p_0)", "moved_q = starts")),
    "variance for deviation": (
        ["gap-25"],
        None,
        ("[c, (variance - c * xz).sqrt()]", "[c, variance - c * xz]"),
    ),
    "flow without its skew": (["gap-26"], None, ('if family != "flow":', 'if family != "none":')),
    "noise not ignored": (
        ["gap-27"],
        None,
        ("[0.0, 0.0, 0.0, 0.0, 0.0, 0.5", "[0.0, 0.3, 0.0, 0.4, 0.0, 0.5"),
    ),
    "decoder trained": (
        ["gap-19"],
        None,
        ("train(encode.parameters()", "train(decode.parameters()"),
    ),
}
