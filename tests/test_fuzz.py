"""Generated cases for layers, flows and recipes: it works, or it says what is wrong.

`make fuzz` runs many; see fuzzing.py. What these found has a test of its own in test_errors*.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from by_hand import begin
from fuzzing import ANYTHING, EXTREMES, NOT_FINITE, cases, works_or_explains
from hypothesis import assume
from hypothesis import strategies as st
from torch import nn

import augflow_mini as am

F64 = torch.float64


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    begin()


def smooth(inputs, outputs):
    return am.MLP(inputs, outputs, hidden=(6,), activation=nn.Tanh)


def ready(features):
    layer = am.ActNorm(features)
    layer.initialised.fill_(True)
    return layer


def halves(d):
    return slice(0, d // 2), slice(d // 2, d)


# name -> (layer for d features, features that come out). All take any real numbers.
LAYERS = {
    "affine": lambda d: (am.affine_mlp(*halves(d), hidden=(6,), activation=nn.Tanh, clamp=1.0), d),
    "affine back": lambda d: (am.Inverse(am.affine_mlp(*halves(d)[::-1], hidden=(6,), clamp=1.0)), d),
    "additive": lambda d: (am.AdditiveCoupling(smooth(d - 1, 1), writes=slice(0, 1)), d),
    "mixture": lambda d: (
        am.MixLogisticCoupling(smooth(d - 1, 8), writes=slice(d - 1, d), components=2), d
    ),
    "actnorm": lambda d: (ready(d), d),
    "linear": lambda d: (am.InvertibleLinear(d), d),
    "permute": lambda d: (am.Permute([(i + 1) % d for i in range(d)]), d),
    "scale": lambda d: (am.Scale(-0.7, shift=0.3), d),
    "unit and back": lambda d: (am.Chain([am.Scale(0.1), am.Sigmoid(), am.Logit()]), d),
    "on": lambda d: (am.On(slice(1, d), am.Scale(2.0)), d),
    "augment": lambda d: (am.Augment(am.StandardNormal(2), keep=d), d + 2),
    "augment, learned": lambda d: (am.Augment(am.GaussianNet(smooth(d, 2)), keep=d), d + 1),
    "slice": lambda d: (am.Slice(am.StandardNormal(1), keep=d - 1), d - 1),
    "slice, learned": lambda d: (am.Slice(am.GaussianNet(smooth(d - 1, 2)), keep=d - 1), d - 1),
    "append": lambda d: (am.Append(smooth(1, 1), reads=slice(0, 1), width=1), d + 1),
}  # fmt: skip


@st.composite
def chains(draw, most=6):
    """(flow, width of the data): any layers one after another, not at the identity."""
    d = start = draw(st.integers(2, 4))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    layers = []
    for name in draw(st.lists(st.sampled_from(sorted(LAYERS)), max_size=most)):
        if name.startswith("slice") and d < 3:
            continue
        layer, d = LAYERS[name](d)
        layers.append(layer)
    flow = am.Flow(layers, am.StandardNormal(d)).double()
    return am.randomise(flow, seed=draw(st.integers(0, 99)), scale=0.3), start


@cases(chains(), st.integers(0, 3), st.integers(0, 99), share=2.0)
def test_any_chain_round_trips_and_its_signs_agree(made, batch, seed):
    flow, d = made
    torch.manual_seed(seed)
    x = torch.randn(batch, d, dtype=F64)
    with torch.no_grad():
        codes = flow.encode(x)
        back = flow.decode(codes)
        log_w = flow.log_weight(x)
        assert log_w.shape == (batch,) and log_w.dtype == F64 and log_w.isfinite().all()
        assert torch.allclose(back, x, rtol=0, atol=1e-7)
        if not (flow.chain.stochastic_forward or flow.chain.stochastic_inverse):
            z, contrib = flow.chain(x)
            assert torch.allclose(flow.chain.inverse(z)[1], -contrib, rtol=0, atol=1e-7)
            if z.shape == x.shape and batch:
                row = lambda v: flow.chain(v[None])[0][0]  # noqa: E731
                with torch.enable_grad():
                    jacobian = torch.autograd.functional.jacobian(row, x[0])
                log_det = torch.linalg.slogdet(jacobian).logabsdet
                assert torch.allclose(contrib[0], log_det, rtol=0, atol=1e-6)


SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple)
DTYPES = st.sampled_from([
    torch.float32, F64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool,
    torch.complex64,
])  # fmt: skip
QUESTIONS = {
    "log_prob": lambda flow, x: flow.log_prob(x),
    "elbo": lambda flow, x: flow.elbo(x),
    "iw_bound": lambda flow, x: flow.iw_bound(x, 3).value,
    "encode": lambda flow, x: flow.encode(x).z.flatten(1).sum(1),
}


@cases(
    chains(most=3), SHAPES, DTYPES, st.sampled_from(sorted(QUESTIONS)), st.data(), share=2.0, ci=30
)
def test_a_flow_takes_any_tensor_or_says_why_not(made, shape, dtype, question, data):
    """Shapes, dtypes, batches of 0 and 1, numbers from 5e-324 to 1e300, NaN and infinities."""
    flow, d = made
    if len(shape) == 2 and data.draw(st.booleans()):
        shape, dtype = (shape[0], d), F64
    values = data.draw(
        st.lists(st.sampled_from(EXTREMES * 3 + NOT_FINITE), min_size=1, max_size=6)
    )
    full = torch.tensor(values, dtype=F64).repeat(math.prod(shape))[: math.prod(shape)]
    x = full.reshape(shape).to(dtype)
    with torch.no_grad():
        got = works_or_explains(lambda: QUESTIONS[question](flow, x))
    if got is not None:
        assert got.shape == x.shape[:1] and x.isfinite().all()
        assert question == "encode" or not (got == math.inf).any(), "an infinite density"


@cases(st.sampled_from(sorted(LAYERS)), SHAPES, st.booleans())
def test_a_layer_takes_any_shape_or_says_why_not(name, shape, back):
    torch.manual_seed(0)
    layer, out = LAYERS[name](3)
    x = torch.randn(shape)
    got = works_or_explains(lambda: layer.inverse(x) if back else layer(x))
    if got is not None:
        z, contrib = got
        assert contrib.shape == x.shape[:1] and len(z) == len(x)
        assert z.dtype == contrib.dtype == x.dtype


RECIPES = {
    "realnvp": (am.realnvp, ("features", "couplings", "linear", "hidden")),
    "anf": (am.anf, ("features", "noise", "steps", "clamp")),
    "vae": (am.vae, ("features", "latent", "steps")),
    "cif": (am.cif, ("features", "noise", "steps", "couplings", "linear")),
    "hierarchical_anf": (am.hierarchical_anf, ("features", "widths", "steps", "last")),
    "glow": (am.glow, ("shape", "scales", "steps", "levels", "filters")),
    "realnvp_image": (am.realnvp_image, ("shape", "scales", "blocks", "levels")),
    "anf_image": (am.anf_image, ("shape", "extra", "steps", "levels")),
    "vflow_mini": (am.vflow_mini, ("extra", "shape", "plan")),
    "uniform_dequantize": (lambda levels, n: am.uniform_dequantize(levels, n), ("levels", "n")),
    "StandardNormal": (lambda n: [am.StandardNormal(n)], ("n",)),
    "Carry": (lambda n: [am.Carry(n)], ("n",)),
    "Scale": (lambda scale, shift: [am.Scale(scale, shift=shift)], ("scale", "shift")),
    "ActNorm": (lambda n: [am.ActNorm(n)], ("n",)),
    "InvertibleLinear": (lambda n: [am.InvertibleLinear(n)], ("n",)),
    "Permute": (lambda order: [am.Permute(order)], ("order",)),
    "Augment": (lambda keep: [am.Augment(am.StandardNormal(1), keep=keep)], ("keep",)),
    "On": (lambda a, b: [am.On(slice(a, b), am.Scale(2.0))], ("a", "b")),
    "MLP": (lambda a, b, hidden: [am.MLP(a, b, hidden=hidden)], ("a", "b", "hidden")),
}
GOOD = {
    "features": 2, "couplings": 2, "noise": 1, "latent": 1, "steps": 1, "hidden": (4,), "n": 3,
    "widths": (1, 2), "shape": (1, 4, 4), "scales": 1, "levels": 4, "filters": 4, "blocks": 1,
    "extra": 1, "a": 1, "b": 3, "keep": 1, "order": (1, 0), "scale": 2.0, "shift": 0.0,
}  # fmt: skip


def large(value):
    """A million features or samples are no error, only slow and heavy."""
    return isinstance(value, int | float) and (50 < value < math.inf)


@cases(st.sampled_from(sorted(RECIPES)), st.data())
def test_a_recipe_gives_layers_or_says_which_argument_is_wrong(name, data):
    make, names = RECIPES[name]
    wrong = data.draw(st.sampled_from(names))
    options = {n: GOOD[n] for n in names if n in GOOD and n != wrong}
    options[wrong] = data.draw(ANYTHING)
    assume(not large(options[wrong]))
    made = works_or_explains(lambda: make(**options))
    assert made is None or (len(made) and all(isinstance(m, nn.Module) for m in made))


ANF = am.Flow(am.anf(2, 1, steps=1, hidden=(4,)), am.StandardNormal(3))
X = torch.zeros(3, 2)
CALLS = {
    "iw_bound k": lambda n: ANF.iw_bound(X, n),
    "iw_bound rows": lambda n: ANF.iw_bound(X, 3, rows=n),
    "elbo": lambda n: ANF.elbo(X, draws=n),
    "sample": lambda n: ANF.sample(n),
    "sandwich": lambda n: ANF.sandwich(n),
    "sandwich draws": lambda n: ANF.sandwich(4, draws=n),
    "measure_gap": lambda n: am.measure_gap(ANF, X, k=n),
    "max_nodes": lambda n: am.quadrature(ANF, X, max_nodes=n),
    "expected_iw_bound": lambda n: am.expected_iw_bound(X, X.new_full((2,), 0.5), n),
    "x": lambda x: ANF.elbo(x),
    "layers": lambda layers: am.Flow(layers, am.StandardNormal(2)),
    "steps": lambda n: am.fit(ANF, X, steps=n, batch=2, lr=0.0, seed=0),
    "batch": lambda n: am.fit(ANF, X, steps=0, batch=n, lr=0.1, seed=0),
    "lr": lambda n: am.fit(ANF, X, steps=0, batch=1, lr=n, seed=0),
    "train": lambda x: am.fit(ANF, x, steps=0, batch=1, lr=1e-3, seed=0),
    "ema": lambda n: am.fit(ANF, X, steps=0, batch=1, lr=1e-3, seed=0, ema=n),
    "clip": lambda n: am.fit(ANF, X, steps=0, batch=1, lr=1e-3, seed=0, clip=n),
    "every": lambda n: am.fit(ANF, X, steps=0, batch=1, lr=1e-3, seed=0, every=n),
}


@cases(st.sampled_from(sorted(CALLS)), ANYTHING)
def test_a_question_is_answered_or_refused_in_words(name, value):
    assume(not large(value))
    with torch.no_grad() if name not in ("steps",) else torch.enable_grad():
        works_or_explains(lambda: CALLS[name](value))


@cases(
    st.lists(
        st.lists(
            st.sampled_from([-math.inf, math.inf, math.nan, 0.0, -1e30, 1e30, -800.0, 5.0]),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 3),
    share=0.5,
)
def test_log_weights_of_any_size_stay_ordered(rows, width):
    """ELBO <= L_K and 1 <= ESS <= K for every finite set of weights; NaN shows as NaN."""
    torch.manual_seed(0)
    total, everything = am.LogWeights(), []
    for row in rows:
        part = torch.tensor(row, dtype=F64)[:, None].expand(-1, width)
        total.add(part)
        everything.append(part)
    log_w = torch.cat(everything)
    found = total.bound()
    if log_w.isnan().any():
        assert found.value.isnan().all()
    elif (log_w < math.inf).all():
        expected = torch.logsumexp(log_w, 0) - math.log(len(log_w))
        assert torch.allclose(found.value, expected, rtol=1e-12, atol=1e-9)
        slack = 1e-9 * expected.abs().clamp(1, 1e300)
        assert ((found.elbo <= found.value + slack) | (found.elbo == found.value)).all()
        if (expected > -math.inf).all():
            assert ((found.ess > 1 - 1e-9) & (found.ess < len(log_w) + 1e-9)).all()
