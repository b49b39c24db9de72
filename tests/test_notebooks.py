"""Rules for the committed notebooks, and copies with one rule broken that each must fail.

nbval (in `make test`) compares outputs with a fresh run, but it passes a cleared notebook: these
rules close that door, and keep a notebook readable in Colab, JupyterLab and on GitHub.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

BOOK = Path(__file__).resolve().parent.parent / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
QUIET = "nbval-ignore-output"
WIDGET = "application/vnd.jupyter.widget-view+json"
# What only MyST understands: ```{directive}, :::{directive}, {role}`text`, (label)=, % comment.
# Code spans stand as one CODE sign here, so that `{x}` is no role.
CODE = "\x00"
MYST = re.compile(rf"^\s*(`{{3,}}|:{{3,}})\{{|\{{[a-z:+-]+\}}{CODE}|^\([\w-]+\)=\s*$|^% ", re.M)
SHOWS = r"\b(print|show|display|claims\.\w+)\("  # calls that leave an output
IMAGE_LIMIT, NOTEBOOK_LIMIT = 300_000, 500_000  # bytes


def _code(notebook: dict) -> list[dict]:
    return [c for c in notebook["cells"] if c["cell_type"] == "code" and c["source"].strip()]


def _texts(output: dict) -> list[str]:
    """What an output says in words: printed text, and the text form of a shown object."""
    if output["output_type"] == "stream":
        return [output["text"]]
    text = output.get("data", {}).get("text/plain", "")
    return [] if text.startswith("interactive(") else [text]  # the settings of its controls


def _is_picture(output: dict) -> bool:
    data = output.get("data", {})
    return WIDGET in data or "<img" in data.get("text/html", "")


def _speaks(cell: dict) -> bool:
    """Whether the cell must leave an output: it prints, shows, claims or ends in a value."""
    last = cell["source"].strip().splitlines()[-1]
    ends_in_value = re.fullmatch(r"[A-Za-z_][\w.]*", last) is not None
    return ends_in_value or re.search(SHOWS, cell["source"]) is not None


def outputs_are_complete(notebook: dict) -> list[str]:
    """Every cell was run, once, in order, and what must show something did."""
    cells = _code(notebook)
    faults = []
    for number, cell in enumerate(cells, 1):
        if cell["execution_count"] != number:
            faults.append(f"code cell {number} has execution count {cell['execution_count']}")
        if _speaks(cell) and not cell["outputs"]:
            faults.append(f"code cell {number} must show something and has no output")
        if any(o["output_type"] == "error" for o in cell["outputs"]):
            faults.append(f"code cell {number} ended in an error")
    if "widgets" in notebook["metadata"]:
        faults.append("widget state is saved: `make notebooks` removes it")
    return faults


def numbers_are_compared(notebook: dict) -> list[str]:
    """A cell whose outputs nbval ignores prints no number; one with a picture is such a cell."""
    faults = []
    for number, cell in enumerate(_code(notebook), 1):
        tagged = QUIET in cell["metadata"].get("tags", [])
        if any(map(_is_picture, cell["outputs"])) and not tagged:
            faults.append(f"code cell {number} shows a picture and lacks the tag {QUIET}")
        said = [t for o in cell["outputs"] for t in _texts(o) if t not in cell["source"]]
        said = " ".join(said)  # a text that stands in the source, as alt texts do, cannot change
        if tagged and re.search(r"\d", said):
            faults.append(
                f"code cell {number} has the tag {QUIET} and prints numbers: {said[:80]}"
            )
    return faults


def pictures_have_text(notebook: dict) -> list[str]:
    """Figures come from plots.show, with alternative text, and are small."""
    faults = []
    for number, cell in enumerate(_code(notebook), 1):
        for output in cell["outputs"]:
            data = output.get("data", {})
            if any(kind.startswith("image/") for kind in data):
                faults.append(
                    f"code cell {number}: a figure without text: use plots.show(fig, alt)"
                )
            for tag in re.findall(r"<img[^>]*>", data.get("text/html", "")):
                if not re.search(r'alt="[^"]+"', tag):
                    faults.append(f"code cell {number}: an image without alternative text")
                if len(tag) > IMAGE_LIMIT:
                    faults.append(f"code cell {number}: an image of {len(tag)} bytes")
        stills = sum(
            "<noscript><img" in o.get("data", {}).get("text/html", "") for o in cell["outputs"]
        )
        if sum(WIDGET in o.get("data", {}) for o in cell["outputs"]) != stills:
            faults.append(
                f"code cell {number}: a widget without a picture for pages without Python"
            )
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown" and re.search(r"!\[\s*\]\(", cell["source"]):
            faults.append("an image in the text without alternative text")
    size = len(json.dumps(notebook))
    if size > NOTEBOOK_LIMIT:
        faults.append(f"the notebook has {size} bytes, more than {NOTEBOOK_LIMIT}")
    return faults


def markdown_is_plain(notebook: dict) -> list[str]:
    """The text reads right where MyST is not understood."""
    faults = []
    for cell in notebook["cells"]:
        text = re.sub(r"(?<!`)`[^`\n]+`(?!`)", CODE, cell["source"])
        if cell["cell_type"] == "markdown" and (found := MYST.search(text)):
            faults.append(f"MyST markup in the text: {found.group().strip()!r}")
    return faults


def starts_with_play(notebook: dict) -> list[str]:
    """At most two cells and ten lines up to the first picture, four of them in the set-up cell."""
    cells = _code(notebook)
    faults = []
    setup = [line for line in cells[0]["source"].splitlines() if line.strip()] if cells else []
    if len(setup) > 4:
        faults.append(f"the set-up cell has {len(setup)} lines, more than 4")
    lines = 0
    for number, cell in enumerate(cells, 1):
        lines += sum(1 for line in cell["source"].splitlines() if line.strip())
        if any(map(_is_picture, cell["outputs"])):
            if number > 2 or lines > 10:
                faults.append(f"the first picture comes after {number} cells and {lines} lines")
            return faults
    return faults + ["no picture at all"]


RULES = [
    outputs_are_complete,
    numbers_are_compared,
    pictures_have_text,
    markdown_is_plain,
    starts_with_play,
]


def test_there_are_notebooks():
    assert NOTEBOOKS
    sources = [c["source"] for p in NOTEBOOKS for c in _code(nbformat.read(p, as_version=4))]
    assert any("@interact(" in text and "plots.still(" in text for text in sources)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, rule):
    assert rule(nbformat.read(path, as_version=4)) == []


# ---------------------------------------------------------------- planted faults


def _sound() -> dict:
    """A notebook that keeps every rule."""
    show = {"text/plain": "A line.", "text/html": '<img alt="A line." src="data:,">'}
    picture = new_code_cell("plots.show(fig, alt)", execution_count=2, metadata={"tags": [QUIET]})
    picture.outputs = [new_output("display_data", data=show)]
    number = new_code_cell("print(gap)", execution_count=3)
    number.outputs = [new_output("stream", name="stdout", text="0.125\n")]
    setup = new_code_cell("import augflow_mini as af", execution_count=1)
    text = new_markdown_cell(
        "# A page\n\nSee [this](a.ipynb), `{x}` and $\\{x\\}$, (label) = 1.\n\n- a"
    )
    return new_notebook(cells=[text, setup, picture, number])


BIG_IMAGE = f'<img alt="A line." src="data:{"x" * IMAGE_LIMIT}">'


def _break(edit: str) -> dict:
    notebook = copy.deepcopy(_sound())
    text, setup, picture, number = notebook.cells
    exec(edit)  # one statement from the table below
    return notebook


def test_a_sound_notebook_passes():
    assert [fault for rule in RULES for fault in rule(_sound())] == []


@pytest.mark.parametrize(
    ("rule", "edit"),
    [
        (outputs_are_complete, "number.outputs = []"),  # half run
        (outputs_are_complete, "number.execution_count = None"),  # cleared
        (outputs_are_complete, "number.execution_count = 7"),  # run out of order
        (outputs_are_complete, "picture.outputs = []"),
        (outputs_are_complete, "number.source, number.outputs = 'gap', []"),
        (outputs_are_complete, "number.outputs[0] = new_output('error', ename='E', evalue='')"),
        (outputs_are_complete, "notebook.metadata['widgets'] = {}"),
        (numbers_are_compared, "number.metadata['tags'] = [QUIET]"),
        (numbers_are_compared, "picture.metadata['tags'] = []"),
        (numbers_are_compared, "picture.outputs[0].data['text/plain'] = 'at 0.7'"),
        (pictures_have_text, "picture.outputs[0].data['image/png'] = ''"),
        (pictures_have_text, "picture.outputs[0].data[WIDGET] = {}"),
        (pictures_have_text, "picture.outputs[0].data['text/html'] = '<img alt=\"\">'"),
        (pictures_have_text, "picture.outputs[0].data['text/html'] = BIG_IMAGE"),
        (pictures_have_text, "number.outputs[0].text = '1' * 500_000"),
        (pictures_have_text, "text.source = '![](figure.png)'"),
        (markdown_is_plain, "text.source = 'a\\n\\n```{note}\\nb\\n```'"),
        (markdown_is_plain, "text.source = ':::{tip}\\nb\\n:::'"),
        (markdown_is_plain, "text.source = 'see {cite}`huang2020anf`'"),
        (markdown_is_plain, "text.source = 'see {numref}`x`'"),
        (markdown_is_plain, "text.source = '(gap)=\\n# The gap'"),
        (starts_with_play, "setup.source = 'a\\n' * 5"),
        (starts_with_play, "picture.source = 'a\\n' * 10"),
        (starts_with_play, "notebook.cells.insert(1, new_code_cell('x = 1'))"),
        (starts_with_play, "picture.outputs = []"),
    ],
)  # fmt: skip
def test_a_broken_notebook_fails(rule, edit):
    assert rule(_break(edit))
