"""Checks of built pages, each returning what it found wrong; test_site.py runs them.

They are functions of a folder or of an open page, so that test_site.py can also run them on small
pages with one planted fault and see each of them fail.
"""

from __future__ import annotations

import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import axe_playwright_python
from playwright.sync_api import Browser, Locator, Page

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
CONTROLS = "input:not([type=hidden]), select, button"
SETTLE = 3000  # ms within which a control must show its effect
# Runs before the page's own scripts: notes each move of something visible that no one asked for.
SHIFTS = """window.__shift = 0;
new PerformanceObserver((list) => {
  for (const e of list.getEntries()) if (!e.hadRecentInput) window.__shift += e.value;
}).observe({ type: "layout-shift", buffered: true });"""

# The page's settings of MathJax are there at once, its `promise` once it is loaded: on a page with
# explorers after they are drawn, which may be after the load event.
TYPESET = "() => !window.MathJax || window.MathJax.startup.promise?.then(() => true)"


class Visit:
    """An open page with all that went wrong in it, and the files it fetched."""

    def __init__(self, browser: Browser, url: str, **context: object) -> None:
        self.faults: list[str] = []
        self.fetched: list[str] = []
        self.home = urlsplit(url)
        self.context = browser.new_context(**context)
        self.context.set_default_navigation_timeout(
            120_000
        )  # a busy machine is no fault of a page
        self.page = self.context.new_page()
        self.page.add_init_script(SHIFTS)
        self.page.on("request", self._request)
        self.page.on("requestfailed", lambda r: self.faults.append(f"not loaded: {r.url}"))
        self.page.on("pageerror", lambda e: self.faults.append(f"page error: {e}"))
        self.page.on("console", self._console)
        self.page.goto(url, wait_until="load")
        self.page.evaluate("() => window.explorers?.then(() => null)")
        self.page.wait_for_function(TYPESET)
        self.page.wait_for_timeout(200)  # what formulas moved is drawn anew

    def _console(self, message: object) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def _request(self, request: object) -> None:
        url = urlsplit(request.url)
        if url.scheme in ("data", "blob"):
            return
        if (url.scheme, url.netloc) == (self.home.scheme, self.home.netloc):
            self.fetched.append(unquote(url.path))
        else:
            self.faults.append(f"request to another host: {request.url}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def weight(root: Path, fetched: list[str]) -> int:
    """Bytes of the fetched files as a server with gzip sends them."""
    total = 0
    for name in set(fetched):
        path = root / name.lstrip("/")
        data = (path / "index.html" if path.is_dir() else path).read_bytes()
        total += min(len(data), len(gzip.compress(data, 6)))
    return total


def shift(page: Page, limit: float = 0.05) -> list[str]:
    """How much the page jumped while it was drawn (cumulative layout shift)."""
    moved = page.evaluate("window.__shift")
    return [f"layout shift {moved:.3f}, more than {limit}"] if moved > limit else []


def accessibility(page: Page, theme: str) -> list[str]:
    """What axe-core finds in the page drawn in the given theme."""
    page.evaluate("t => { document.documentElement.dataset.theme = t }", theme)
    page.wait_for_timeout(300)  # the theme fades colours in
    page.evaluate(AXE)
    # All rules in one theme; of them only contrast hangs on the theme, and a run takes seconds.
    rules = "runOnly: ['color-contrast']" if theme == "dark" else ""
    found = page.evaluate(
        f"axe.run(document, {{ resultTypes: ['violations'], preload: false, {rules} }})"
    )
    return [
        f"axe, {theme}: {v['id']} ({v['impact']}): {n['html'][:200]}"
        for v in found["violations"]
        for n in v["nodes"]
    ]


def overflow(page: Page, width: int = 375) -> list[str]:
    """Elements that push a page of this width sideways."""
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(200)
    extra = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if extra <= 0:
        return []
    widest = page.evaluate(
        """w => [...document.body.querySelectorAll("*")].find(
             e => e.getBoundingClientRect().right > w + 1)?.outerHTML.slice(0, 200)""",
        width,
    )
    return [f"{extra} px too wide at {width} px: {widest}"]


def pictures(page: Page) -> list[str]:
    """Images without alternative text, and drawings without a name."""
    return page.evaluate(
        """() => [
          ...[...document.images].filter(e =>
            !e.alt.trim() && e.getAttribute("role") !== "presentation"),
          ...[...document.querySelectorAll(".afx svg, .afx canvas")].filter(e =>
            !e.closest("[aria-hidden=true]") && !e.parentElement.closest("svg") &&
            !(e.getAttribute("role") === "img" && e.getAttribute("aria-label")?.trim()))
        ].map(e => "no alternative text: " + e.outerHTML.slice(0, 200))"""
    )


class _Links(HTMLParser):
    """Collects a page's anchors and references."""

    LOADS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch"}
    LOADS |= {"prefetch", "prerender"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []  # <a href>: may lead to another host
        self.loads: list[str] = []  # fetched with the page: may not
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[k] for k in ("id", "name") if k in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and self.LOADS & set(given.get("rel", "").split()):
            self.loads.append(given.get("href", ""))
        elif "src" in given:
            self.loads.append(given["src"])


def links(root: Path) -> list[str]:
    """References within the site that lead nowhere, and loads from other hosts."""
    parsed = {p: _Links(p.read_text(encoding="utf-8")) for p in pages(root)}
    faults = []
    for path, found in parsed.items():
        where = path.relative_to(root)
        for reference in found.links + found.loads:
            url = urlsplit(reference)
            if url.scheme or url.netloc:
                if reference in found.loads and url.scheme != "data":
                    faults.append(f"{where}: loads from another host: {reference}")
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.exists():
                faults.append(f"{where}: no such page or file: {reference}")
            elif url.fragment and target in parsed:
                anchors = parsed[target].anchors | {"", "top"}
                if unquote(url.fragment) not in anchors:
                    faults.append(f"{where}: no such anchor: {reference}")
    return faults


def pages(root: Path) -> list[Path]:
    """All pages of the site, without the theme's own files."""
    found = (p.resolve() for p in root.rglob("*.html"))
    return sorted(p for p in found if "_static" not in p.parts)


def redirects(path: Path) -> bool:
    """Whether the page only sends the reader to another one."""
    return 'http-equiv="Refresh"' in path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- explorers


def saved_states(path: Path) -> list[dict[str, object]]:
    """The states of a page's explorers: module, style, weights, controls."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="[^"]+widget-state\+json">(.*?)</script>', text, re.DOTALL)
    records = [record for saved in found for record in json.loads(saved)["state"].values()]
    return [record["state"] for record in records if record["model_name"] == "AnyModel"]


def small(path: Path, most: int = 4, limit: int = 60_000) -> list[str]:
    """Each explorer is light, compressed, and but for the playground has few inputs and a reset."""
    faults, states = [], saved_states(path)
    views = path.read_text("utf-8").count('widget-view+json">')
    if len(states) > views:
        faults.append(f"{len(states)} explorers saved, {views} shown")
    for state in states:
        name = str(state.get("_anywidget_id", "an explorer")).split(".")[-1]
        heavy = len(gzip.compress(json.dumps(state).encode(), 6))
        if heavy > limit:
            faults.append(f"{name}: {heavy} bytes compressed, more than {limit}")
        inputs = [given["name"] for given in state["inputs"] if not given.get("hidden")]
        if len(inputs) > most and name != "Playground":
            faults.append(f"{name}: {len(inputs)} inputs, more than {most}: {', '.join(inputs)}")
    return faults


def explorers(page: Page) -> list[str]:
    """Drive every control of every explorer from the keyboard; return those without effect."""
    faults = [f"error shown: {e}" for e in page.locator(".afx-error").all_inner_texts()]
    views = page.locator('script[type$="widget-view+json"]').count()
    drawn = page.locator(".afx").count() + page.locator(".afx-offline").count()
    if views != drawn:
        faults.append(f"{views} widgets in the page, {drawn} drawn")
    for root in page.locator(".afx").all():
        if root.locator("[role=status]").count() != 1:
            faults.append("an explorer must have exactly one role=status")
            continue
        controls = root.locator(CONTROLS).all()
        if not controls:
            faults.append("an explorer without a control")
        for control in controls:
            if _kind(control) == "button":
                _disturb(root)  # or a reset would have nothing to do
            faults += _drive(root, control)
    return faults


def _kind(control: Locator) -> str:
    return control.evaluate("e => e.tagName === 'INPUT' ? e.type : e.tagName.toLowerCase()")


def _state(root: Locator) -> tuple[str, str]:
    """The status text, and a fingerprint of everything drawn."""
    text = root.locator("[role=status]").inner_text()
    drawing = root.evaluate(
        """e => [...e.querySelectorAll("canvas")].map(c => c.toDataURL()).join() +
                [...e.querySelectorAll("svg")].map(s => s.outerHTML).join()"""
    )
    return text, drawing


def _changed(root: Locator, before: tuple[str, str]) -> tuple[bool, bool]:
    """Wait until status and drawing both differ from before; say which did."""
    for _ in range(SETTLE // 50):
        now = _state(root)
        if now[0] != before[0] and now[1] != before[1]:
            break
        root.page.wait_for_timeout(50)
    return now[0] != before[0], now[1] != before[1]


def _disturb(root: Locator) -> None:
    """Move the explorer's first slider to an end where it does not stand."""
    for slider in root.locator("input[type=range]").all()[:1]:
        slider.focus()
        was = slider.input_value()
        root.page.keyboard.press("Home")
        if slider.input_value() == was:
            root.page.keyboard.press("End")


def _drive(root: Locator, control: Locator) -> list[str]:
    kind = _kind(control)
    name = control.evaluate(
        "e => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent"
    )
    if control.is_disabled():
        return []
    value = "e => e.type === 'checkbox' || e.type === 'radio' ? String(e.checked) : e.value"
    default = control.evaluate(value)
    faults, effects = [], 0
    for step, keys in _moves(kind, control):
        was, before = control.evaluate(value), _state(root)
        control.focus()
        for key in keys:
            root.page.keyboard.press(key)
        if kind != "button" and control.evaluate(value) == was:
            continue  # it stood there already
        effects += 1
        text, drawing = _changed(root, before)
        if not text:
            faults.append(f"{name!r} to {step}: the status text did not change")
        if not drawing and kind != "button":
            faults.append(f"{name!r} to {step}: the picture did not change")
    if kind == "button" and control.get_attribute("aria-pressed") == "true":
        root.page.keyboard.press("Enter")  # stop what it started
    if not effects:
        faults.append(f"{name!r} ({kind}): no key moves it")
    if kind == "range" and float(control.evaluate(value)) != float(default):
        faults.append(f"{name!r}: did not return to its default {default}")
    return faults


def _moves(kind: str, control: Locator) -> list[tuple[str, list[str]]]:
    """The key presses that take a control through its range and back."""
    if kind == "range":
        low, step, now = control.evaluate("e => [e.min || 0, e.step || 1, e.value].map(Number)")
        # Back to the default in between: a function of x may be the same at both ends.
        back = ("its default", ["Home"] + ["ArrowRight"] * round((now - low) / step))
        return [("its minimum", ["Home"]), back, ("its maximum", ["End"]), back]
    if kind == "select":
        options = control.locator("option").count()
        now = control.evaluate("e => e.selectedIndex")
        return [
            ("its first option", ["ArrowUp"] * options),
            ("its last option", ["ArrowDown"] * options),
            ("its default", ["ArrowUp"] * options + ["ArrowDown"] * now),
        ]
    if kind == "checkbox":
        return [("the other state", ["Space"]), ("its default", ["Space"])]
    if kind == "radio":
        return [("the next choice", ["ArrowRight"])]
    if kind == "number":
        return [("one more", ["ArrowUp"]), ("its default", ["ArrowDown"])]
    if kind == "button":
        return [("pressed", ["Enter"])]
    raise ValueError(
        f"an explorer has a control of kind {kind!r}: teach tests/site_checks.py to drive it"
    )
