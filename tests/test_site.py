"""The built book in a headless Chromium: every page, every explorer, every planted fault.

Reads `_build/html`; `make test` builds it first.
"""

from __future__ import annotations

import base64
import functools
import json
import random
import re
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import site_checks as check

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))
from lean_pages import drop_unseen  # noqa: E402

SITE = ROOT / "_build" / "html"
PAGES = [
    str(p.relative_to(SITE.resolve())) for p in check.pages(SITE) if not check.redirects(p)
] or ["index.html"]
HOST = (ROOT / "book" / "_assets" / "widget-host.js").read_text(encoding="utf-8")
WEIGHT = 1_000_000  # bytes of a page with all it loads, compressed


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _serve(folder: Path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def address():
    assert (SITE / "index.html").exists(), "the book is not built: run `make html` first"
    server = _serve(SITE)
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


# ---------------------------------------------------------------- the book


@pytest.mark.parametrize("page", PAGES)
def test_page(page, chromium, address):
    """Served: no other host, no error, light, still, accessible in both themes, fits a phone."""
    with check.Visit(chromium, address + page) as visit:
        faults = visit.faults + check.pictures(visit.page)
        shift = check.shift(visit.page)
        for theme in ("light", "dark"):
            faults += check.accessibility(visit.page, theme)
        faults += check.overflow(visit.page)
        heavy = check.weight(SITE, visit.fetched)
        if heavy > WEIGHT:
            faults.append(f"{heavy} bytes compressed, more than {WEIGHT}")
    for _ in range(2):  # a busy machine draws late, which counts as a jump: the least of three
        if shift:
            with check.Visit(chromium, address + page) as again:
                shift = check.shift(again.page)
    assert faults + shift == []


@pytest.mark.parametrize("page", PAGES)
def test_explorers_from_a_folder(page, chromium):
    """Opened as a file, with no server: every explorer answers the keyboard."""
    with check.Visit(chromium, (SITE / page).as_uri()) as visit:
        assert check.explorers(visit.page) + visit.faults == []


def test_explorers_are_small():
    assert sum(len(check.saved_states(SITE / page)) for page in PAGES) >= 15
    assert [fault for page in PAGES for fault in check.small(SITE / page)] == []


def test_links():
    assert check.links(SITE) == []


def test_without_javascript_every_explorer_has_its_picture(chromium):
    widgets = pictures = 0
    for page in PAGES:
        text = (SITE / page).read_text(encoding="utf-8")
        if "widget-view+json" not in text:
            continue
        context = chromium.new_context(java_script_enabled=False)
        view = context.new_page()
        view.goto((SITE / page).as_uri())
        widgets += text.count('widget-view+json">')
        stills = view.locator("noscript img").all()
        pictures += len(stills)
        for still in stills:
            assert still.is_visible() and len(still.get_attribute("alt").split()) >= 4, page
        context.close()
    assert pictures == widgets


def test_no_page_loads_the_manager_of_ipywidgets():
    for page in PAGES:
        text = (SITE / page).read_text(encoding="utf-8")
        assert "html-manager" not in text and "require.js" not in text, page
        assert (HOST.strip() in text) == ("widget-view+json" in text), page


def test_no_script_keeps_a_page_from_being_read():
    """All stand before the styles, which a script would wait for; the search comes with its page."""
    for page in PAGES:
        head, body = (SITE / page).read_text(encoding="utf-8").split("</head>")
        scripts = re.findall(r"<script\b[^>]*>", head)
        assert "stylesheet" not in head or head.rindex("</script>") < head.index(
            'rel="stylesheet"'
        ), page
        assert all(" src=" not in s or " defer" in s for s in scripts), page
        assert ("searchindex.js" in head + body) == (page == "search.html"), page


# ---------------------------------------------------------------- planted faults


MODULE = """
export default { render({ model, el }) {
  el.className = "afx";
  el.innerHTML = `<label>gap <input type="range" min="0" max="4" step="1" value="2"></label>
    <button>reset</button>
    <svg role="img" aria-label="a bar" viewBox="0 0 9 9"><rect width="2" height="9"/></svg>
    <p role="status"></p>`;
  const input = el.querySelector("input");
  const draw = () => {
    const gap = model.get("gap");
    input.value = gap;
    el.querySelector("rect").setAttribute("width", gap);
    el.querySelector("p").textContent = "gap " + gap;
  };
  input.oninput = () => model.set("gap", Number(input.value));
  el.querySelector("button").onclick = () => model.set("gap", 2);
  model.on("change:gap", draw);
  draw();
} };
"""
HEAD = '<html lang="en"><head><title>t</title><meta name="viewport" content="width=device-width">'


def _page(folder: Path, body: str = "", *, module: str | None = None, **record: object) -> Path:
    """Write a small page, with an explorer if a module is given, and return its path."""
    if module is not None:
        state = {"gap": 2, "_esm": module, **record.pop("state", {})}
        saved = {"state": {"m": {"model_name": "AnyModel", "state": state, **record}}}
        mime = "application/vnd.jupyter.widget-"
        body += (
            f'<script type="{mime}state+json">{json.dumps(saved)}</script>'
            f'<div class="cell_output"><script type="{mime}view+json">{{"model_id": "m"}}</script>'
            f"<noscript><img alt='the still picture'></noscript></div><script>{HOST}</script>"
        )
    path = folder / "page.html"
    path.write_text(
        f"<!doctype html>{HEAD}</head><body><main><h1>t</h1>{body}</main></body></html>"
    )
    return path


def _faults(chromium, path: Path) -> str:
    with check.Visit(chromium, path.as_uri()) as visit:
        found = check.explorers(visit.page) + visit.faults + check.pictures(visit.page)
        found += check.shift(visit.page)
        found += check.accessibility(visit.page, "light") + check.overflow(visit.page)
    return "\n".join(found + check.links(path.parent))


@pytest.fixture(autouse=True)
def _impatient(request, monkeypatch):
    """Planted pages draw at once: no need to wait long before a control is called dead."""
    if "tmp_path" in request.fixturenames:
        monkeypatch.setattr(check, "SETTLE", 200)


def test_a_sound_page_passes(chromium, tmp_path):
    assert _faults(chromium, _page(tmp_path, module=MODULE)) == ""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('<img alt="x" src="http://example.org/x.png">', "request to another host"),
        ('<link rel="preconnect" href="https://example.org">', "loads from another host"),
        ('<link rel="prefetch" href="https://example.org">', "loads from another host"),
        ("<script>throw new Error('planted')</script>", "page error: planted"),
        ("<script>console.error('planted')</script>", "console: planted"),
        ('<script src="missing.js"></script>', "not loaded"),
        ('<a href="missing.html">x</a>', "no such page or file: missing.html"),
        ('<a href="page.html#missing">x</a>', "no such anchor: page.html#missing"),
        ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">', "no alternative text"),
        ('<div style="width: 500px">wide</div>', "px too wide at 375 px"),
        ('<p style="color: #aaa">pale</p>', "axe, light: color-contrast"),
        ("<input>", "axe, light: label"),
        (
            "<p id=a></p><p>text" + "<br>text" * 30 + "</p>"
            "<script>const next = requestAnimationFrame;"
            "next(() => next(() => a.style.height = '400px'))</script>",
            "layout shift 0.",
        ),
    ],
)
def test_a_planted_fault_is_found(body, expected, chromium, tmp_path):
    assert expected in _faults(chromium, _page(tmp_path, body))


