"""Runs of couplings written out: the numbers of the usual way, and that way where it is needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from augflow_mini import (
    MLP,
    AdditiveCoupling,
    AffineCoupling,
    Chain,
    Flow,
    Inverse,
    StandardNormal,
    coupling,
    fused,
)

F64 = torch.float64
SIZES = [(2, 1), (5, 2), (4, 3)]  # D, and k features before the cut


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def runs(monkeypatch) -> list[int]:
    """How many couplings each fused run had."""
    seen, run = [], fused.run
    monkeypatch.setattr(fused, "run", lambda *a: seen.append(len(a[2])) or run(*a))
    return seen


def chain(size, activation=nn.ReLU, clamp=None, halves=(0, 1, 0, 1, 0)) -> Chain:
    """Affine couplings that write these halves; the third is turned round, the fourth additive."""
    D, k = size
    layers = []
    for i, half in enumerate(halves):
        writes, reads = (slice(0, k), slice(k, D))[:: 1 - 2 * half]
        w, r = writes.stop - writes.start, reads.stop - reads.start
        if i == 3:
            net = MLP(r, w, hidden=(8,), activation=activation)
            layers.append(AdditiveCoupling(net, writes=writes, reads=reads))
            continue
        net = MLP(r, 2 * w, hidden=(16, 8) if i else (), activation=activation)
        layer = AffineCoupling(net, writes=writes, reads=reads, clamp=clamp)
        layers.append(Inverse(layer) if i == 2 else layer)
    return Chain(layers)


def everything(layers: Chain, x: Tensor, backwards: bool = False) -> list[Tensor]:
    """Result, contribution and all gradients of a loss that uses both."""
    layers.zero_grad()
    x = x.clone().requires_grad_()
    z, contrib = layers.inverse(x) if backwards else layers(x)
    ((z.sin() * z).sum(1) + contrib * z[:, 0]).sum().backward()
    return [z.detach(), contrib.detach(), x.grad, *(p.grad.clone() for p in layers.parameters())]


@contextmanager
def usual_way() -> Iterator[None]:
    possible, fused.possible = fused.possible, lambda x: False
    try:
        yield
    finally:
        fused.possible = possible


def usually(layers: Chain, x: Tensor, backwards: bool = False) -> list[Tensor]:
    with usual_way():
        return everything(layers, x, backwards)


def differ() -> float:
    """Furthest that any number of any case is from the usual way's."""
    worst = 0.0
    for activation, clamp, dtype, back, size in itertools.product(
        (nn.ReLU, nn.Tanh), (None, 2.0), (torch.float32, F64), (False, True), SIZES
    ):
        layers = chain(size, activation, clamp).to(dtype)
        x = torch.randn(50, size[0], dtype=dtype)
        pairs = zip(everything(layers, x, back), usually(layers, x, back), strict=True)
        worst = max([worst, *((a - b).abs().max().item() for a, b in pairs)])
    return worst


def test_equal_bit_for_bit(runs):
    """Values and gradients of 48 chains, both directions, against modules and autograd."""
    assert differ() == 0.0
    assert runs == [5] * 48


@pytest.mark.parametrize(
    "line, wrong",
    [
        ("g * given * s + every", "g * given + every"),
        ("g * given * s + every", "g * given * s"),
        ("g_m = -g_given if back else g", "g_m = g"),
        ("g_log_s = -g_log_s if back else g_log_s", "pass"),
        ("* clamp, tape.pop()) / clamp", "* clamp, tape.pop())"),
        ("        elif back:\n            g = -g\n", ""),
        ("half[1 - written] = half[1 - written] + g", "half[1 - written] = g"),
        ("g = BACK[activations[i - 1]](g, h)", "pass"),
        ("log_s = clamp * bent", "log_s = bent"),
        ("log_s = -log_s", "pass"),
        ("given - out if back", "given + out if back"),
        ("if log_s.shape[1] == 1 else log_s.sum(1)", "if True else 0"),
    ],
)
def test_a_wrong_line_is_seen(line, wrong, monkeypatch):
    source = Path(fused.__file__).read_text(encoding="utf-8")
    assert source.count(line) == 1
    faulty = ModuleType("augflow_mini.faulty")
    exec(compile(source.replace(line, wrong), "faulty", "exec"), faulty.__dict__)
    monkeypatch.setattr(fused, "run", faulty.run)
    try:
        seen = differ() > 1e-3
    except RuntimeError:  # shapes that do not fit
        seen = True
    assert seen


