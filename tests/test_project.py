"""What the repository promises beside the library: examples run, pins are whole, bounds low."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata as metadata
import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    )
}


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_examples_of_the_readme_run(code):
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=300)


def _needed(names: set[str]) -> set[str]:
    """The named packages and all that they bring along on this machine."""
    found, todo = set(), set(names)
    while todo:
        name = todo.pop()
        found.add(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.add(canonicalize_name(requirement.name))
        todo -= found
    return found


def test_the_pins_are_complete_and_none_is_superfluous():
    extras = {k: v for k, v in PROJECT["optional-dependencies"].items() if k != "peers"}
    asked = [*PROJECT["dependencies"], *sum(extras.values(), [])]  # peers are compared with only
    assert _needed({canonicalize_name(Requirement(line).name) for line in asked}) == set(PINS)


def test_every_pin_has_its_reason():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if "==" in line and "  # " not in line] == []


def test_what_is_installed_is_what_is_pinned():
    installed = {name: metadata.version(name).split("+")[0] for name in PINS}
    assert installed == PINS


def test_the_library_asks_for_lower_bounds_only():
    for line in PROJECT["dependencies"]:
        assert all(bound.operator == ">=" for bound in Requirement(line).specifier), line


def test_the_version_is_one():
    import augflow_mini

    assert metadata.version("augflow-mini") == augflow_mini.__version__
    assert augflow_mini.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_importing_the_library_loads_no_picture_and_no_widget():
    code = "import sys, augflow_mini; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("matplotlib", "ipywidgets", "anywidget", "IPython", "sklearn"):
        assert heavy not in done.stdout.split()


def test_papers_named_in_the_book_are_in_the_bibliography():
    known = set(re.findall(r"eprint = \{([\d.]+)\}", (ROOT / "book/references.bib").read_text()))
    assert known
    for path in [
        *(ROOT / "book").glob("*.ipynb"),
        *(ROOT / "book").glob("*.md"),
        ROOT / "README.md",
    ]:
        text = path.read_text()
        if path.suffix == ".ipynb":
            cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"]
            text = "".join("".join(c["source"]) for c in cells)
        named = set(re.findall(r"arxiv\.org/(?:abs|pdf)/(\d+\.\d+)", text))
        assert named <= known, f"{path.name} names {sorted(named - known)}"


def _two_builds(folder: Path, makefile: str) -> str:
    """What two `make html` at once do to one folder: s and e where a build starts and ends."""
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    (folder / "Makefile").write_text(makefile)
    for name in ("requirements.txt", "pyproject.toml"):
        (folder / name).write_text("")
    stamp = hashlib.sha256(b"").hexdigest()[:12]
    (folder / ".venv" / f".installed-{stamp}").touch()  # nothing to install
    book = tools / "jupyter-book"
    book.write_text("#!/bin/sh\nprintf s >> seen; sleep 0.5; printf e >> seen\n")
    book.chmod(0o755)
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    builds = [subprocess.Popen(["make", "html"], **quiet) for _ in range(2)]
    assert [build.wait(timeout=60) for build in builds] == [0, 0]
    return (folder / "seen").read_text()


def test_two_builds_at_once_take_turns(tmp_path):
    makefile = (ROOT / "Makefile").read_text()
    assert _two_builds(tmp_path / "with", makefile) == "sese"
    torn = makefile.replace("$(call timed,build); $(alone);", "$(call timed,build);")
    assert torn != makefile
    assert _two_builds(tmp_path / "without", torn) == "ssee"


# ---- files that a reader can hold ------------------------------------------------------------

LINES = 260  # of code: empty lines, comments and docstrings not counted


def code_lines(source):
    """How many lines of a Python source hold code."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    doc = {n for text in texts for n in range(text.lineno, text.end_lineno + 1)}
    no_code = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in no_code and token.string:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - doc)


def script_lines(source):
    """The same for JavaScript."""
    source = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    return sum(
        bool(line.strip()) and not line.strip().startswith("//") for line in source.split("\n")
    )


def test_lines_of_code_are_counted_right():
    assert code_lines('"""One\ntwo."""\n\nx = 1  # three\n# four\ny = f(\n    1\n)\n') == 4
    assert script_lines("/* one\ntwo */\nlet a = 1; // three\n\n  // four\nb();\n") == 2


def test_no_file_is_longer_than_a_reader_can_hold():
    folders = ("augflow_mini", "benchmarks", "book/_ext")
    sizes = {p: code_lines(p.read_text()) for f in folders for p in (ROOT / f).rglob("*.py")}
    sizes |= {p: script_lines(p.read_text()) for p in (ROOT / "augflow_mini").rglob("*.js")}
    assert len(sizes) > 80
    assert {str(p.relative_to(ROOT)): n for p, n in sizes.items() if n > LINES} == {}
