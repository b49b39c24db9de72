"""The explorers of chapters 2 and 3: K samples, floors, the joint after every half-step."""

from __future__ import annotations

import math

import pytest
import torch
import traitlets
from explorer_page import D, difference, status
from scipy import stats

import augflow_mini as am
from augflow_mini.bounds import LogWeights
from augflow_mini.data import TOYS
from augflow_mini.experiments import load_model
from augflow_mini.explorers import FloorsExplorer, JointExplorer, KSamplesExplorer, export_flow
from augflow_mini.explorers.base import source
from augflow_mini.explorers.draws import normals, uniforms
from augflow_mini.explorers.floors import REGIONS, all_floors, two_mode_optimum
from augflow_mini.floors import constant_jacobian_floor, steepness_frontier
from augflow_mini.gap import LinearGaussian, ScalarANF

SEEDS = (1, 2, 3, 4, 5)


# ---------------------------------------------------------------- draws


def test_draws_are_the_same_in_page_and_python(engine):
    page = engine(source("draws.js"))
    for seed in (0, 1, 99, 1099):
        assert (
            page.evaluate("(s) => [...M.uniforms(s, 1000)]", seed) == uniforms(seed, 1000).tolist()
        )
        assert (
            difference(page.evaluate("(s) => [...M.normals(s, 1001)]", seed), normals(seed, 1001))
            < 1e-12
        )


def test_draws_look_random():
    for seed in SEEDS:
        e = normals(seed, 20_000)
        assert stats.kstest(e.numpy(), "norm").pvalue > 1e-3
        lagged = torch.corrcoef(
            torch.stack([e[:-1], e[1:], e[1:].abs(), normals(seed + 1, 19_999)])
        )
        assert (lagged - torch.eye(4)).abs().max() < 0.06 + lagged[1, 2].abs()


# ---------------------------------------------------------------- K samples


K_SAMPLES = ("arrays.js", "closed_form.js", "draws.js", "base.js", "plot.js", "k_samples.js")
AT_STATE = """([a, b, c, d, x, log2K, seed]) => {
  const model = { a, b, c, d }, at = M.scalarAnf(model, x), e = M.normals(seed, 40 * 1024);
  const { value, ess } = M.running(e.subarray(0, 1024).map((v) => M.logRatio(at, v)))[log2K];
  const s = M.sandwich(model, M.normals(seed + 1000, 200 * 1026), log2K);
  return [at.logProb + value, ess, s.lower, s.truth, s.upper, s.lowerSe, s.upperSe];
}"""
KEYS = ("bound", "ess", "lower", "truth", "upper", "lower_se", "upper_se")
STATES = [
    (0.7, 1.0, 4, 1),
    (0.2, 2.0, 10, 2),
    (1.2, -3.0, 7, 3),
    (0.48, 0.0, 0, 4),
    (0.3, -1.0, 9, 5),
]


def k_samples_difference(page) -> float:
    """Largest relative difference between page and torch, for the same draws."""
    worst = 0.0
    for a, x, log2_k, seed in STATES:
        widget = KSamplesExplorer(a=a, x=x, log2_k=log2_k, seed=seed)
        found = page.evaluate(AT_STATE, [a, widget.b, widget.c, widget.d, x, log2_k, seed])
        computed = widget.compute()  # through the layers and LogWeights
        expected = torch.tensor([computed[key] for key in KEYS], dtype=D)
        worst = max(worst, difference(found, expected))
    return worst


def test_k_samples_equal_torch_for_the_same_draws(engine):
    assert k_samples_difference(engine(source(*K_SAMPLES))) < 1e-10


@pytest.mark.parametrize(
    "fault",
    [
        ("Math.log(this.sum / this.K)", "Math.log(this.sum)"),
        ("this.squares * shrink * shrink", "this.squares * shrink"),
        ("0.5 * (e * e - (e - mean)", "0.5 * (-e * e - (e - mean)"),
        ("own = (z - b * x) / a", "own = (z + b * x) / a"),
        ("if (k < K - 1) withOwn.add(l)", "withOwn.add(l)"),
        ("Math.sqrt(spread / n)", "Math.sqrt(spread)"),
    ],
    ids=lambda fault: fault[1],
)
def test_a_fault_in_k_samples_is_seen(engine, fault):
    assert not k_samples_difference(engine(source(*K_SAMPLES), fault=fault)) < 1e-10


