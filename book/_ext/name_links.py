"""Sphinx extension: names lead to what they name, `AffineCoupling` to the library reference, and
gap-1 to the cell of that claim.

Chapters stay plain Markdown; the names in their text become links only in the built book. The
headings of reference.md say which public names there are, the links of claims.md which claims.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

PAGE = "book/reference"
HEADING = re.compile(r"^#{3,4} (?P<heading>(?:class )?(?P<name>[\w.]+))$", re.MULTILINE)
CLAIMS = "book/claims"
CLAIM = re.compile(r'href="(?P<page>\w+)\.html#claim-(?P<id>[a-z]+-\d+)"')
CALL = re.compile(r"\(.*\)$", re.DOTALL)


def anchors(markdown: str) -> dict[str, str]:
    """Name -> id of its section, as docutils makes it from the heading."""
    found = HEADING.finditer(markdown)
    return {match["name"]: nodes.make_id(match["heading"]) for match in found}


def _link(app: Sphinx, doctree: nodes.document, page: str) -> None:
    if app.builder.format != "html" or page == PAGE or PAGE not in app.env.found_docs:
        return
    where = anchors(Path(app.env.doc2path(PAGE)).read_text(encoding="utf-8"))
    for literal in list(doctree.findall(nodes.literal)):
        anchor = where.get(CALL.sub("", literal.astext()))
        parents = (nodes.reference, nodes.title)
        if anchor is None or any(isinstance(n, parents) for n in _above(literal)):
            continue
        uri = f"{app.builder.get_relative_uri(page, PAGE)}#{anchor}"
        link = nodes.reference("", "", refuri=uri, internal=True, classes=["name-link"])
        literal.replace_self(link)
        link += literal


def _link_claims(app: Sphinx, doctree: nodes.document, page: str) -> None:
    if app.builder.format != "html" or page == CLAIMS or CLAIMS not in app.env.found_docs:
        return
    ledger = Path(app.env.doc2path(CLAIMS)).read_text(encoding="utf-8")
    where = {match["id"]: f"book/{match['page']}" for match in CLAIM.finditer(ledger)}
    named = re.compile(r"\b([a-z]+-\d+)\b")
    closed = (nodes.reference, nodes.title, nodes.literal, nodes.literal_block, nodes.math)
    for text in list(doctree.findall(nodes.Text)):
        parts = named.split(text.astext())  # text, id, text, ...
        siblings = text.parent.children
        before = siblings[siblings.index(text) - 1].astext() if siblings[0] is not text else ""
        linked = before.startswith("<a ") or any(isinstance(n, closed) for n in _above(text))
        if linked or not where.keys() & set(parts[1::2]):
            continue
        new: list[nodes.Node] = []
        for i, part in enumerate(parts):
            if i % 2 and part in where:
                uri = app.builder.get_relative_uri(page, where[part]) + f"#claim-{part}"
                link = nodes.reference("", "", refuri=uri, internal=True, classes=["name-link"])
                new.append(link)
                link += nodes.Text(part)
            elif part:
                new.append(nodes.Text(part))
        text.parent.replace(text, new)


def _above(node: nodes.Node):
    while node.parent is not None:
        node = node.parent
        yield node


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", _link)
    app.connect("doctree-resolved", _link_claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