def test_two_in_succession_write_the_same_half(runs):
    """Three gradients meet in the other half: the order of that sum is ours, so up to rounding."""
    layers, x = chain((5, 2), halves=(0, 1, 1, 1, 0)).double(), torch.randn(50, 5, dtype=F64)
    for a, b in zip(everything(layers, x), usually(layers, x), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    assert runs == [5]


def test_derivatives_of_derivatives(runs):
    layers, x = chain((4, 2), nn.Tanh, 2.0).double(), torch.randn(4, 4, dtype=F64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(layers, x)
    assert torch.autograd.gradgradcheck(layers, x)
    weights = [*layers.parameters()]

    def penalty():
        z, contrib = layers(x)
        grads = torch.autograd.grad((z.sum(1) + contrib).sum(), [x, *weights], create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in grads), weights)

    found = penalty()
    assert set(runs) == {5}
    with usual_way():
        expected = penalty()
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_frozen_weights_and_a_second_backward(runs):
    layers, x = chain((5, 2)), torch.randn(9, 5)
    for p in layers.layers[1].parameters():
        p.requires_grad_(False)
    loss = layers(x)[0].square().sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in layers.parameters() if p.requires_grad]
    loss.backward()
    assert all(p.grad is None for p in layers.layers[1].parameters())
    twice = [p.grad for p in layers.parameters() if p.requires_grad]
    assert all(torch.equal(2 * a, b) for a, b in zip(once, twice, strict=True))
    assert runs == [5]


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, in jvp
def test_the_usual_way_where_someone_watches(runs, monkeypatch):
    """Hooks, a replaced method, own networks, autocast, function transforms, compilation."""
    x = torch.randn(9, 4)
    for watch in (
        lambda c: c.net.register_forward_hook(lambda *_: None),
        lambda c: c.net.layers.register_forward_pre_hook(lambda *_: None),
        lambda c: c.net.layers[0].register_forward_hook(lambda *_: None),
        lambda c: c.net.layers[1].register_full_backward_hook(lambda *_: None),
        lambda c: nn.utils.parametrizations.weight_norm(c.net.layers[2]),
        lambda c: setattr(c, "net", nn.Sequential(c.net)),
        lambda c: c.net.layers.__setitem__(1, nn.SiLU()),
    ):
        layers = chain((4, 2))
        watch(layers.layers[1])
        layers(x)
    layers = chain((4, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layers(x)
    torch.func.jacrev(lambda x: layers(x)[0].sum(0))(x)
    torch.func.vmap(lambda x: layers(x[None])[0][0])(x)
    torch.func.jvp(lambda x: layers(x)[0], (x,), (x,))
    torch.compile(layers, backend="aot_eager", fullgraph=True)(x)
    move = coupling.AffineCoupling.move
    monkeypatch.setattr(coupling.AffineCoupling, "move", lambda *a: move(*a))
    layers(x)
    assert runs == []
    monkeypatch.undo()


def test_what_does_not_fit_is_said_the_usual_way(runs):
    layer = AffineCoupling(MLP(2, 4), writes=slice(0, 1), reads=slice(1, 3))
    with pytest.raises(ValueError, match="the network returned shape"):
        Flow([layer], StandardNormal(3)).log_prob(torch.zeros(2, 3))
    layer = AffineCoupling(MLP(3, 2), writes=slice(0, 1), reads=slice(1, 3))
    with pytest.raises(ValueError, match=r"expected \(B, 3\)"):
        Flow([layer], StandardNormal(3)).log_prob(torch.zeros(2, 3))
    assert runs == []
