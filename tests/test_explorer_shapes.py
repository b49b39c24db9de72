"""The explorers of chapters 6, 9 and 10: leapfrog, levels, integers and digits."""

from __future__ import annotations

import json
import math
import random

import ipywidgets
import pytest
import torch
import traitlets
from explorer_page import D, difference, status

from augflow_mini.explorers import DequantiseExplorer, LeapfrogExplorer, LevelsExplorer
from augflow_mini.explorers.dequantise import Bins, Lean
from augflow_mini.explorers.leapfrog import COUNTS, TIME
from augflow_mini.explorers.levels import Levels

WIDGETS = {
    "dequantise": DequantiseExplorer,
    "leapfrog": LeapfrogExplorer,
    "levels": LevelsExplorer,
}
BUDGET = 60_000  # bytes of an explorer's state: its module, its style, its weights


def states(n: int, seed: int = 0, **ranges: tuple[float, float]) -> list[dict[str, float]]:
    """Random settings; a range of two integers gives integers."""
    draw = random.Random(seed)
    pick = lambda a, b: draw.randint(a, b) if isinstance(a, int) else draw.uniform(a, b)  # noqa: E731
    return [{name: pick(*ends) for name, ends in ranges.items()} for _ in range(n)]


# ---------------------------------------------------------------- what all of them share


@pytest.mark.parametrize("name", WIDGETS)
def test_light_and_without_buffers(name):
    state = WIDGETS[name]().get_state()
    text, _, buffers = ipywidgets.widgets.widget._remove_buffers(state)
    assert buffers == []
    saved = json.dumps({k: v for k, v in text.items() if k != "layout"}, default=str)
    assert len(saved) < BUDGET


@pytest.mark.parametrize("name", WIDGETS)
def test_shown_with_a_still_picture(name, monkeypatch):
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: outputs.append(a[0]))
    widget = WIDGETS[name]()
    widget._ipython_display_()
    assert outputs[0]["text/plain"] == widget.alt
    assert outputs[1].data.startswith("<noscript><img") and "alt=" in outputs[1].data
    assert widget.computed == {}  # showing an explorer computes nothing


@pytest.mark.parametrize("name", WIDGETS)
def test_fits_a_phone_and_answers_keys(show, name):
    page = show(WIDGETS[name](), viewport={"width": 375, "height": 800}, has_touch=True)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    controls = page.locator(".afx :is(input, select, button)")
    assert controls.count() == page.locator(".afx [data-lm-suppress-shortcuts]").count()
    inputs = page.locator(".afx :is(input, select)").all()
    assert len(inputs) <= 4
    before = status(page)
    inputs[0].press("End")
    assert status(page) != before


# ---------------------------------------------------------------- dequantisation

BINS = {"x": (0, 4), "lean": (-1.0, 6.0), "sigma": (0.4, 2.0), "encoder": (0.0, 1.5)}
TERMS = """(states) => states.map((s) => {
  const at = M.oneBin({ ...s, centre: 2.65, rho: 0.8 });
  return [at.logP, at.bound, at.dequantisation, at.augmentation];
})"""
KEYS = ("log_p", "bound", "dequantisation", "augmentation")


def bins_parity(page, n: int = 300) -> float:
    """Largest difference between the page's terms and torch's, log P by the normal CDF."""
    chosen = states(n, **BINS)
    got = page.evaluate(TERMS, chosen)
    expected = []
    for s in chosen:
        found = Bins(s["lean"], s["sigma"], s["encoder"]).terms()
        expected.append([found[k][s["x"]].item() for k in KEYS])
    return difference([v for row in got for v in row], torch.tensor(expected, dtype=D))


def test_both_terms_equal_torch(engine):
    assert bins_parity(engine(DequantiseExplorer._esm)) < 1e-10


