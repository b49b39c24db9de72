"""The playground: models and measures against torch, data against the library, the page itself."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
import traitlets
from explorer_page import D, status
from torch import Tensor

from augflow_mini.data import TOYS
from augflow_mini.explorers import import_flow
from augflow_mini.explorers.base import source
from augflow_mini.explorers.playground import EIGHT, NAMES, Playground
from augflow_mini.floors import constant_jacobian_floor
from augflow_mini.gap import quadrature
from augflow_mini.integrate import log_joint

ENGINE = source(
    "arrays.js",
    "layers.js",
    "flow.js",
    "quadrature.js",
    "draws.js",
    "playground_data.js",
    "playground_model.js",
)
BASE = {"target": "two moons", "kind": "affine", "noise": 1, "couplings": 6, "width": 16}
BASE |= {"q": "N(0, I)", "rate": 0.005, "seed": 1}
SETTINGS = {
    "affine": {},
    "no noise": {"noise": 0, "target": "checkerboard"},
    "additive": {"kind": "additive", "noise": 2, "couplings": 3},
    "Gaussian q": {"q": "Gaussian", "couplings": 2, "target": "rings"},
    "flow q": {"q": "flow", "noise": 3, "couplings": 2, "width": 8},
    "1-D": {"target": "two modes, 1-D", "couplings": 4},
    "1-D, no noise": {"target": "two modes, 1-D", "noise": 0},
}


@pytest.fixture
def blank(engine):
    """An empty page with the playground's engine as `M`."""
    return engine(ENGINE)


