"""What the fuzz tests and a reader's hands found, each mended once and kept from coming back."""

import math

import pytest
import torch
from by_hand import F64, assert_explains, begin, model

import augflow_mini as am
from augflow_mini import claims, fit, integrate
from augflow_mini.checkpoint import load_tensors, to_bytes
from augflow_mini.experiments.record import load_record
from augflow_mini.trainer import KIND


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


def anf():
    return am.Flow(am.anf(2, 1, steps=1, hidden=(4,)), am.StandardNormal(3))


x2, image = torch.zeros(4, 2), torch.zeros(2, 3, 4, 4)
REFUSED = {
    "no couplings": (lambda: am.realnvp(2, couplings=0), "realnvp: couplings is 0 | at least 1"),
    "no steps": (lambda: am.anf(2, 1, steps=0), "anf: steps is 0 | at least 1"),
    "half a step": (lambda: am.cif(2, 1, steps=1.5), "cif: steps is 1.5 | an integer"),
    "a width of 0": (lambda: am.hierarchical_anf(2, (1, 0)), "widths[1] is 0 | at least 1"),
    "K is NaN": (lambda: anf().iw_bound(x2, math.nan), "k is nan | an integer of at least 1"),
    "K is a word": (lambda: anf().iw_bound(x2, "many"), "k is 'many' | an integer"),
    "K is infinite": (lambda: am.measure_gap(anf(), x2, k=math.inf), "k is inf | at least 2"),
    "half a draw": (lambda: anf().sandwich(9, draws=0.5), "draws is 0.5 | an integer"),
    "half a sample": (lambda: anf().sample(2.5), "n is 2.5 | an integer"),
    "levels of NaN": (lambda: am.Carry(math.nan), "levels is nan | at least 2"),
    "two extra channels": (lambda: am.vflow_mini(2), "extra is 2 | 0, 1 or 3"),
    "a shape of two": (lambda: am.glow((3, 32)), "glow: shape is (3, 32) | height, width"),
    "no filters": (lambda: am.glow((3, 4, 4), filters=0), "glow: filters is 0 | at least 1"),
    "an actnorm of 0": (lambda: am.ActNorm(0), "features is 0 | at least 1"),
    "noise of another shape": (
        lambda: am.Augment(am.StandardNormal(2), keep=3)(image),
        "event shape (2,) | (3, 4, 4) | StandardNormal(3, 32, 32)",
    ),
    "channels that are not kept": (
        lambda: am.Augment(am.StandardNormal(2, 4, 4), keep=1)(image),
        "keep=1 | shape (2, 3, 4, 4) | build it with keep=3",
    ),
    "nothing to drop": (
        lambda: am.Append(torch.nn.Linear(1, 1), reads=slice(0, 1), width=3).inverse(x2),
        "features 0:4 | shape (4, 2)",
    ),
    "order of a permutation": (
        lambda: am.Permute((3, 1)),
        "[3, 1] | permutation of 0 .. 1 | each once",
    ),
    "an order of letters": (lambda: am.Permute("x"), "of order is 'x' | an integer of at least 0"),
    "an output width below 0": (lambda: am.MLP(1, -1), "MLP: outputs is -1 | at least 1"),
    "half a hidden width": (
        lambda: am.MLP(1, 1, hidden=(2.5,)),
        "hidden width is 2.5 | an integer",
    ),
    "a layer in float32": (
        lambda: am.check_transform(am.InvertibleLinear(2), x2.double()),
        "holds torch.float32 | layer.double()",
    ),
    "data in float32": (
        lambda: am.check_transform(am.InvertibleLinear(2).double(), x2),
        "torch.float32 (4, 2) | float64 | x.double()",
    ),
    "noise both ways": (
        lambda: am.check_transform(am.Chain(am.cif(2, 1, steps=1)).double(), x2.double()),
        "both directions | parts one by one | check_normalised",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_words(name):
    assert_explains(*REFUSED[name])


@pytest.mark.parametrize("make", [
    lambda **o: am.cif(2, 1, steps=1, **o), lambda **o: am.anf(2, 1, steps=1, **o),
    lambda **o: am.realnvp(2, couplings=1, **o), lambda **o: am.vae(2, 1, **o),
])  # fmt: skip
def test_an_unknown_option_is_named_with_those_there_are(make):
    with pytest.raises(TypeError, match="unknown option 'width'.*clamp, hidden, last_gain"):
        make(width=3)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_quadrature_reaches_the_ends_of_the_unit_interval(levels):
    """Integers, uniform noise, a bare logit: p(x) is a difference of normal probabilities."""
    flow = am.Flow([*am.uniform_dequantize(levels, 1), am.Logit()], am.StandardNormal(1))
    x = torch.tensor([[0.0], [1.0], [levels - 1.0]], dtype=F64)
    ends = torch.special.ndtr(torch.logit(torch.stack([x, x + 1]) / levels))
    torch.testing.assert_close(
        am.quadrature(flow, x).log_p.exp(), (ends[1] - ends[0])[:, 0], rtol=1e-8, atol=0
    )


def test_uniform_noise_is_never_the_zero_whose_logit_is_infinite(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **o: torch.zeros(*shape, **o))
    flow = am.Flow([*am.uniform_dequantize(256, 2), am.Logit()], am.StandardNormal(2))
    assert flow.elbo(x2).isfinite().all()


def test_quadrature_runs_in_parts_to_the_end(monkeypatch):
    sizes, original = [], integrate.run_on

    def counted(flow, x, *rest):
        sizes.append(len(x))
        return original(flow, x, *rest)

    monkeypatch.setattr(integrate, "run_on", counted)
    flow = model(am.anf(1, 2, steps=1, hidden=(4,)), 3)
    am.quadrature(flow, torch.zeros(40, 1, dtype=F64), tol=1e-2)
    assert max(sizes) <= 65_536


def test_a_matrix_acts_at_any_number_of_places():
    layer = am.InvertibleLinear(3).double()
    x = torch.randn(2, 3, 2, 2, 2, dtype=F64)
    z, contrib = layer(x)
    torch.testing.assert_close(z[:, :, 1, 0, 1], layer(x[:, :, 1, 0, 1])[0])
    torch.testing.assert_close(layer.inverse(z)[0], x)
    assert contrib.shape == (2,) and layer(x[..., :0])[0].shape == (2, 3, 2, 2, 0)


@pytest.mark.parametrize("part", ["run", "model", "optimizer", "fit", "a setting"])
def test_a_checkpoint_with_a_part_missing_is_refused_and_touches_no_model(part, tmp_path):
    data, path = torch.randn(40, 2), tmp_path / "run.ckpt"
    options = dict(batch=8, lr=0.1, seed=0, checkpoint=path, progress=False)
    fit(anf(), data, steps=3, **options)
    content = load_tensors(path, kind=KIND)
    if part == "a setting":
        content["run"]["batch"] = torch.zeros(0)
    else:
        content[part] = {}
    path.write_bytes(to_bytes(content))
    flow = anf()
    before = [p.clone() for p in flow.parameters()]
    with pytest.raises(ValueError, match="damaged|another run|does not fit"):
        fit(flow, data, steps=5, **options)
    assert all(torch.equal(p, q) for p, q in zip(flow.parameters(), before, strict=True))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"cells": [3]}', b"[" * 9999])
def test_the_ledger_refuses_what_is_no_notebook(text, tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_bytes(text)
    assert_explains(lambda: claims.page([path]), "a.ipynb is no notebook | restore it")


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 9999])
def test_what_is_no_record_is_refused(text, tmp_path):
    (tmp_path / "one.json").write_bytes(text)
    assert_explains(lambda: load_record("one", folder=tmp_path), "one.json | restore the file")


def test_a_flipped_bit_in_a_checkpoints_numbers_is_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    options = dict(batch=8, lr=0.1, seed=0, checkpoint=path, progress=False)
    flow = anf()
    fit(flow, torch.randn(40, 2), steps=3, **options)
    whole = bytearray(path.read_bytes())
    numbers = max(flow.parameters(), key=torch.numel).detach().numpy().tobytes()
    whole[whole.index(numbers) + 2] ^= 1
    path.write_bytes(whole)
    assert_explains(lambda: load_tensors(path, kind=KIND), "check sum | damaged | Delete it")
