"""The digits explorer of chapter 10: samples, latents in part, the way between two, the gaps."""

from __future__ import annotations

import gzip
import json
import math

import ipywidgets
import pytest
import torch
import traitlets
from explorer_page import D, difference, status

import augflow_mini as am
from augflow_mini.bounds import Z95
from augflow_mini.explorers import DigitsExplorer
from augflow_mini.explorers.base import source
from augflow_mini.explorers.digits import LEVELS, PIXELS, Measured, between

MODEL = (
    "arrays.js", "layers.js", "flow.js", "pointwise.js", "draws.js", "digits_model.js",
)  # fmt: skip
STATES = ((3, 8, 0.4, 1), (0, 1, 0.35, 2), (2, 2, 1.0, 20))
LEDGER = ("gap", "gap_se", "nll", "bits", "bits_se")
NUMBERS = ("norm_line", "norm_kept", "z_kept", "y_kept")
DONE = "() => !document.querySelector('[role=status]').textContent.includes('computing')"


@pytest.fixture(scope="module")
def recorded() -> DigitsExplorer:
    return DigitsExplorer.from_records()


def at_state(
    widget: DigitsExplorer, start: int, end: int, alpha: float, seed: int
) -> DigitsExplorer:
    with widget.hold_trait_notifications():
        widget.start, widget.end, widget.alpha, widget.seed = start, end, alpha, seed
    return widget


# ---------------------------------------------------------------- the page against torch

PAGE = """([spec, images, start, end, alpha, seed]) => {
  const d = new M.Digits(spec, images.map((v) => Float64Array.from(v))), codes = d.codes(seed);
  const { line, kept } = M.between(codes[start], codes[end], alpha);
  const parts = d.redrawn(codes[start], seed);
  const logW = d.logWeights(seed, start), at = M.measure(logW);
  const flat = (rows) => rows.flatMap((v) => [...v]);
  return {
    samples: flat(d.samples(seed)), codes: flat(codes), way: flat(d.decode([line, kept])),
    all: [...parts.all], middle: [...parts.middle], zKept: flat(parts.zKept), yKept: flat(parts.yKept),
    logW: [...logW], at: [at.gap, at.gapSe, at.nll, at.bits, at.bitsSe],
    numbers: [M.norm(line), M.norm(kept), M.distance(parts.zKept, d.images[start]),
      M.distance(parts.yKept, d.images[start])],
  };
}"""


def parity(page, widget: DigitsExplorer, states: tuple = STATES) -> dict[str, float]:
    """Largest difference, page against torch, for the same draws; images must be equal."""
    worst: dict[str, float] = {}
    for state in states:
        at_state(widget, *state)
        got = page.evaluate(PAGE, [widget.spec, widget.images, *state])
        parts, found = widget.redrawn(), widget.compute()
        way = torch.cat(widget.way(torch.tensor([widget.alpha], dtype=D)))
        ledger, numbers = (
            torch.tensor([found[k] for k in keys], dtype=D) for keys in (LEDGER, NUMBERS)
        )
        expected = {
            "samples": widget.samples(), "codes": widget.codes(), "way": widget.decode(way),
            "all": parts["all"], "middle": parts["middle"], "zKept": parts["z kept"],
            "yKept": parts["y kept"], "logW": widget.log_weights(widget.start),
            "at": ledger, "numbers": numbers,
        }  # fmt: skip
        for name, value in expected.items():
            worst[name] = max(worst.get(name, 0.0), difference(got[name], value.double()))
    return worst


def wrong(found: dict[str, float]) -> list[str]:
    """Images are integers and must be the same; other numbers agree within rounding."""
    rounded = ("codes", "logW", "at", "numbers")
    return [name for name, off in found.items() if not off <= 1e-9 * (name in rounded)]


