"""Sphinx extension: the site carries what its pages use, and loads nothing from other hosts.

- MathJax comes from the Python package sphinx-mathjax-offline, of which the book needs a third.
- The theme draws its icons twice: by web fonts, and by a script of 543 kB (compressed) that turns
  them into SVG. The fonts are enough; the script is emptied, which halves the weight of a page.
- Source maps serve the theme's developers only.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

MATHJAX = ("tex-chtml.js", "input/tex", "output/chtml", "a11y", "sre", "ui")


def _copy_mathjax(static: Path) -> None:
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    for name in MATHJAX:
        target = static / "mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source / name, target)


def _finish(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    _copy_mathjax(static)
    icons = static / "scripts" / "fontawesome.js"
    if not icons.exists():
        raise FileNotFoundError(f"{icons}: the theme has changed; see what draws its icons now")
    icons.write_text("/* The icons are drawn by the theme's web fonts. */\n", encoding="utf-8")
    for source_map in static.rglob("*.map"):
        source_map.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
