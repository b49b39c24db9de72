"""Two bars and the same number: JS against torch on random states, what the moves promise, the pages.

The random states fill the sliders' ranges; a quarter of them sits in the corners.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from explorer_page import D, difference, status

import augflow_mini as am
from augflow_mini.explorers import SameNumberExplorer, TwoBarsExplorer, TwoModesBarsExplorer
from augflow_mini.explorers.base import source
from augflow_mini.explorers.two_bars import VARIANCE, Skew
from augflow_mini.gap import LinearGaussian, ScalarANF

SOURCES = ("arrays.js", "base.js", "plot.js", "joint_kl.js", "same_number.js")
STATES = 1000
FAMILIES = TwoModesBarsExplorer.families


@pytest.fixture
def page(engine):
    return engine(source(*SOURCES))


def ranges(widget: type) -> dict[str, tuple[float, float]]:
    """What can be set, by a slider or from Python alone."""
    traits = widget.class_traits()
    names = [*widget.controls, *(n for n in "abcd" if n in traits and n not in widget.controls)]
    return {n: (traits[n].min, traits[n].max) for n in names if hasattr(traits[n], "min")}


def states(widget: type, n: int = STATES, seed: int = 0) -> list[dict[str, float]]:
    """Random states within the sliders' ranges; every fourth one a corner."""
    g = torch.Generator().manual_seed(seed)
    names, bounds = list(ranges(widget)), torch.tensor(list(ranges(widget).values()), dtype=D)
    u = torch.rand(n, len(names), generator=g, dtype=D)
    u[::4] = u[::4].round()
    values = bounds[:, 0] + u * (bounds[:, 1] - bounds[:, 0])
    return [dict(zip(names, row, strict=True)) for row in values.tolist()]


def modes_states(n: int = STATES, seed: int = 0) -> list[dict[str, float]]:
    rows = states(TwoModesBarsExplorer, n, seed)
    return [{**row, "family": FAMILIES[i % 3]} for i, row in enumerate(rows)]


BARS = """([problem, states]) => states.map((s) => {
  const { error, gap, sum, nll } = M.bars(M.PROBLEMS[problem], s);
  return [error, gap, sum, nll];
})"""


# ---------------------------------------------------------------- two bars against torch


def test_linear_bars_equal_the_matrix_of_the_layers(page):
    rows = states(TwoBarsExplorer)
    got = torch.tensor(page.evaluate(BARS, ["linear", rows]), dtype=D)
    mean, cov = torch.zeros(1, dtype=D), torch.full((1, 1), VARIANCE, dtype=D)
    expected = []
    for row in rows:
        model = LinearGaussian.from_flow(ScalarANF(**row).flow())
        expected.append([model.model_error(mean, cov), model.expected_gap(mean, cov)])
    expected = torch.tensor(expected, dtype=D)
    entropy = 0.5 * (1 + math.log(2 * math.pi * VARIANCE))
    assert difference(got[:, 0].tolist(), expected[:, 0]) < 1e-10
    assert difference(got[:, 1].tolist(), expected[:, 1]) < 1e-10
    assert difference(got[:, 2].tolist(), expected.sum(1)) < 1e-10
    assert difference(got[:, 3].tolist(), expected[:, 0] + entropy) < 1e-10


