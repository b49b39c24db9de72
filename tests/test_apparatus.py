"""The pages that are not chapters: what they name exists, and their code runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import augflow_mini
from augflow_mini import claims, explorers, floors, train

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
NAMES = ("map", "notation", "14_where_it_went")
PAGES = {name: (BOOK / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
MAP = PAGES["map"]
CLAIMS = {c["id"]: c["notebook"] for c in claims.gather(sorted(BOOK.glob("[0-9]*.ipynb")))}
TESTS = {
    name
    for path in (ROOT / "tests").glob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
}


def test_every_claim_that_a_page_links_to_stands_in_that_chapter():
    links = re.findall(r'href="(\w+)\.html#claim-([\w-]+)"', MAP)
    assert len(links) > 60
    assert [(c, i) for c, i in links if CLAIMS.get(i) != f"{c}.ipynb"] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_claim_that_a_page_names_exists(page):
    prefixes = "|".join({i.rsplit("-", 1)[0] for i in CLAIMS})
    named = set(re.findall(rf"\b((?:{prefixes})-\d+)\b", PAGES[page]))
    assert named <= set(CLAIMS), f"no such claims: {sorted(named - set(CLAIMS))}"


def test_every_test_that_the_map_names_exists():
    sentences = re.findall(r"(?<!\*)\*([a-z][^*|]+)\*(?!\*)", MAP)
    named = {"test_" + re.sub(r"\s", "_", words) for words in sentences}
    assert len(named) > 25
    assert named <= TESTS, f"no such tests: {sorted(named - TESTS)}"


def test_every_function_that_the_map_names_exists():
    named = set(re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", MAP)) - TESTS
    for name in sorted(named):
        first, *rest = name.split(".")
        places = (augflow_mini, explorers, floors, train, augflow_mini.InvertibleResidual)
        found = next((getattr(p, first) for p in places if hasattr(p, first)), None)
        assert found is not None, f"the map names {name}, which is nowhere"
        for attribute in rest:
            assert hasattr(found, attribute), f"the map names {name}, which is nowhere"


def test_every_equation_that_the_map_names_is_numbered_in_its_chapter():
    text = PAGES["14_where_it_went"] + "".join(
        "".join(cell["source"])
        for path in BOOK.glob("[0-9]*.ipynb")
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    )
    numbered = set(re.findall(r"\\tag\{(\d+\.\d+)\}", text))
    named = set(re.findall(r"\((\d+\.\d+)\)", MAP))
    assert len(named) > 25
    assert named <= numbered, f"no such equations: {sorted(named - numbered)}"


def uncovered(text: str) -> list[str]:
    """Rows of the map that are missing, out of order, or lead to no chapter, claim or test."""
    wanted = [str(i) for i in range(1, 30)]  # the source's statements
    wanted += [f"28.{i}" for i in range(1, 28)]  # what it left empty
    wanted += [f"D{i}" for i in range(1, 25)]  # identities
    rows = re.findall(r"^\| (D?\d+(?:\.\d+)?) \| (.*) \|$", text, re.MULTILINE)
    faults = (
        [] if [number for number, _ in rows] == wanted else ["rows are missing or out of order"]
    )
    leads = re.compile(r"\]\(\w+\.|#claim-|(?<!\*)\*[a-z]")
    return faults + [f"{n}: {row[:40]}" for n, row in rows if n != "28" and not leads.search(row)]


def equations_without_place(text: str) -> list[str]:
    """Equations of the source that lead to no equation, chapter and claim of the book."""
    section = re.search(r"^## The source text's equations$(.*?)^## ", text, re.S | re.M)[1]
    rows = re.findall(r"^\| (?!The source|-)(.*) \|$", section, re.MULTILINE)
    assert len(rows) == 14
    return [r for r in rows if not re.search(r"\| \(\d+\.\d+\).*\.ipynb#.*#claim-", r)]


def test_the_map_covers_the_whole_source():
    assert uncovered(MAP) == []
    assert equations_without_place(MAP) == []


def test_a_hole_in_the_map_is_seen():
    without_row = re.sub(r"^\| 17 \|.*\n", "", MAP, flags=re.MULTILINE)
    assert uncovered(without_row) == ["rows are missing or out of order"]
    without_place = re.sub(r"^(\| D8 \| [^|]*\|).*$", r"\1 - | - |", MAP, flags=re.MULTILINE)
    assert [fault[:2] for fault in uncovered(without_place)] == ["D8"]
    assert len(equations_without_place(MAP.replace("(3.5) |", "- |"))) == 1


def test_the_notation_has_one_row_for_each_symbol():
    table = PAGES["notation"].split("## Words")[0]
    symbols = re.findall(r"^\| (\$[^|]+?\$) \|", table, re.MULTILINE)
    assert len(symbols) > 50
    assert sorted({s for s in symbols if symbols.count(s) > 1}) == []


@pytest.mark.parametrize(
    "code", re.findall(r"```python\n(.*?)```", PAGES["14_where_it_went"], re.DOTALL)
)
def test_the_code_of_the_last_chapter_runs(code, capsys):
    exec(compile(code, "14_where_it_went.md", "exec"), {})  # its last line asserts
    assert capsys.readouterr().out
