"""Measure the built pages as a reader meets them: `make measure`.

Every figure is the median of five visits in fresh browser contexts, served compressed from this
machine, with the processor slowed four times and the link held to 10 Mbit/s and 40 ms. The record goes
to pages.json with machine, day and load; the book's status page is written from it. Where the load is
more than twice the cores, only what does not hang on it is measured: bytes, and how far a page jumps.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import gzip
import json
import os
import platform
import re
import shutil
import statistics
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import site_checks  # in tests/, which `make measure` puts on the path

from benchmarks.status_page import BUSY, PRESSES, report

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
RECORD = ROOT / "benchmarks" / "pages.json"
STATUS = ROOT / "book" / "status.md"
# Runs before the page's scripts. `answer` moves the first slider as soon as there is one and notes
# when the numbers changed, in seconds from the start of the visit; it looks with the priority that the
# browser gives to a reader's keys.
WATCH = """
window.seen = { paint: 0, long: 0, events: [] };
const watch = (type, f, more) => new PerformanceObserver((l) => l.getEntries().forEach(f))
  .observe({ type, buffered: true, ...more });
watch("largest-contentful-paint", (e) => { seen.paint = e.startTime / 1000; });
watch("longtask", (e) => { seen.long = Math.max(seen.long, e.duration); });
watch("event", (e) => { if (e.name === "keydown" || e.name === "input") seen.events.push(
  [e.startTime, e.duration]); }, { durationThreshold: 16 });
