"""Every layer of the core keeps the promises of a Transform; images, laws and ActNorm's start."""

import math

import pytest
import torch
from torch import nn

from augflow_mini import (
    MLP,
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Augment,
    BernoulliNet,
    Carry,
    Chain,
    GaussianNet,
    Inverse,
    InvertibleLinear,
    Logit,
    On,
    Permute,
    Scale,
    Sigmoid,
    Slice,
    Squeeze,
    StandardNormal,
    StandardUniform,
    affine_mlp,
    anf,
    check_transform,
    randomise,
    realnvp,
    uniform_dequantize,
    variational_dequantize,
    vflow,
)
from augflow_mini.nets import run

F64 = torch.float64


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def pairs(b, d, levels):
    """Integers and noise, as Carry takes them: (b, 2 d)."""
    return torch.cat([(uniform(b, d) * levels).floor(), uniform(b, d, seed=1)], dim=1)


def smooth(inputs, outputs):
    return MLP(inputs, outputs, hidden=(8, 8), activation=nn.Tanh)


def ready_actnorm(features):
    layer = ActNorm(features)
    layer.initialised.fill_(True)
    return layer


def sides(d):
    return slice(0, d // 2), slice(d // 2, d)


VECTOR_LAYERS = {
    "affine coupling": lambda d: affine_mlp(*sides(d), hidden=(8,), activation=nn.Tanh),
    "affine coupling, relu": lambda d: affine_mlp(*sides(d), hidden=(8,)),
    "affine coupling, clamped": lambda d: affine_mlp(*sides(d)[::-1], hidden=(8,), clamp=0.3),
    "affine coupling, reads the rest": lambda d: AffineCoupling(
        smooth(d - 1, 2), writes=slice(d // 2, d // 2 + 1)
    ),
    "affine coupling, reads nothing": lambda d: AffineCoupling(
        smooth(0, 2 * d), writes=slice(0, d)
    ),
    "additive coupling": lambda d: AdditiveCoupling(
        smooth(d // 2, d - d // 2), reads=sides(d)[0], writes=sides(d)[1]
    ),
    "additive coupling, two blocks read": lambda d: Chain(
        [
            Augment(StandardNormal(2), keep=d),
            AdditiveCoupling(
                smooth(d, 2), reads=[slice(0, 1), slice(1, d)], writes=slice(d, d + 2)
            ),
        ]
    ),
    "actnorm": ready_actnorm,
    "invertible linear": InvertibleLinear,
    "permute": lambda d: Permute([(i + 1) % d for i in range(d)]),
    "sigmoid": lambda d: Sigmoid(),
    "scale": lambda d: Scale(-0.3, shift=2.0),
    "on a block": lambda d: On(slice(1, d), Scale(2.0)),
    "sigmoid on a block": lambda d: On(slice(1, 2), Sigmoid()),
    "inverse": lambda d: Inverse(affine_mlp(*sides(d), hidden=(8,), activation=nn.Tanh)),
    "inverse of an inverse": lambda d: Inverse(Inverse(InvertibleLinear(d))),
    "augment": lambda d: Augment(StandardNormal(2), keep=d),
    "augment, learned law": lambda d: Augment(GaussianNet(smooth(d, 4)), keep=d),
    "augment, uniform law": lambda d: Augment(StandardUniform(1), keep=d),
    "slice": lambda d: Slice(StandardNormal(1), keep=d - 1),
    "slice, learned law": lambda d: Slice(GaussianNet(smooth(d - 1, 2)), keep=d - 1),
    "empty chain": lambda d: Chain([]),
    "realnvp": lambda d: Chain(realnvp(d, couplings=4, linear=True, hidden=(8,))),
    "anf": lambda d: Chain(anf(d, 2, steps=2, hidden=(8,))),
    "vflow": lambda d: Chain(
        vflow(
            d,
            2,
            posterior=[affine_mlp(slice(d, d + 2), slice(0, d), hidden=(8,))],
            joint=realnvp(d + 2, couplings=2, hidden=(8,)),
        )
    ),
}
UNIT_LAYERS = {"logit": lambda d: Logit(), "inverse sigmoid": lambda d: Inverse(Sigmoid())}
INTEGER_LAYERS = {
    "uniform dequantisation": lambda d: Chain(uniform_dequantize(17, d)),
    "variational dequantisation": lambda d: Chain(
        variational_dequantize(
            17, d, layers=[affine_mlp(slice(d, 2 * d), slice(0, d), hidden=(8,))]
        )
    ),
}


def conv(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, 6, 1), nn.Tanh(), nn.Conv2d(6, outputs, 1))


IMAGE_LAYERS = {
    "actnorm": lambda: ready_actnorm(2),
    "invertible 1x1 convolution": lambda: InvertibleLinear(2),
    "squeeze": Squeeze,
    "unsqueeze": lambda: Chain([Squeeze(), Inverse(Squeeze())]),
    "permute": lambda: Permute([1, 0]),
    "sigmoid": Sigmoid,
    "scale": lambda: Scale(3.0, shift=-1.0),
    "affine coupling": lambda: AffineCoupling(conv(1, 2), writes=slice(1, 2)),
    "additive coupling": lambda: AdditiveCoupling(conv(1, 1), writes=slice(0, 1)),
    "augment": lambda: Augment(StandardNormal(3, 4, 4), keep=2),
    "slice": lambda: Slice(GaussianNet(conv(1, 2)), keep=1),
    "multi-scale": lambda: Chain(
        [
            Squeeze(),
            ready_actnorm(8),
            InvertibleLinear(8),
            AffineCoupling(conv(4, 8), reads=slice(0, 4), writes=slice(4, 8)),
        ]
    ),
}


def check(make, x, scale=1.0):
    torch.manual_seed(0)
    check_transform(randomise(make().double(), seed=0, scale=scale), x)


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("name", VECTOR_LAYERS)
def test_layer_keeps_its_promises(name, d):
    deep = name in ("realnvp", "anf", "vflow")  # large scales compound
    check(lambda: VECTOR_LAYERS[name](d), normal(5, d), scale=0.5 if deep else 1.0)


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("name", UNIT_LAYERS)
def test_layer_on_the_unit_interval_keeps_its_promises(name, d):
    check(lambda: UNIT_LAYERS[name](d), 0.02 + 0.96 * uniform(5, d))


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("name", INTEGER_LAYERS)
def test_layer_on_integers_keeps_its_promises(name, d):
    check(lambda: INTEGER_LAYERS[name](d), (uniform(5, d) * 17).floor(), scale=0.2)


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_image_layer_keeps_its_promises(name):
    check(IMAGE_LAYERS[name], normal(3, 2, 4, 4))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_carry_keeps_its_promises(d):
    check(lambda: Carry(17), pairs(5, d, 17))


def test_contribution_of_carry_is_the_jacobian_in_the_noise():
    x = pairs(4, 2, 17)
    whole, u = x[:, :2], x[:, 2:]
    row = lambda i: torch.autograd.functional.jacobian(  # noqa: E731
        lambda v: Carry(17)(torch.cat([whole[i], v])[None])[0][0], u[i]
    )
    log_det = torch.stack([torch.linalg.slogdet(row(i)).logabsdet for i in range(4)])
    torch.testing.assert_close(Carry(17)(x)[1], log_det, atol=1e-12, rtol=0)


def test_carry_puts_noise_strictly_inside_its_bin():
    """Edges of bins have finite logits both ways, so that sampling never meets an infinite one."""
    for dtype in (torch.float32, F64):
        y = torch.arange(256, dtype=dtype)[:, None] / 256
        pair = Carry(256).inverse(y)[0]
        assert (pair[:, 1] > 0).all() and (pair[:, 1] < 1).all()
        assert torch.equal(pair[:, :1], y * 256)
        almost = torch.full((256, 1), 1 - torch.finfo(dtype).eps / 2, dtype=dtype)
        again = Carry(256)(torch.cat([y * 256, almost], dim=1))[0]
        assert torch.equal((again * 256).floor(), y * 256)  # noise never moves the integer


# ---- the plain network ----------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_mlp_is_its_layers_bit_for_bit(activation):
    net, x = MLP(3, 2, activation=activation), torch.randn(7, 3)
    assert torch.equal(net(x), net.layers(x))


def test_an_activation_overwrites_nothing_that_another_one_has_seen():
    """Neither the input nor what a hook was given; only a product that stands right before it."""
    net, x, seen = MLP(3, 2, hidden=(4,)), torch.randn(7, 3), []
    before = x.clone()
    run(nn.Sequential(nn.ReLU(), nn.Tanh()), x)
    assert torch.equal(x, before)
    net.layers[0].register_forward_hook(lambda _, args, out: seen.append(out))
    net(x)
    assert (seen[0] < 0).any()


def test_mlp_calls_what_is_watched_or_reparametrised():
    net, x, seen = MLP(3, 2, hidden=(4,)), torch.randn(7, 3), []
    net.layers[0].register_forward_hook(lambda *_: seen.append("after"))
    net.layers[1].register_forward_pre_hook(lambda *_: seen.append("before"))
    nn.utils.parametrizations.weight_norm(net.layers[2])
    with torch.no_grad():
        net.layers[2].parametrizations.weight.original0.mul_(2)
    assert torch.equal(net(x), net.layers(x))
    assert seen == ["after", "before"] * 2


# ---- structure ------------------------------------------------------------------------------


def layer_scale(layer, x):
    return layer.net(x[:, :1])[0, :2].exp()


def test_coupling_writes_only_its_block_and_reads_only_what_it_says():
    layer = randomise(
        affine_mlp(slice(2, 4), slice(0, 1), hidden=(8,), activation=nn.Tanh).double(), seed=0
    )
    x = normal(4, 5)
    z = layer(x)[0]
    assert torch.equal(z[:, [0, 1, 4]], x[:, [0, 1, 4]])
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0][0], x[0])
    assert (jacobian[2:4, 0] != 0).all()  # it does read feature 0
    expected = torch.zeros(2, 5, dtype=F64)
    expected[:, 0], expected[0, 2], expected[1, 3] = jacobian[2:4, 0], *layer_scale(layer, x[:1])
    torch.testing.assert_close(jacobian[2:4], expected, atol=1e-12, rtol=0)