def test_any_weights_give_the_librarys_bound_and_ess(engine):
    """Also where weights differ by more than a double's range."""
    torch.manual_seed(0)
    page = engine(source(*K_SAMPLES))
    for scale in (0.1, 3.0, 400.0):
        log_w = scale * torch.randn(1024, dtype=D)
        got = page.evaluate(
            "(w) => M.running(w).map(({ value, ess }) => [value, ess])", log_w.tolist()
        )
        for j, (value, ess) in enumerate(got):
            at = LogWeights().add(log_w[: 2**j, None]).bound()
            assert difference([value, ess], torch.stack([at.value[0], at.ess[0]])) < 1e-10


def test_infinite_variance_is_flagged_exactly_where_it_is(engine):
    """Var w is infinite iff the precision of p(e | x) is at most 1/2; read off the layers."""
    torch.manual_seed(0)
    states = [(*row[:4].tolist(), row[4].item()) for row in torch.rand(300, 5, dtype=D)]
    states = [(0.15 + a, 3 * b - 1, 4 * c - 2, 0.1 + 2 * d, 4 * x - 2) for a, b, c, d, x in states]
    flags = engine(source(*K_SAMPLES)).evaluate(
        "(all) => all.map(([a, b, c, d, x]) => M.infiniteVariance(M.scalarAnf({ a, b, c, d }, x)))",
        states,
    )
    expected = []
    for a, b, c, d, x in states:
        _, precision = LinearGaussian.from_flow(ScalarANF(a, b, c, d).flow()).posterior(
            torch.tensor([[x]], dtype=D)
        )
        expected.append(precision.item() <= 0.5)
    assert 50 < sum(expected) < 250
    assert flags == expected


def test_infinite_variance_is_what_the_integral_does():
    """The second moment of w over [-R, R] settles on one side of the line and grows on the other."""
    for a, infinite in ((0.36, False), (0.32, True)):
        widget, moments = KSamplesExplorer(a=a), []
        for reach in (15, 30):
            e = torch.linspace(-reach, reach, 20_001, dtype=D)
            log_w = widget._weigh(torch.full_like(e, 1.0), e)
            terms = 2 * log_w - 0.5 * e * e
            moments.append(torch.logsumexp(terms, 0).item() + math.log(reach))
        assert widget.compute()["infinite"] is infinite
        assert (moments[1] - moments[0] > 1) is infinite


def test_k_samples_page_shows_what_torch_computes_and_says_which_variance(show):
    widget = KSamplesExplorer()
    page = show(widget)
    assert "the weights have finite variance" in status(page)
    moves = {"samples": 3 * ["ArrowRight"], "seed": 2 * ["ArrowRight"], "scale": ["Home"]}
    for name, keys in moves.items():
        for key in keys:
            page.get_by_role("slider", name=name).press(key)
        values = page.locator("input").evaluate_all("all => all.map((e) => Number(e.value))")
        widget.x, widget.a, widget.log2_k, widget.seed = (
            values[0],
            values[1],
            *map(int, values[2:]),
        )
        text = status(page)
        for key in ("log_prob", "bound", "expected", "gap_k"):
            assert f"{widget.computed[key]:.4f}" in text, (name, key, text)
        assert f"{-widget.computed['log_prob']:.4f}" in text  # the NLL stands beside the gap
        assert f"{widget.computed['ess']:.1f}" in text
    assert widget.a == 0.2
    assert "the weights have infinite variance" in status(page)