@pytest.mark.parametrize(
    "fault",
    [
        ("2 * k - 1) * v * p", "2 * k + 1) * v * p"),
        ("kappa * u - logZ", "kappa * u"),
        ("Math.exp(logR(u)) * (logR(u) - logPosterior(u))", "Math.exp(logR(u)) * logPosterior(u)"),
        ("Math.exp(logR(u)) * share", "share"),
        ("logP - gap }", "logP + gap }"),
        ("-lean * (x + 0.5 - centre)", "-lean * (x - centre)"),
    ],
    ids=lambda fault: fault[1],
)
def test_a_wrong_bin_is_seen(engine, fault):
    assert not bins_parity(engine(DequantiseExplorer._esm, fault), 20) < 1e-6


@pytest.mark.parametrize("state", states(3, seed=3, **BINS), ids=str)
def test_the_layers_have_the_same_terms(state):
    """Both noises integrated out of `Augment`, `Lean`, `Carry` and the couplings."""
    model = DequantiseExplorer(**state).model()
    exact, layers = model.terms(), model.by_layers()
    assert (layers["log_p"] - exact["log_p"]).abs().max() < 1e-9
    assert (layers["dequantisation"] - exact["dequantisation"]).abs().max() < 1e-6
    whole = exact["dequantisation"] + exact["augmentation"]
    assert (layers["log_p"] - layers["bound"] - whole).abs().max() < 1e-6


@pytest.mark.parametrize("lean", [-1.0, 0.0, 2.5])
def test_lean_is_a_transform(lean):
    torch.manual_seed(0)
    x = torch.rand(6, 2, dtype=D) * 0.98 + 0.01
    z, contrib = (layer := Lean(lean, 2.65))(x)
    slope = torch.autograd.functional.jacobian(lambda r: layer(r)[0], x).diagonal(dim1=0, dim2=2)
    assert difference(contrib.tolist(), slope[1, 1].log()) < 1e-8
    back, minus = layer.inverse(z)
    assert difference(back.T.flatten().tolist(), x.T) < 1e-8
    assert difference(minus.tolist(), -contrib) < 1e-8


def test_learned_noise_lowers_the_gap_and_not_the_nll(engine):
    """100 random models: never a larger gap than uniform noise; with a wrong encoder it leans more.

    The second term is a mean over r(u | x), so the lean of the best sum is not that of the best
    first term.
    """
    page = engine(DequantiseExplorer._esm)
    frequency, more = DequantiseExplorer().frequency, 0
    for s in states(100, seed=5, sigma=(0.5, 2.0), encoder=(0.0, 0.9)):
        best, only, gaps = page.evaluate(
            """([s, f]) => {
                 s = { ...s, centre: 2.65, rho: 0.8 };
                 const best = M.learn(s, f, [-1, 6]), only = M.learn({ ...s, encoder: 1 }, f, [-1, 6]);
                 const gap = (lean) => { const a = M.allBins({ ...s, lean }, f);
                   return [a.dequantisation + a.augmentation, a.logP]; };
                 return [best, only, [gap(best), gap(0)]];
               }""",
            [s, frequency],
        )
        (learned, nll), (uniform, same) = gaps
        assert learned < uniform and nll == same
        more += best > only + 1e-4 or best > 5.99
    assert more == 100


def test_the_page_shows_both_terms(show):
    widget = DequantiseExplorer()
    page = show(widget)
    for label, key, times in (("integer x", "ArrowRight", 2), ("lean", "ArrowRight", 30),
                              ("width", "ArrowLeft", 5), ("encoder", "Home", 1)):  # fmt: skip
        for _ in range(times):
            page.get_by_label(label).press(key)
        values = page.locator("input").evaluate_all("all => all.map((e) => Number(e.value))")
        widget.x, widget.lean, widget.sigma, widget.encoder = int(values[0]), *values[1:]
        for name in KEYS:
            assert f"{widget.computed[name]:.4f}" in status(page), (label, name)
        assert f"mean NLL = {-widget.computed['mean_log_p']:.4f}" in status(page)
    page.get_by_role("button", name="Learn the noise").click()
    assert "saves" in status(page)