def test_additive_coupling_contributes_exactly_zero():
    layer = randomise(VECTOR_LAYERS["additive coupling"](4).double(), seed=0)
    assert torch.equal(layer(normal(3, 4))[1], torch.zeros(3, dtype=F64))


def test_clamp_bounds_the_scale():
    layer = affine_mlp(slice(1, 2), slice(0, 1), hidden=(8,), clamp=0.3).double()
    randomise(layer, seed=0, scale=50.0)
    log_s = layer(normal(64, 2) * 10)[1]
    assert 0.29 < log_s.abs().max() <= 0.3


def test_linear_layer_starts_as_a_rotation_and_factors_its_matrix():
    torch.manual_seed(3)
    layer = InvertibleLinear(4).double()
    w = layer.weight()
    torch.testing.assert_close(w @ w.T, torch.eye(4, dtype=F64), atol=1e-6, rtol=0)
    x = normal(6, 4)
    torch.testing.assert_close(layer(x)[0], x @ w.T)
    image = normal(2, 4, 3, 3)
    torch.testing.assert_close(layer(image)[0], torch.einsum("dc,bchw->bdhw", w, image))


def test_squeeze_puts_each_2x2_patch_into_channels():
    x = torch.arange(32.0, dtype=F64).view(1, 2, 4, 4)
    z = Squeeze()(x)[0]
    assert z.shape == (1, 8, 2, 2)
    assert torch.equal(z[0, :4, 0, 0], x[0, 0, :2, :2].flatten())
    assert torch.equal(z[0, 4:, 1, 1], x[0, 1, 2:, 2:].flatten())


