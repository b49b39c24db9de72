"""Numbers on the plain pages, which no cell computes, are those of the records and the library."""

import re
import sys
from pathlib import Path

import pytest

from augflow_mini.data import digits, histogram_bits
from augflow_mini.experiments import load_record
from augflow_mini.experiments.image_records import load_images_record

sys.path.insert(0, str(Path(__file__).parent.parent / "book"))
import generate  # noqa: E402

PAGE = (Path(__file__).parent.parent / "book" / "13_papers_tables.md").read_text(encoding="utf-8")
ROWS = {"RealNVP": "digits-realnvp", "VFlow, 16": "digits-vflow", "ANF, two": "digits-anf"}


def row(start: str, page: str = PAGE) -> list[str]:
    """The cells of the table row that begins with these words."""
    found = re.findall(rf"^\| {re.escape(start)}[^|]*\|(.*)\|$", page, flags=re.M)
    assert len(found) == 1, f"{len(found)} rows begin with {start!r}"
    return [cell.strip() for cell in found[0].split("|")]


@pytest.mark.parametrize("start", ROWS)
def test_the_table_of_the_digits_is_the_record(start):
    bits = load_record(ROWS[start])["metrics"]["bits"]
    assert row(start) == [f"{bits['mean']:.3f}", f"{bits['sd']:.3f}"]


def test_the_histogram_is_computed():
    data = digits()
    assert row("histogram of each")[0] == f"{histogram_bits(data.train, data.test, 17):.3f}"


def test_the_table_of_the_images_is_the_records():
    assert generate.filled(PAGE) == PAGE, "run: python book/generate.py"
    bits = load_images_record("small-3ch")["metrics"]["elbo"]["mean"]
    changed = PAGE.replace(f"{bits:.3f}", "5.000")
    assert changed != PAGE and generate.filled(changed) == PAGE


def test_a_changed_digit_is_seen():
    changed = PAGE.replace("1.966", "1.906")
    bits = load_record("digits-realnvp")["metrics"]["bits"]
    assert row("RealNVP", changed)[0] != f"{bits['mean']:.3f}"


def test_the_digits_are_compared_seed_by_seed():
    each = {name: load_record(f"digits-{name}")["metrics"]["bits"]["each"] for name in
            ("realnvp", "vflow", "anf")}  # fmt: skip
    behind = {
        name: [a - b for a, b in zip(each[name], each["realnvp"], strict=True)]
        for name in ("vflow", "anf")
    }
    assert min(behind["vflow"] + behind["anf"]) > 0
    vflow, anf = (sum(behind[name]) / 3 for name in ("vflow", "anf"))
    said = re.sub(r"\s+", " ", PAGE)
    each_seed = "behind RealNVP, on each of the three seeds, and ANF"
    assert f"VFlow is {vflow:.3f} {each_seed} {anf:.3f}" in said
