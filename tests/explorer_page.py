"""Explorers in Chromium: a module alone in an empty page, or a widget without a kernel."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from augflow_mini.explorers import Explorer

D = torch.float64
ROOT = Path(__file__).parent.parent
HOST = (ROOT / "book" / "_assets" / "widget-host.js").read_text(encoding="utf-8")
LOAD = """async (text) => {
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  window.M = await import(url);
}"""


def difference(got: list[float], expected: Tensor) -> float:
    """Largest difference, relative to the size of the numbers."""
    expected = expected.detach().double().flatten()
    got = torch.tensor([math.nan if v is None else v for v in got], dtype=D)
    assert got.shape == expected.shape
    return ((got - expected).abs() / expected.abs().clamp(min=1.0)).max().item()


def status(page) -> str:
    return page.locator("[role=status]").inner_text().replace("\u2212", "-").replace("\n", " ")


@pytest.fixture(scope="module")
def engine(chromium):
    """engine(text) opens an empty page with this module as `M`, with a fault planted if asked.

    The page is served from nowhere: nothing else can be fetched.
    """
    context = chromium.new_context()
    context.route("**/*", lambda r: r.fulfill(body="<!doctype html>", content_type="text/html"))
    page = context.new_page()
    page.goto("http://explorers.test/")

    def load(text: str, fault: tuple[str, str] | None = None):
        if fault:
            assert fault[0] in text, "the module has changed: plant the fault anew"
            text = text.replace(*fault)
        page.evaluate(LOAD, text)
        return page

    yield load
    context.close()


def page_of(widget: Explorer) -> str:
    """Return a page with this widget's saved state and the book's widget host, no kernel."""
    mime, id = "application/vnd.jupyter.widget-", widget.model_id
    state = {k: v for k, v in widget.get_state().items() if k not in ("layout", "style")}
    saved = json.dumps({"state": {id: {"model_name": "AnyModel", "state": state}}}, default=str)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>t</title>'
        f'<meta name="viewport" content="width=device-width"></head><body>'
        f'<script type="{mime}view+json">{{"model_id": "{id}"}}</script>'
        f'<script type="{mime}state+json">{saved.replace("</", chr(60) + chr(92) + "/")}</script>'
        f"<script>{HOST}</script></body></html>"
    )


@pytest.fixture
def show(chromium):
    """Open a widget in a page of its own; fails at the end if anything went wrong in it."""
    faults, contexts = [], []

    def open_page(widget: Explorer, hash: str = "", **context: object):
        contexts.append(chromium.new_context(**{"reduced_motion": "reduce", **context}))
        html = page_of(widget)
        contexts[-1].route("**/*", lambda r: r.fulfill(body=html, content_type="text/html"))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.on("console", lambda m: m.type == "error" and faults.append(m.text))
        page.goto("http://explorers.test/" + hash)
        page.wait_for_selector(".afx [role=status]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
