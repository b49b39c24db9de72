"""Sphinx extension: a public name in code font, on any page, leads to the library reference.

Chapters stay plain Markdown; `AffineCoupling` in their text becomes a link only in the built book.
The headings of reference.md say which names there are.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

PAGE = "book/reference"
HEADING = re.compile(r"^#{3,4} (?P<heading>(?:class )?(?P<name>[\w.]+))$", re.MULTILINE)
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


def _above(node: nodes.Node):
    while node.parent is not None:
        node = node.parent
        yield node


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
