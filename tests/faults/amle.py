"""Faults that break the claims of "Augment the data: AMLE".

name -> (claims that must fail, what to plant in the library, edit of the chapter's code or None)
"""

from __future__ import annotations

import dataclasses

from planted import log_det_sign, posterior_slope_sign, sum_for_mean_of_weights

from augflow_mini import bounds, gap, integrate, tables

NOTEBOOK = "03_amle.ipynb"


def data_forgotten(mp):
    """The expected gap as if x were 0."""
    original = gap.LinearGaussian.expected_gap
    mp.setattr(
        gap.LinearGaussian, "expected_gap", lambda self, mean, cov: original(self, mean, 0 * cov)
    )


def covariance_for_precision(mp):
    """The marginal's covariance is read off A^T A instead of its inverse."""
    original = gap.LinearGaussian.marginal

    def marginal(self):
        n = self.features
        return original.fget(self)[0], (self.a.T @ self.a)[:n, :n]

    mp.setattr(gap.LinearGaussian, "marginal", property(marginal))


def bound_over_the_posterior(mp):
    """The bound as a mean under p(e | x) instead of q(e)."""
    original = integrate.quadrature
    wrong = lambda *args: (lambda q: dataclasses.replace(q, elbo=q.eubo))(original(*args))  # noqa: E731
    mp.setattr(integrate, "quadrature", wrong)


def gap_sign(mp):
    mp.setattr(integrate.Quadrature, "gap", property(lambda self: self.elbo - self.log_p))


def upper_bound_below(mp):
    """KL taken away from log p(x) instead of added."""
    original = integrate.Quadrature.eubo
    wrong = lambda self: 2 * self.log_p - original.fget(self)  # noqa: E731
    mp.setattr(integrate.Quadrature, "eubo", property(wrong))


def mean_of_logarithms(mp):
    """L_K is the ELBO of the same draws."""
    original = bounds.LogWeights.bound

    def bound(self):
        right = original(self)
        return dataclasses.replace(right, value=right.elbo)

    mp.setattr(bounds.LogWeights, "bound", bound)


def one_sample_too_many(mp):
    """E[L_K] computed for K + 1."""
    original = gap.expected_iw_bound
    mp.setattr(gap, "expected_iw_bound", lambda log_w, mass, k: original(log_w, mass, k + 1))


def bound_that_does_not_tighten(mp):
    """E[L_K] stays the ELBO for every K."""
    original = gap.expected_iw_bound
    mp.setattr(gap, "expected_iw_bound", lambda log_w, mass, k: original(log_w, mass, 1))


def rate_one_over_k(mp):
    """E[L_K] by the rule gap/K."""
    original = gap.expected_iw_bound
    wrong = lambda log_w, mass, k: original(log_w, mass, 1) / k  # noqa: E731
    mp.setattr(gap, "expected_iw_bound", wrong)


def ledger_forgets_log_q(mp):
    original = tables.ledger

    def forgets(*args, **options):
        column = original(*args, **options)
        return column | {"total": column["total"] - column["- log q"]}

    mp.setattr(tables, "ledger", forgets)


FAULTS = {
    "log-det sign": (["amle-1", "amle-6"], log_det_sign, None),
    "data forgotten": (["amle-2"], data_forgotten, None),
    "covariance for precision": (["amle-3"], covariance_for_precision, None),
    "objective without log-det": (
        ["amle-3"],
        None,
        (
            "torch.trace(g @ pair @ g.T) - free[0] + free[3]",
            "torch.trace(g @ pair @ g.T) - free[0]",
        ),
    ),
    "bound over the posterior": (["amle-4", "amle-5"], bound_over_the_posterior, None),
    "gap sign": (["amle-5"], gap_sign, None),
    "decoder reads e": (
        ["amle-6"],
        None,
        ("e = log_s.exp() * e + shift", "z = log_s.exp() * e + shift"),
    ),
    "both decoders alike": (["amle-7"], None, ("z if encoded else v[None, 1:]", "z")),
    "posterior slope": (["amle-8"], posterior_slope_sign, None),
    "no 1/K": (["amle-9"], sum_for_mean_of_weights, None),
    "mean of logarithms": (["amle-9", "amle-10"], mean_of_logarithms, None),
    "K + 1 samples": (["amle-11"], one_sample_too_many, None),
    "pair not averaged": (["amle-12"], None, ("pairs = 0.5 * (w", "pairs = (w")),
    "bound does not tighten": (["amle-13"], bound_that_does_not_tighten, None),
    "rate 1/K assumed": (["amle-14"], rate_one_over_k, None),
    "upper bound below": (["amle-15"], upper_bound_below, None),
    "rate 1/K assumed in the flank": (
        ["amle-16"],
        None,
        ("expected_iw_bound(flank, mass, k))", "expected_iw_bound(flank, mass, 1)) / k"),
    ),
    "ledger without log q": (["amle-17"], ledger_forgets_log_q, None),
}
