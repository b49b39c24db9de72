"""The book's status page, from the record that pages.py made."""

from __future__ import annotations

LIMITS = {"kB": 1000, "paint": 2.5, "shift": 0.05, "loaded": 2.0, "repaint": 50}
PRESSES = 40
BUSY = 2  # processes that want a core, for each core: above it times would measure the others


def _mark(value: float, limit: str) -> str:
    """A figure; one past its limit is set in bold, and says so in words."""
    digits = {"kB": 0, "repaint": 0, "shift": 3}.get(limit, 1)
    text = f"{value:.{digits}f}"
    return text if value <= LIMITS.get(limit, value) else f"**{text}** (over)"


TEXT = """\
<!-- Made by `make measure`; do not edit. -->
# Status: how fast, how light

Measured on {day} by `make measure`: {processor}, {cores} cores, {browser}; each figure is the
median of {runs} visits. Load of the machine (processes that want a core, mean of a minute):
{before:.1f} before, {after:.1f} after. {remark}

Bytes, layout shift, errors, requests to other hosts and accessibility are checked in every run of
`make test`; times are not, since machines differ.

## Pages

With the processor slowed four times and a link of 10 Mbit/s, the largest paint should come within
{paint} s of the start of the visit. When the first explorer answers to a moved slider is given from
that start, and again from the page's load event, of which it should come within {loaded} s: it waits
neither for that nor for the formulas, so this second figure is mostly 0. Weight is the page with all
that it loads, compressed, at most {kB} kB. The shift is how much the page jumps while it is drawn, at
most {shift}. Input to repaint, for each explorer of the page and without the slowing, is the 95th
percentile over {presses} key presses, at most {repaint} ms; the browser reports it in steps of 8 ms,
and nothing below 16.

| Page | Weight, kB | Shift | Largest paint, s | Answer, s | after load, s | Input to repaint, ms |
|---|---|---|---|---|---|---|
{pages}
{playground}
{notebooks}"""
ALONE = "Above the number of cores, every time here is too long."
CROWDED = """**The machine was too busy to time a page**, so the columns of times are
empty; weight and shift do not hang on it."""
NOTEBOOKS = """
## Notebooks

Seconds each took when the book was last built, on the same machine.

| Notebook | s |
|---|---|
{rows}
| together | {together} |
"""
PLAYGROUND = """
## Playground

Training as it opens (6 couplings of width 16, batches of 128): {steps:.0f} steps and {frames:.0f}
frames a second, the longest task {long:.0f} ms. Aimed at: 150 steps, 45 frames, no task over 150 ms,
on two cores that do nothing else.
"""


def report(record: dict[str, object]) -> str:
    """The status page, from a record alone."""
    pages = []
    for name, row in record["pages"].items():
        keys = ("kB", "shift", "paint", "answer", "loaded")
        cells = [_mark(row[key], key) if key in row else "-" for key in keys]
        cells.append(", ".join(_mark(ms, "repaint") for ms in row.get("repaint", ())) or "-")
        pages.append(f"| {name} | {' | '.join(cells)} |")
    return TEXT.format(
        **{key: record[key] for key in ("day", "processor", "cores", "browser", "runs")},
        **LIMITS,
        before=record["load before"],
        after=record["load after"],
        presses=PRESSES,
        remark=ALONE if record["load before"] <= BUSY * record["cores"] else CROWDED,
        pages="\n".join(pages),
        playground=PLAYGROUND.format(**record["playground"]) if "playground" in record else "",
        notebooks=NOTEBOOKS.format(
            rows="\n".join(f"| {name} | {s} |" for name, s in record["notebooks"].items()),
            together=sum(record["notebooks"].values()),
        )
        if record["notebooks"]
        else "",
    )
