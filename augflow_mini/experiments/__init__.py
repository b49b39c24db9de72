"""Named, seeded, resumable experiments, and the records they left.

    from augflow_mini.experiments import load_record, load_model
    load_record("digits-anf")["metrics"]["bits"]     # mean, sd, each seed
    load_model("e2-anf-3")                           # the trained Flow

`python -m augflow_mini.experiments list` shows all; `run NAME` runs one again.
"""

from __future__ import annotations

from ..flow import Flow
from . import digits, mixture
from .record import load_record, load_weights, write_record
from .runner import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    e.name: e for module in (mixture, digits) for e in module.EXPERIMENTS
}


def load_model(name: str) -> Flow:
    """The recorded model of an experiment, in eval mode on the CPU, ready to use.

    Raises:
        ValueError: there is no such experiment or record, or its files were changed.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"there is no experiment {name!r}; there are: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name].flow(load_weights(name))


__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "load_model",
    "load_record",
    "load_weights",
    "write_record",
]
