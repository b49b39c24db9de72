"""Rules for the whole book: symbols, citations, generated pages.

Each rule is a function of texts that returns what is wrong; below, each is run on a planted fault.
Links, pictures and markup stand in test_markup.py, what one notebook must be in test_notebooks.py,
the built pages in test_site.py.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import symbols

import augflow_mini
from augflow_mini import claims, exercises

BOOK = Path(__file__).resolve().parent.parent / "book"
sys.path.insert(0, str(BOOK))
import generate  # noqa: E402
import library_page  # noqa: E402

CHAPTERS = generate.chapters()
TEXTS = generate.texts()
PROSE = {path.name: TEXTS[path.name] for path in CHAPTERS}
NOTATION = TEXTS["notation.md"]
LEDGER = symbols.defined(NOTATION) | symbols.defined(NOTATION, "Clashes of the sources")


# ---- symbols --------------------------------------------------------------------------------


def symbols_are_explained(text: str, ledger: set[str] = LEDGER) -> list[str]:
    """Every identifier of the mathematics is in the ledger or in the page's own table."""
    unknown = symbols.unknown(text, ledger | symbols.defined(text))
    return [f"{name} is in no table of symbols" for name in sorted(unknown)]


def symbols_have_one_row(text: str) -> list[str]:
    count = Counter(symbol for symbol, _ in symbols.rows(text))
    return [f"{symbol} has {n} rows" for symbol, n in count.items() if n > 1]


def y_is_the_gaussianised_data(text: str) -> list[str]:
    faults = [
        f"y is explained as: {meaning}"
        for symbol, meaning in symbols.rows(text)
        if symbol.startswith("y") and "Gaussianised" not in meaning
    ]
    slices = re.findall(r"y\s*=\s*x_\{1:d\}", text)
    return faults + ["a slice is written h = x_{1:d}"] * len(slices)


@pytest.mark.parametrize("name", PROSE)
def test_every_symbol_of_a_chapter_is_explained_once(name):
    assert symbols_are_explained(PROSE[name]) + symbols_have_one_row(PROSE[name]) == []


@pytest.mark.parametrize("name", ["notation.md", "map.md", "intro.md", "how_to_use.md"])
def test_every_symbol_of_the_other_pages_is_in_the_ledger(name):
    assert symbols_are_explained(TEXTS[name]) == []


def test_the_ledger_has_one_row_for_each_symbol():
    assert len(LEDGER) > 60
    assert symbols_have_one_row(NOTATION) == []


@pytest.mark.parametrize("name", [n for n in TEXTS if n not in ("notation.md", "map.md")])
def test_y_is_only_the_gaussianised_data(name):
    assert y_is_the_gaussianised_data(TEXTS[name]) == []


def test_the_reader_of_formulas_finds_every_identifier():
    formula = (
        r"\hat p(x_{1:d}) \le \mathrm{KL}_{\mathrm{all}} + \log \lvert J_f \rvert + D_X \, \mu_q"
    )
    found = "\\hat{p} x d KL_all J f D_X \\mu q".split()
    assert list(symbols.identifiers(formula)) == found
    with pytest.raises(ValueError, match="new command"):
        list(symbols.identifiers(r"\newsign x"))


TABLE = "| Symbol | Meaning |\n|---|---|\n| $w$; $k = D_E$ | weight; width |"
SOUND = f"## Symbols\n\n{TABLE}\n\n## Text\n\n"


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        (symbols_are_explained, SOUND + "$w^k$ and `$z$`", []),
        (symbols_are_explained, SOUND + "$w + \\xi$", ["\\xi is in no table of symbols"]),
        (symbols_are_explained, SOUND + "$$w_D$$", []),
        (symbols_are_explained, SOUND + "$$D_X$$", ["D_X is in no table of symbols"]),
        (symbols_are_explained, SOUND + "$\\hat w$", ["\\hat{w} is in no table of symbols"]),
        (symbols_are_explained, SOUND + "$\\mathrm{ESS}$", ["ESS is in no table of symbols"]),
        (symbols_have_one_row, SOUND.replace("$w$;", "$w$, $w$;"), ["w has 2 rows"]),
        (y_is_the_gaussianised_data, "$y = x_{1:d}$", ["a slice is written h = x_{1:d}"]),
        (
            y_is_the_gaussianised_data,
            SOUND.replace("$w$", "$y$"),
            ["y is explained as: weight; width"],
        ),
    ],
)
def test_symbols_with_planted_faults(rule, text, expected):
    assert (rule(text, set()) if rule is symbols_are_explained else rule(text)) == expected


# ---- citations ------------------------------------------------------------------------------


def citations_are_links(text: str, labels: set[str]) -> list[str]:
    """Every paper is cited by a link to its entry, and every such link has an entry."""
    anchors = {generate.slug(label) for label in labels}
    faults = [
        f"no entry for references.md#{anchor}"
        for anchor in re.findall(r"references\.md#([^)\s]+)\)", text)
        if anchor not in anchors
    ]
    faults += [
        f"a paper past the bibliography: {url}" for url in re.findall(r"arxiv\.org\S+", text)
    ]
    for label in labels:
        for match in re.finditer(rf"(?<!\[)\b{re.escape(label)}\b", text):
            faults.append(f"not a link: {text[match.start() - 20 : match.end()]}")
    return faults + [f"only in the book: {role}" for role in re.findall(r"\{cite[:\w]*\}", text)]


