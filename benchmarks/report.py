"""Write the performance page of the book from benchmarks/results.json.

python -m benchmarks.report > book/performance.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results.json"
NAMES = {"train": "training step", "log_prob": "log p(x)", "sample": "sampling"}
# What the project set out to reach against the fastest other library: times its speed.
GOALS = {
    ("train", "256"): 1.35, ("train", "1024"): 1.2,
    ("log_prob", "256"): 1.8, ("log_prob", "1024"): 1.3,
    ("sample", "256"): 1.6, ("sample", "1024"): 1.2,
}  # fmt: skip


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def best(table: dict) -> tuple[str, float]:
    """The fastest other library, and its time over ours."""
    others = {k: v["times_ours"] for k, v in table.items() if not k.startswith("floor")}
    name = min((k for k in others if not k.startswith("ours")), key=others.get)
    return name, others[name]


def planes(flow2d: dict, libraries: list[str]) -> list[str]:
    lines = [
        row("what", "batch", "ours, ms", *libraries, "by modules", "bare networks"),
        row("---", *["---:"] * (len(libraries) + 4)),
    ]
    for batch, tables in flow2d.items():
        for what, name in NAMES.items():
            table = tables[what]
            beside = [*libraries, "ours, by modules", "floor"]
            ratios = [f"{table[k]['times_ours']:.2f}" for k in beside]
            lines.append(row(name, batch, f"{table['ours']['cpu_ms']:.2f}", *ratios))
    return lines


def goals(flow2d: dict) -> list[str]:
    lines = [
        row("what", "batch", "goal", "measured", "fastest other", "reached"),
        row("---", "---:", "---:", "---:", "---", "---"),
    ]
    for (what, batch), goal in GOALS.items():
        name, ratio = best(flow2d[batch][what])
        lines.append(
            row(NAMES[what], batch, goal, f"{ratio:.2f}", name, "yes" if ratio >= goal else "no")
        )
    return lines


def missed(flow2d: dict) -> list[str]:
    """How far a goal that was missed is from what the networks alone take."""
    lines = []
    for (what, batch), goal in GOALS.items():
        _, ratio = best(flow2d[batch][what])
        if ratio < goal:
            alone = flow2d[batch][what]["floor"]["times_ours"]
            lines += [
                f"- {NAMES[what]} at {batch}: the goal asks for {ratio / goal:.2f} of our time; the "
                f"bare networks take {alone:.2f} of it.",
            ]
    return ["What was missed:", "", *lines, ""] if lines else []


def compiled(inductor: dict | None) -> list[str]:
    """What torch.compile gains and costs, where it was measured."""
    lines = []
    for batch, part in (inductor or {}).items():
        train, log_p = (part[w]["inductor"]["times_ours"] for w in ("train", "log_prob"))
        lines += [
            f"Through `torch.compile` (inductor), at batch {batch}, a training step takes "
            f"{train:.2f} and log p(x) {log_p:.2f} times",
            f"as long as without; compiling the step cold takes {part['compile_cpu_s']:.0f} s of "
            "processor first.",
            "",
        ]
    return lines


def page(results: dict) -> str:
    """The page in Markdown."""
    versions, glow = results["versions"], results["glow"]["train"]
    libraries = [k for k in versions if k not in ("augflow_mini", "torch")]
    name, ratio = best(glow)
    floor = 1 / glow["floor"]["times_ours"]
    passed = glow["floor, gradients passed on"]["times_ours"]
    last = glow["ours, channels last"]["times_ours"]
    fastest = {best(results["flow2d"][b][w])[0] for w, b in GOALS}
    reached = [best(results["flow2d"][b][w])[1] >= g for (w, b), g in GOALS.items()]
    second = min((v["times_ours"], k) for k, v in glow.items() if k in libraries and k != name)
    return "\n".join([
        "# Performance",
        "",
        "How fast the library is beside four others, and how much memory a bound with many samples",
        f"takes. Measured on {results['threads']} thread of an {results['device']} processor, by "
        "turns: in each of",
        f"{results['rounds']} rounds ({max(3, results['rounds'] // 6)} for the images) every model "
        "runs once, and medians of the processor's time are",
        "compared. All models train with the same fused Adam. Versions: "
        + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".",
        "",
        "## RealNVP on the plane",
        "",
        "Eight couplings with networks of 2 x 64. Beside our milliseconds: how many times as long the",
        "others take (above 1: slower than ours). *By modules* is ours again, where every layer and",
        "network is called; *bare networks* are the eight networks alone, called, not made a flow.",
        "",
        *planes(results["flow2d"], libraries),
        "",
        f"Of the {len(GOALS)} goals that were set against the fastest other library, "
        f"reached: {sum(reached)}.",
        "",
        *goals(results["flow2d"]),
        "",
        f"The goals stand against the fastest ({', '.join(sorted(fastest))}), which is given the",
        "same plain exponential, no clamp and no permutations. Where every network is plain, our",
        "chain is written out together with its backward pass (`augflow_mini/fused.py`), equal bit",
        "for bit to the way by modules and autograd: so it can take less than the bare networks. With",
        "a hook on one of them, a layer of one's own or autocast the way by modules is taken.",
        "",
        *missed(results["flow2d"]),
        *compiled(results.get("inductor")),
        "## A Glow-like model of 3 x 32 x 32 images",
        "",
        f"One training step takes {glow['ours']['cpu_ms']:.0f} ms at batch 32; the fastest other "
        f"library ({name}) takes {ratio:.2f} times",
        f"that, the next ({second[1]}) {second[0]:.2f} times, and ours {floor:.2f} times what the "
        "bare convolutions take",
        f"(goals: 0.95 of the fastest, {'reached' if ratio >= 0.95 else 'missed'}; within 1.15 of "
        f"the convolutions, {'reached' if floor <= 1.15 else 'missed'}).",
        "The bare convolutions there compute no gradient for their inputs; in a flow they must.",
        f"With it, ours takes {1 / passed:.2f} times what they take.",
        f"With images stored channels last the same step takes {last:.2f} times as long as before:",
        "`fit(..., channels_last=True)`.",
        "",
        "## Memory of a bound with K samples",
        "",
        "`Flow.iw_bound` streams over K and keeps running sums in place of the log-weights: time",
        "grows with K, memory far more slowly (batch 16).",
        "",
        row("K", "seconds", "extra memory, MiB"),
        row("---:", "---:", "---:"),
        *[row(f"{r['k']:,}", f"{r['cpu_s']:.2f}", f"{r['extra_MiB']:.0f}")
          for r in results["importance"]],
        "",
        "To measure again: `python -m benchmarks.run --rounds "
        f"{results['rounds']} --out benchmarks/results.json`, then",
        "`python -m benchmarks.report > book/performance.md`.",
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(RESULTS.read_text())))