@pytest.mark.parametrize(
    ("find", "put", "expected"),
    [
        (
            "draw();\n}",
            "throw new Error('planted');\n}",
            "error shown: This explorer stopped: planted",
        ),
        ("export default", "syntax error", "error shown: This explorer stopped"),
        (
            "const gap = ",
            "if (model.get('gap') === 4) planted(); const gap = ",
            "planted is not defined",
        ),
        ('textContent = "gap " + gap', 'textContent = "gap"', "the status text did not change"),
        ('setAttribute("width", gap)', 'setAttribute("width", 2)', "the picture did not change"),
        (
            'onclick = () => model.set("gap", 2)',
            "onclick = () => {}",
            "'reset' to pressed: the status",
        ),
        ('role="img" aria-label="a bar"', "", "no alternative text: <svg"),
        ('<p role="status">', "<p>", "exactly one role=status"),
        ("<label>gap <input", "<input", "axe, light: label"),
    ],
)
def test_a_broken_explorer_is_found(find, put, expected, chromium, tmp_path):
    assert find in MODULE
    assert expected in _faults(chromium, _page(tmp_path, module=MODULE.replace(find, put)))


def test_an_explorer_is_drawn_though_a_style_is_missing(chromium, tmp_path):
    path = _page(tmp_path, '<link rel="stylesheet" href="gone.css">', module=MODULE)
    with check.Visit(chromium, path.as_uri()) as visit:
        assert visit.page.locator(".afx [role=status]").inner_text() == "gap 2"


@pytest.mark.parametrize("fault", ["", "throw new Error('planted');"])
def test_formulas_come_after_the_explorers_even_if_one_fails(fault, chromium, tmp_path):
    """With a stand-in for MathJax, which notes what was there when it drew."""
    script = (ROOT / "book" / "_assets" / "formulas.js").read_text(encoding="utf-8")
    (tmp_path / "formulas.js").write_text(script)
    (tmp_path / "mathjax.js").write_text(
        "seen = []; MathJax.typesetPromise = async (all) => { seen.push([all ? all.length : 'rest',"
        " document.querySelectorAll('.afx, .afx-error').length]); };"
        "MathJax.startup.promise = MathJax.startup.pageReady();"
    )
    body = "<span class='math'>x</span>" * 31 + "<script>window.MathJax = {}; addEventListener"
    body += "('formulas', () => { document.title = 'drawn'; }, true);</script>"
    body += '<script defer data-mathjax="mathjax.js" src="formulas.js"></script>'
    path = _page(tmp_path, body, module=MODULE.replace("const input", fault + "const input"))
    context = chromium.new_context()
    view = context.new_page()
    view.goto(path.as_uri())
    view.wait_for_function("() => document.title === 'drawn'")
    seen = view.evaluate("seen")
    context.close()
    assert [count for count, _ in seen] == [30, 1, "rest"]
    assert all(there >= 1 for _, there in seen)