def test_chain_is_flat_and_grouping_does_not_matter():
    torch.manual_seed(0)
    a, b, c = (InvertibleLinear(3).double() for _ in range(3))
    x = normal(4, 3)
    flat = Chain([a, b, c])
    for grouped in (Chain([Chain([a, b]), c]), Chain([a, Chain([b, c])])):
        assert len(grouped) == 3
        assert all(torch.equal(s, t) for s, t in zip(grouped(x), flat(x), strict=True))
    assert torch.equal(flat[1:](b.inverse(x)[0])[0], c(b(b.inverse(x)[0])[0])[0])


def test_augment_is_the_inverse_of_slice_with_the_same_noise():
    law, x = StandardNormal(2), normal(4, 3)
    torch.manual_seed(1)
    z, contrib = Augment(law, keep=3)(x)
    torch.manual_seed(1)
    z2, minus = Slice(law, keep=3).inverse(x)
    assert torch.equal(z, z2) and torch.equal(contrib, minus)
    kept, log_p = Slice(law, keep=3)(z)
    assert torch.equal(kept, x) and torch.equal(log_p, -contrib)


def test_gradients_are_right_where_autograd_is_not_the_judge():
    """gradcheck compares the backward pass with finite differences, once for each family."""
    for name in ("affine coupling", "invertible linear", "sigmoid"):
        layer = randomise(VECTOR_LAYERS[name](2).double(), seed=0)
        assert torch.autograd.gradcheck(layer, normal(2, 2).requires_grad_())
        assert torch.autograd.gradcheck(layer.inverse, uniform(2, 2).requires_grad_())


