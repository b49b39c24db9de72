"""The notebooks with explorers in JupyterLab, with a kernel: `make test-lab`, or chosen notebooks by

    python tests/environments/lab.py 04_augmentation_gap playground

Each notebook is run anew in JupyterLab, in Chromium. Its explorers must say what they say in the built
page, at the start and after the first slider of each was moved to its maximum from the keyboard; in
the kernel the slider's trait has arrived, and torch computes the numbers that the page shows.

JupyterLab has an environment of its own (_build/environments/lab); the kernel and what the widgets
need are those of the book. Exits with the number of faults.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import Page, TimeoutError, sync_playwright
from run import MIME, ROOT, environment

sys.path.insert(0, str(ROOT / "tests"))
from site_checks import saved_states  # noqa: E402

HTML = ROOT / "_build" / "html"
WAIT = 900  # seconds for a notebook to run
NEAR = 1e-4  # the page shows four decimals
SETTINGS = {  # every cell in the page, also out of sight; no news from other hosts
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
}
SETTLED = "e => e.textContent && !e.textContent.includes('computing')"
IN_KERNEL = """code => new Promise((resolve, reject) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code }), said = [];
  future.onIOPub = ({ header, content }) => {
    if (header.msg_type === "stream" && content.name === "stdout") said.push(content.text);
    if (header.msg_type === "error") reject(new Error(content.traceback.join("\\n")));
  };
  future.done.then(() => resolve(said.join("")), reject);
})"""
TRAITS = """
import json
from ipywidgets.widgets.widget import _instances
from augflow_mini.explorers import Explorer
print(json.dumps([
    {"name": type(w).__name__, "shown": w.shown, "computed": w.computed,
     "controls": {name: getattr(w, name) for name in w.controls}}
    for w in _instances.values() if isinstance(w, Explorer)
]))
"""


def notebooks() -> list[Path]:
    """The committed notebooks in which an explorer was shown."""
    found = sorted((ROOT / "book").glob("*.ipynb"))
    return [path for path in found if f"{MIME}view+json" in path.read_text(encoding="utf-8")]


# ---- the two places -----------------------------------------------------------------------------


@contextmanager
def jupyterlab(folder: Path, at: Path) -> Iterator[str]:
    """JupyterLab on the loopback address; gives the address of a file in `folder`, named by {}."""
    settings = folder.parent / "settings"
    for name, value in SETTINGS.items():
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / name).write_text(json.dumps(value))
    kernel = folder.parent / "data" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(
        json.dumps({"argv": argv, "display_name": "The book's", "language": "python"})
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [at / "bin/jupyter-lab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    command += ["--expose-app-in-browser"]
    widgets = Path(sys.prefix) / "share" / "jupyter"  # the front ends of ipywidgets and anywidget
    env = os.environ | {"JUPYTER_TOKEN": token, "JUPYTERLAB_SETTINGS_DIR": str(settings)}
    env |= {"JUPYTER_PATH": f"{kernel.parents[2]}{os.pathsep}{widgets}", "PYTHONPATH": str(ROOT)}
    env |= {"JUPYTER_RUNTIME_DIR": str(folder.parent / "runtime"), "OMP_NUM_THREADS": "1"}
    log = folder.parent / "jupyterlab.log"
    with log.open("w") as out:
        server = subprocess.Popen([str(c) for c in command], env=env, stdout=out, stderr=out)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError(f"JupyterLab ended:\n{log.read_text()[-3000:]}") from None
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/doc/tree/{{}}?token={token}"
    finally:
        server.terminate()
        server.wait()


def run_all(page: Page) -> list[str]:
    """Run the open notebook's cells from first to last; the errors among their outputs."""
    page.wait_for_function(
        """() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel
                   ?.connectionStatus === "connected" """
    )
    page.evaluate(
        """() => { window.jupyterapp.commands.execute("notebook:run-all-cells")
                     .then(() => { window.ranAll = true; }); }"""
    )
    page.wait_for_function("() => window.ranAll")
    cells = "window.jupyterapp.shell.currentWidget.content.widgets"
    for i in range(page.evaluate(f"{cells}.length")):  # what never was in sight may not be drawn
        page.evaluate(f"{cells}[{i}].node.scrollIntoView()")
        page.wait_for_timeout(50)
    return page.evaluate(
        """() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap((cell) =>
             (cell.model.sharedModel.outputs || []).filter((o) => o.output_type === "error")
               .map((o) => `${o.ename}: ${o.evalue}`))"""
    )


def statuses(page: Page) -> list[str]:
    """What each explorer says once it is in sight and computes no more."""
    said = []
    for explorer in page.locator(".afx").all():
        explorer.scroll_into_view_if_needed()  # the playground rests while no one sees it
        status = explorer.locator("[role=status]")
        for _ in range(1200):
            if status.evaluate(SETTLED):
                break
            page.wait_for_timeout(100)
        said.append(" ".join(status.inner_text().split()))
    return said