# ---------------------------------------------------------------- leapfrog

ORBITS = {"h": (0.02, 0.2), "steps": (1, 30), "u": (-1.6, 1.6), "v": (-0.6, 0.6)}
CARRY = """(states) => states.map(({ h, steps, u, v }) => {
  const at = M.run("leapfrog", h, steps, u, v, true), back = M.run("leapfrog", -h, steps, at.u, at.v);
  return { end: [at.u, at.v, at.det, at.lost], home: Math.hypot(back.u - u, back.v - v),
    ratio: M.patch("leapfrog", h, steps, [u, v, 0.3, 0.2], 1440).ratio };
})"""


def orbits_parity(page, n: int = 25) -> tuple[float, float, float]:
    """Against the layers and autograd; then the largest |area - 1| and miss of the way back."""
    chosen, expected = states(n, seed=1, **ORBITS), []
    got = page.evaluate(CARRY, chosen)
    for s in chosen:
        widget = LeapfrogExplorer(h=s["h"], steps=s["steps"], start=[s["u"], s["v"], 0.3])
        found = widget.compute()
        expected.append([found[k] for k in ("u", "v", "det", "lost")])
    off = difference([v for one in got for v in one["end"]], torch.tensor(expected, dtype=D))
    number = lambda v: math.inf if v is None else v  # noqa: E731
    area = max(abs(number(one["ratio"]) - 1) for one in got)
    return off, area, max(number(one["home"]) for one in got)


def test_leapfrog_equals_the_layers_keeps_areas_and_returns(engine):
    off, area, home = orbits_parity(engine(LeapfrogExplorer._esm))
    assert off < 1e-10 and area < 1e-12 and home < 1e-10


@pytest.mark.parametrize(
    "fault",
    [
        ("u = u0 + h * v1", "u = u0 + h * v0"),
        ("v = v1 - 0.5 * h * slope(u);", "v = v1 - 0.5 * h * slope(u0);"),
        ("k0 + k1 * a, 1 + k1 * h", "k0 + k1, 1 + k1 * h"),
        ("0.25 * u ** 4 - u * u", "0.25 * u ** 4 + u * u"),
        ("(u - u0) * dv - (v - v0) * du", "(u - u0) * dv + (v - v0) * du"),
    ],
    ids=lambda fault: fault[1],
)
def test_a_wrong_step_is_seen(engine, fault):
    off, area, home = orbits_parity(engine(LeapfrogExplorer._esm, fault), 5)
    assert not (off < 1e-6 and area < 1e-6 and home < 1e-6)


def test_euler_changes_areas_as_autograd_says(engine):
    """The rim's integral in the page against the mean determinant over the disc."""
    widget = LeapfrogExplorer(update="Euler", h=0.06, steps=12)
    got = engine(LeapfrogExplorer._esm).evaluate(
        "() => M.patch('Euler', 0.06, 12, [0.9, 0, 0.35, 0.35], 1440).ratio"
    )
    expected = widget.area_ratio()
    assert abs(got - expected) < 1e-10 and abs(expected - 1) > 0.01


def test_the_energy_error_falls_with_the_square_of_the_step(engine):
    """Slope 2 within 0.1 from ten random starts; the page's slope is that of the layers."""
    page = engine(LeapfrogExplorer._esm)
    for s in states(10, seed=2, u=(0.3, 1.7), v=(-0.9, 0.9)):
        got = page.evaluate("({ u, v }) => M.errors('leapfrog', u, v).order", s)
        assert abs(got - 2) < 0.1, s
    widget = LeapfrogExplorer(start=[s["u"], s["v"], 0.3])
    assert len(COUNTS) == 3 and TIME == 12
    assert abs(widget.order() - got) < 1e-6
    euler = page.evaluate("({ u, v }) => M.errors('Euler', u, v).order", s)
    assert abs(euler - 2) > 0.1