def _law(nodes: int, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    t = torch.linspace(-reach, reach, nodes, dtype=D)
    return t, torch.exp(-0.5 * t * t) * (t[1] - t[0]) / math.sqrt(2 * math.pi)


def modes_bars(state: dict[str, float]) -> tuple[float, float]:
    """Model error and gap of the two modes: KL by KL, over both modes, on grids of its own."""
    rank = FAMILIES.index(state["family"])
    a, b, h = state["a"] if rank else 1.0, state["b"] if rank else 0.0, state["h"] * (rank == 2)
    c, steep, d = (state[n] for n in "ctd")
    t, weight = _law(93, 8.3)
    x = torch.cat([-2 + 0.5 * t, 2 + 0.5 * t])[:, None]
    weight = torch.cat([weight, weight]) / 2
    normal = torch.distributions.Normal

    def log_likelihood(z):
        return normal(c * torch.tanh(steep * z), d).log_prob(x)

    z, prior = _law(623, 8.7)
    log_p = torch.logsumexp(log_likelihood(z) + prior.log(), dim=1)
    data = am.data.TOYS["two_modes"].log_prob(x)
    e, mass = _law(251, 8.1)
    u = torch.sinh(torch.asinh(e) + h * torch.tanh(x))
    slope = torch.cosh(torch.asinh(e) + h * torch.tanh(x)) / torch.sqrt(1 + e * e)
    z = b * x + a * u
    log_q = normal(0.0, 1.0).log_prob(e) - torch.log(a * slope)
    log_posterior = normal(0.0, 1.0).log_prob(z) + log_likelihood(z) - log_p[:, None]
    gap = weight @ ((log_q - log_posterior) @ mass)
    return (weight @ (data - log_p)).item(), gap.item()


def test_bars_of_the_two_modes_equal_torch(page):
    rows = modes_states()
    got = torch.tensor(page.evaluate(BARS, ["two modes", rows]), dtype=D)
    expected = torch.tensor([modes_bars(row) for row in rows], dtype=D)
    assert difference(got[:, 0].tolist(), expected[:, 0]) < 1e-10
    assert difference(got[:, 1].tolist(), expected[:, 1]) < 1e-10
    assert difference(got[:, 2].tolist(), expected.sum(1)) < 1e-10
    entropy = am.data.TOYS["two_modes"].entropy
    assert difference(got[:, 3].tolist(), expected[:, 0] + entropy) < 1e-9


def test_bars_of_the_two_modes_equal_the_layers(page):
    """The same numbers from the library's list of layers by its adaptive quadrature."""
    rows = [row for row in modes_states(24, seed=1) if row["a"] > 0.1]
    got = page.evaluate(BARS, ["two modes", rows])
    for row, (error, gap, *_) in zip(rows, got, strict=True):
        found = TwoModesBarsExplorer(**row).recompute()
        assert (
            difference([error, gap], torch.tensor([found["error"], found["gap"]], dtype=D)) < 1e-8
        )


def test_skew_is_a_transform():
    am.check_transform(Skew(0.7), torch.randn(6, 2, dtype=D))


BARS_MUTANTS = [
    ("const miss = VARIANCE - 2 * c * xz", "const miss = VARIANCE - c * xz"),
    ("Math.log(2 * d / a)", "Math.log(2 * d * a)"),
    ("(r + 1 / r) / root[i]", "(r - 1 / r) / root[i]"),
    ("0.5 * (ratio - 1 - Math.log(ratio))", "0.5 * (ratio - 1 + Math.log(ratio))"),
    ("y * y + z * z - e[i] * e[i]", "y * y + z * z"),
    ("return Math.log(p) - 0.5 * near / (d * d)", "return Math.log(p)"),
    ("nodes(8, 81, 241)", "nodes(6, 33, 97)"),
]


@pytest.mark.parametrize("fault", BARS_MUTANTS, ids=lambda fault: fault[0])
def test_wrong_bars_are_seen(engine, fault):
    linear, modes = states(TwoBarsExplorer, 20), modes_states(20)
    asked = ["linear", linear], ["two modes", modes]
    got = [engine(source(*SOURCES), fault).evaluate(BARS, a) for a in asked]
    right = [engine(source(*SOURCES)).evaluate(BARS, a) for a in asked]
    one, two = (torch.tensor(v[0] + v[1], dtype=D) for v in (got, right))
    assert not difference(one.flatten().tolist(), two) < 1e-10


# ---------------------------------------------------------------- what the moves promise


MOVE = """([problem, states, ranges]) => states.map((s) => {
  const P = M.PROBLEMS[problem], before = M.bars(P, s);
  const held = (s) => Object.entries(ranges).every(([n, r]) => s[n] >= r[0] && s[n] <= r[1]);
  return ["q", "p", "both"].map((which) => {
    const next = M.move(P, s, which, ranges), after = M.bars(P, next);
    return [before.error, before.gap, before.sum, after.error, after.gap, after.sum,
            Number(held(next))];
  });
})"""
PROBLEMS = {
    "linear": (TwoBarsExplorer, lambda n, seed: states(TwoBarsExplorer, n, seed)),
    "two modes": (TwoModesBarsExplorer, modes_states),
}


def moves(page, problem: str, rows: list[dict[str, float]]) -> torch.Tensor:
    """(state, move, [error, gap, sum before; error, gap, sum after; within the ranges])."""
    limits = ranges(PROBLEMS[problem][0])
    return torch.tensor(page.evaluate(MOVE, [problem, rows, limits]), dtype=D)


@pytest.mark.parametrize(("problem", "count"), [("linear", STATES), ("two modes", 40)])
def test_no_move_raises_what_it_must_not(page, problem, count):
    rows = PROBLEMS[problem][1](count, seed=2)
    q, p, both = moves(page, problem, rows).unbind(1)
    assert (q[:, 3] == q[:, 0]).all()  # a step in q leaves the model error, to the last bit
    assert (q[:, 4] <= q[:, 1]).all()  # and never raises the gap
    for found in (q, p, both):
        assert (found[:, 5] <= found[:, 2]).all()  # nothing raises the sum
        assert (found[:, 6] == 1).all()
    # The moves do something: these are inequalities that a move which stands still would pass.
    moved = torch.tensor([row.get("family") != "N(0, 1)" for row in rows])
    assert ((q[:, 1] - q[:, 4])[moved] > 1e-3).double().mean() > 0.8
    assert ((p[:, 2] - p[:, 5]) > 1e-3).double().mean() > 0.8
    assert ((both[:, 2] - both[:, 5]) > 1e-4).double().mean() > 0.8


@pytest.mark.parametrize(("problem", "count"), [("linear", 200), ("two modes", 30)])
def test_a_step_in_p_from_a_good_q_raises_the_gap(page, problem, count):
    """Where q has just been moved. In the linear model the gap is then 0, so it must rise."""
    widget, make = PROBLEMS[problem]
    rows = [
        row | ({"family": "Gaussian"} if "family" in row else {}) for row in make(count, seed=3)
    ]
    rows = [row for row in rows if row["c"] > 0.3]
    ready = page.evaluate(
        """([problem, states, ranges]) =>
             states.map((s) => M.move(M.PROBLEMS[problem], s, "q", ranges))""",
        [problem, rows, ranges(widget)],
    )
    p = moves(page, problem, ready)[:, 1]
    rises, falls = p[:, 4] > p[:, 1] + 1e-6, p[:, 5] < p[:, 2] - 1e-2
    assert falls.double().mean() > 0.5
    if problem == "linear":
        closed = p[:, 1] < 1e-8  # unless the best encoder lies outside the sliders
        assert closed.sum() > 50 and rises[closed & falls].all()
    else:
        assert 0.2 < rises.double().mean() < 1.0  # may, not must: the gap was not 0


def test_a_step_in_p_raises_the_gap_from_the_start_with_q_moved(page):
    """The chapter's sequence: Move q, then Move p, at the explorer's start."""
    start = {"a": 0.7, "b": 0.3, "c": 1.1, "d": 0.6}
    ready = page.evaluate(
        "([s, ranges]) => M.move(M.LINEAR, s, 'q', ranges)", [start, ranges(TwoBarsExplorer)]
    )
    exact = ScalarANF(**start).with_best_encoder()
    assert ready["a"] == pytest.approx(exact.a, abs=1e-5)
    assert ready["b"] == pytest.approx(exact.b, abs=1e-5)
    found = moves(page, "linear", [ready])[0, 1]
    xz, zz = exact.b * VARIANCE, exact.a**2 + exact.b**2 * VARIANCE  # regression of x on z
    best = ScalarANF(exact.a, exact.b, xz / zz, math.sqrt(VARIANCE - xz * xz / zz))
    model = LinearGaussian.from_flow(best.flow())
    mean, cov = torch.zeros(1, dtype=D), torch.full((1, 1), VARIANCE, dtype=D)
    assert found[1] < 1e-9 < 0.05 < found[4]
    assert found[3] == pytest.approx(model.model_error(mean, cov).item(), abs=1e-6)
    assert found[4] == pytest.approx(model.expected_gap(mean, cov).item(), abs=1e-6)


LADDER = """([start, ranges, rounds]) => {
  const P = M.TWO_MODES, out = {};
  for (const family of Object.keys(P.families)) {
    let s = { ...start, family };
    for (let i = 0; i < rounds; i++) for (const which of ["q", "p"]) s = M.move(P, s, which, ranges);
    out[family] = M.bars(P, s);
  }
  return out;
}"""


def test_a_richer_q_lets_p_get_better(page):
    """From 5 starts, 8 rounds of q and p: error and sum fall from N(0, 1) to Gaussian to flow."""
    limits, g = ranges(TwoModesBarsExplorer), torch.Generator().manual_seed(4)
    draws = torch.rand(5, 3, generator=g, dtype=D).tolist()
    starts = [{"c": 1.5, "t": 1.0, "d": 0.8}]
    starts += [{"c": 1 + 1.5 * u, "t": 0.6 + v, "d": 0.5 + w} for u, v, w in draws[1:]]
    for start in starts:
        found = page.evaluate(LADDER, [{"a": 1, "b": 0, "h": 0, **start}, limits, 8])
        n, g_, f = (found[name] for name in FAMILIES)
        assert n["gap"] < 1e-9 and n["error"] == pytest.approx(0.72355, abs=1e-4)  # collapsed
        assert f["sum"] < g_["sum"] - 0.2 < n["sum"] - 0.4, (start, found)
        assert f["error"] < g_["error"] - 0.05 < n["error"] - 0.5, (start, found)


def test_idle_noise_is_a_standstill(page):
    """The collapsed model has no gap, and no move of q, p or both leaves it."""
    preset = page.evaluate("() => M.TWO_MODES.presets['Ignore the noise']")
    for family in FAMILIES:
        found = moves(page, "two modes", [{"t": 1.0, **preset, "family": family}])[0]
        assert found[:, 1].abs().max() < 1e-10  # the gap
        assert (found[:, 2] - found[:, 5]).abs().max() < 1e-6


# ---------------------------------------------------------------- the same number


ROUTES = """(states) => states.map(({ a, b, c, d, x, e }) => {
  const m = { a, b, c, d };
  return [M.anf(m, x, e), ...[0, 1, 2].map((n) => M.vflow(m, x, e, n)), M.vae(m, x, e)]
    .map(({ parts, total }) => [...parts, total]);
})"""


def test_three_names_equal_the_librarys_ledger(page):
    rows = states(SameNumberExplorer)
    got = page.evaluate(ROUTES, rows)
    for row, found in zip(
        rows[::5], got[::5], strict=True
    ):  # the library's layers are slow to build
        widget = SameNumberExplorer(**row)
        flow = widget.flow()
        x, e = (torch.tensor([[row[n]]], dtype=D) for n in "xe")
        ledgers = [am.tables.ledger(flow, x, e)]
        ledgers += [am.tables.ledger(flow, x, e, posterior=n) for n in range(3)]
        ledgers.append(widget.ledgers()["VAE"])
        expected = torch.tensor([list(led.values()) for led in ledgers], dtype=D)
        assert difference([v for parts in found for v in parts], expected) < 1e-12
    totals = torch.tensor(got, dtype=D)[:, :, 3]
    scale = totals.abs().clamp(min=1).amax(1, keepdim=True)
    assert ((totals - totals[:, :1]).abs() / scale).max() < 1e-12


def test_the_routes_are_not_one_number_shown_thrice(page):
    """In most states they differ in the last bits."""
    totals = torch.tensor(page.evaluate(ROUTES, states(SameNumberExplorer, 200)), dtype=D)[:, :, 3]
    names = totals[:, [0, 3, 4]]
    assert ((names.amax(1) - names.amin(1)) > 0).double().mean() > 0.5


def test_running_example(page):
    """(0.7, 0.3, 1.1, 0.6), x = 1, e = 0.4: the chapter's table."""
    row = {"a": 0.7, "b": 0.3, "c": 1.1, "d": 0.6, "x": 1.0, "e": 0.4}
    assert {n: getattr(SameNumberExplorer(), n) for n in row} == row
    one, *_, full, three = page.evaluate(ROUTES, [row])[0]
    log_a, log_d = math.log(0.7), math.log(0.6)
    log_e = -0.5 * (0.4**2 + math.log(2 * math.pi))
    assert one[1:3] == pytest.approx([log_a - log_d, -log_e], abs=1e-14)
    assert full[1:3] == pytest.approx([-log_d, log_a - log_e], abs=1e-14)
    assert three[2] == pytest.approx(log_a - log_e, abs=1e-14)
    assert one[3] == pytest.approx(-1.03499340893297, abs=1e-12)


SAME_MUTANTS = [
    ("Math.log(a)], inverse", "-Math.log(a)], inverse"),
    ("[x, u / a], -Math.log(a)", "[x, u / a], 0"),
    ("[x, u - b * x], 0", "[x, u + b * x], 0"),
    ("[[(x - c * z) / d, z], -Math.log(d)]", "[[(x - c * z) / d, z], Math.log(d)]"),
    ("-(logNormal(noise) + logDet)", "-logNormal(noise)"),
    ("-logNormal(z, b * x, a)", "-logNormal(z, b * x, 1)"),
    ("logNormal(x, c * z, d)", "logNormal(x, c * z)"),
]


@pytest.mark.parametrize("fault", SAME_MUTANTS, ids=lambda fault: fault[0])
def test_a_wrong_route_is_seen(engine, fault):
    page = engine(source(*SOURCES), fault)
    totals = torch.tensor(page.evaluate(ROUTES, states(SameNumberExplorer, 20)), dtype=D)
    assert (totals[:, :, 3] - totals[:, :1, 3]).abs().max() > 1e-6


# ---------------------------------------------------------------- the widgets


@pytest.mark.parametrize("widget", [TwoBarsExplorer, TwoModesBarsExplorer, SameNumberExplorer])
def test_controls_can_be_read_set_and_observed(widget):
    explorer, seen = widget(), []
    explorer.observe(lambda change: seen.append(change["new"]), "d")
    assert explorer.computed == {}  # showing an explorer computes nothing
    explorer.d = 1.2
    assert seen == [1.2] and explorer.computed == explorer.compute()
    with pytest.raises(Exception, match="should not be greater than"):
        explorer.d = 99.0
    assert explorer.d == 1.2
    for choice in ("family", "counted"):
        if explorer.has_trait(choice):
            with pytest.raises(Exception, match="expected one of"):
                setattr(explorer, choice, "anything")


@pytest.mark.parametrize("widget", [TwoBarsExplorer, TwoModesBarsExplorer])
def test_the_page_follows_the_hand_and_the_buttons(show, widget):
    explorer = widget()
    tab = show(explorer)
    if explorer.has_trait("family"):
        tab.get_by_role("combobox").select_option("Gaussian")
    for name in ("Move q", "Move p", "Move both"):
        tab.get_by_role("button", name=name).click()
    text = status(tab)
    assert f"Step {4 if explorer.has_trait('family') else 3}, both" in text
    tab.get_by_role("button", name="Copy link").click()
    tab.get_by_text("The link is in the address bar.").wait_for()
    hash = tab.evaluate("location.hash")
    again = show(widget(), hash)  # what has no slider of its own travels too
    items = text.split(" ; ")[:4]
    assert status(again).split(" ; ")[:4] == items
    for pair in hash.split("?")[1].split("&"):
        name, value = pair.split("=")
        setattr(explorer, name, value if name == "family" else float(value))
    for key in ("error", "gap", "sum", "nll"):
        assert f"{explorer.computed[key]:.4f}" in text, (key, text)
    tab.get_by_role("button", name="Reset").click()
    assert "Back at the start" in status(tab) and "Step" not in status(tab)
    assert len(json.dumps(explorer.get_state(), default=str)) < 60_000


def test_the_page_shows_the_ledger(show):
    explorer = SameNumberExplorer()
    tab = show(explorer)
    for option in explorer.options("counted"):
        tab.get_by_role("combobox").select_option(option)
        explorer.counted = option
        shown = tab.locator(".afx-ledger svg").text_content().replace("\u2212", "-")
        for rows in explorer.ledgers().values():
            for name, value in rows.items():
                assert f"{value:.4f}" in shown, (option, name, shown)
    tab.get_by_role("slider", name="noise e").press("End")
    explorer.e = 3.0
    assert status(tab).count(f"{explorer.computed['anf']:.6f}") == 3