def test_lessons_of_k_samples():
    """Said in the chapter; here over five seeds of 40 runs each.

    The mean bound rises with K and stays below log p(x); with finite variance the effective sample
    size grows like K, with infinite variance it does not; own samples enclose log p(x).
    """
    for seed in SEEDS:
        found = {k: KSamplesExplorer(seed=seed, log2_k=k).compute() for k in (0, 4, 10)}
        means = [found[k]["mean"] for k in (0, 4, 10)]
        assert means[0] < means[1] and found[0]["expected"] < found[4]["expected"]
        error = found[10]["sd"] / math.sqrt(40)
        assert means[2] < found[10]["log_prob"] + 3 * error
        share = {}
        for a in (0.7, 0.2):
            at = [KSamplesExplorer(a=a, x=2.0, seed=seed, log2_k=k) for k in (5, 10)]
            runs = [
                LogWeights().add(w.log_weights()[: w.k]).bound().ess.median() / w.k for w in at
            ]
            share[a] = (runs[1] / runs[0]).item()
        assert share[0.7] > 0.6 and share[0.2] < 0.6, share
        for k in (0, 4):
            at = found[k]
            assert at["lower"] < at["truth"] + 3 * at["lower_se"]
            assert at["upper"] > at["truth"] - 3 * at["upper_se"]
        assert found[0]["lower"] < found[0]["truth"] < found[0]["upper"]


def test_lesson_of_runs_above_and_below():
    """Chapter 3: with finite variance about half of the runs lie above log p(x), else one in seven."""
    for log2_k in (0, 4, 7, 10):
        above = {}
        for a in (0.7, 0.2):
            widgets = [KSamplesExplorer(a=a, seed=seed, log2_k=log2_k) for seed in SEEDS]
            bounds = [LogWeights().add(w.log_weights()[: w.k]).bound().value for w in widgets]
            log_p = widgets[0].model().log_prob(torch.tensor(1.0, dtype=D))
            above[a] = (torch.cat(bounds) > log_p).double().mean().item()  # 200 runs
        assert 0.4 < above[0.7] < 0.6 and above[0.2] < 0.22, (log2_k, above)


# ---------------------------------------------------------------- floors


FLOORS = ("arrays.js", "base.js", "plot.js", "floors.js")
STEEPNESS = (1.3, 2.0, 5.0, 12.0, 60.0, 400.0)


def test_the_best_sampler_is_that_of_the_general_solver():
    two = TOYS["two_modes"]
    for L in STEEPNESS[:4]:
        solved = steepness_frontier(two.log_prob, L, low=-6, high=6, cells=300)
        assert two_mode_optimum(L)[0] == pytest.approx(solved, abs=2e-4), L


def best_density_faults(page) -> list[str]:
    """What is wrong with the density in the page: mass, excess or steepness."""
    x = torch.linspace(-7, 7, 14_001, dtype=D)
    data, faults = TOYS["two_modes"].log_prob(x[:, None]), []
    for L in STEEPNESS:
        excess, valley, kappa = two_mode_optimum(L)
        shown = page.evaluate(
            "([xs, L, v, kappa]) => xs.map((x) => M.steepest(x, L, v, kappa))",
            [x.tolist(), L, valley, kappa],
        )
        p = torch.tensor(shown, dtype=D)
        cdf = torch.cumulative_trapezoid(p, x)
        if abs(cdf[-1] - 1) > 1e-5:
            faults.append(f"mass {cdf[-1]} at {L}")
        kl = torch.trapezoid(data.exp() * (data - p.log()), x)
        if abs(kl - excess) > 1e-5:
            faults.append(f"excess {kl}, expected {excess}")
        inner = (cdf > 1e-6) & (cdf < 1 - 1e-6)
        z = torch.special.ndtri(cdf[inner])
        slope = (-0.5 * z * z).exp() / math.sqrt(2 * math.pi) / p[1:][inner]  # dT / dz
        if slope.max() > L * 1.01:
            faults.append(f"steepness {slope.max()}, allowed {L}")
    return faults


