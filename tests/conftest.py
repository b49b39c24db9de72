"""Shared by all tests: the table of where the time goes, and the browser for the built pages."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
from explorer_page import engine, show  # noqa: F401  (fixtures)

SECONDS: dict[str, float] = defaultdict(float)
COUNTS: dict[str, int] = defaultdict(int)


def stage(nodeid: str) -> str:
    """Name the stage of `make test` that a test belongs to."""
    if nodeid.startswith("book/"):
        return "notebooks run again"
    return "browser" if nodeid.startswith("tests/test_site.py") else "library"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    SECONDS[stage(report.nodeid)] += report.duration
    COUNTS[stage(report.nodeid)] += report.when == "call"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table last, just above pytest's closing line."""
    rows = []
    if times := os.environ.get("TIMES"):  # `make test` notes there what came before pytest
        for line in Path(times).read_text().splitlines():
            name, seconds = line.split("\t")
            rows.append((name, float(seconds), ""))
    rows += [(name, SECONDS[name], f"{COUNTS[name]} checks") for name in sorted(SECONDS)]
    terminalreporter.section("where the time goes")
    for name, seconds, note in rows:
        terminalreporter.write_line(f"{name:<22}{seconds:8.1f} s  {note}")
    terminalreporter.write_line(f"{'together':<22}{sum(row[1] for row in rows):8.1f} s")


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium that asks nobody for anything by itself."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.fail("no Chromium: install it or set CHROMIUM=/path; `make browser` helps")
    quiet = ["disable-gpu", "disable-quic", "disable-background-networking", "no-first-run"]
    quiet += ["disable-component-update", "disable-sync", "no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=[f"--{option}" for option in quiet]
        )
        yield browser
        browser.close()