const soon = (f) => scheduler.postTask(f, { priority: "user-blocking", delay: 10 });
const answer = () => {
  const input = document.querySelector(".afx input[type=range]");
  const status = document.querySelector(".afx [role=status]");
  if (!input || !status || !status.textContent) return soon(answer);
  const before = status.textContent;
  new MutationObserver(() => {
    if (status.textContent !== before) seen.answer ??= performance.now() / 1000;
  }).observe(status, { childList: true, subtree: true, characterData: true });
  input.value = input.value === input.max ? input.min : input.max;
  input.dispatchEvent(new Event("input", { bubbles: true }));
};
if (ANSWER) answer();
"""


class _Compressed(SimpleHTTPRequestHandler):
    """Serves as GitHub Pages does: text compressed, connections kept."""

    protocol_version = "HTTP/1.1"
    texts = (".html", ".js", ".css", ".svg", ".json", ".xml")

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if not path.exists():
            return self.send_error(404)
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        if path.suffix in self.texts:
            data = gzip.compress(data, 6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = (
        64  # with the usual 5 a browser's seventh connection may wait for a minute
    )


@contextlib.contextmanager
def serve(site: Path = SITE) -> Iterator[str]:
    """The address of the site's pages while it is served."""
    server = _Server(("127.0.0.1", 0), functools.partial(_Compressed, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/book/"
    server.shutdown()
    server.server_close()


def visit(browser: object, url: str, *, slow: bool, answer: bool) -> tuple[object, object]:
    """A page in a fresh context, drawn to the end."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(WATCH.replace("ANSWER", str(answer).lower()))
    if slow:
        session = context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
        link = {"offline": False, "latency": 40, "downloadThroughput": 10e6 / 8}
        session.send("Network.emulateNetworkConditions", {**link, "uploadThroughput": 10e6 / 8})
    page.goto(url, wait_until="load")
    page.wait_for_function(site_checks.TYPESET)
    if answer:
        page.wait_for_function("() => seen.answer")
    page.wait_for_timeout(300)
    return context, page


def arrival(browser: object, url: str, *, explorer: bool) -> dict[str, float]:
    """Seconds to the largest paint, to the first explorer's answer, and to that from load."""
    context, page = visit(browser, url, slow=True, answer=explorer)
    seen = page.evaluate("() => seen")
    load = page.evaluate(
        "() => performance.getEntriesByType('navigation')[0].loadEventStart / 1000"
    )
    context.close()
    if not explorer:
        return {"paint": seen["paint"]}
    return {key: seen[key] for key in ("paint", "answer")} | {
        "loaded": max(seen["answer"] - load, 0)
    }


def repaint(browser: object, url: str) -> list[float]:
    """For each explorer of a page the 95th percentile, in ms, from a key to the next frame.

    The browser's own clock (Event Timing): it reports in steps of 8 ms, and nothing below 16 ms.
    """
    context, page = visit(browser, url, slow=False, answer=False)
    found = []
    for root in page.locator(".afx").all():
        slider = root.locator("input[type=range]").first
        if not slider.count():
            continue
        slider.focus()
        page.evaluate("() => { seen.events = []; }")
        for press in range(PRESSES):
            page.keyboard.press("ArrowLeft" if press % 4 < 2 else "ArrowRight")
            page.wait_for_timeout(30)
        page.wait_for_timeout(300)
        slowest: dict[int, float] = {}
        for start, duration in page.evaluate("() => seen.events"):
            slowest[round(start)] = max(duration, slowest.get(round(start), 0))
        times = sorted(slowest.values())[-PRESSES:]
        times = [16.0] * (PRESSES - len(times)) + times
        found.append(times[int(0.95 * PRESSES) - 1])
    context.close()
    return found


def playground(browser: object, url: str, seconds: float = 6) -> dict[str, object]:
    """Train the playground as it opens: steps and frames per second, the longest task in ms."""
    context, page = visit(browser, url, slow=False, answer=False)
    root = page.locator(".afx[data-steps-per-second]")
    page.wait_for_timeout(3000)  # the first picture
    page.evaluate("() => { seen.long = 0; }")
    root.get_by_role("button", name="Train", exact=True).click()
    page.wait_for_timeout(1000 * seconds)
    data = root.evaluate("e => ({ ...e.dataset })")
    found = {
        "steps": float(data["stepsPerSecond"]),
        "frames": float(data["framesPerSecond"]),
        "long": page.evaluate("() => seen.long"),
    }
    context.close()
    return found


def stillness(browser: object, url: str) -> dict[str, float]:
    """What does not hang on the machine: kB of a page with all it loads, and how far it jumps."""
    with site_checks.Visit(browser, url) as seen:
        shift = seen.page.evaluate("() => __shift")
        return {"kB": round(site_checks.weight(SITE, seen.fetched) / 1000), "shift": shift}


def machine(browser: object) -> dict[str, object]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "day": str(datetime.datetime.now(datetime.UTC).date()),
        "processor": cpu[1] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "browser": f"Chromium {browser.version}",
    }


def built_in() -> dict[str, int]:
    """Seconds that each notebook took when the book was built, as its page says."""
    found = {}
    for path in sorted((SITE / "book").glob("*.html")):
        if ran := re.search(r"cells last run [\d-]+, in (\d+) s", path.read_text("utf-8")):
            found[path.stem] = int(ran[1])
    return found


def measure(names: list[str], runs: int) -> dict[str, object]:
    from playwright.sync_api import sync_playwright

    names_on_path = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names_on_path)))
    with serve() as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        record = {**machine(browser), "runs": runs, "load before": os.getloadavg()[0], "pages": {}}
        timed = record["load before"] <= BUSY * record["cores"]
        for name in names:
            url = f"{home}{name}.html"
            explorer = "widget-view+json" in (SITE / "book" / f"{name}.html").read_text("utf-8")
            visits = [stillness(browser, url) for _ in range(runs)]
            if timed:
                visits = [v | arrival(browser, url, explorer=explorer) for v in visits]
            row = {k: round(statistics.median(v[k] for v in visits), 3) for k in visits[0]}
            if timed and explorer:
                rounds = [repaint(browser, url) for _ in range(runs)]
                row["repaint"] = [statistics.median(times) for times in zip(*rounds, strict=True)]
            record["pages"][name] = row
            print(name, row, flush=True)
            if timed and name == "playground":
                rounds = [playground(browser, url) for _ in range(runs)]
                record["playground"] = {
                    k: round(statistics.median(r[k] for r in rounds), 1) for k in rounds[0]
                }
                print(record["playground"], flush=True)
        browser.close()
    return record | {"load after": os.getloadavg()[0], "notebooks": built_in() if timed else {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("pages", nargs="*", help="names as in book/NAME.html; all by default")
    given = parser.parse_args()
    names = given.pages or sorted(p.stem for p in (SITE / "book").glob("*.html"))
    record = measure(names, given.runs)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    STATUS.write_text(report(record), encoding="utf-8")


if __name__ == "__main__":
    main()
