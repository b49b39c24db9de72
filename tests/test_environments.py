"""An install moves no package of a reader in Colab or Kaggle; the heavy part is `make
test-environments` (environments/run.py)."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
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
