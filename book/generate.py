"""Write the pages that are made from other files: `python book/generate.py`.

    references.md   from references.bib, and from where chapters cite what
    solutions.md    from the folds of the chapters' exercises
    faults.md       from tests/faults: which planted fault breaks which claim
    reference.md    from the docstrings of the library

In written pages it makes the tables between marks anew (`TABLES`).

The pages are committed, so that they can be read without a build; a test compares them with what
this script would write. `make notebooks` runs it.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from functools import cache
from pathlib import Path

import library_page
from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

from augflow_mini import claims
from augflow_mini.experiments import image_records, image_setups

BOOK = Path(__file__).resolve().parent
FAULTS = BOOK.parent / "tests" / "faults"
NOTE = "<!-- Made by book/generate.py; do not edit. -->"


def chapters(book: Path = BOOK) -> list[Path]:
    """The numbered chapters, notebooks and pages, in reading order."""
    return sorted(p for p in book.glob("[0-9][0-9]_*") if p.suffix in (".ipynb", ".md"))


@cache
def cells(path: Path) -> list[tuple[str, str]]:
    """(kind, source) of each cell; a Markdown page is one cell."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [("markdown", text)]
    return [(c["cell_type"], "".join(c["source"])) for c in json.loads(text)["cells"]]


def prose(path: Path) -> str:
    """The Markdown of a chapter or page."""
    return "\n\n".join(source for kind, source in cells(path) if kind == "markdown")


def texts() -> dict[str, str]:
    """The Markdown of every page of the book by file name, generated pages included."""
    pages = {path.name: prose(path) for path in chapters()}
    return pages | {p.name: prose(p) for p in sorted(BOOK.glob("*.md")) if p.name not in pages}


def title(path: Path) -> str:
    return re.search(r"^# (.+)$", prose(path), re.MULTILINE)[1]


def number(path: Path) -> str:
    """The chapter's number: "4"."""
    return str(int(path.name[:2]))


