"""An install moves no package of a reader in Colab or Kaggle. The heavy part is `make
test-environments` (environments/run.py) and `make test-lab` (environments/lab.py); what those two
compare is here run on planted faults."""

import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
sys.path.insert(0, str(ROOT / "tests" / "environments"))
import lab  # noqa: E402
import run  # noqa: E402

RUNTIMES = tomllib.loads((ROOT / "tests/environments/floors.toml").read_text())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_lower_bounds_are_met_by_what_readers_have(runtime):
    there = RUNTIMES[runtime]
    assert SpecifierSet(PROJECT["requires-python"]).contains(there["python"])
    for line in PROJECT["dependencies"]:
        wanted = Requirement(line)
        if wanted.name in there:
            assert wanted.specifier.contains(there[wanted.name]), (line, there[wanted.name])
        else:  # no version is known: then it must be a bare name, or be said to be missing
            assert not wanted.specifier or wanted.name in there.get("absent", ()), line


def test_what_is_pinned_is_within_the_bounds():
    for name in ("colab", "oldest"):
        text = (ROOT / "tests/environments" / f"{name}.txt").read_text()
        pins = dict(line.split("==") for line in text.splitlines() if "==" in line)
        for line in PROJECT["dependencies"]:
            wanted = Requirement(line)
            if wanted.name in pins:
                assert wanted.specifier.contains(pins[wanted.name]), (name, line)


def test_the_oldest_environment_has_the_oldest_torch():
    lowest = next(line for line in PROJECT["dependencies"] if line.startswith("torch"))
    pinned = (ROOT / "tests/environments/oldest.txt").read_text()
    assert lowest.replace(">=", "==") in pinned.replace(".0\n", "\n")


EXPLORER = {"model_name": "AnyModel", "state": {}}
LAYOUT = {"model_name": "LayoutModel", "state": {}}


@pytest.mark.parametrize(
    ("views", "widgets", "faults"),
    [
        ("a", {"a": EXPLORER, "b": LAYOUT}, []),
        ("", {}, []),
        ("ac", {"a": EXPLORER, "b": LAYOUT}, ["no state was saved of c"]),
        ("a", {"a": EXPLORER | {"buffers": [{}]}}, ["1 widgets hold binary buffers"]),
    ],
)
def test_what_colab_would_lose_is_seen(views, widgets, faults):
    assert run.lost_in_colab([*views], {f"{run.MIME}state+json": {"state": widgets}}) == faults


def test_jupyterlab_runs_every_notebook_with_an_explorer():
    assert {"02_bottleneck", "06_anf_is_vflow", "playground"} <= {p.stem for p in lab.notebooks()}


def test_another_number_in_jupyterlab_is_seen():
    assert lab.differing(["gap = 0.5388"], ["gap = 0.5388"]) == []
    assert len(lab.differing(["gap = 0.5388", "x"], ["gap = 0.5389", "x"])) == 1
    assert lab.differing(["x"], []) == ["1 explorers in the built page, 0 in JupyterLab"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"controls": {"a": 0.7}}, "in the kernel"),
        ({"computed": {"gap": 0.5390}}, "by torch"),
        ({"computed": {"gap": float("nan")}}, "by torch"),
        ({"computed": {}}, "no number"),
    ],
)
def test_a_kernel_left_behind_is_seen(change, fault):
    there = {"name": "Gap", "shown": {"gap": 0.5388}, "computed": {"gap": 0.53881}}
    there |= {"controls": {"a": 1.2}, **change}
    found = lab.astray([there], [{"value": 1.2, "max": 1.2}])
    assert len(found) == bool(fault) and all(fault in f for f in found)
