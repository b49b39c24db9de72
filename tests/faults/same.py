"""Faults that break the claims of "ANF = VFlow"; the form is that of `gap.py` here."""

from __future__ import annotations

from planted import log_det_sign

from augflow_mini import coupling, tables

NOTEBOOK = "06_anf_is_vflow.ipynb"


def additive_scales(mp):
    """An additive coupling that also stretches."""
    mp.setattr(
        coupling.AdditiveCoupling,
        "move",
        lambda self, x, params: (1.01 * x + params, x.new_zeros(len(x))),
    )


def encoder_counted_twice(mp):
    original = tables.ledger

    def twice(flow, x, e, *, posterior=0):
        rows = original(flow, x, e, posterior=posterior)
        return rows | ({"contributions": rows["contributions"] - 0.3567} if posterior else {})

    mp.setattr(tables, "ledger", twice)


FAULTS = {
    "log-det sign": (["same-1", "same-3", "same-4", "same-8"], log_det_sign, None),
    "KL the other way round": (
        ["same-5"],
        None,
        (
            "(log_q.exp() * (log_q - log_posterior))",
            "(log_posterior.exp() * (log_posterior - log_q))",
        ),
    ),
    "entropy without its 1": (
        ["same-2"],
        None,
        ("0.5 * (1 + math.log(2 * math.pi))", "0.5 * math.log(2 * math.pi)"),
    ),
    "shift not scaled": (["same-6"], None, ("m1 * log_s2.exp() + m2", "m1 + m2")),
    "log q without the Jacobian": (
        ["same-7"],
        None,
        ("standard.log_prob(back[:, -1]) + minus_contrib", "standard.log_prob(back[:, -1])"),
    ),
    "additive coupling scales": (["same-9", "same-10"], additive_scales, None),
    "kick at the old position": (
        ["same-11"],
        None,
        ("Chain([kick, drift, kick] * steps)", "Chain([kick, kick, drift] * steps)"),
    ),
    "encoder counted twice": (["same-12"], encoder_counted_twice, None),
    "encoder's scale forgotten": (
        ["same-13"],
        None,
        ("Normal(scalar.b * at, scalar.a)", "Normal(scalar.b * at, 1.0)"),
    ),
}
