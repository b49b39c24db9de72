"""The performance page says what the stored measurements say."""

import copy
import json
from pathlib import Path

import pytest

from benchmarks.report import RESULTS, best, page

PAGE = Path(__file__).resolve().parent.parent / "book" / "performance.md"
MEASURED = json.loads(RESULTS.read_text())


def test_the_page_is_current():
    assert PAGE.read_text() == page(MEASURED), "python -m benchmarks.report > book/performance.md"


def test_the_page_follows_the_measurements():
    other = copy.deepcopy(MEASURED)
    other["flow2d"]["256"]["train"]["FrEIA"]["times_ours"] = 9.87
    assert "9.87" in page(other) and page(other) != page(MEASURED)


def test_the_fastest_other_library_is_the_one_with_the_least_time():
    name, ratio = best(MEASURED["flow2d"]["1024"]["train"])
    others = [
        v["cpu_ms"]
        for k, v in MEASURED["flow2d"]["1024"]["train"].items()
        if k not in ("ours", "ours, by modules", "floor")
    ]
    ours = MEASURED["flow2d"]["1024"]["train"]["ours"]["cpu_ms"]
    assert ratio == pytest.approx(min(others) / ours) and name in MEASURED["versions"]


def test_a_hundred_thousand_samples_stay_under_fifty_megabytes():
    most = next(r for r in MEASURED["importance"] if r["k"] == 100_000)
    assert most["extra_MiB"] < 50
