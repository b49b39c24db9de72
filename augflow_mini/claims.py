"""Claims: sentences of the book, executed.

A claim stands beside the sentence it belongs to, measures both sides, shows them and raises
AssertionError where it does not hold. Its sides come from independent code; a claim that could not
fail (one object on both sides, a tolerance that lets everything pass) is refused with ValueError.

    claims.equal("gap-1", "Both ways agree.", {"closed form": a, "quadrature": b}, atol=1e-10)
    claims.less("gap-2", "More samples, tighter bound.", {"K = 1": l1, "K = 10": l10, "log p": p})

`gather` collects what the committed notebooks hold; `python -m augflow_mini.claims book/*.ipynb`
prints the ledger page.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import tables

MIME = "application/vnd.augflow.claim+json"
Sides = Mapping[str, Tensor | float]


def equal(id: str, text: str, sides: Sides, *, atol: float, digits: int | None = 4) -> None:
    """Every side has the same value, element by element, up to `atol`.

    Args:
        id: name of the claim in the ledger, chapter and number: "gap-3".
        text: the sentence, in plain words and without mathematics markup.
        sides: what each side is -> its value, a number or a tensor. Different code computes each.
        atol: largest absolute difference.
        digits: decimals shown. None shows the tolerance only, for what the notebook trained.

    Raises:
        AssertionError: the claim does not hold, or a value is not finite.
        ValueError: the claim cannot fail.
    """
    if not 0 <= atol < math.inf:
        raise ValueError(f"claim {id}: atol is {atol}, expected a finite number of at least 0")
    names, values = _values(id, sides)
    for name, value in zip(names[1:], values[1:], strict=True):
        worst = (value - values[0]).abs().max().item()
        if not worst <= atol:
            raise AssertionError(
                f"claim {id} does not hold: {text}\n  {names[0]}: {_exact(values[0])}\n"
                f"  {name}: {_exact(value)}\n  differ by {worst:.6g}, allowed is {atol:.3g}"
            )
    _show(id, text, names, values, f"equal within {atol:.2g}", digits)


def less(id: str, text: str, sides: Sides, *, by: float = 0.0, digits: int | None = 4) -> None:
    """The sides rise in the order given, each by more than `by`, element by element.

    Args:
        id, text, sides, digits: as in `equal`; with three sides, a value between two bounds.
        by: margin of each step, at least 0.

    Raises:
        AssertionError: the claim does not hold, or a value is not finite.
        ValueError: the claim cannot fail.
    """
    if not 0 <= by < math.inf:
        raise ValueError(f"claim {id}: by is {by}, expected a finite number of at least 0")
    names, values = _values(id, sides)
    for i in range(1, len(values)):
        step = (values[i] - values[i - 1]).min().item()
        if not step > by:
            raise AssertionError(
                f"claim {id} does not hold: {text}\n  {names[i - 1]}: {_exact(values[i - 1])}\n"
                f"  {names[i]}: {_exact(values[i])}\n"
                f"  the second exceeds the first by {step:.6g}, expected more than {by:.3g}"
            )
    verdict = "in rising order" + (f", each by more than {by:.2g}" if by else "")
    _show(id, text, names, values, verdict, digits)


def _values(id: str, sides: Sides) -> tuple[list[str], list[Tensor]]:
    if len(sides) < 2:
        raise ValueError(f"claim {id} has {len(sides)} side, expected at least 2 to compare")
    originals = list(sides.values())
    for i, one in enumerate(originals):
        for other in originals[:i]:
            if _same(one, other):
                raise ValueError(
                    f"claim {id} compares an object with itself and cannot fail; "
                    "compute each side by code of its own"
                )
    values = [torch.as_tensor(v).detach().to("cpu", torch.float64) for v in originals]
    shapes = {v.shape for v in values if v.numel() != 1}
    if len(shapes) > 1 or any(v.numel() == 0 for v in values):
        raise ValueError(
            f"claim {id}: sides have shapes {[tuple(v.shape) for v in values]}, expected one "
            "shape with at least one element, or single numbers"
        )
    shape = shapes.pop() if shapes else torch.Size([])
    values = [v.reshape(()).expand(shape) if v.numel() == 1 else v for v in values]
    for name, value in zip(sides, values, strict=True):
        if not value.isfinite().all():
            raise AssertionError(f"claim {id}: {name} is not finite: {_exact(value)}")
    return list(sides), values


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.numel() > 0 and one.data_ptr() == other.data_ptr())
    return one is other and not isinstance(one, int)  # Python keeps one copy of each small integer


def _exact(value: Tensor) -> str:
    flat = value.flatten().tolist()
    return ", ".join(f"{v:.12g}" for v in flat[:8]) + (" ..." if len(flat) > 8 else "")


def _cells(value: Tensor, digits: int) -> list[str]:
    flat = value.flatten()
    if len(flat) <= 4:
        return [tables.number(v, digits) for v in flat]
    low, high = (tables.number(v, digits) for v in (flat.min(), flat.max()))
    span = low if low == high else f"{low} to {high}"
    return [f"{span} ({len(flat)} values)"]


def _show(
    id: str,
    text: str,
    names: Sequence[str],
    values: Sequence[Tensor],
    verdict: str,
    digits: int | None,
) -> None:
    rows = [] if digits is None else [
        [name, *_cells(v, digits)] for name, v in zip(names, values, strict=True)
    ]  # fmt: skip
    compared = verdict if digits is not None else f"{', '.join(names)}: {verdict}"
    head = [""] * len(rows[0]) if rows else []
    plain = "\n".join(
        [f"Claim {id} holds: {text}", *([tables.text_table(head, rows)] if rows else []), compared]
    )
    rich = (
        f'<div class="claim" id="claim-{html.escape(id)}" '
        'style="border-left: .25em solid #009E73; padding-left: .8em">'
        f"<p><strong>Claim {html.escape(id)} holds.</strong> {html.escape(text)}</p>"
        + (tables.html_table(head, rows) if rows else "")
        + f"<p>{html.escape(compared[0].upper() + compared[1:])}.</p></div>"
    )
    measured = "; ".join([f"{name}: {', '.join(cells)}" for name, *cells in rows] + [compared])
    tables.display(plain, rich, **{MIME: {"id": id, "text": text, "measured": measured}})


# ---- the ledger -----------------------------------------------------------------------------


def gather(notebooks: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Every claim in the outputs of executed notebooks: id, text, measured, notebook, cell.

    Raises:
        ValueError: two claims share an id, or a file is no notebook.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in map(Path, notebooks):
        for cell, claim in _shown(path):
            if claim["id"] in found:
                first = found[claim["id"]]["notebook"]
                raise ValueError(f"claim {claim['id']} stands in {first} and in {path.name}")
            found[claim["id"]] = {**claim, "notebook": path.name, "cell": cell}
    return list(found.values())


def _shown(path: Path) -> list[tuple[str, dict[str, str]]]:
    """(cell, claim) for each claim in the outputs of a notebook, or ValueError."""
    out = []
    try:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                claim = output.get("data", {}).get(MIME)
                if claim is not None:
                    shown = {key: str(claim[key]) for key in ("id", "text", "measured")}
                    out.append((str(cell.get("id", "")), shown))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no notebook ({type(error).__name__}: {error}); expected what `make notebooks` "
            "writes: restore it, or execute it again"
        ) from error
    return out


def page(notebooks: Iterable[str | Path]) -> str:
    """The claims ledger as a Markdown page of the built book."""
    claims = gather(notebooks)
    rows = []
    for claim in claims:
        link = f"{Path(claim['notebook']).stem}.html#claim-{claim['id']}"
        cells = (html.escape(claim[key]).replace("|", r"\|") for key in ("text", "measured"))
        rows.append(f'| <a href="{link}">{claim["id"]}</a> | {" | ".join(cells)} |')
    return "\n".join([
        "# Claims ledger",
        "",
        f"The {len(claims)} executed claims of the book. Each was measured when its chapter ran,",
        "and the build stops where one does not hold. Numbers are in nats unless a unit is named.",
        "",
        "| Claim | Sentence | Measured |",
        "|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    import sys

    sys.stdout.write(page(sys.argv[1:]))