def entries_are_cited(labels: set[str], texts: list[str]) -> list[str]:
    text = "".join(texts)
    return [la for la in sorted(labels) if f"(references.md#{generate.slug(la)})" not in text]


WRITTEN = {n: t for n, t in TEXTS.items() if n not in generate.PAGES}
LABELS = set(generate.bibliography())


@pytest.mark.parametrize("name", WRITTEN)
def test_each_citation_is_a_link_to_an_entry(name):
    assert citations_are_links(WRITTEN[name], LABELS) == []


def test_each_entry_is_cited():
    assert len(LABELS) > 40
    assert entries_are_cited(LABELS, list(WRITTEN.values())) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Huang et al. 2020](references.md#huang-et-al-2020)", []),
        ("[ANF](references.md#huang-et-al-2020)", []),
        ("by Huang et al. 2020.", ["not a link"]),
        ("[x](references.md#huang2020)", ["no entry"]),
        ("[x](https://arxiv.org/abs/2002.07101)", ["a paper past"]),
        ("{cite:t}`huang2020anf`", ["only in the book"]),
    ],
)
def test_citations_with_planted_faults(text, expected):
    found = citations_are_links(text, {"Huang et al. 2020"})
    assert [fault.startswith(e) for fault, e in zip(found, expected, strict=True)] == [True] * len(
        expected
    )
    cited = entries_are_cited({"Huang et al. 2020"}, [text])
    assert bool(cited) == ("huang-et-al-2020" not in text)


def test_two_entries_cited_alike_are_refused(tmp_path):
    entry = "@misc{%s,\n author = {Ann Lee},\n title = {T},\n year = {2020},\n}\n"
    path = tmp_path / "a.bib"
    path.write_text(entry % "a" + entry % "b")
    with pytest.raises(ValueError, match="Lee 2020"):
        generate.bibliography(path)


# ---- generated pages ------------------------------------------------------------------------


@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_pages_are_current(name):
    committed = (BOOK / name).read_text(encoding="utf-8")
    assert committed == generate.PAGES[name](), "run: python book/generate.py"


def test_the_claims_ledger_is_current():
    notebooks = sorted(BOOK.glob("[0-9]*.ipynb"))
    committed = (BOOK / "claims.md").read_text(encoding="utf-8")
    assert committed == claims.page(notebooks), "run: make notebooks"
    assert len(claims.gather(notebooks)) >= 60


def test_every_exercise_has_its_solution_on_the_page_and_most_are_checked():
    """Counted anew, from the chapters' headings and from the registry of checks."""
    tasks = sum(len(re.findall(r"^#### \d+\. ", text, re.MULTILINE)) for text in PROSE.values())
    page = TEXTS["solutions.md"]
    assert tasks == page.count("<summary>Solution of ") == len(re.findall(r"^### ", page, re.M))
    names = [p.stem for p in Path(exercises.__file__).parent.glob("*.py") if p.stem != "__init__"]
    checks = {id for name in names for id in exercises.all_exercises(name)}
    assert set(re.findall(r"checked as `([^`]+)`", page)) == checks
    assert tasks >= 40
    assert len(checks) >= 0.8 * tasks
    assert f"the book's {tasks} exercises; {len(checks)} of them" in page


@pytest.mark.parametrize(
    "path", [c for c in CHAPTERS if generate.exercises(c)], ids=lambda p: p.stem
)
def test_a_chapter_with_exercises_leads_to_its_solutions(path):
    heading = f"Chapter {generate.number(path)}: {generate.title(path)}"
    assert f"(solutions.md#{generate.slug(heading)})" in PROSE[path.name]


def test_the_reference_has_every_public_name():
    page = TEXTS["reference.md"]
    shown = set(re.findall(r"^### (?:class )?([\w.]+)$", page, re.MULTILINE))
    assert set(augflow_mini.__all__) <= shown, set(augflow_mini.__all__) - shown
    for group in library_page.entries().values():
        for module, names in group.items():
            assert names, f"{module.__name__} shows nothing"
            assert {public.name for public in names} <= shown
            for public in names:
                assert not callable(public.thing) or public.thing.__doc__, (
                    f"{public.name}: no docstring"
                )
    headings = re.findall(r"^#{2,4} (.+)$", page, re.MULTILINE)
    anchors = Counter(map(generate.slug, headings))
    assert [a for a, n in anchors.items() if n > 1] == []
    assert " at 0x" not in page


def test_docstrings_keep_their_kinds():
    doc = """Sum of a*b_i.

    forward   z = a * x
    inverse   x = z / a

    With |a| < 1 and `a*b`:

        z = 1

    Args:
        a: first,
            continued.
        b, c: rest.

    Raises:
        ValueError: never.

    Lee 2020, eq. 1.
    """
    blocks = library_page.docstring(doc, lambda text: text.replace("Lee 2020", "[L](l)"))
    assert blocks == [
        r"Sum of a\*b\_i.",
        "```text\nforward   z = a * x\ninverse   x = z / a\n```",
        r"With \|a\| \< 1 and `a*b`:",
        "```text\nz = 1\n```",
        "**Arguments.**",
        "- `a`: first, continued.\n- `b, c`: rest.",
        "**Raises.**",
        "- `ValueError`: never.",
        "[L](l), eq. 1.",
    ]