def rows(flat: list[float], dims: int) -> Tensor:
    """Feature by feature, as the engine stores it, to (B, dims)."""
    return torch.tensor(flat, dtype=D).view(dims, len(flat) // max(dims, 1)).T


# ---------------------------------------------------------------- models and training


TRAIN = """([config, steps]) => {
  const data = new M.Data(config.target, []), trainer = new M.Trainer(config, data);
  const start = trainer.exported(), draws = [], losses = [];
  for (let i = 0; i < steps; i++) {
    const draw = trainer.draw();
    draws.push([[...draw.x], [...draw.e]]);
    losses.push(trainer.step(draw));
  }
  return { start, draws, losses, end: trainer.exported(), dims: data.dims };
}"""


def off_torch(page, changes: dict, steps: int) -> float:
    """Largest difference of a loss, page against torch, from the same weights and draws."""
    config = BASE | changes
    got = page.evaluate(TRAIN, [config, steps])
    flow = import_flow(json.loads(json.dumps(got["start"])))
    adam, worst = torch.optim.Adam(flow.parameters(), lr=config["rate"]), 0.0
    normal = torch.distributions.Normal(0.0, 1.0)
    for (x, e), loss in zip(got["draws"], got["losses"], strict=True):
        x = rows(x, got["dims"])
        e = rows(e, config["noise"]) if config["noise"] else x.new_zeros(len(x), 0)
        log_w = log_joint(flow, x, e) - normal.log_prob(e).sum(1)
        expected = -log_w.mean()
        worst = max(worst, abs(expected.item() - (math.nan if loss is None else loss)))
        adam.zero_grad()
        expected.backward()
        adam.step()
    for a, b in zip(import_flow(got["end"]).parameters(), flow.parameters(), strict=True):
        worst = max(worst, (a - b).abs().max().item())
    return worst


@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_that_of_torch(blank, name):
    """100 steps of the default, ten of the others; at the end Python reads the same model."""
    assert off_torch(blank, SETTINGS[name], 100 if name == "affine" else 10) < 1e-6


@pytest.mark.parametrize(
    "fault",
    [
        ("this.flow.gradient(x, BATCH, e)", "this.flow.gradient(x, BATCH, e.map((v) => v / 2))"),
        ("{ lr: rate }", "{ lr: 2 * rate }"),
        ("rest.shift() } };", "rest.pop() } };"),
    ],
    ids=lambda fault: fault[1],
)
def test_wrong_training_is_seen(engine, fault):
    try:
        seen = not off_torch(engine(ENGINE, fault), SETTINGS["affine"], 3) < 1e-6
    except (RuntimeError, ValueError):  # weights of another layer do not fit
        seen = True
    assert seen


def test_no_start_is_the_identity(blank):
    """Every weight of every network is random: a zero last layer can sit on a plateau."""
    flow = import_flow(blank.evaluate(TRAIN, [BASE, 0])["start"])
    for coupling in (layer for layer in flow.chain if hasattr(layer, "net")):
        for parameter in coupling.net.parameters():
            assert (parameter == 0).sum() == 0


# ---------------------------------------------------------------- measures


MEASURE = """([config, steps]) => {
  const data = new M.Data(config.target, []), trainer = new M.Trainer(config, data);
  for (let i = 0; i < steps; i++) trainer.step();
  const all = [49, 161].map((nodes) => {
    const evaluation = new M.Evaluation(trainer, nodes);
    while (!evaluation.done) evaluation.advance();
    return evaluation.result;
  });
  const scan = new M.Scan(data.dims);
  while (!scan.passes) scan.advance(trainer);
  const test = [...data.test(M.TEST)], flow = trainer.exported();
  return { all, map: [...scan.logProb], test, dims: data.dims, flow };
}"""


@pytest.mark.parametrize("name", ["affine", "Gaussian q", "1-D", "no noise"])
def test_measures_are_exact(blank, name):
    """NLL, bound and gap of a trained state: the page's quadrature against augflow_mini's."""
    config = BASE | SETTINGS[name]
    got = blank.evaluate(MEASURE, [config, 20])
    flow, x = import_flow(got["flow"]), rows(got["test"], got["dims"])
    with torch.no_grad():
        if config["noise"]:
            exact = quadrature(flow, x)
            log_p, elbo = exact.log_p.mean().item(), exact.elbo.mean().item()
        else:
            log_p = elbo = flow.log_prob(x).mean().item()
    for at, tolerance in zip(got["all"], (2e-3, 1e-6), strict=True):
        assert at["nll"] == pytest.approx(-log_p, abs=tolerance)
        assert at["bound"] == pytest.approx(elbo, abs=tolerance)
        assert at["gap"] == pytest.approx(log_p - elbo, abs=2 * tolerance)
    if got["dims"] == 1:
        return
    centre = -4.5 + 9 * (torch.arange(40, dtype=D) + 0.5) / 40  # the map's first row is its top
    cells = (
        torch.stack(torch.meshgrid(centre.flip(0), centre, indexing="ij"), -1).flip(-1).view(-1, 2)
    )
    some = slice(None, None, 7)
    with torch.no_grad():
        p = (
            quadrature(flow, cells[some]).log_p if config["noise"] else flow.log_prob(cells[some])
        ).exp()
    off = (torch.tensor(got["map"], dtype=D)[some].exp() - p).abs().max() / p.max()
    assert off < (0.02 if config["noise"] else 1e-9)


def test_the_estimate_errs_to_the_side_it_says(blank):
    """Two numbers of noise: from K = 100 draws the NLL is too high and the gap too low, both near."""
    got = blank.evaluate(MEASURE, [BASE | {"noise": 2}, 20])
    exact = quadrature(import_flow(got["flow"]), rows(got["test"], 2))
    nll, gap, at = -exact.log_p.mean().item(), exact.gap.mean().item(), got["all"][1]
    assert nll < at["nll"] + 0.01 and at["gap"] < gap + 0.05
    assert at["nll"] == pytest.approx(nll, abs=0.05) and at["gap"] == pytest.approx(gap, abs=0.2)


@pytest.mark.parametrize("name", ["additive", "flow q"])
def test_python_makes_the_same_draws(engine, name):
    """The estimate of several numbers of noise, by torch from the page's own noise."""
    config = BASE | SETTINGS[name]

    def furthest(page) -> float:
        got = page.evaluate(MEASURE, [config, 5])
        widget = Playground(trained={name: got[name] for name in ("flow", "dims", "test")})
        torch_s = widget.recompute()
        return max(abs(torch_s[n] - got["all"][1][n]) for n in ("nll", "bound", "gap"))

    assert furthest(engine(ENGINE)) < 1e-6
    assert furthest(engine(ENGINE, ("normals(this.at, noise", "normals(this.at + 1, noise"))) > 1e-3


def test_data_are_those_of_the_library(blank):
    """A batch has the entropy within 5 standard errors, the few test points within 0.05 nats."""
    get = """([target, n]) => {
      const data = new M.Data(target, []);
      return [[...data.batch(n, M.stream(7))], [...data.test(M.TEST)]];
    }"""
    for name, key in NAMES.items():
        toy = TOYS[key]
        batch, test = (rows(x, toy.dims) for x in blank.evaluate(get, [name, 4000]))
        log_p = toy.log_prob(batch)
        error = 5 * log_p.std().item() / math.sqrt(len(log_p)) + 1e-9
        assert -log_p.mean().item() == pytest.approx(toy.entropy, abs=error), name
        assert -toy.log_prob(test).mean().item() == pytest.approx(toy.entropy, abs=0.05), name
        cov = batch.T.cov(correction=0).view(toy.dims, toy.dims)
        best = 0.5 * (toy.dims * math.log(2 * math.pi * math.e) + torch.logdet(cov).item())
        assert best == pytest.approx(toy.gaussian, abs=0.05), name


LESSON = """([config, marks]) => {
  const trainer = new M.Trainer(config, new M.Data(config.target, []));
  return marks.map((mark) => {
    while (trainer.steps < mark) trainer.step();
    const evaluation = new M.Evaluation(trainer, 49);
    while (!evaluation.done) evaluation.advance();
    return evaluation.result;
  });
}"""


def test_the_lessons_of_the_page_hold_for_ten_seeds(blank):
    """Two modes: noise beats the best Gaussian; the gap falls, then rises while the NLL falls."""
    modes, best = BASE | {"target": "two modes, 1-D"}, TOYS["two_modes"].gaussian
    for seed in range(1, 11):
        plain = blank.evaluate(LESSON, [modes | {"noise": 0, "seed": seed}, [100]])[-1]
        assert plain["nll"] > best - 0.02 and plain["gap"] == 0
        path = blank.evaluate(LESSON, [modes | {"seed": seed}, [0, 5, 10, 15, 25, 50, 100]])
        low = min(path, key=lambda at: at["gap"] if at["steps"] <= 50 else math.inf)
        assert path[0]["gap"] > 2 * low["gap"], seed
        assert path[-1]["nll"] < low["nll"] - 0.1 and path[-1]["gap"] > 1.3 * low["gap"], seed
        assert path[-1]["nll"] < best - 0.3, seed


# ---------------------------------------------------------------- Python's side


def test_floors_that_are_known():
    known = Playground().known
    assert known["checkerboard"]["floors"][0] == pytest.approx(3.7726, abs=5e-5)
    assert known["checkerboard"]["floors"][1] == pytest.approx(
        3.4657 + constant_jacobian_floor(1), abs=1e-4
    )
    assert all(fact["entropy"] < fact["gaussian"] for fact in known.values())


def test_python_side():
    widget = Playground(noise=0, controls=("target", "couplings"))
    assert [c["name"] for c in widget.inputs] == ["target", "couplings"]
    assert widget.compute() == {}
    with pytest.raises(ValueError, match="press Train"):
        widget.flow()
    with pytest.raises(traitlets.TraitError, match="expected one of"):
        widget.target = "three moons"
    with pytest.raises(traitlets.TraitError, match="should not be greater than"):
        widget.noise = 9


# ---------------------------------------------------------------- the page


OPEN = """async ([text, css, state]) => {
  const listeners = {};
  const model = window.model = {
    get: (k) => state[k],
    set: (k, v) => {
      if (Object.is(state[k], v)) return;
      state[k] = v;
      for (const f of listeners["change:" + k] || []) f();
    },
    on: (k, f) => (listeners[k] ||= []).push(f),
    off: (k, f) => { listeners[k] = listeners[k].filter((g) => g !== f); },
    save_changes() {},
  };
  const style = document.createElement("style");
  style.textContent = css;
  const el = document.createElement("div");
  document.body.append(style, el);
  const module = await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  module.default.render({ model, el });
}"""


@pytest.fixture
def show(chromium):
    """Open a playground; fails at the end if an error was thrown."""
    faults, contexts = [], []

    def open_page(widget: Playground, hash: str = "", **context: object):
        contexts.append(chromium.new_context(**context))
        html = '<!doctype html><meta name="viewport" content="width=device-width"><body></body>'
        contexts[-1].route("**/*", lambda r: r.fulfill(body=html, content_type="text/html"))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)  # a busy machine trains slowly
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.on("console", lambda m: m.type == "error" and faults.append(m.text))
        page.goto("http://playground.test/" + hash)
        state = {k: v for k, v in widget.get_state().items() if k[0] != "_" and k != "layout"}
        page.evaluate(OPEN, [widget._esm, widget._css, state])
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