def slug(heading: str) -> str:
    """The anchor that GitHub and the build give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def page(*blocks: str) -> str:
    return "\n\n".join([blocks[0], NOTE, *blocks[1:]]) + "\n"


# ---- bibliography ---------------------------------------------------------------------------


def _plain(latex: str) -> str:
    return str(Text.from_latex(latex)).strip()


def label(entry: Entry) -> str:
    """How a chapter cites the entry: "Huang et al. 2020"."""
    last = [" ".join(map(_plain, p.prelast_names + p.last_names)) for p in entry.persons["author"]]
    names = last[0] if len(last) == 1 else " and ".join(last)
    return f"{names if len(last) < 3 else last[0] + ' et al.'} {entry.fields['year']}"


@cache
def bibliography(path: Path = BOOK / "references.bib") -> dict[str, Entry]:
    """label -> entry, sorted; the label's slug is the anchor.

    Raises:
        ValueError: two entries have the same label.
    """
    found: dict[str, Entry] = {}
    for entry in parse_file(str(path)).entries.values():
        if label(entry) in found:
            raise ValueError(f"two entries of {path.name} would be cited as {label(entry)}")
        found[label(entry)] = entry
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _entry(entry: Entry) -> str:
    names = [
        " ".join(map(_plain, p.first_names + p.middle_names + p.prelast_names + p.last_names))
        for p in entry.persons["author"]
    ]
    authors = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    get = lambda name: _plain(entry.fields.get(name, ""))  # noqa: E731
    where = get("booktitle") or get("journal")
    volume = " ".join(filter(None, [get("series"), get("volume")]))
    if get("number"):
        volume += f"({get('number')})"
    if get("pages"):
        volume += f":{get('pages').replace('--', '-')}"
    place = ", ".join(filter(None, [where, volume, get("year")]))
    arxiv = f"[arXiv {get('eprint')}](https://arxiv.org/abs/{get('eprint')})"
    return f"{authors}. *{get('title')}*. {place}. {arxiv}."


def references_page() -> str:
    blocks = [
        "# References",
        "Every paper that the book cites. The two it is about are "
        + " and ".join(
            f"[{name}](#{slug(name)})" for name in ("Huang et al. 2020", "Chen et al. 2020")
        )
        + ". The data of each entry were read in a record of the paper.",
    ]
    for name, entry in bibliography().items():
        target = f"references.md#{slug(name)})"
        citing = [f"[{number(c)}]({c.name})" for c in chapters() if target in prose(c)]
        cited = f" Cited in chapter {', '.join(citing)}." if citing else ""
        blocks += [f"## {name}", _entry(entry) + cited]
    return page(*blocks)


# ---- solutions ------------------------------------------------------------------------------


def exercises(chapter: Path) -> list[tuple[str, str, str, str | None]]:
    """(heading, hint, solution, id of the check or None) of each exercise."""
    found = []
    for kind, source in cells(chapter):
        for part in re.split(r"^(?=#{2,4} )", source, flags=re.MULTILINE):
            if kind == "markdown" and "<summary>Solution</summary>" in part:
                heading = re.match(r"#### (.+)", part)
                if heading is None:
                    raise ValueError(
                        f"{chapter.name}: a solution without a #### heading: {part[:60]}"
                    )
                hint, solution = (_fold(part, name) for name in ("Hint", "Solution"))
                found.append((heading[1], hint, solution, None))
        if kind == "code" and (check := re.search(r'exercises\.check\("([^"]+)"', source)):
            if not found or found[-1][3] is not None:
                raise ValueError(f"{chapter.name}: {check[1]} stands under no exercise of its own")
            found[-1] = (*found[-1][:3], check[1])
    return found


def _fold(text: str, name: str) -> str:
    fold = re.search(rf"<summary>{name}</summary>(.*?)</details>", text, re.DOTALL)
    if fold is None:
        raise ValueError(f"no fold {name} in: {text[:60]}")
    return fold[1].strip()


def solutions_page() -> str:
    sets = {c: exercises(c) for c in chapters() if c.suffix == ".ipynb"}
    count = sum(map(len, sets.values()))
    checked = sum(e[3] is not None for s in sets.values() for e in s)
    blocks = [
        "# Solutions",
        f"Hints and solutions of the book's {count} exercises; {checked} of them check your answer in "
        "the chapter. Each heading's link leads back to the task. The hints are open here, the "
        "solutions are folded.",
    ]
    for chapter, done in sets.items():
        if done:
            blocks.append(f"## Chapter {number(chapter)}: {title(chapter)}")
        for heading, hint, solution, check in done:
            how = f"checked as `{check}`" if check else "without a check"
            back = f"[The task]({chapter.name}#{slug(heading)}), {how}."
            fold = (
                f"<details>\n<summary>Solution of {heading}</summary>\n\n{solution}\n\n</details>"
            )
            blocks += [f"### {heading}", back, f"**Hint.** {hint}", fold]
    return page(*blocks)


# ---- planted faults -------------------------------------------------------------------------


def faults(path: Path) -> tuple[str, dict[str, list[str]]]:
    """The notebook, and fault -> ids of the claims that it must break."""
    if str(path.parent.parent) not in sys.path:  # the modules share tests/planted.py
        sys.path.insert(0, str(path.parent.parent))
    spec = importlib.util.spec_from_file_location(f"planted_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NOTEBOOK, {name: list(ids) for name, (ids, *_) in module.FAULTS.items()}


def faults_page() -> str:
    tables = sorted(faults(path) for path in FAULTS.glob("*.py"))
    places = {
        c["id"]: Path(c["notebook"]).stem for c in claims.gather(sorted(BOOK.glob("*.ipynb")))
    }
    count = sum(len(broken) for _, broken in tables)
    blocks = [
        "# Planted faults",
        "A check that cannot fail shows nothing. So the tests break the library, or a chapter's own "
        f"code, on purpose: the {count} faults below, one at a time, and each must break the claims "
        f"beside it. Every one of the {len(places)} [claims](claims.md) is broken by at least one.",
    ]
    for notebook, broken in tables:
        rows = [
            f"| {name} | "
            + ", ".join(f'<a href="{places[i]}.html#claim-{i}">{i}</a>' for i in ids)
            + " |"
            for name, ids in broken.items()
        ]
        chapter = BOOK / notebook
        blocks += [
            f"## Chapter {number(chapter)}: {title(chapter)}",
            "\n".join(["| Fault | Claims that fail |", "|---|---|", *rows]),
        ]
    return page(*blocks)


# ---- library reference ----------------------------------------------------------------------


def used(name: str) -> str:
    """Which chapters use a public name, in code or in text."""
    whole = re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)")
    code = {c: "\n".join(re.findall(r"`[^`]+`", prose(c)) + _code(c)) for c in chapters()}
    where = [f"[{number(c)}]({c.name})" for c, text in code.items() if whole.search(text)]
    return f"*Used in chapter {', '.join(where)}.*" if where else ""


def _code(chapter: Path) -> list[str]:
    return [source for kind, source in cells(chapter) if kind == "code"]


def cite(text: str) -> str:
    """Put a link on every paper that the text names by authors and year."""
    text = text.replace(" & ", " and ")
    for name in bibliography():
        text = text.replace(name, f"[{name}](references.md#{slug(name)})")
    return text


# ---- tables inside written pages ------------------------------------------------------------


def image_table() -> str:
    """Every image experiment that has a record, as a Markdown table."""
    setups = image_setups.setups()
    found = [name for name in setups if (image_records.FOLDER / f"{name}.json").exists()]
    places = {"cifar10": "CIFAR-10", "mnist": "MNIST"}
    rows = image_records.table({name: name for name in found})
    head = ["Record", "images", *next(iter(rows.values()))]
    lines = [
        [f"`{name}`", places[setups[name].data] + (" at 8 x 8" if setups[name].pool > 1 else ""),
         *cells.values()] for name, cells in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


TABLES = {"image records": image_table}


def filled(text: str) -> str:
    """A written page with what stands between its marks `<!-- NAME -->`, `<!-- end -->` made anew."""
    for name, make in TABLES.items():
        region = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        text = region.sub(lambda m, make=make: f"{m[1]}\n{make()}\n{m[2]}", text)
    return text


# ---------------------------------------------------------------------------------------------


PAGES = {
    "references.md": references_page,
    "solutions.md": solutions_page,
    "faults.md": faults_page,
    "reference.md": lambda: page(*library_page.blocks(used, cite)),
}


if __name__ == "__main__":
    for path in chapters():
        if path.suffix == ".md":  # first: the pages below look at what these hold
            path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    for name, make in PAGES.items():
        (BOOK / name).write_text(make(), encoding="utf-8")