def test_the_best_density_in_the_page(engine):
    page = engine(source(*FLOORS))
    assert best_density_faults(page) == []
    normal = torch.distributions.Normal(torch.tensor([-2.0, 2.0], dtype=D), 0.5)
    for v in (0.1, 1.0, 2.2):
        inside = (
            normal.cdf(torch.tensor(v, dtype=D)) - normal.cdf(torch.tensor(-v, dtype=D))
        ).mean()
        assert difference([page.evaluate("(v) => M.leftInValley(v)", v)], inside) < 1e-8


@pytest.mark.parametrize(
    "fault",
    [("twoModes(x) / kappa", "twoModes(x)"), ("< valley", "< 0.9 * valley"),
     ("normal(x, 0, L)", "normal(x, 0, 1.1 * L)")],
    ids=lambda fault: fault[1],
)  # fmt: skip
def test_a_fault_in_the_best_density_is_seen(engine, fault):
    assert best_density_faults(engine(source(*FLOORS), fault=fault)) != []


def test_floors_are_those_of_the_library():
    found = all_floors()
    for name, dims in REGIONS.items():
        assert found[name]["floor"] == [constant_jacobian_floor(k, dims=dims) for k in range(9)]
    for name in ("eight Gaussians", "two modes"):
        assert max(map(abs, found[name]["floor"])) < 1e-3  # "about zero", as the page says


def test_floors_in_the_page(show):
    page, widget = show(FloorsExplorer()), FloorsExplorer()
    page.get_by_role("slider", name="noise").press("ArrowRight")
    page.get_by_role("slider", name="steepness").press("ArrowRight")
    widget.noise, widget.log10_steepness = 2, 0.75
    for key in ("floor", "excess"):
        assert f"{widget.computed[key]:.4f}" in status(page)
    page.get_by_role("combobox").select_option("two modes")
    assert "It proves nothing here" in status(page)
    assert "augmentation cannot help" in status(page)
    page.get_by_role("slider", name="steepness").press("End")
    assert "0.00000033 nats: here steepness is hardly a limit" in status(page)
    hidden = show(FloorsExplorer(), "#floors?noise=3&log10_steepness=1.234567&target=nowhere")
    assert "F(3), nats = 0.0411" in status(
        hidden
    )  # a steepness between two computed ones: the nearest


def test_lessons_of_the_floors():
    """Each of five seeds: no trained flow is below its floor; with noise the NLL is below F(0)."""
    widget, board = FloorsExplorer.from_records(), TOYS["checkerboard"].entropy
    alone, with_noise = ([d for d in widget.dots if bool(d["noise"]) is k] for k in (False, True))
    assert len(alone) >= 3 and len(with_noise) >= 3
    for dot in widget.dots:
        assert len(dot["loss"]) >= 5
        assert min(dot["loss"]) > board + constant_jacobian_floor(dot["noise"]), dot["name"]
    limit = board + constant_jacobian_floor(0)
    assert max(v for dot in with_noise for v in dot["nll"]) < limit - 0.05
    assert min(v for dot in alone for v in dot["nll"]) > limit
    assert {bool(dot["noise"]) for dot in widget.steep} == {False, True}
    for dot in widget.steep:
        assert len(dot["excess"]) >= 5
        for L, excess in zip(dot["steepness"], dot["excess"], strict=True):
            assert L > 1400 or excess > two_mode_optimum(L)[0], dot["name"]


# ---------------------------------------------------------------- the joint, half-step by half-step


JOINT = (
    "arrays.js", "layers.js", "flow.js", "quadrature.js", "draws.js",
    "base.js", "plot.js", "noise.js", "joint.js",
)  # fmt: skip


def random_anf(seed: int) -> am.Flow:
    layers = am.anf(1, 1, steps=3, hidden=(8,), activation=torch.nn.Tanh)
    return am.randomise(am.Flow(layers, am.StandardNormal(2)).double(), seed=seed)


