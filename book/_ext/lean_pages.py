"""Sphinx extension: the site carries what its pages use, and loads nothing from other hosts.

- MathJax comes from the Python package sphinx-mathjax-offline, of which the book needs a third.
- The theme draws its icons twice: by web fonts, and by a script of 543 kB (compressed) that turns
  them into SVG. The fonts are enough; the script goes, which halves the weight of a page. And
  of the fonts' 2,000 icons (300 kB) only those stay that a page, a script or a style names.
- No script keeps the page from being read: all stand before the styles, since one behind a style waits
  for it, and run when the text is there. Explorers come first, their host being part of the page, then
  the formulas (formulas.js), which can be read before they are drawn and take a slow machine seconds.
- A widget that a cell made and did not show is saved with the others; its state stays out of the page.
- Sphinx's search loads with the search page; the theme brings it to all, for a box we do not have.
- Source maps serve the theme's developers only.
"""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from fontTools import subset
from sphinx.application import Sphinx

SET_THEME = """{
  const { dataset } = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  if (dataset.mode === "auto") dataset.theme = dark.matches ? "dark" : "light";
}"""
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


def _used_icons(out: Path, theme: str) -> set[int]:
    """Code points of the icons that the site shows."""
    rule = re.compile(r'((?:\.fa-[\w-]+:{1,2}before,?)+)\{content:"\\([0-9a-f]+)"\}')
    codes = {
        name: int(code, 16)
        for names, code in rule.findall(theme)
        for name in re.findall(r"\.(fa-[\w-]+)", names)
    }
    if not codes:
        raise ValueError("the theme names its icons in another way: see what its style says now")
    sheets = [p.read_text("utf-8") for p in out.rglob("*.css")]
    styled = re.findall(r"\\([ef][0-9a-f]{3})\b", " ".join(rule.sub("", text) for text in sheets))
    texts = [p.read_text("utf-8") for kind in ("*.html", "*.js") for p in out.rglob(kind)]
    named = {name for text in texts for name in re.findall(r"\bfa-[\w-]+", text)}
    return {int(code, 16) for code in styled} | {codes[name] for name in named & set(codes)}


def _slim_icons(out: Path) -> None:
    """Cut the icon fonts down to what is used."""
    style = out / "_static" / "styles" / "pydata-sphinx-theme.css"
    theme = style.read_text("utf-8")
    icons = _used_icons(out, theme)
    options = subset.Options(
        flavor="woff", layout_features=[], name_IDs=[0, 13], notdef_outline=True
    )
    for path in (out / "_static" / "vendor" / "fontawesome" / "webfonts").glob("*.ttf"):
        font = subset.load_font(path, options)
        cut = subset.Subsetter(options)
        cut.populate(unicodes=icons)
        cut.subset(font)
        subset.save_font(font, path.with_suffix(".woff"), options)
        old = rf'url\([^()]*{path.stem}\.woff2\) format\("woff2"\),url\([^()]*\) format\("truetype"\)'
        new = f'url(../vendor/fontawesome/webfonts/{path.stem}.woff) format("woff")'
        theme, found = re.subn(old, new, theme)
        if found != 1:
            raise ValueError(f"{style}: {path.stem} is not loaded as expected")
        path.unlink()
        path.with_suffix(".woff2").unlink()
    style.write_text(theme, "utf-8")


def _order_scripts(page: str, static: Path, search: bool) -> str:
    """The page with its scripts out of the way of its text."""
    head, body = page.split("</head>", 1)
    scripts = re.findall(r"<script\b.*?</script>\n?", head, re.DOTALL)
    for script in scripts:
        head = head.replace(script, "", 1)
    unused = r"fontawesome" if search else r"fontawesome|searchtools|language_data|searchindex"
    kept = [s for s in scripts if not re.match(rf'<script[^>]* src="[^"]*\b(?:{unused})\.js', s)]
    if len(scripts) - len(kept) != (1 if search else 4):
        raise ValueError("the theme's unused scripts are not as expected: see what it loads now")
    mathjax = next((s for s in kept if "/tex-chtml.js" in s), None)
    load, out = "", []
    for script in kept:
        if script is mathjax:
            continue
        # Two that have to run at once, the first since the lines that follow set fields of it.
        if at_once := re.search(r"_static/(documentation_options|widget-host)\.js", script):
            text = (static / f"{at_once[1]}.js").read_text("utf-8")
            script = f"<script>{text.strip()}</script>\n"
        elif "formulas.js" in script:
            if not mathjax:
                continue
            address = re.search(r'src="([^"]*)"', mathjax)[1]
            script = script.replace("<script", f'<script data-mathjax="{address}"')
            load = f'<link rel="preload" as="script" fetchpriority="low" href="{address}">\n'
        elif re.match(r"<script\b(?=[^>]* src=)(?![^>]* defer)", script):
            script = script.replace("<script", "<script defer")
        out.append(script)
    # The theme would set it when its script runs, and have the whole page styled anew.
    out.append(f"<script>{SET_THEME}</script>\n")
    start = head.index("<link")
    return f"{head[:start]}{''.join(out)}{head[start:]}{load}</head>{body}"


def drop_unseen(page: str) -> str:
    """The page without the states of widgets that no cell shows, nor a shown widget or link needs."""
    saved = re.search(r'(<script type="[^"]+widget-state\+json">)(.*?)(?=</script>)', page, re.DOTALL)
    if not saved:
        return page
    views = re.findall(r'<script type="[^"]+widget-view\+json">(.*?)</script>', page, re.DOTALL)
    states = (whole := json.loads(saved[2]))["state"]
    needs = {i: re.findall(r"IPY_MODEL_(\w+)", json.dumps(state)) for i, state in states.items()}
    ties = [{i, *others} for i, others in needs.items()]
    seen, before = {json.loads(view)["model_id"] for view in views}, set()
    while seen != before:
        before, seen = seen, seen.union(*(tie for tie in ties if tie & seen))
    if seen >= set(states):
        return page
    whole["state"] = {i: state for i, state in states.items() if i in seen}
    text = json.dumps(whole).replace("</", r"<\/")
    return page[: saved.start(2)] + text + page[saved.end(2) :]


def _finish(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    _copy_mathjax(static)
    (static / "scripts" / "fontawesome.js").unlink()
    _slim_icons(Path(app.outdir))
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text("utf-8")
        # Not the theme's own templates, nor the page that only leads to the first one.
        if static not in path.parents and "pydata-sphinx-theme.js" in text:
            text = _order_scripts(text, static, path.name == "search.html")
            path.write_text(drop_unseen(text), "utf-8")
    for source_map in static.rglob("*.map"):
        source_map.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