SMALL = {"width": 4, "couplings": 2}  # quick on a busy machine
MEASURED = """() => {
  const { flow, steps } = model.get("trained");
  return flow && steps === model.get("shown").steps;
}"""

# "computing" stands in the status line until a frame after the measurement
TOLD = r"() => /NLL, nats\s*=\s*\d/.test(document.querySelector('[role=status]').innerText)"


def value(page, name: str) -> float:
    return float(re.search(rf"{name} = (-?[\d.]+)", status(page))[1])


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_train_pause_step_and_reset(show):
    """Training lowers the bound, pause stops it, Python takes the model over, reset restores."""
    widget = Playground(**SMALL)
    page = show(widget)
    page.wait_for_function(MEASURED)
    page.wait_for_function(TOLD)
    assert page.evaluate("model.get('shown').steps") == 0  # nothing trains before it is asked to
    first = status(page)
    start = page.evaluate("model.get('shown')")
    press(page, "Train")
    page.wait_for_function("model.get('shown').steps >= 30")
    press(page, "Pause")
    page.wait_for_function(MEASURED)
    after = page.evaluate("model.get('shown')")
    assert after["bound"] > start["bound"] + 0.1
    page.wait_for_timeout(300)
    assert page.evaluate("model.get('shown').steps") == after["steps"]

    widget.trained = page.evaluate("model.get('trained')")  # what a kernel would receive
    for name in ("nll", "bound", "gap"):
        assert widget.computed[name] == pytest.approx(after[name], abs=1e-5)
    assert f"{widget.computed['gap']:.3f}" in status(page)

    press(page, "One step")
    page.wait_for_function("(n) => model.get('trained').steps === n", arg=after["steps"] + 1)
    page.get_by_label("width").press("End")
    press(page, "Reset")
    page.wait_for_function("() => model.get('trained').steps === 0 && model.get('width') === 4")
    page.wait_for_function(TOLD)
    assert value(page, "NLL, nats") == float(re.search(r"NLL, nats = (-?[\d.]+)", first)[1])


