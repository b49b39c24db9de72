"""Faults that break the claims of "VFlow: learn q".

name -> (claims that must fail, what to plant in the library, edit of the chapter's code or None)
"""

from __future__ import annotations

from planted import forgotten_log_q, log_det_sign, posterior_slope_sign

from augflow_mini import coupling, gap, tables

NOTEBOOK = "05_vflow.ipynb"


def _minus_contrib(method):
    return lambda *args: (lambda z, contrib: (z, -contrib))(*method(*args))


def log_det_sign_backwards(mp):
    """Only the inverse coupling, a decoder, has the wrong sign."""
    wrong = _minus_contrib(coupling.AffineCoupling.move_back)
    mp.setattr(coupling.AffineCoupling, "move_back", wrong)


def gap_sign(mp):
    original = gap.LinearGaussian.gap
    mp.setattr(gap.LinearGaussian, "gap", lambda self, x: -original(self, x))


def floor_without_half(mp):
    original = gap.LinearGaussian.diagonal_floor
    mp.setattr(gap.LinearGaussian, "diagonal_floor", lambda self: 2 * original(self))


def bound_that_does_not_tighten(mp):
    """E[L_K] stays the ELBO for every K."""
    original = gap.expected_iw_bound
    mp.setattr(gap, "expected_iw_bound", lambda log_w, mass, k: original(log_w, mass, 1))


def ledger_ignores_the_posterior(mp):
    original = tables.ledger
    mp.setattr(tables, "ledger", lambda flow, x, e, *, posterior=0: original(flow, x, e))


FAULTS = {
    "gap sign": (["vflow-1"], gap_sign, None),
    "expectation over the wrong law": (
        ["vflow-2"],
        None,
        ("(proposal.log_prob(line).exp() @", "(noise.log_prob(line).exp() @"),
    ),
    "log-det sign": (["vflow-3", "vflow-4", "vflow-6"], log_det_sign, None),
    "forgotten log q": (["vflow-6"], forgotten_log_q, None),
    "floor without 1/2": (["vflow-5"], floor_without_half, None),
    "slope multiplied": (["vflow-7"], None, ("- slope.log()  # (5.4)", "+ slope.log()")),
    "flow not trained": (["vflow-8"], None, ("450, 0.01", "1, 0.01")),
    "decoder's log-det sign": (["vflow-9"], log_det_sign_backwards, None),
    "bound does not tighten": (["vflow-10", "vflow-11"], bound_that_does_not_tighten, None),
    "no steps in p": (
        ["vflow-12", "vflow-13"],
        None,
        ("curve.parameters(), 60, 0.02", "curve.parameters(), 60, 0.0"),
    ),
    "posterior slope": (["vflow-14"], posterior_slope_sign, None),
    "ledger ignores q": (["vflow-15"], ledger_ignores_the_posterior, None),
}