def test_the_page_shows_the_images_and_numbers_of_torch(engine, recorded):
    assert wrong(parity(engine(source(*MODEL)), recorded)) == []


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (("(1 - alpha) * norm(a) + alpha * norm(b)", "norm(a)"), {"way", "numbers"}),
        (("(1 - alpha) * v + alpha * b[i]", "alpha * v + (1 - alpha) * b[i]"), {"way"}),
        (("join(y, fresh)", "join(fresh, y)"), {"yKept", "numbers"}),
        (("join(fresh, z)", "join(fresh, z.map((v) => -v))"), {"zKept"}),
        (("y.map(() => 0)", "y"), {"middle"}),
        (("both.set(e, u.length)", ""), {"codes", "logW", "at"}),
        (("top + Math.log(mean", "top - Math.log(mean"), {"at"}),
        (("value - elbo", "value"), {"at"}),
        (("(v.length - 1) / v.length", "v.length"), {"at"}),
        (("PIXELS * Math.log(2)", "PIXELS"), {"at"}),
        (("5 + 2 * digit", "5 + digit"), {"logW"}),
        (("EPS / 2)) / this.levels", "EPS / 2)) / (this.levels + 1)"), {"codes", "logW"}),
        (('law === "uniform" ? 0 : 1', "1"), {"logW"}),
        (("sign * (out.length / B)", "-sign * (out.length / B)"), {"logW"}),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_fault_is_seen_where_it_acts(engine, recorded, fault, expected):
    seen = set(wrong(parity(engine(source(*MODEL), fault), recorded, STATES[:1])))
    assert expected <= seen


def test_the_library_has_the_same_bound(recorded):
    """Gap and bits by given draws against `Flow.iw_bound` with its own, within 4 standard errors."""
    at_state(recorded, *STATES[0])
    found, here = recorded.compute(), recorded._images[recorded.start].expand(64, -1)
    torch.manual_seed(0)
    with torch.no_grad():
        bound = recorded._flow.iw_bound(here, 32)
    gap, bits = bound.value - bound.elbo, am.bits_per_dim(bound.value, here)
    for values, name in ((gap, "gap"), (bits, "bits")):
        error = math.hypot(values.std().item() / 8, found[f"{name}_se"])
        assert abs(values.mean().item() - found[name]) < 4 * error
    assert found["gap"] > 10 * found["gap_se"] and found["differ"] == 0


def test_standard_errors_are_those_of_repeated_measurements():
    """Known log-weights, 300 times: the spread of the mean is the error that is told."""
    torch.manual_seed(0)
    log_w = torch.randn(300, 16, 32, dtype=D)
    found = Measured.from_log_weights(log_w)
    assert found.gap.std().item() == pytest.approx(found.gap_se.mean().item(), rel=0.15)
    assert found.gap.mean().item() == pytest.approx(0.5, abs=0.05)  # log E exp(N(0, 1)), nearly
    assert torch.allclose(found.nll, -(found.gap + log_w.mean((1, 2))), atol=1e-12)


def test_the_norm_is_kept_and_the_ends_are_the_codes():
    torch.manual_seed(0)
    start, end = torch.randn(2, 50, 70, dtype=D) * torch.tensor([1.0, 2.0], dtype=D)[:, None, None]
    for alpha in (0.0, 0.3, 1.0):
        line, kept = between(start, end, torch.tensor(alpha, dtype=D))
        assert torch.allclose(kept.norm(dim=1), start.norm(dim=1).lerp(end.norm(dim=1), alpha))
        assert (line.norm(dim=1) <= kept.norm(dim=1) + 1e-12).all()
        assert torch.allclose(torch.nn.functional.cosine_similarity(line, kept), line.new_ones(()))
    assert torch.allclose(kept, end)


def test_the_band_holds_95_percent_of_the_base(engine):
    low, high = engine(source(*MODEL)).evaluate("M.normRange(70)")
    torch.manual_seed(0)
    norms = torch.randn(40_000, 70).norm(dim=1)
    assert ((norms < low).float().mean().item(), (norms > high).float().mean().item()) == (
        pytest.approx((0.025, 0.025), abs=0.004)
    )


# ---------------------------------------------------------------- the widget


def test_light_and_without_buffers(recorded):
    """60 kB as a server sends it: the weights are half of it and random to a compressor."""
    text, _, buffers = ipywidgets.widgets.widget._remove_buffers(recorded.get_state())
    assert buffers == []
    saved = json.dumps({k: v for k, v in text.items() if k != "layout"}, default=str)
    assert len(gzip.compress(saved.encode(), 6)) < 60_000


