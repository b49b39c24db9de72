"""Faults that break the claims of "Hierarchical ANF".

name -> (claims that must fail, what to plant in the library, edit of the chapter's code or None)
"""

from __future__ import annotations

import dataclasses

import torch
from planted import log_det_sign, posterior_slope_sign

from augflow_mini import coupling, gap, tables
from augflow_mini.explorers import levels

NOTEBOOK = "09_hierarchical_anf.ipynb"


def decoder_shift_sign(mp):
    """y = (x + m) / s."""
    original = coupling.AffineCoupling.move_back

    def wrong(self, z, params):
        log_s, mean = params.chunk(2, dim=1)
        return original(self, z, torch.cat([log_s, -mean], dim=1))

    mp.setattr(coupling.AffineCoupling, "move_back", wrong)


def blocks_read_in_reverse(mp):
    """A network that reads several blocks sees them in the wrong order."""
    original = coupling.Coupling._params
    mp.setattr(coupling.Coupling, "_params", lambda self, seen: original(self, seen[::-1]))


def twice_the_gap(mp):
    original = gap.LinearGaussian.gap
    mp.setattr(gap.LinearGaussian, "gap", lambda self, x: 2 * original(self, x))


def ledger_ignores_the_posterior(mp):
    original = tables.ledger
    mp.setattr(tables, "ledger", lambda flow, x, e, *, posterior=0: original(flow, x, e))


def levels_fed_by_the_posterior(mp):
    """The upper shares as if level 1 were exact, whatever its encoder does."""
    original = levels.Levels.shares

    def wrong(self, x):
        exact = original(dataclasses.replace(self, spread=1.0), x)
        return torch.cat([original(self, x)[:, :1], exact[:, 1:]], dim=1)

    mp.setattr(levels.Levels, "shares", wrong)


FAULTS = {
    "posterior slope": (["hier-1"], posterior_slope_sign, None),
    "average over the noise": (
        ["hier-1"],
        None,
        ("(a1**2 + b1**2 * x**2) / (2 * s**2)", "(1 + 0 * x**2) / (2 * s**2)"),
    ),
    "twice the gap": (["hier-2", "hier-7"], twice_the_gap, None),
    "log-det sign": (["hier-3", "hier-4", "hier-5", "hier-8", "hier-10"], log_det_sign, None),
    "decoder's shift sign": (
        ["hier-3", "hier-6", "hier-8", "hier-9"],
        decoder_shift_sign,
        None,
    ),
    "blocks reversed": (["hier-3", "hier-5", "hier-8"], blocks_read_in_reverse, None),
    "level 2 averaged over nothing": (
        ["hier-5"],
        None,
        ("@ q2 @ q1", "@ q2 @ q1.flip(0).cumsum(0)"),
    ),
    "top encoder off": (
        ["hier-6"],
        None,
        ("([b1], a1), ([0.0, rho], s), ", "([b1], a1), ([0.0, b2], s), "),
    ),
    "no link": (["hier-8"], None, ("([0.9 / 1.17, -0.81 / 1.17]", "([0.9 / 1.17, 0.0]")),
    "ledger ignores q": (["hier-11"], ledger_ignores_the_posterior, None),
    "levels fed by the posterior": (["hier-12"], levels_fed_by_the_posterior, None),
}