def test_a_binary_trait_is_refused(chromium, tmp_path):
    buffers = [
        {"path": ["weights"], "encoding": "base64", "data": base64.b64encode(b"1").decode()}
    ]
    path = _page(tmp_path, module=MODULE, buffers=buffers)
    assert "This explorer stopped: binary trait weights" in _faults(chromium, path)


def test_a_widget_of_another_kind_says_where_it_runs(chromium, tmp_path):
    path = _page(tmp_path, module=MODULE, model_name="FloatSliderModel")
    with check.Visit(chromium, path.as_uri()) as visit:
        assert (
            "Open the page in Colab or Jupyter" in visit.page.locator(".afx-offline").inner_text()
        )
        assert visit.page.locator(".afx-host img").get_attribute("alt") == "the still picture"


def test_links_between_widgets(chromium, tmp_path):
    """jslink ties two explorers both ways, jsdlink one way."""
    for kind, back in (("LinkModel", "gap 0"), ("DirectionalLinkModel", "gap 4")):
        ends = {"source": ["IPY_MODEL_a", "gap"], "target": ["IPY_MODEL_b", "gap"]}
        any_model = {"model_name": "AnyModel", "state": {"gap": 1, "_esm": MODULE}}
        states = {"a": any_model, "b": any_model, "l": {"model_name": kind, "state": ends}}
        mime = "application/vnd.jupyter.widget-"
        views = "".join(
            f'<script type="{mime}view+json">{{"model_id": "{m}"}}</script>' for m in "ab"
        )
        saved = json.dumps({"state": states})
        path = _page(
            tmp_path,
            f'<script type="{mime}state+json">{saved}</script>{views}<script>{HOST}</script>',
        )
        with check.Visit(chromium, path.as_uri()) as visit:
            first, second = visit.page.locator(".afx").all()
            first.locator("input").press("End")
            assert second.locator("p").inner_text() == "gap 4"
            second.locator("input").press("Home")
            assert first.locator("p").inner_text() == back
            assert visit.faults == []


def test_a_heavy_explorer_and_one_of_many_inputs_are_seen(tmp_path):
    sliders = [{"name": name} for name in "abcde"]
    noise = base64.b64encode(random.Random(0).randbytes(70_000)).decode()
    for state, faults in [
        ({"inputs": sliders[1:] + [{"name": "f", "hidden": True}]}, []),
        ({"inputs": sliders}, ["an explorer: 5 inputs, more than 4: a, b, c, d, e"]),
        ({"inputs": sliders, "_anywidget_id": "x.Playground"}, []),
        ({"inputs": [], "weights": noise}, ["an explorer: 7"]),
    ]:
        found = check.small(_page(tmp_path, module=MODULE, state=state))
        assert len(found) == len(faults)
        assert all(f.startswith(e) for f, e in zip(found, faults, strict=True)), found


def test_an_explorer_that_no_one_sees_stays_out(tmp_path):
    """A cell made it and did not show it: the site check sees its state, the build drops it."""
    ends = {"source": ["IPY_MODEL_b", "gap"], "target": ["IPY_MODEL_c", "gap"]}
    states = {i: {"model_name": "AnyModel", "state": {"inputs": [], "at": "</p>"}} for i in "abcd"}
    states["a"]["state"]["layout"] = "IPY_MODEL_e"
    states |= {"e": {"model_name": "LayoutModel", "state": {}}}
    states |= {"l": {"model_name": "LinkModel", "state": ends}}
    mime = "application/vnd.jupyter.widget-"
    views = "".join(f'<script type="{mime}view+json">{{"model_id": "{m}"}}</script>' for m in "ab")
    saved = json.dumps({"state": states}).replace("</", r"<\/")
    page = f'<script type="{mime}state+json">{saved}</script>{views}'
    (tmp_path / "page.html").write_text(page)
    assert check.small(tmp_path / "page.html") == ["4 explorers saved, 2 shown"]
    kept = drop_unseen(page)
    assert {i for i in "abcdel" if f'"{i}": {{' in kept} == set("abcel")
    assert kept.endswith(f"</script>{views}") and kept.count("</") == page.count("</")
    assert drop_unseen(kept) == kept and drop_unseen(views) == views


def test_a_heavy_page_is_seen(tmp_path):
    (tmp_path / "a.js").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "index.html").write_text("x" * 100_000)
    small = check.weight(tmp_path, ["/a.js", "/a.js", "/"])
    assert 256 < small < 2_500  # compressed, and each file once
