"""Sphinx extension: what a published page says about itself, to readers and to machines.

- The line under each page: version, when its cells last ran and for how long, history, feedback,
  and the same page in the other language where there is one.
- The address of the pages, a description and a card for shared links, and `sitemap.xml`.
- `404.html` stands alone: a server sends it for any address, so it can load nothing relative.
- Pages below `book/ko/` are Korean and say so. `book/ko/NAME` translates `book/NAME`.
"""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from matplotlib.figure import Figure
from myst_nb.sphinx_ import NbMetadataCollector
from repository import stated  # beside this file
from sphinx.application import Sphinx
from sphinx.config import Config

PLACE = stated()
WORDS = {
    "en": {
        "ran": "cells last run {day}, in {seconds} s",
        "changes": "changes of this page",
        "report": "report a fault",
        "other": ("ko", "한국어"),
    },
    "ko": {
        "ran": "{day}에 셀을 다시 실행함 ({seconds}초)",
        "changes": "이 쪽의 변경 기록",
        "report": "오류 알리기",
        "other": ("en", "English"),
    },
}
NOT_FOUND = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Page not found</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>:root { color-scheme: light dark } body { font: 1.1rem/1.5 system-ui; margin: 15vh auto;
max-width: 34rem; padding: 0 1rem }</style></head>
<body><main><h1>There is no such page</h1><p>It may have moved with a new version of the book.</p>
<p><a href="{home}">To the start of the book</a></p></main></body></html>
"""


def _language(page: str) -> str:
    return "ko" if page.startswith("book/ko/") else "en"


def _translation(page: str) -> str:
    """The page's name in the other language."""
    name = page.removeprefix("book/ko/") if _language(page) == "ko" else page.removeprefix("book/")
    return f"book/{name}" if _language(page) == "ko" else f"book/ko/{name}"


def _facts(app: Sphinx, page: str, title: str) -> str:
    """The line under a page."""
    words = WORDS[_language(page)]
    parts = [f"Augmented Flows {PLACE.version}"]
    if page in app.env.all_docs:
        if ran := NbMetadataCollector.get_exec_data(app.env, page):
            day = datetime.fromtimestamp(ran["mtime"], UTC).date()
            parts.append(words["ran"].format(day=day, seconds=round(ran["runtime"] or 0)))
        path = Path(app.env.doc2path(page)).relative_to(app.srcdir).as_posix()
        report = f"{PLACE.url}/issues/new?title={quote(f'{title}: ')}"
        parts.append(f'<a href="{PLACE.url}/commits/main/{path}">{words["changes"]}</a>')
        parts.append(f'<a href="{report}">{words["report"]}</a>')
        if (other := _translation(page)) in app.env.all_docs:
            code, name = words["other"]
            uri = app.builder.get_relative_uri(page, other)
            parts.append(f'<a href="{uri}" hreflang="{code}" lang="{code}">{name}</a>')
    return f'<p class="page-facts">{" · ".join(parts)}</p>'


def _description(doctree: nodes.document) -> str:
    """The first paragraph, cut at a word."""
    first = next((p.astext() for p in doctree.findall(nodes.paragraph)), "")
    text = " ".join(first.replace("Promise. ", "").split())
    return text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0] + " ..."


def _head(app: Sphinx, page: str, title: str, doctree: nodes.document) -> str:
    """What other sites and search engines read. Nothing here is loaded by a browser."""
    named = {
        "og:type": "article",
        "og:site_name": "Augmented Flows",
        "og:title": title,
        "og:description": _description(doctree),
        "og:url": PLACE.pages + app.builder.get_target_uri(page),
        "og:image": PLACE.pages + "_static/card.png",
        "og:image:alt": "A square grid, and the same grid bent by a flow.",
    }
    lines = [f'<meta property="{k}" content="{html.escape(v)}">' for k, v in named.items()]
    lines.append(f'<meta name="description" content="{html.escape(named["og:description"])}">')
    lines.append('<meta name="twitter:card" content="summary_large_image">')
    if (other := _translation(page)) in app.env.all_docs:
        for name in (page, other):
            uri = PLACE.pages + app.builder.get_target_uri(name)
            lines.append(f'<link rel="alternate" hreflang="{_language(name)}" href="{uri}">')
    return "\n".join(lines)


def _page(app: Sphinx, page: str, _: str, context: dict, doctree: nodes.document | None) -> None:
    title = html.unescape(re.sub("<[^>]+>", "", str(context.get("title", ""))))
    context["theme_extra_footer"] = _facts(app, page, title)
    context["metatags"] = context.get("metatags", "") + (
        # A browser that guesses where the reader goes next would ask other hosts for their names.
        '<meta http-equiv="x-dns-prefetch-control" content="off">\n'
    )
    if doctree is not None:
        context["metatags"] += _head(app, page, title, doctree)
        context["language"] = _language(page)


def _card(path: Path) -> None:
    """The picture shown where a link to the book is shared, 1200 x 630."""
    figure = Figure(figsize=(12, 6.3), facecolor="#14181e")
    steps = [-1 + i / 8 for i in range(17)]
    for left, bend in ((0.04, 0.0), (0.31, 1.0)):
        axes = figure.add_axes((left, 0.06, 0.25, 0.5))
        for a in steps:
            for line in ([(a, b) for b in steps], [(b, a) for b in steps]):
                x = [u for u, _ in line]
                y = [v * 2.7 ** (0.6 * bend * u) + bend * u**2 / 2 for u, v in line]
                axes.plot(x, y, color="#6db3f2", lw=1)
        axes.axis("off")
    figure.text(0.04, 0.8, "Augmented Flows", color="white", size=54, weight="bold")
    figure.text(0.04, 0.68, "noise beside the data, and what it buys", color="#ced6dd", size=28)
    figure.text(0.62, 0.3, "derived\nmeasured\nalive in the page", color="#ced6dd", size=28)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _address(app: Sphinx, config: Config) -> None:
    config.html_baseurl = config.html_baseurl or PLACE.pages


def _finish(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    out = Path(app.outdir)
    _card(out / "_static" / "card.png")
    (out / "404.html").write_text(NOT_FOUND.replace("{home}", PLACE.pages), encoding="utf-8")
    pages = [PLACE.pages + app.builder.get_target_uri(name) for name in sorted(app.env.all_docs)]
    (out / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        + "".join(f"  <url><loc>{html.escape(page)}</loc></url>\n" for page in pages)
        + "</urlset>\n",
        encoding="utf-8",
    )


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", _address)
    app.connect("html-page-context", _page)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
