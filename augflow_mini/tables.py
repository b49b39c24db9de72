"""Tables of numbers for notebooks: the same figures as text, which tests compare, and as HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import torch

from .flow import Flow

Number = float | int | str | torch.Tensor | None


def number(value: Number, digits: int = 4) -> str:
    """A number with a fixed count of decimals; text is passed on, None and NaN become a dash.

    Fixed decimals, so that a last bit that differs between machines does not show.
    """
    if value is None or isinstance(value, str):
        return value or "-"
    value = float(value)
    if math.isnan(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text  # no "-0.0000"


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces: the first to the left, numbers to the right."""
    lines = [list(head), *map(list, rows)] if any(head) else [list(r) for r in rows]
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "   ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, wide, strict=True))
        ).rstrip()
        for line in lines
    )


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """An HTML table whose first column and first row are headers, as a screen reader expects."""
    td = 'style="text-align: right; font-variant-numeric: tabular-nums; padding: .15em .8em"'
    th = 'style="text-align: left; padding: .15em .8em"'
    body = "".join(
        f'<tr><th scope="row" {th}>{html.escape(name)}</th>'
        + "".join(f"<td {td}>{_unbroken(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    top = ""
    if any(head):
        corner, *names = head
        first = f'<th scope="col" {th}>{html.escape(corner)}</th>' if corner else "<td></td>"
        top = (
            f"<thead><tr>{first}"
            + "".join(f'<th scope="col" {td}>{html.escape(name)}</th>' for name in names)
            + "</tr></thead>"
        )
    title = ""
    if caption:
        title = f'<caption style="text-align: left">{html.escape(caption)}</caption>'
    return (
        '<div class="numbers" style="overflow-x: auto">'
        f"<table>{title}{top}<tbody>{body}</tbody></table></div>"
    )


def _unbroken(cell: str) -> str:
    """Escaped; a value and its spread stay on one line."""
    return html.escape(cell).replace(" ± ", "&nbsp;±&nbsp;")


def show(
    rows: Mapping[str, Mapping[str, Number] | Sequence[Number]],
    *,
    caption: str,
    columns: Sequence[str] | None = None,
    corner: str = "",
    digits: int = 4,
) -> None:
    """Show a table below the cell.

    Args:
        rows: row name -> cells, as {column name: number} or a list in the order of `columns`.
        caption: one sentence: what the table says, with units.
        columns: column names; the keys of the first row if left out.
        corner: what the row names are.
        digits: decimals. Take so few that another machine prints the same.

    Raises:
        ValueError: no rows, or a row has other columns than the first.
    """
    if not rows:
        raise ValueError("tables.show: no rows")
    first = next(iter(rows.values()))
    if columns is None:
        if not isinstance(first, Mapping):
            raise ValueError("tables.show: name the columns, or give each row as a dict")
        columns = list(first)
    lines = []
    for name, cells in rows.items():
        if isinstance(cells, Mapping):
            if list(cells) != list(columns):
                raise ValueError(
                    f"tables.show: row {name!r} has columns {list(cells)}, "
                    f"expected {list(columns)}"
                )
            cells = list(cells.values())
        if len(cells) != len(columns):
            raise ValueError(
                f"tables.show: row {name!r} has {len(cells)} cells, expected {len(columns)}"
            )
        lines.append([name, *(number(c, digits) for c in cells)])
    head = [corner, *columns]
    display(f"{caption}\n\n{text_table(head, lines)}", html_table(head, lines, caption=caption))


def display(plain: str, rich: str, **more: object) -> None:
    """Show one output with a text and an HTML form; outside a notebook, print the text."""
    from IPython import get_ipython

    if get_ipython() is None:
        print(plain)
        return
    from IPython.display import display as show_bundle

    show_bundle({"text/plain": plain, "text/html": rich, **more}, raw=True)


# ---- the running example's ledger -----------------------------------------------------------


def ledger(
    flow: Flow, x: torch.Tensor, e: torch.Tensor, *, posterior: int = 0
) -> dict[str, float]:
    """One draw of the log-weight, split up as the book's ledger does: base, contributions, log q.

        log w = log base(z) + sum of contributions - log q,   z the innermost latent

    Which layers count as q is a matter of book-keeping and changes no total: none gives the ANF's
    ledger, the couplings right after `Augment` give the VFlow's.

    Args:
        flow: a flow whose first layer is `Augment` and whose other layers draw no noise.
        x: one example (1, D_X).
        e: the noise that `Augment` draws, given here: (1, D_E).
        posterior: how many layers after `Augment` belong to q.

    Raises:
        ValueError: the first layer does not augment, another one draws noise, or x is not one row.
    """
    augment, *rest = flow.chain
    if not augment.stochastic_forward or not hasattr(getattr(augment, "layer", None), "law"):
        raise ValueError(f"ledger: the first layer is {type(augment).__name__}, expected Augment")
    if any(layer.stochastic_forward for layer in rest):
        raise ValueError("ledger: a layer after Augment draws noise; its number is not one number")
    if len(x) != 1 or len(e) != 1:
        raise ValueError(f"ledger: x has {len(x)} rows and e {len(e)}, expected one of each")
    if not 0 <= posterior <= len(rest):
        raise ValueError(f"ledger: posterior is {posterior}, expected 0 to {len(rest)} layers")
    with torch.no_grad():
        log_q = augment.layer.law.log_prob(e, x)
        v, contributions = augment.layer.replay(x, e), 0.0
        for i, layer in enumerate(rest):
            v, contrib = layer(v)
            if i < posterior:
                log_q = log_q - contrib  # log q(z | x) = log q(e) - log|dz/de|
            else:
                contributions = contributions + contrib
        base = flow.base.log_prob(v)
        rows = {"base": base, "contributions": contributions, "- log q": -log_q}
        return {**{k: float(t) for k, t in rows.items()}, "total": float(sum(rows.values()))}