def test_refuses_what_it_cannot_show(recorded):
    flow, images = recorded._flow, recorded._images
    with pytest.raises(ValueError, match=r"images \(3, 64\)"):
        DigitsExplorer(flow, images[:3])
    with pytest.raises(ValueError, match="not integers 0 .. 16"):
        DigitsExplorer(flow, images / 16)
    plain = am.Flow(
        [*am.uniform_dequantize(LEVELS, PIXELS), am.Logit()], am.StandardNormal(PIXELS)
    )
    with pytest.raises(ValueError, match="expected 64 pixels with augmentation noise"):
        DigitsExplorer(plain, images)
    with pytest.raises(traitlets.TraitError, match="should not be greater than 9"):
        DigitsExplorer(flow, images, start=10)


def test_shown_with_a_still_picture(monkeypatch, recorded):
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: outputs.append(a[0]))
    recorded._ipython_display_()
    assert outputs[0]["text/plain"] == recorded.alt
    assert outputs[1].data.startswith("<noscript><img") and "alt=" in outputs[1].data


def test_the_page_alone(show):
    """Keys, drag and click; the numbers shown are torch's; nothing is computed twice for one seed."""
    widget = DigitsExplorer.from_records()
    page = show(widget)
    page.wait_for_function(DONE)
    sliders = page.get_by_role("slider")
    assert sliders.count() == 4

    def check() -> str:
        page.wait_for_function(DONE)
        values = sliders.evaluate_all("all => all.map((e) => Number(e.value))")
        at_state(widget, int(values[0]), int(values[1]), values[2], int(values[3]))
        found, text = widget.compute(), status(page)
        assert f"gap ≥, nats = {found['gap']:.2f} ± {Z95 * found['gap_se']:.2f}" in text
        assert f"NLL ≤, nats = {found['nll']:.2f}" in text  # beside the gap
        assert f"bits/dim ≤ = {found['bits']:.2f}" in text
        for name in ("z_kept", "y_kept", "norm_line", "norm_kept"):
            assert f"{found[name]:.2f}" in text, name
        assert "every pixel comes back" in text
        return text

    before = check()
    page.get_by_role("slider", name="from digit").press("Home")
    page.get_by_role("slider", name="to digit").press("ArrowRight")
    page.get_by_role("slider", name="noise").press("End")
    assert "Digit 0, on the way to 9" in check()
    page.get_by_role("button", name="Walk across").click()  # reduced motion: at once
    assert widget.alpha == 0.5 and "α = 1.00" in check()
    box = page.locator(".afx-way svg").bounding_box()
    page.mouse.move(box["x"] + 36, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 40)
    page.mouse.up()
    check()
    assert 0 < widget.alpha < 0.5
    gaps = widget.measured().gap
    order = page.locator(".afx-order svg")
    labels = order.evaluate(
        "e => [...e.querySelectorAll('text')].map((t) => t.textContent).slice(-10)"
    )
    assert [int(v) for v in labels] == gaps.argsort().tolist()
    box = order.bounding_box()
    page.mouse.click(box["x"] + 36 + 0.97 * (box["width"] - 40), box["y"] + 60)
    check()
    assert widget.start == gaps.argmax()
    page.get_by_role("button", name="Reset").click()
    assert check().split(";")[:6] == before.split(";")[:6]


def test_a_link_opens_its_state_and_the_page_fits_a_phone(show):
    phone = {"viewport": {"width": 375, "height": 800}, "has_touch": True}
    page = show(DigitsExplorer.from_records(), "#digits?start=5&end=6&alpha=0.25&seed=99", **phone)
    page.wait_for_function(DONE)
    values = page.locator("input").evaluate_all("all => all.map((e) => Number(e.value))")
    assert values == [5, 6, 0.25, 20]  # held to the range
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    controls = page.locator(".afx :is(input, select, button)")
    assert controls.count() == page.locator(".afx [data-lm-suppress-shortcuts]").count()
    names = page.locator(".afx svg").evaluate_all(
        "all => all.map((e) => e.getAttribute('aria-label'))"
    )
    assert len(names) == 4 and all(len(name.split()) > 5 for name in names)
