"""Each claim of a chapter fails under a planted fault, in the library or in its own code.

`tests/faults/<chapter>.py` lists the faults. For each one, only the cells that the named claims
need are run, in one process, with the fault in place. Figures, widgets and exercises are left out.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import symtable
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
import torch

from augflow_mini import claims

HERE = Path(__file__).parent
BOOK = HERE.parent / "book"


@dataclass
class Cell:
    source: str
    defines: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)
    claim: str | None = None


def _cells(notebook: Path) -> list[Cell]:
    """The chapter's code without figures and exercises, with the names a cell makes and uses."""
    found = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code" or "nbval-ignore-output" in tags or "%pip" in source:
            continue
        if "exercises.check(" in source:
            continue
        out = Cell(source)
        _add_names(out, symtable.symtable(source, "<cell>", "exec"))
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("claims.equal", "claims.less")
                and isinstance(node.args[0], ast.Constant)
            ):
                assert out.claim is None, f"two claims in one cell: {source[:60]}"
                out.claim = node.args[0].value
        found.append(out)
    return found


def _add_names(cell: Cell, scope: symtable.SymbolTable) -> None:
    """Global names that the cell assigns at its top level, and those it or its functions read."""
    top = scope.get_type() == "module"
    for symbol in scope.get_symbols():
        if top and (symbol.is_assigned() or symbol.is_imported()):
            cell.defines.add(symbol.get_name())
        if symbol.is_referenced() and (top or symbol.is_global()):
            cell.needs.add(symbol.get_name())
    for child in scope.get_children():
        _add_names(cell, child)


def _needed(cells: list[Cell], ids: set[str]) -> list[Cell]:
    """The cells of these claims and, before them, every cell that makes a name they use."""
    wanted: set[str] = set()
    keep = []
    for cell in reversed(cells):
        if cell.claim in ids or cell.defines & wanted:
            wanted |= cell.needs
            keep.append(cell)
    return keep[::-1]


def _run(
    cells: list[Cell], monkeypatch: pytest.MonkeyPatch, edit: tuple[str, str] | None
) -> set[str]:
    """Run the cells; the ids of the claims that do not hold."""
    failed: set[str] = set()

    def recording(check: Callable) -> Callable:
        def wrapped(id: str, *args: object, **options: object) -> None:
            try:
                check(id, *args, **options)
            except (AssertionError, ValueError):  # it does not hold, or has become empty
                failed.add(id)

        return wrapped

    for name in ("equal", "less"):
        monkeypatch.setattr(claims, name, recording(getattr(claims, name)))
    sources = [cell.source for cell in cells]
    if edit:
        assert sum(edit[0] in s for s in sources) == 1, f"{edit[0]!r} is not in exactly one cell"
        sources = [s.replace(*edit) for s in sources]
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    monkeypatch.chdir(BOOK)
    names: dict = {}
    try:
        for source in sources:
            exec(source, names)
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
    return failed


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"faults_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHAPTERS = {path.stem: _load(path) for path in sorted((HERE / "faults").glob("*.py"))}
CASES = [
    pytest.param(chapter, fault, id=f"{chapter}-{fault}")
    for chapter, module in CHAPTERS.items()
    for fault in module.FAULTS
]


@pytest.mark.parametrize(("chapter", "fault"), CASES)
def test_planted_fault_breaks_its_claims(chapter, fault, monkeypatch, capsys):
    module = CHAPTERS[chapter]
    kills, plant, edit = module.FAULTS[fault]
    if plant:
        plant(monkeypatch)
    failed = _run(_needed(_cells(BOOK / module.NOTEBOOK), set(kills)), monkeypatch, edit)
    assert set(kills) <= failed, f"still hold: {sorted(set(kills) - failed)}"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_without_a_fault_every_claim_holds(chapter, monkeypatch, capsys):
    cells = _cells(BOOK / CHAPTERS[chapter].NOTEBOOK)
    ids = {cell.claim for cell in cells} - {None}
    assert _run(_needed(cells, ids), monkeypatch, None) == set()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_claim_can_fail(chapter):
    ids = {cell.claim for cell in _cells(BOOK / CHAPTERS[chapter].NOTEBOOK)} - {None}
    killed = {id for kills, *_ in CHAPTERS[chapter].FAULTS.values() for id in kills}
    assert ids == killed, f"no fault breaks {sorted(ids - killed)}; unknown {sorted(killed - ids)}"


def test_every_chapter_with_claims_lists_its_faults():
    listed = {module.NOTEBOOK for module in CHAPTERS.values()}
    with_claims = {c["notebook"] for c in claims.gather(sorted(BOOK.glob("*.ipynb")))}
    assert with_claims == listed
