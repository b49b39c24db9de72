"""What each explorer teaches holds for more than what it shows: the map's table, and what no other
test measures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from augflow_mini import explorers
from augflow_mini.experiments import load_record
from augflow_mini.explorers import GapExplorer

ROOT = Path(__file__).resolve().parent.parent
MAP = (ROOT / "book" / "map.md").read_text(encoding="utf-8")
EXPLORERS = {n for n in explorers.__all__ if n.endswith("Explorer")} - {"Explorer"} | {
    "playground"
}


def untaught(text: str) -> list[str]:
    """Explorers without a row, and rows that say nothing or lead to no claim or test."""
    section = re.search(r"^## What each explorer teaches$(.*?)(?:^## |\Z)", text, re.S | re.M)[1]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:3] == "| `"]
    rows += [line.strip("| ").split(" | ") for line in section.splitlines() if line[:3] == "| ["]
    named = [re.search(r"\w+", row[0])[0] for row in rows]
    faults = [f"no row: {name}" for name in sorted(EXPLORERS - set(named))]
    faults += [f"no such explorer: {name}" for name in sorted(set(named) - EXPLORERS)]
    leads = re.compile(r"#claim-|(?<!\*)\*[a-z]")
    return faults + [
        f"{name}: no lesson, no measure or no lead"
        for name, row in zip(named, rows, strict=True)
        if len(row) != 4 or not all(cell.strip() for cell in row) or not leads.search(row[3])
    ]


def test_every_explorer_has_its_lesson_in_the_map():
    assert untaught(MAP) == []


@pytest.mark.parametrize(
    ("find", "put", "fault"),
    [
        (r"^\| `LevelsExplorer` \| (?=[A-Z]).*\n", "", "no row: LevelsExplorer"),
        (
            r"^\| `JointExplorer` \| (?=[A-Z])(.*) \|.*\|$",
            r"| `JointExplorer` | \1 | - |",
            "no lead",
        ),
        (r"^\| `GapExplorer` \| (?=[A-Z])[^|]*\|", "| `GapExplorer` |", "GapExplorer: no lesson"),
        (r"^\| `FloorsExplorer` \| (?=[A-Z])", "| `CeilingsExplorer` | ", "no such explorer"),
    ],
)
def test_a_hole_in_the_lessons_is_seen(find, put, fault):
    broken, count = re.subn(find, put, MAP, flags=re.MULTILINE)
    assert count == 1
    assert any(fault in found for found in untaught(broken))


def test_lesson_of_the_gap():
    """Five random joints: no encoder moves log p(x), the exact one has no gap, more K less gap."""
    draw = torch.Generator().manual_seed(0)
    for c, d, x in (torch.rand(5, 3, generator=draw) * 1.5 + 0.2).tolist():
        found = [
            GapExplorer(a=a, b=b, c=c, d=d, x=x, k=k).compute()
            for a, b, k in (
                (0.7, 0.3, 1),
                (0.7, 0.3, 8),
                (0.7, 0.3, 64),
                (0.3, 0.9, 1),
                (1.1, 0.0, 1),
            )
        ]
        log_p = torch.tensor([at["log_prob"] for at in found], dtype=torch.float64)
        assert log_p.max() - log_p.min() < 1e-6
        assert found[0]["gap_k"] > found[1]["gap_k"] > found[2]["gap_k"] > 0
        exact = GapExplorer(c=c, d=d).model().with_best_encoder()
        best = GapExplorer(c=c, d=d, x=x)
        best.a, best.b = exact.a, exact.b
        assert best.computed["gap"] < 1e-6 < found[0]["gap"]
        assert abs(best.computed["log_prob"] - log_p[0]) < 1e-6


def test_lesson_of_the_models():
    """Each of five recorded seeds: more steps, less of both bars; collapsed, no gap, worst fit."""
    one, two, three = (load_record(f"e2-anf-{n}")["metrics"] for n in (1, 2, 3))
    plateau = load_record("e2-plateau")["metrics"]
    fallen = [i for i, gap in enumerate(plateau["gap"]["each"]) if gap < 1e-3]
    assert len(fallen) >= 3
    worst = max(one["excess"]["each"])
    assert all(plateau["excess"]["each"][i] > 5 * worst for i in fallen)
    for name in ("excess", "gap"):
        for at in range(5):
            assert one[name]["each"][at] > 2 * two[name]["each"][at]
            assert two[name]["each"][at] > three[name]["each"][at]