def test_every_setting_names_itself(show):
    """What a control sets stands in the status line; without noise there is no gap."""
    page = show(Playground(**SMALL))
    for label, choice, words in [
        ("couplings are", "additive", "additive"), ("q(e | x)", "flow", "q = flow"),
        ("learning rate", "0.001", "rate 0.001"), ("data", "checkerboard", "checkerboard"),
    ]:  # fmt: skip
        page.locator("label", has_text=label).locator("select").select_option(choice)
        assert words in status(page)
    page.get_by_label("noise").press("End")
    assert (
        "D_E = 4" in status(page) and "K = 100" in status(page) and "gap too low" in status(page)
    )
    page.get_by_label("noise").press("Home")
    assert "No such model's true NLL is below 3.7726" in status(page)
    page.wait_for_function(MEASURED)
    page.wait_for_function(TOLD)
    assert value(page, "gap") == 0
    page.locator("label", has_text="data").locator("select").select_option("two modes, 1-D")
    page.wait_for_function(MEASURED)
    assert "One number cannot be coupled" in status(page) and "best Gaussian" in page.content()


def test_your_own_data(show):
    """By pointer and by keyboard; with no ink the data are a Gaussian."""
    page = show(Playground(target="your drawing", **SMALL, noise=0))
    assert f"{len(EIGHT)} points of ink" in status(page)
    press(page, "Clear the drawing")
    assert "until then the data are one Gaussian" in status(page)
    picture = page.locator(".afx-model svg")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
    page.mouse.up()
    inked = page.evaluate("model.get('drawn').length")
    assert inked > 2 and f"{inked} points of ink" in status(page)
    page.get_by_label("pen, left").press("End")
    assert "Pen at (4.50, 0.00)" in status(page)
    page.get_by_role("button", name="Put ink here").press("Enter")
    assert page.evaluate("model.get('drawn').at(-1)") == [4.5, 0]
    page.wait_for_function(MEASURED)