def joint_faults(page) -> list[str]:
    """What is wrong with the page's stages, against torch, for the recorded and random flows."""
    faults = []
    for flow in (load_model("e2-anf-2"), *map(random_anf, SEEDS)):
        for kind in ("data with noise", "samples of the model"):
            expected = JointExplorer(flow, cloud=kind).points()
            got = page.evaluate(
                "([spec, kind]) => M.cloud(new M.Flow(spec), kind).map((v) => [...v])",
                [export_flow(flow), kind],
            )
            off = [difference(g, e.T) for g, e in zip(got, expected, strict=True)]
            if len(got) != len(list(flow.chain)) or not max(off) < 1e-9:
                faults.append(f"{kind}: {off}")
        layers = list(flow.double().chain)[1:]
        rings = page.evaluate(
            "(spec) => M.circles(new M.Flow(spec)).map((all) => [...all[0]])", export_flow(flow)
        )
        for ring, share in zip(rings, (0.5, 0.95), strict=True):
            v = torch.tensor(ring, dtype=D).view(2, -1).T
            for layer in layers:
                v = layer(v)[0].detach()
            inside = 1 - torch.exp(-0.5 * (v * v).sum(1))  # chi-squared with 2 degrees
            if not (inside - share).abs().max() < 1e-6:
                faults.append(f"ring {share}: {inside.min()} to {inside.max()}")
    return faults


def test_half_steps_are_those_of_torch(engine):
    assert joint_faults(engine(source(*JOINT))) == []


@pytest.mark.parametrize(
    "fault",
    [
        ("halves[i].forward(out[i]", "halves[i].inverse(out[i]"),
        ("halves[i - 1].inverse(out[i]", "halves[i - 1].forward(out[i]"),
        ("u < 0.5 ? 2 : -2", "u < 0.5 ? -2 : 2"),
        ("Math.log(1 - share)", "Math.log(share)"),
    ],
    ids=lambda fault: fault[1],
)
def test_a_fault_in_the_half_steps_is_seen(engine, fault):
    assert joint_faults(engine(source(*JOINT), fault=fault)) != []


def test_encoders_move_the_noise_and_decoders_the_data():
    """The lesson of the plane, for the recorded flow and five random ones."""
    for flow in (load_model("e2-anf-2"), *map(random_anf, SEEDS)):
        stages = JointExplorer(flow).points()
        for i, moved in enumerate((stages[1:] - stages[:-1]).abs().amax(1), 1):
            still, moving = (0, 1) if i % 2 else (1, 0)
            assert moved[still] == 0 and moved[moving] > 1e-3


def test_joint_in_the_page(show):
    widget = JointExplorer(load_model("e2-anf-2"))
    page = show(widget)
    page.get_by_role("slider", name="half-steps").press("End")
    assert "4.00 of 4 half-steps, after decoder 2" in status(page)
    page.get_by_role("button", name="Back").click()
    assert "0.00 of 4 half-steps" in status(page)  # reduced motion: at once
    page.get_by_role("slider", name="half-steps").press("ArrowRight")
    picture = page.locator(".afx-plane svg")
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 60)
    page.mouse.up()
    widget.x = float(page.get_by_role("slider", name="example").input_value())
    assert -2 < widget.x < 0 and "0.00 of 4 half-steps" in status(page)
    for key in ("log_prob", "elbo", "gap"):
        assert f"{widget.computed[key]:.4f}" in status(page)
    assert f"{-widget.computed['log_prob']:.4f}" in status(page)


def test_joint_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="expected Augment, then N times"):
        JointExplorer(am.Flow(am.anf(1, 2, steps=1), am.StandardNormal(3)))
    with pytest.raises(ValueError, match="expected Augment, then N times"):
        JointExplorer(am.Flow(am.anf(1, 1, steps=1)[:2], am.StandardNormal(2)))
    with pytest.raises(traitlets.TraitError, match="should not be greater than 4"):
        JointExplorer(load_model("e2-anf-2")).step = 5.0


def test_gap_on_the_bridge_of_the_recorded_models():
    """Chapter 3: above half a nat on the bridge with two steps, small with one."""
    for x in (-0.2, 0.0, 0.2):
        models = [load_model(f"e2-anf-{n}") for n in (1, 2)]
        gaps = [JointExplorer(model, x=x).compute()["gap"] for model in models]
        assert gaps[0] < 0.1 and gaps[1] > 0.5
