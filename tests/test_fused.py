"""Runs of couplings written out: the numbers of the usual way, and that way where it is needed."""

from __future__ import annotations

import gc
import itertools
import weakref
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
        ("g_moved * given * s", "g_moved * given"),
        ("g_log_s + grad_total.unsqueeze(1)", "g_log_s"),
        ("g_m = -g_given if back else g_moved", "g_m = g_moved"),
        ("g_log_s = -g_log_s if back else g_log_s", "pass"),
        ("* clamp, tape.pop()) / clamp", "* clamp, tape.pop())"),
        ("g = -g_moved if back else g_moved", "g = g_moved"),
        ("g_halves[1 - written] = g_halves[1 - written] + g", "g_halves[1 - written] = g"),
        ("g = BACK[activations[i - 1]](g, h)", "pass"),
        ("log_s = clamp * bent", "log_s = bent"),
        ("log_s = -log_s", "pass"),
        ("given - out if back", "given + out if back"),
        ("if log_s.shape[1] == 1 else log_s.sum(1)", "if True else 0"),
    ],
)
def test_a_wrong_line_is_seen(line, wrong, monkeypatch):
    source = Path(fused.__file__).read_text(encoding="utf-8")
    assert source.count(line) == 1, line
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


def agree(layers: Chain, x: Tensor, find, runs: list[int]) -> None:
    """find(layers, x), a list of numbers or None: fused as usually, None at the same places."""
    runs.clear()
    found = find(layers, x)
    assert runs
    with usual_way():
        expected = find(layers, x)
    assert [a is None for a in found] == [b is None for b in expected]
    for a, b in zip(found, expected, strict=True):
        assert a is None or torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def chained_and_hooked(layers: Chain, x: Tensor) -> list[Tensor]:
    """Both runs have the same weights, a middle result is asked for, a weight has a hook."""
    called = []
    weights, x = [*layers.parameters()], x.clone().requires_grad_()
    hook = weights[0].register_hook(lambda g: called.append(1) or 2 * g)
    y = layers(x)[0]
    y.retain_grad()
    z, contrib = layers.inverse(y.tanh())
    (z.sin().sum(1) + contrib).sum().backward(create_graph=True)
    first = [y.grad, x.grad, *(w.grad for w in weights)]
    assert len(called) == 1
    hook.remove()
    second = torch.autograd.grad(sum((g**2).sum() for g in first), weights)
    for w in weights:
        w.grad = None
    return [*first, *second]


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
def test_derivatives_of_derivatives(runs):
    layers, x = chain((4, 2), nn.Tanh, 2.0).double(), torch.randn(4, 4, dtype=F64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(layers, x)
    assert torch.autograd.gradgradcheck(layers, x)
    agree(layers, x.detach(), chained_and_hooked, runs)
    shared = MLP(2, 4, hidden=(8,), activation=nn.Tanh)
    halves = [(slice(0, 2), slice(2, 4)), (slice(2, 4), slice(0, 2))]
    layers = Chain([AffineCoupling(shared, writes=w, reads=r) for w, r in halves]).double()
    agree(layers, x.detach(), chained_and_hooked, runs)


@pytest.mark.parametrize("part", ["z", "contrib", "first half"])
@pytest.mark.parametrize("graph", [False, True])
def test_a_loss_of_a_part(part, graph, runs):
    """Where the loss does not reach, a gradient is None and not zero."""

    def find(layers: Chain, x: Tensor) -> list[Tensor | None]:
        z, contrib = layers(x)
        loss = {"z": z, "contrib": contrib, "first half": z[:, :2]}[part].square().sum()
        asked = [*layers.parameters()]
        return [*torch.autograd.grad(loss, asked, create_graph=graph, allow_unused=True)]

    x = torch.randn(9, 5, dtype=F64)
    agree(chain((5, 2)).double(), x, find, runs)
    additive = AdditiveCoupling(MLP(2, 3), writes=slice(2, 5), reads=slice(0, 2))
    assert not Chain([additive])(x.float())[1].requires_grad
    huge = chain((5, 2)).double()
    with torch.no_grad():
        huge.layers[4].net.layers[-1].bias.fill_(1000)  # exp of it is infinite, the sum is not
    if part == "contrib":
        agree(huge, x, find, runs)


def test_gradients_of_many_losses_at_once(runs):
    def find(layers: Chain, x: Tensor) -> list[Tensor]:
        def density(x):
            z, contrib = layers(x)
            return contrib - z.square().sum(1)

        x = x.clone().requires_grad_()
        rows = torch.eye(len(x), dtype=x.dtype)
        (batched,) = torch.autograd.grad(density(x), x, rows, is_grads_batched=True)
        jacobian = torch.autograd.functional.jacobian(density, x, vectorize=True)
        return [
            batched,
            jacobian,
            torch.autograd.functional.hessian(lambda x: density(x).sum(), x),
        ]

    agree(chain((4, 2), nn.Tanh).double(), torch.randn(3, 4, dtype=F64), find, runs)


def test_the_contribution_can_be_written_into():
    layer = AffineCoupling(MLP(1, 2), writes=slice(1, 2), reads=slice(0, 1), clamp=1.0)
    _, contrib = Chain([layer])(torch.randn(3, 2))
    contrib += 1
    contrib.sum().backward()


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


# torch's own, in jvp and in its tracer
@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not:UserWarning")
def test_the_usual_way_where_someone_watches(runs, monkeypatch):
    """Hooks, a replaced method, own networks, autocast, function transforms, compilation."""
    x = torch.randn(9, 4)
    for watch in (
        lambda c: c.register_forward_hook(lambda *_: None),
        lambda c: c.net.register_forward_hook(lambda *_: None),
        lambda c: c.net.layers.register_forward_pre_hook(lambda *_: None),
        lambda c: c.net.layers[0].register_forward_hook(lambda *_: None),
        lambda c: c.net.layers[1].register_full_backward_hook(lambda *_: None),
        lambda c: nn.utils.parametrizations.weight_norm(c.net.layers[2]),
        lambda c: setattr(c, "net", nn.Sequential(c.net)),
        lambda c: setattr(c, "clamp", nn.Parameter(torch.tensor(2.0))),
        lambda c: setattr(c, "move", c.move),
        lambda c: setattr(c.net, "forward", c.net.forward),
        lambda c: c.net.compile(backend="eager"),
        lambda c: c.net.layers.__setitem__(1, nn.SiLU()),
        lambda c: c.net.layers.append(nn.Tanh()),
    ):
        for layers in (chain((4, 2)), Chain([Inverse(x) for x in chain((4, 2))])):
            layers(x)  # what was found plain once is looked at again
            assert runs.pop() == 5
            inner = layers.layers[1]
            watch(inner.layer if isinstance(inner, Inverse) else inner)
            layers(x)
            assert 5 not in runs
    runs.clear()
    layers = chain((4, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layers(x)
    torch.func.jacrev(lambda x: layers(x)[0].sum(0))(x)
    torch.func.vmap(lambda x: layers(x[None])[0][0])(x)
    torch.func.jvp(lambda x: layers(x)[0], (x,), (x,))
    torch.compile(layers, backend="aot_eager", fullgraph=True)(x)
    chain((4, 2)).to("meta")(x.to("meta"))
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    layers(x)
    hook.remove()
    assert runs == []
    for owner, name in ((AffineCoupling, "move"), (MLP, "forward")):
        original = getattr(owner, name)
        layers(x)
        with monkeypatch.context() as m:
            m.setattr(owner, name, lambda *a, original=original: original(*a))
            layers(x)
    assert runs == [5, 5]


def test_what_was_changed_after_a_pass_counts(runs):
    """Another weight, clamp, layer or order; a hook that came and went."""
    x, layers = torch.randn(9, 4), chain((4, 2), clamp=2.0)

    def put(module: nn.Module, **new: object) -> None:
        for name, value in new.items():
            setattr(module, name, value)

    first = layers.layers[1]
    for change in (
        lambda: put(first.net.layers[0], weight=nn.Parameter(torch.randn(16, 2))),
        lambda: put(first.net.layers[0], bias=None),
        lambda: put(first, clamp=0.5),
        lambda: put(first, clamp=None),
        lambda: first.net.layers.__setitem__(1, nn.Tanh()),
        lambda: put(first, net=MLP(2, 4)),
        lambda: layers.layers.insert(4, layers.layers.pop(2)),
        lambda: first.register_forward_hook(lambda *_: None).remove(),
        lambda: layers.double() and layers.float(),
        lambda: first.net.layers[0].weight.data.mul_(2),
    ):
        layers(x)
        change()
        runs.clear()
        found = layers(x)
        assert runs == [5]
        with usual_way():
            expected = layers(x)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_nothing_is_held():
    """Neither a chain nor weights that were lent to it, with the graph that made them."""
    x, layers = torch.randn(9, 4), chain((4, 2))
    layers(x)
    lent = {name: (2 * p).requires_grad_() * 1 for name, p in layers.named_parameters()}
    torch.func.functional_call(layers, lent, (x,))
    weight, held = weakref.ref(next(iter(lent.values()))), weakref.ref(layers)
    del lent
    gc.collect()
    assert weight() is None
    del layers
    gc.collect()
    assert held() is None


def test_a_linear_layer_with_its_weights_in_another_order():
    """As parametrizations leave it: bias before weight."""
    layers, x = chain((4, 2)), torch.randn(9, 4)
    expected = layers(x)
    linear = layers.layers[1].net.layers[0]
    nn.utils.parametrizations.weight_norm(linear)
    nn.utils.parametrize.remove_parametrizations(linear, "weight")
    assert [*linear._parameters] == ["bias", "weight"]
    for a, b in zip(layers(x), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    linear.bias = None
    layers(x)[0].sum().backward()


def test_what_does_not_fit_is_said_the_usual_way(runs):
    layer = AffineCoupling(MLP(2, 4), writes=slice(0, 1), reads=slice(1, 3))
    with pytest.raises(ValueError, match="the network returned shape"):
        Flow([layer], StandardNormal(3)).log_prob(torch.zeros(2, 3))
    layer = AffineCoupling(MLP(3, 2), writes=slice(0, 1), reads=slice(1, 3))
    with pytest.raises(ValueError, match=r"expected \(B, 3\)"):
        Flow([layer], StandardNormal(3)).log_prob(torch.zeros(2, 3))
    assert runs == []