@pytest.mark.parametrize(
    "hash",
    [
        "#playground?noise=2.5&couplings=1e9&width=7.3&target=moons&seed=-4&rate=9",
        "#playground?noise=&q=<img src=x>&kind=%E0%A4%A&seed=99999999999",
    ],
)
def test_nonsense_in_the_address_is_harmless(show, hash):
    page = show(Playground(**SMALL), hash)
    page.wait_for_function(MEASURED)
    press(page, "One step")
    page.wait_for_function("model.get('trained').steps === 1")
    assert page.locator(".afx img").count() == 0


def test_a_rate_too_high_is_said_and_stops(show):
    """A model that loses its numbers stops; nothing hangs, and a new start works."""
    page = show(Playground(**SMALL))
    page.wait_for_function(MEASURED)
    page.evaluate("model.set('rate', '1e9')")
    press(page, "One step")
    page.get_by_text("Training diverged").wait_for()
    press(page, "Train")
    assert page.get_by_role("button", name="Train").get_attribute("aria-pressed") == "false"
    press(page, "Reset")
    page.wait_for_function(
        "() => model.get('trained').steps === 0 && model.get('rate') === '0.005'"
    )
    assert "diverged" not in status(page)


def test_less_motion_and_a_phone(show):
    """Where less motion is asked for, nothing moves by itself and training works; it fits 375 px."""
    page = show(
        Playground(**SMALL, noise=0), reduced_motion="reduce",
        viewport={"width": 375, "height": 800}, has_touch=True,
    )  # fmt: skip
    page.wait_for_function(MEASURED)
    page.wait_for_timeout(300)
    drawn = "all => all.map((e) => e.getAttribute('d')).join()"
    before = page.locator(".afx-curves path").evaluate_all(drawn)
    page.wait_for_timeout(300)
    assert page.locator(".afx-curves path").evaluate_all(drawn) == before
    press(page, "Train")
    page.wait_for_function("model.get('shown').steps > 0")
    assert page.get_by_role("button", name="Pause").get_attribute("aria-pressed") == "true"
    assert page.locator("[role=status]").get_attribute("aria-live") == "off"
    press(page, "Pause")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_out_of_sight_it_rests(show):
    page = show(Playground(**SMALL, noise=0))
    page.wait_for_function(MEASURED)
    press(page, "Train")
    page.wait_for_function("model.get('shown').steps > 0")
    page.evaluate(
        "document.querySelector('.afx').style.marginTop = '9000px'; window.scrollTo(0, 0)"
    )
    page.wait_for_timeout(400)
    steps = page.evaluate("document.querySelector('.afx').dataset.steps")
    page.wait_for_timeout(400)
    assert page.evaluate("document.querySelector('.afx').dataset.steps") == steps