def test_leapfrog_in_the_page(show):
    widget = LeapfrogExplorer()
    page = show(widget)
    found = widget.recompute()
    assert "before = 1.000000" in status(page) and "order in h = 2.00" in status(page)
    assert f"u = {found['u']:.2f}" in page.locator(".afx-plane svg").get_attribute("aria-label")
    page.get_by_label("update").select_option("Euler")
    assert "before = 1.000000" not in status(page)
    page.get_by_label("step h").press("End")  # far too coarse: points run away, nothing breaks
    assert "runs away" in status(page)
    page.get_by_label("width of the noise").press("Home")
    assert "none" in status(page) and "zeros" in status(page)
    with pytest.raises(traitlets.TraitError, match="expected 'leapfrog' or 'Euler'"):
        widget.update = "Runge"


# ---------------------------------------------------------------- levels

CHAIN = {
    "levels": (1, 6), "spread": (0.2, 4.0), "link": (0.0, 1.5), "slope": (-1.0, 2.0),
    "width": (0.3, 2.0),
}  # fmt: skip


def chains_parity(page, n: int = 50) -> float:
    """The recursion in the page against the matrix of the layers, Cholesky and chain rule."""
    got, expected = [], []
    for i, s in enumerate(states(n, seed=7, **CHAIN)):
        x = -3.0 + 6 * i / n
        got += page.evaluate("([s, x]) => M.shares(s, x * x)", [s, x])
        expected.append(Levels(**s).shares(torch.tensor([[x]], dtype=D))[0])
    return difference(got, torch.cat(expected))


def test_shares_equal_the_layers(engine):
    assert chains_parity(engine(LevelsExplorer._esm)) < 1e-10


@pytest.mark.parametrize(
    "fault",
    [
        ("0.5 * (ratio - 1 - Math.log(ratio))", "0.5 * (1 / ratio - 1 + Math.log(ratio))"),
        ("** 2 * second / (2 * S * S)", "** 2 / (2 * S * S)"),
        ("second = (width * S) ** 2 + (link * RHO) ** 2 * second", "second = second"),
        ("spread * V + (slope * K) ** 2 * square", "V + K ** 2 * square"),
    ],
    ids=lambda fault: fault[1],
)
def test_a_wrong_share_is_seen(engine, fault):
    assert not chains_parity(engine(LevelsExplorer._esm, fault), 10) < 1e-6


def test_the_best_first_level_is_narrower_where_the_links_are_off(engine):
    """In 20 random chains the sum is least where the page says, below 1; a link of 1 gives 1."""
    page = engine(LevelsExplorer._esm)
    for s in states(20, seed=9, levels=(2, 6), link=(0.0, 0.9)):
        best = page.evaluate("(s) => M.bestSpread(s)", s)
        assert best < 1
        x = torch.tensor([[0.7]], dtype=D)
        around = [Levels(spread=best * f, **s).shares(x).sum().item() for f in (0.99, 1.0, 1.01)]
        assert around[1] < min(around[0], around[2]), s
        assert page.evaluate("(s) => M.bestSpread({ ...s, link: 1 })", s) == 1


def test_levels_in_the_page(show):
    widget = LevelsExplorer()
    page = show(widget)
    for label, keys in (("variance", 9), ("link between", 4), ("levels L", 2), ("example x", 7)):
        for _ in range(keys):
            page.get_by_role("slider", name=label).press("ArrowRight")
        values = page.locator("input").evaluate_all("all => all.map((e) => Number(e.value))")
        widget.spread, widget.link, widget.levels, widget.x = (
            *values[:2],
            int(values[2]),
            values[3],
        )
        shown = status(page)
        assert f"gap = {widget.computed['gap']:.4f}" in shown
        assert f"level 1 = {widget.computed['level_1']:.4f}" in shown
        assert f"NLL, nats = {-widget.computed['log_prob']:.4f}" in shown
    page.get_by_role("button", name="Exact links").click()
    assert "levels above = 0.0000" in status(page)
    page.get_by_role("button", name="Least sum").click()
    assert "gap = 0.0000" in status(page)