def move(page: Page) -> list[dict[str, object]]:
    """The first slider of each explorer to its maximum, by the keyboard; label and value of each."""
    moved = []
    for explorer in page.locator(".afx").all():
        slider = explorer.locator("input[type=range] >> visible=true").first
        slider.focus()
        page.keyboard.press("End")
        moved.append(slider.evaluate("e => ({ value: Number(e.value), max: Number(e.max) })"))
    page.wait_for_timeout(500)  # what is computed in pieces starts anew after a frame
    return moved


def arrived(page: Page) -> list[dict[str, object]]:
    """The explorers' traits in the kernel, once they hold what the page sent last.

    ipywidgets sends a state when the kernel has done with the one before, and torch computes on
    arrival: the answer is final when it stays the same over two seconds.
    """
    before, now = None, page.evaluate(IN_KERNEL, TRAITS)
    while before != now:
        page.wait_for_timeout(2000)
        before, now = now, page.evaluate(IN_KERNEL, TRAITS)
    return json.loads(now)


# ---- the comparison -------------------------------------------------------------------------------


def differing(built: list[str], lab: list[str]) -> list[str]:
    """Explorers that say in JupyterLab anything else than in the built page."""
    if len(built) != len(lab):
        return [f"{len(built)} explorers in the built page, {len(lab)} in JupyterLab"]
    pairs = zip(built, lab, strict=True)
    return [f"the page says {a!r}, JupyterLab {b!r}" for a, b in pairs if a != b]


def apart(shown: dict[str, float], computed: dict[str, float]) -> tuple[int, float]:
    """How many numbers page and torch both have, and the largest difference among them."""
    both = [name for name in shown if name in computed]
    return len(both), max((abs(shown[n] - computed[n]) for n in both), default=0.0)


def astray(traits: list[dict], moved: list[dict]) -> list[str]:
    """Where the kernel lacks the slider's value, or torch finds another number than the page."""
    faults = []
    for explorer, slider in zip(traits, moved, strict=True):
        name, (count, worst) = explorer["name"], apart(explorer["shown"], explorer["computed"])
        if slider["value"] != slider["max"] or slider["max"] not in explorer["controls"].values():
            faults.append(f"{name}: {slider} in the page, {explorer['controls']} in the kernel")
        if not count:
            faults.append(f"{name}: no number that both the page and torch have")
        if not worst <= NEAR:
            faults.append(
                f"{name}: {explorer['shown']} in the page, {explorer['computed']} by torch"
            )
    return faults


def check(path: Path, address: str, page: Page, still: Page) -> list[str]:
    """Faults of one notebook; prints what was compared."""
    start, built = time.monotonic(), next(HTML.rglob(f"{path.stem}.html"))
    still.goto(built.as_uri())
    count = len(saved_states(built))
    page.goto(address.format(path.name))
    faults = [f"error in a cell: {error}" for error in run_all(page)]
    for one in (still, page):
        try:
            one.wait_for_function(
                "n => document.querySelectorAll('.afx').length === n", arg=count, timeout=60_000
            )
        except TimeoutError:
            drawn = one.locator(".afx").count()
            return faults + [f"{drawn} explorers drawn in {one.url[:60]}, {count} in the book"]
    faults += differing(statuses(still), statuses(page))
    moved, same = move(page), move(still)
    faults += differing(statuses(still), statuses(page))
    if moved != same:
        faults.append(f"sliders stand at {same} in the built page, at {moved} in JupyterLab")
    traits = arrived(page)
    if len(traits) != count:
        return faults + [f"{len(traits)} explorers in the kernel, {count} in the page"]
    faults += astray(traits, moved)
    numbers = [apart(t["shown"], t["computed"]) for t in traits]
    print(
        f"  {path.name}: {count} explorers ({', '.join(t['name'] for t in traits)}), "
        f"{2 * count} status lines, {sum(n for n, _ in numbers)} numbers by torch, "
        f"furthest {max((worst for _, worst in numbers), default=0.0):.1e}; "
        f"{time.monotonic() - start:.0f} s",
        flush=True,
    )
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="notebooks without .ipynb; all with explorers")
    parser.add_argument("--at", type=Path, help="a virtual environment that has JupyterLab")
    args = parser.parse_args()
    chosen = [p for p in notebooks() if not args.names or p.stem in args.names]
    if not chosen or not (HTML / "index.html").exists():
        parser.error(f"no notebook with an explorer in {args.names}, or no built book in {HTML}")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    failures = 0
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary) / "book"
        folder.mkdir()
        for path in chosen:  # without outputs: whatever is seen was computed here
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            nbformat.write(notebook, folder / path.name)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with jupyterlab(folder, args.at or environment("lab")) as address:
            for path in chosen:
                context = browser.new_context(reduced_motion="reduce")
                context.set_default_timeout(WAIT * 1000)
                faults = check(path, address, context.new_page(), context.new_page())
                failures += len(faults)
                print(
                    "\n".join(f"  FAULT {path.name}: {f}" for f in faults), end="\n" * bool(faults)
                )
                context.close()
        browser.close()
    print(f"{len(chosen)} notebooks, {failures} faults")
    sys.exit(failures)


if __name__ == "__main__":
    main()
