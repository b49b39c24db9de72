"""Faults that break the claims of "Experiments in 2-D"; the form is that of `gap.py` here."""

from __future__ import annotations

from augflow_mini import floors
from augflow_mini.experiments import toy_records

NOTEBOOK = "11_experiments_2d.ipynb"


def _changed(metric, change, only=""):
    """Records whose numbers are other than measured, seed by seed."""

    def plant(mp):
        original = toy_records.load_toys

        def load(group):
            record = original(group)
            for name, cell in record["cells"].items():
                if only in name and metric in cell["metrics"]:
                    values = cell["metrics"][metric]
                    values["each"] = [change(v) for v in values["each"]]
            return record

        mp.setattr(toy_records, "load_toys", load)

    return plant


def _differences_negated(mp):
    original = toy_records.load_toys

    def load(group):
        record = original(group)
        for d in record["differences"].values():
            d["mean"], d["low"], d["high"] = -d["mean"], -d["high"], -d["low"]
        return record

    mp.setattr(toy_records, "load_toys", load)


def _rest_shifted(mp):
    """A part of the sum is forgotten: 0.2 nats stay over."""
    original = toy_records.load_toys

    def load(group):
        record = original(group)
        for cell in record["cells"].values():
            for k in (1, 8, 64):
                if f"rest_{k}" in cell:
                    cell[f"rest_{k}"] = [v + 0.2 for v in cell[f"rest_{k}"]]
        return record

    mp.setattr(toy_records, "load_toys", load)


def _formula_of_three_dimensions(mp):
    original = floors.constant_jacobian_floor
    mp.setattr(floors, "constant_jacobian_floor", lambda k, dims=2: original(k, dims=3))


def _sorting_off(mp):
    original = floors.rearrangement_floor
    mp.setattr(floors, "rearrangement_floor", lambda *a, **kw: original(*a, **kw) + 0.7)


def _frontier_of_half_the_steepness(mp):
    original = floors.steepness_frontier
    mp.setattr(floors, "steepness_frontier", lambda p, L, **kw: original(p, L / 20, **kw))


FAULTS = {
    "formula of D_X = 3": (["toys-1"], _formula_of_three_dimensions, None),
    "sorting off by 0.7 nats": (["toys-1", "toys-2"], _sorting_off, None),
    "1.96 for Student's quantile": (["toys-3"], None, ("t_4 = 2.776445", "t_4 = 1.96")),
    "sum without the step": (["toys-4"], None, (" + math.log(14 / 560)", "")),
    "NLL 0.2 too low": (
        ["toys-5", "toys-8", "toys-9", "toys-10", "toys-11"],
        _changed("nll", lambda v: v - 0.2),
        None,
    ),
    "NLL 0.2 too high": (
        ["toys-4", "toys-6", "toys-8", "toys-9"],
        _changed("nll", lambda v: v + 0.2),
        None,
    ),
    "ELBO 0.2 too high": (["toys-7"], _changed("elbo", lambda v: v + 0.2), None),
    "frontier of another steepness": (["toys-11"], _frontier_of_half_the_steepness, None),
    "differences the other way round": (["toys-12", "toys-14"], _differences_negated, None),
    "gaps three times as large": (["toys-13"], _changed("gap", lambda v: 3 * v), None),
    "unmixed noise that helps": (
        ["toys-15"],
        _changed("nll", lambda v: v - 0.01, only="unmixed"),
        None,
    ),
    "log q doubled in its own form": (
        ["toys-17"],
        _changed("var_log_q_form", lambda v: 4 * v),
        None,
    ),
    "a part forgotten": (["toys-16"], _rest_shifted, None),
    "a shorter limit": (["toys-18"], None, ('"three minutes": 180.0', '"three minutes": 60.0')),
}