# ---- ActNorm --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 3), (16, 3, 4, 4)])
def test_actnorm_starts_from_its_first_training_batch_only(shape):
    x = normal(*shape) * 3 + 5
    layer = ActNorm(3).double()
    z = layer(x)[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(3, dtype=F64), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.std(1), torch.ones(3, dtype=F64), atol=1e-12, rtol=0)
    before = layer.state_dict()["shift"].clone()
    layer(x + 100)
    assert torch.equal(layer.shift, before)


def test_actnorm_is_initialised_after_loading_and_forgets_a_loaded_fresh_start():
    x = normal(8, 3) + 4
    layer, other = ActNorm(3).double(), ActNorm(3).double()
    z, contrib = layer(x)
    other.load_state_dict(layer.state_dict())
    z2, contrib2 = other.eval()(x)
    assert torch.equal(z, z2) and torch.equal(contrib, contrib2)
    layer.load_state_dict(ActNorm(3).double().state_dict())
    with pytest.raises(RuntimeError, match="before initialisation"):
        layer.inverse(z)


def test_actnorm_keeps_a_constant_feature_finite():
    layer = ActNorm(2).double()
    z, contrib = layer(torch.tensor([[1.0, 2.0], [1.0, 3.0]], dtype=F64))
    assert z.isfinite().all() and contrib.isfinite().all()


# ---- laws -----------------------------------------------------------------------------------


LAWS = {
    "standard normal": lambda: StandardNormal(3),
    "uniform": lambda: StandardUniform(3),
    "gaussian network": lambda: GaussianNet(smooth(2, 6)),
    "bernoulli network": lambda: BernoulliNet(smooth(2, 3)),
}


@pytest.mark.parametrize("name", LAWS)
def test_law_draws_what_its_log_prob_says(name):
    law = randomise(LAWS[name]().double(), seed=0)
    given = normal(1, 2).expand(40_000, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        value, log_prob = law.draw(given)
        torch.testing.assert_close(law.log_prob(value, given), log_prob, atol=1e-12, rtol=0)
        expected = {
            "standard normal": (torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)),
            "uniform": (torch.full((3,), 0.5, dtype=F64), torch.full((3,), 12**-0.5, dtype=F64)),
        }
        if name == "gaussian network":
            log_s, mean = law.net(given[:1])[0].chunk(2)
            expected[name] = mean, log_s.exp()
        if name == "bernoulli network":
            p = torch.sigmoid(law.net(given[:1])[0])
            expected[name] = p, (p * (1 - p)).sqrt()
    mean, sd = expected[name]
    assert ((value.mean(0) - mean).abs() < 5 * sd / 200).all()
    torch.testing.assert_close(value.std(0), sd, rtol=0.03, atol=0)


def test_laws_against_torch_distributions():
    from torch.distributions import Bernoulli, Independent, Normal

    given, value = normal(5, 2), normal(5, 3, seed=1)
    gaussian = randomise(GaussianNet(smooth(2, 6)).double(), seed=0)
    log_s, mean = gaussian.net(given).chunk(2, dim=1)
    theirs = Independent(Normal(mean, log_s.exp()), 1).log_prob(value)
    torch.testing.assert_close(gaussian.log_prob(value, given), theirs, atol=1e-12, rtol=0)

    bits = (value > 0).to(F64)
    bernoulli = randomise(BernoulliNet(smooth(2, 3)).double(), seed=0)
    theirs = Independent(Bernoulli(logits=bernoulli.net(given)), 1).log_prob(bits)
    torch.testing.assert_close(bernoulli.log_prob(bits, given), theirs, atol=1e-12, rtol=0)

    theirs = Independent(Normal(torch.zeros(3, dtype=F64), 1.0), 1)
    torch.testing.assert_close(StandardNormal(3).log_prob(value), theirs.log_prob(value))
    assert StandardNormal(3).entropy() == pytest.approx(theirs.entropy().item(), abs=1e-12)
    assert StandardUniform(2).log_prob(torch.tensor([[0.0, 0.5], [0.5, 1.0]])).tolist() == [
        0.0,
        -math.inf,
    ]
