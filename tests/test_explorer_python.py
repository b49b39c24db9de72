"""The explorers' Python side: each control is a trait to read, set, observe, link; torch follows."""

from __future__ import annotations

import math

import ipywidgets
import pytest
import torch
import traitlets

from augflow_mini import explorers
from augflow_mini.experiments import load_model
from augflow_mini.explorers import Explorer, export_flow
from augflow_mini.explorers.playground import Playground


def mixture() -> explorers.MixtureExplorer:
    names = ("e2-anf-1", "e2-anf-2")
    return explorers.MixtureExplorer([
        {"name": name, "flow": export_flow(load_model(name))} for name in names
    ])  # fmt: skip


MADE = {name: getattr(explorers, name) for name in explorers.__all__ if name.endswith("Explorer")}
del MADE["Explorer"]  # what they share
MADE |= {
    "DigitsExplorer": explorers.DigitsExplorer.from_records,
    "FloorsExplorer": explorers.FloorsExplorer.from_records,
    "JointExplorer": lambda: explorers.JointExplorer(load_model("e2-anf-2")),
    "MixtureExplorer": mixture,
    "Playground": Playground,
}


def control_of(explorer: Explorer, name: str) -> ipywidgets.Widget:
    """A control of ipywidgets for one trait of an explorer."""
    given = next(g for g in explorer.inputs if g["name"] == name)
    if "options" in given:
        return ipywidgets.Dropdown(options=given["options"], value=given["start"])
    slider = ipywidgets.IntSlider if isinstance(given["start"], int) else ipywidgets.FloatSlider
    return slider(given["start"], min=given["min"], max=given["max"], step=given["step"])


def other(explorer: Explorer, name: str) -> object:
    """A value that the control can take and does not have: the far end, or the other option."""
    given = next(g for g in explorer.inputs if g["name"] == name)
    ends = given.get("options") or [given["max"], given["min"]]
    return next(end for end in ends if end != getattr(explorer, name))


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        one[k] == two[k] or (math.isnan(one[k]) and math.isnan(two[k])) for k in one
    )


@pytest.mark.parametrize("name", MADE)
def test_every_control_can_be_set_observed_and_linked(name):
    torch.manual_seed(0)
    explorer, seen = MADE[name](), []
    explorer.observe(
        lambda change: seen.append((change["name"], change["new"])), explorer.controls
    )
    explorer.recompute()
    for trait in explorer.controls:
        hand = control_of(explorer, trait)
        tie = traitlets.link((hand, "value"), (explorer, trait))
        hand.value = value = other(explorer, trait)  # from the control to the explorer and torch
        assert getattr(explorer, trait) == value and seen[-1] == (trait, value)
        back = other(explorer, trait)
        setattr(explorer, trait, back)  # and from the explorer to the control
        assert hand.value == back and seen[-1] == (trait, back)
        tie.unlink()
        if isinstance(hand, ipywidgets.Dropdown):  # its text does not travel to the page
            hand = ipywidgets.Text(back)
        in_page = ipywidgets.jslink((hand, "value"), (explorer, trait))  # both must be synced
        assert in_page.target == (explorer, trait)
    assert same(explorer.computed, explorer.compute())
    with pytest.raises(TypeError, match="No such trait"):
        ipywidgets.jslink((hand, "value"), (explorer, "alt"))


def test_torch_follows_a_trait_without_a_control():
    explorer = explorers.GapExplorer()
    explorer.d = 1.2
    assert explorer.computed == explorer.compute() != explorers.GapExplorer().compute()
