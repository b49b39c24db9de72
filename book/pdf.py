"""The text of the book as one PDF, printed by a browser from the built pages: `make pdf`.

The pages of `_toc.yml` are joined into one: links between them become links within it, what is
folded is open, and each explorer is its still picture. Nothing is fetched.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(Path(__file__).resolve().parent / "_ext"))

from repository import stated  # noqa: E402

SITE = ROOT / "_build" / "html"
FOOT = (
    '<div style="font: 8px sans-serif; width: 100%; text-align: center">'
    '<span class="pageNumber"></span></div>'
)
STYLE = """article { break-before: page } article:first-of-type { break-before: auto }
body { max-width: none; overflow: visible } main { margin: 0 }"""


def chapters() -> list[str]:
    """Names of the pages, in the order of the contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    return [toc["root"], *parts]


def _article(name: str, names: set[str]) -> Tag:
    """One page's text, with identifiers and links made fit for the joined page."""
    path = SITE / f"{name}.html"
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    article = page.select_one("article.bd-article")
    article["id"], article["lang"] = name, page.html["lang"]
    for tag in article.select("script, .headerlink, button"):
        tag.decompose()
    for tag in article.select("noscript"):
        tag.unwrap()  # the still picture of an explorer
    for tag in article.select("details"):
        tag["open"] = ""
    for tag in article.select("[id]"):
        tag["id"] = f"{name}--{tag['id']}"
    for tag in article.select("[src]"):
        tag["src"] = urljoin(path.as_uri(), tag["src"])
    for tag in article.select("a[href]"):
        target = urlsplit(urljoin(path.as_uri(), tag["href"]))
        if target.scheme != "file":
            continue
        page_name = Path(target.path).relative_to(SITE).with_suffix("").as_posix()
        if page_name in names:
            tag["href"] = f"#{page_name}" + (f"--{target.fragment}" if target.fragment else "")
        else:
            del tag["href"]  # a file of the site, say a download
    return article


def joined() -> str:
    """The whole book as one page."""
    names = chapters()
    first = SITE / f"{names[0]}.html"
    page = BeautifulSoup(first.read_text(encoding="utf-8"), "html.parser")
    head = page.head.select('link[rel="stylesheet"]')
    head += [tag for tag in page.select("script") if "mathjax" in str(tag).lower()]
    for tag in head:
        for key in {"href", "src", "data-mathjax"} & set(tag.attrs):
            tag[key] = urljoin(first.as_uri(), tag[key])
    body = "".join(str(_article(name, set(names))) for name in names)
    title = f"<title>Augmented Flows {stated().version}</title>"
    return (
        '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"{title}{''.join(map(str, head))}<style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )


def main() -> None:
    source, target = ROOT / "_build" / "print.html", ROOT / "dist"
    source.write_text(joined(), encoding="utf-8")
    target.mkdir(exist_ok=True)
    target /= f"augmented-flows-{stated().version}.pdf"
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(source.as_uri())
        page.wait_for_function("() => window.MathJax.startup?.promise.then(() => true)")
        errors = page.locator("mjx-merror").count()
        if errors:
            sys.exit(f"{errors} formulas could not be drawn")
        page.pdf(
            path=target,
            format="A4",
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOT,
            margin={"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
            outline=True,
            tagged=True,
        )
        browser.close()
    print(f"{target.relative_to(ROOT)}  {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
