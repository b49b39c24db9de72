"""Rules for every page's links, pictures and markup, checked without a build.

Each rule is a function that returns what is wrong; below, each is run on a planted fault.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import symbols

BOOK = Path(__file__).resolve().parent.parent / "book"
sys.path.insert(0, str(BOOK))
import generate  # noqa: E402

TEXTS = generate.texts()
IMAGE_LIMIT, NOTEBOOK_LIMIT = 300_000, 500_000  # bytes


def heavy_outputs(notebook: dict, size: int) -> list[str]:
    """Pictures above the limit, whatever carries them, and a notebook that is too long."""
    faults = [f"{size} bytes, more than {NOTEBOOK_LIMIT}"] if size > NOTEBOOK_LIMIT else []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            for kind, data in output.get("data", {}).items():
                text = "".join(data) if isinstance(data, list) else str(data)
                pictures = [text] if kind.startswith("image/") else re.findall(r"<img[^>]*>", text)
                faults += [f"an image of {len(p)} bytes" for p in pictures if len(p) > IMAGE_LIMIT]
                faults += ["an image without words" for p in pictures if not _words(p)]
    return faults


def _words(img: str) -> bool:
    alt = re.search(r'alt="([^"]*)"', img)
    return alt is not None and len(alt[1].split()) >= 3


def pictures_have_words(text: str) -> list[str]:
    text = symbols.CODE.sub("", text)
    found = re.findall(r"!\[([^\]]*)\]\(|(?<!\\)<img(?![^>]*alt=\"[^\"]{10})[^>]*>()", text)
    return ["an image without words" for alt, _ in found if len(alt.split()) < 3]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings; a repeated one gets a number, as on GitHub."""
    found: set[str] = set()
    count: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,4} (.+)$", symbols.CODE.sub(_keep_span, text), re.MULTILINE):
        name = generate.slug(re.sub(r"\$[^$]*\$", "", heading))
        found.add(f"{name}-{count[name]}" if count[name] else name)
        count[name] += 1
    return found


def _keep_span(code: re.Match) -> str:
    return "" if code[0].startswith("```") else code[0]


def links_resolve(name: str, texts: dict[str, str]) -> list[str]:
    """Links inside the book lead to a page and a heading; external ones are well-formed."""
    faults = []
    text = symbols.CODE.sub("", texts[name])
    targets = re.findall(r"(?<!\\)\]\(([^)\s]*)\)", text) + re.findall(r'href="([^"]*)"', text)
    for target in targets:
        url = urlsplit(target)
        if url.scheme:
            good = url.scheme in ("https", "mailto") and (url.netloc.count(".") or url.path)
            faults += [] if good else [f"not well-formed: {target}"]
            continue
        page = url.path or name
        if page.endswith(".html"):  # raw HTML, whose claims test_apparatus.py and the site check
            faults += [] if _source(page, texts) else [f"no such page: {target}"]
        elif page not in texts:
            faults += [] if (BOOK / page).exists() else [f"no such page: {target}"]
        elif url.fragment and url.fragment not in anchors(texts[page]):
            faults.append(f"no such heading: {target}")
    return faults


def _source(page: str, texts: dict[str, str]) -> bool:
    return any(page.replace(".html", end) in texts for end in (".md", ".ipynb"))


def markup_renders(text: str) -> list[str]:
    """What builds without a warning and shows an error, or fails the browser test."""
    faults = []
    for block in re.findall(r"\$\$(.+?)\$\$", symbols.CODE.sub("", text), re.DOTALL):
        bare = re.sub(r"\\begin\{(\w+)\}.*?\\end\{\1\}", "", block, flags=re.DOTALL)
        if "\\tag" in block and "\\\\" in block and ("\\\\" in bare or "\\tag" not in bare):
            faults.append(f"\\\\ and \\tag in one block: {block.strip()[:60]}")
    for head in re.findall(r"^(\|.*\|)\n\|[-:| ]+\|$", text, re.MULTILINE):
        for cell in head.strip("|").split(" | "):
            if not re.search(r"\w", re.sub(r"\$[^$]*\$", "", cell)):
                faults.append(f"a table header without words: {head[:60]}")
    return faults


@pytest.mark.parametrize("path", sorted(BOOK.glob("*.ipynb")), ids=lambda p: p.stem)
def test_outputs_are_light_and_have_words(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert heavy_outputs(notebook, len(json.dumps(notebook))) == []


@pytest.mark.parametrize("name", TEXTS)
def test_links_pictures_and_markup(name):
    text = TEXTS[name]
    assert links_resolve(name, TEXTS) + pictures_have_words(text) + markup_renders(text) == []


def test_pictures_in_files_are_light():
    files = [p for p in (BOOK / "_assets").rglob("*") if p.suffix in (".png", ".svg", ".webp")]
    assert [p.name for p in files if p.stat().st_size > IMAGE_LIMIT] == []


def _output(html: str) -> dict:
    return {"cells": [{"outputs": [{"data": {"text/html": [html]}}]}]}


PAGES = {"a.ipynb": "# A\n\n## B: the *end*\n\n## B: the *end*", "b.md": "# B"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (heavy_outputs(_output('<img alt="a red line" src="x">'), 9), ""),
        (heavy_outputs(_output("<img>"), 9), "an image without words"),
        (heavy_outputs(_output(f'<img alt="a b c" src="{"x" * IMAGE_LIMIT}">'), 9), "an image of"),
        (heavy_outputs(_output(""), NOTEBOOK_LIMIT + 1), "500001 bytes"),
        (pictures_have_words("![a red line](x.png)"), ""),
        (pictures_have_words("![](x.png)"), "an image without words"),
        (pictures_have_words('<img src="x.png">'), "an image without words"),
        (
            links_resolve("b.md", PAGES | {"b.md": "[x](a.ipynb#b-the-end-1) [y](https://a.org)"}),
            "",
        ),
        (links_resolve("b.md", PAGES | {"b.md": "[x](a.ipynb#b-the-end-2)"}), "no such heading"),
        (links_resolve("b.md", PAGES | {"b.md": "[x](c.md)"}), "no such page"),
        (links_resolve("b.md", PAGES | {"b.md": "[x](http:/a.org)"}), "not well-formed"),
        (links_resolve("b.md", PAGES | {"b.md": "[x](https://localhost)"}), "not well-formed"),
        (markup_renders("$$a \\tag{1}$$\n\n$$b \\\\ c$$\n\n| a | $b$ width |\n|---|---|"), ""),
        (markup_renders("$$a \\\\ b \\tag{1}$$"), "\\\\ and \\tag"),
        (markup_renders("| a | $b$ |\n|---|---|"), "a table header without words"),
        (markup_renders("| | a |\n|---|---|"), "a table header without words"),
    ],
)
def test_pages_with_planted_faults(found, expected):
    assert len(found) == bool(expected)
    assert not found or found[0].startswith(expected)
