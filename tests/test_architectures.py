"""Image layers, networks and recipes; residual flows; hierarchical ANF; CIF."""

import itertools

import pytest
import torch
import torch.distributions as td
from torch import nn

from augflow_mini import (
    MLP,
    ActNorm,
    AffineCoupling,
    Append,
    Augment,
    BernoulliNet,
    Carry,
    Chain,
    Checkerboard,
    Flow,
    Inverse,
    InvertibleLinear,
    InvertibleResidual,
    Logit,
    MixLogisticCoupling,
    On,
    Scale,
    Sigmoid,
    StandardNormal,
    affine_mlp,
    anf,
    anf_image,
    check_normalised,
    check_transform,
    cif,
    compile_parts,
    count_parameters,
    data_init,
    flowpp,
    glow,
    hierarchical_anf,
    latent_shape,
    randomise,
    realnvp,
    realnvp_image,
    vae,
    vflow,
    vflow_image,
    vflow_mini,
)
from augflow_mini.image_recipes import (
    FLOWPP_PLAN,
    IMAGE_CONFIGS,
    VFLOW_PLAN,
    affine_image,
    conditional_flow,
    planned,
)
from augflow_mini.imagenets import ConvNet, GatedAttentionNet, WideResidualNet
from augflow_mini.mixlogistic import MIN_LOG_SCALE, mixture_logit, mixture_logit_inverse

D64 = torch.float64
TINY = dict(filters=8, blocks=1, components=2, heads=2)
BOTH = ("checkerboard", "checkerboard", "squeeze", "channel", "channel")


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=D64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D64)


def ready(layers, x):
    """A chain in float64, ActNorms initialised, then every parameter replaced by noise."""
    chain = Chain(list(layers)).double()
    chain(x)
    return randomise(chain, seed=1)


# ---- each layer and each block of layers keeps the promises of a Transform --------------------


def mixture(inputs, width, components):
    return MLP(inputs, width * (2 + 3 * components), hidden=(8,), activation=nn.Tanh)


def appended():
    """Append, a coupling that reads what was appended, drop it again: square, so fully checked."""
    reader = Append(ConvNet(1, 3, filters=4, last_gain=1.0), reads=slice(0, 1), width=3)
    moved = affine_image(slice(1, 3), slice(3, 6), ConvNet, filters=4)
    return Chain([reader, moved, Inverse(reader)])


def mixed(net, start, stop, components, **options):
    return MixLogisticCoupling(net, writes=slice(start, stop), components=components, **options)


def attention(inputs, outputs, **options):
    return GatedAttentionNet(inputs, outputs, size=(4, 4), filters=4, heads=2, **options)


def convolutional(net):
    return affine_image(slice(1, 3), slice(0, 1), net, filters=4)


IMAGE, VECTOR = (3, 3, 4, 4), (5, 4)
SMOOTH = dict(hidden=(8,), activation=nn.Tanh)
LAYERS = {
    "mixture coupling": (lambda: mixed(mixture(2, 2, 3), 2, 4, 3), VECTOR),
    "mixture coupling, no clamp": (lambda: mixed(mixture(3, 1, 2), 0, 1, 2, clamp=None), VECTOR),
    "mixture flow in 1-D, reads nothing": (lambda: mixed(mixture(0, 1, 3), 0, 1, 3), (5, 1)),
    "mixture coupling, image": (lambda: mixed(attention(1, 16, blocks=1), 1, 3, 2), IMAGE),
    "gated attention with context": (
        lambda: AffineCoupling(attention(1, 2, blocks=2, context=1), writes=slice(2, 3)),
        IMAGE,
    ),
    "wide residual coupling": (lambda: convolutional(WideResidualNet), IMAGE),
    "convolutional coupling": (lambda: convolutional(ConvNet), IMAGE),
    "checkerboard": (Checkerboard, IMAGE),
    "checkerboard by columns": (lambda: Checkerboard(columns=True), IMAGE),
    "checkerboard in groups": (lambda: Checkerboard((1, 2)), IMAGE),
    "append, read, drop": (appended, IMAGE),
    "packed linear": (lambda: InvertibleLinear(4, noise=0.01), VECTOR),
    "residual": (lambda: InvertibleResidual(4, hidden=(8, 8)), VECTOR),
    "hierarchical ANF": (
        lambda: Chain(hierarchical_anf(4, [1, 2], steps=2, **SMOOTH)),
        VECTOR,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_keeps_its_promises(name):
    make, shape = LAYERS[name]
    layer = randomise(make().double(), seed=0, scale=1.0)
    for actnorm in (m for m in layer.modules() if isinstance(m, ActNorm)):
        actnorm.initialised.fill_(True)
    check_transform(layer, normal(*shape))


CONDITIONAL = dict(size=(4, 4), context=3, context_blocks=1, **TINY)
CHAINS = {
    "channel and checkerboard plan": lambda: planned(3, (4, 4), BOTH, **TINY),
    "norm for each position": lambda: planned(3, (4, 4), BOTH[:1], pixel_norm=True, **TINY),
    "conditional flow": lambda: conditional_flow(1, 2, **CONDITIONAL),
}


@pytest.mark.parametrize("name", CHAINS)
def test_blocks_of_layers_keep_their_promises(name):
    check_transform(ready(CHAINS[name](), normal(8, 3, 4, 4)), normal(3, 3, 4, 4, seed=1))


def test_conditional_flow_leaves_its_condition_alone():
    chain = ready(CHAINS["conditional flow"](), normal(8, 3, 4, 4))
    x = normal(3, 3, 4, 4, seed=1)
    z = chain(x)[0]
    assert torch.equal(z[:, :1], x[:, :1])
    assert (z[:, 1:] != x[:, 1:]).all()


def test_checkerboard_separates_the_colours():
    row, column = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    colour = ((row + column) % 2).double().expand(2, 1, 4, 6)
    black, white = Checkerboard()(colour)[0].unbind(1)
    assert (black == 0).all()
    assert (white == 1).all()
    even, odd = Checkerboard(columns=True)((column % 2).double().expand(2, 1, 4, 6))[0].unbind(1)
    assert (even == 0).all()
    assert (odd == 1).all()


# ---- the mixture-of-logistics map --------------------------------------------------------------


def some_mixture(seed=0):
    shape = (4, 3, 5)  # (B, W, K)
    log_weight = torch.log_softmax(2 * normal(*shape, seed=seed), dim=2)
    return log_weight, 2 * normal(*shape, seed=seed + 1), 0.7 * normal(*shape, seed=seed + 2)


def test_mixture_map_against_torch_distributions():
    log_weight, mean, log_scale = some_mixture()
    logistic = td.TransformedDistribution(
        td.Uniform(torch.zeros_like(mean), torch.ones_like(mean)),
        [td.SigmoidTransform().inv, td.AffineTransform(mean, log_scale.exp())],
    )
    oracle = td.MixtureSameFamily(td.Categorical(logits=log_weight), logistic)
    x = 2 * normal(4, 3, seed=9)
    y, log_slope = mixture_logit(x, log_weight, mean, log_scale)
    cdf = oracle.cdf(x)
    assert torch.allclose(torch.sigmoid(y), cdf, rtol=0, atol=1e-10)
    assert torch.allclose(y, torch.logit(cdf), rtol=0, atol=1e-10)
    expected = oracle.log_prob(x) - cdf.log() - (1 - cdf).log()
    assert torch.allclose(log_slope, expected, rtol=0, atol=1e-10)


def test_mixture_inverse_to_1e_10_and_its_gradient():
    parts = some_mixture(3)
    x = (3 * normal(4, 3, seed=8)).requires_grad_()
    y, log_slope = mixture_logit(x, *parts)
    back, log_slope_back = mixture_logit_inverse(y, *parts)
    assert torch.allclose(back, x, rtol=0, atol=1e-10)
    assert torch.allclose(log_slope_back, log_slope, rtol=0, atol=1e-10)
    leaves = [y.detach().requires_grad_(), *[p.clone().requires_grad_() for p in parts]]
    assert torch.autograd.gradcheck(mixture_logit_inverse, leaves, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, D64])
@pytest.mark.parametrize("place", [-50.0, 50.0])
@pytest.mark.parametrize("log_scale", [-30.0, MIN_LOG_SCALE, 0.0, 5.0])
@pytest.mark.parametrize("log_s", [-40.0, 40.0])
def test_mixture_gradients_are_finite_in_the_tails_and_at_the_clamps(
    dtype, place, log_scale, log_s
):
    coupling = MixLogisticCoupling(MLP(0, 11), writes=slice(0, 1), components=3)
    params = torch.randn(2, 11, dtype=dtype)
    params[:, 0], params[:, 8:] = log_s, log_scale
    params.requires_grad_()
    x = torch.full((2, 1), place, dtype=dtype, requires_grad=True)
    z, contrib = coupling.move(x, params)
    grads = torch.autograd.grad(z.sum() + contrib.sum(), [x, params])
    assert z.isfinite().all()
    assert contrib.isfinite().all()
    assert all(g.isfinite().all() for g in grads)
    back, _ = coupling.move_back(z, params)
    assert torch.allclose(back, x, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-10)


# ---- networks ----------------------------------------------------------------------------------


def test_data_init_gives_each_convolution_its_deviation():
    net = GatedAttentionNet(3, 4, size=(4, 4), filters=8, blocks=2, heads=2, last_gain=0.1)
    x = 30 * torch.randn(64, 3, 4, 4) + 7
    data_init(net, x)
    out = net(x)
    assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(out.std((0, 2, 3)), torch.full((4,), 0.1), rtol=1e-3)
    assert not any(m._forward_hooks for m in net.modules())


def test_attention_reaches_every_position_and_knows_where_it_is():
    net = randomise(
        GatedAttentionNet(1, 1, size=(8, 8), filters=8, blocks=1, heads=4).double(), seed=0
    )
    x = normal(1, 1, 8, 8).requires_grad_()
    corner = net(x)[0, 0, 0, 0]
    assert (torch.autograd.grad(corner, x)[0] != 0).all()
    flat = net(torch.zeros(1, 1, 8, 8, dtype=D64))[0, 0]
    assert flat[3:5, 3:5].unique().numel() == 4  # equal inputs, distinct positions


def test_heads_must_share_the_filters():
    with pytest.raises(ValueError, match="multiple of 4"):
        GatedAttentionNet(1, 1, size=(4, 4), filters=6, heads=4)


# ---- configurations of the papers --------------------------------------------------------------


def parts_of(name):
    """Parameters of (flow, dequantiser, posterior), built on the meta device."""
    with torch.device("meta"):
        layers = vflow_image(**IMAGE_CONFIGS[name])
    carry = next(i for i, layer in enumerate(layers) if isinstance(layer, Carry))
    augments = [i for i, layer in enumerate(layers) if isinstance(layer, Augment)]
    squash = [
        i
        for i, layer in enumerate(layers)
        if isinstance(layer, On) and isinstance(layer.layer, Sigmoid)
    ]
    start = squash[-1] if len(augments) > 1 else carry
    split = [layers[start:], layers[:carry], layers[carry:start]]
    return count_parameters(Chain(layers)), [count_parameters(Chain(part)) for part in split]


def test_paper_configurations_have_the_published_parameter_counts():
    assert parts_of("flowpp_cifar10")[0] == 31_443_440
    total, parts = parts_of("vflow_cifar10")
    assert parts == [31_741_248, 3_466_976, 4_491_872]
    assert total == 39_700_096


def test_mini_family_spends_one_budget():
    counts = []
    for extra in (0, 1, 3):
        with torch.device("meta"):
            counts.append(count_parameters(Chain(vflow_mini(extra))))
    assert counts == [991_676, 998_696, 986_658]
    assert max(counts) / min(counts) < 1.02


# ---- recipes on images -------------------------------------------------------------------------

SMALL = (3, 8, 8)
SOME = dict(TINY, context=4)


def small_vflow(**options):
    return lambda: vflow_image(SMALL, **SOME, **options)


RELEASED = dict(extra=1, squash=True, pixel_norm=True, dropout=0.2)
RECIPES = {
    "flowpp": (lambda: flowpp(SMALL, **SOME), (12, 4, 4)),
    "vflow": (small_vflow(extra=3, plan=VFLOW_PLAN), (24, 4, 4)),
    "vflow as released": (small_vflow(**RELEASED), (16, 4, 4)),
    "no flow in q": (small_vflow(extra=1, dequant_blocks=0, posterior_blocks=0), (16, 4, 4)),
    "glow": (lambda: glow(SMALL, filters=8, steps=2), (24, 2, 2)),
    "glow, more channels": (lambda: glow(SMALL, extra=1, filters=8, steps=2), (32, 2, 2)),
    "realnvp": (lambda: realnvp_image(SMALL, filters=8, blocks=1), (6, 4, 4)),
    "anf": (lambda: anf_image(SMALL, extra=4, filters=8, blocks=1), (16, 4, 4)),
}


def image_flow(name):
    make, shape = RECIPES[name]
    flow = Flow(make(), StandardNormal(*shape))
    x = torch.randint(0, 256, (16, *SMALL)).float()
    data_init(flow.chain, x)
    with torch.no_grad():  # off the zero-initialised start
        for p in flow.parameters():
            p.add_(0.01 * torch.randn_like(p))
    return flow, x


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_samples_encodes_and_decodes(name):
    flow, x = image_flow(name)
    optimiser = torch.optim.Adam(flow.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = -flow.log_weight(x).mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < sum(losses[:3])
    flow.eval()
    with torch.no_grad():
        sample = flow.sample(3)
        assert sample.shape == (3, *SMALL)
        assert torch.equal(sample, sample.round().clamp(0, 255))
        bound = flow.iw_bound(x[:4], 3)
        flow.double()  # in float32 noise that is all but 0 or 1 may round to the next integer
        assert torch.equal(flow.decode(flow.encode(x.double())), x.double())
    assert (bound.value >= bound.elbo).all()


def test_latent_shape_says_what_the_base_must_be():
    assert latent_shape((3, 32, 32), extra=3, plan=VFLOW_PLAN) == (24, 16, 16)
    for name, extra in (("flowpp", 0), ("vflow as released", 1), ("vflow", 3)):
        assert latent_shape(SMALL, extra=extra) == RECIPES[name][1]


def test_an_unknown_word_in_a_plan_is_named():
    with pytest.raises(ValueError, match="'chanel' is unknown"):
        vflow_image(SMALL, plan=("chanel",), **SOME)


def test_flowpp_is_vflow_without_extra_channels():
    """Flow++ assembled here by hand, given the recipe's weights: one and the same density."""
    recipe, x = image_flow("flowpp")
    by_hand = Flow(
        [
            Augment(StandardNormal(*SMALL), keep=3),
            *conditional_flow(
                3, 3, size=SMALL[1:], levels=256, context=4, **{**TINY, "blocks": 2}
            ),
            On(slice(3, 6), Sigmoid()),
            Carry(256),
            Scale(0.9, shift=0.05),
            Logit(),
            *planned(3, (8, 8), FLOWPP_PLAN, **TINY),
        ],
        StandardNormal(12, 4, 4),
    )
    by_hand.load_state_dict(recipe.state_dict())
    with torch.no_grad():
        torch.manual_seed(1)
        a = recipe.double().log_weight(x.double())
        torch.manual_seed(1)
        b = by_hand.double().log_weight(x.double())
    assert torch.equal(a, b)


def test_round_trip_at_image_size_in_float64_and_float32():
    with torch.no_grad():
        layers = planned(3, (32, 32), FLOWPP_PLAN, filters=16, blocks=1, components=4, heads=4)
        chain = ready(layers, normal(8, 3, 32, 32))
        x = 2 * normal(2, 3, 32, 32, seed=1)
        z, contrib = chain(x)
        back, contrib_back = chain.inverse(z)
        error = (back - x).abs().max().item()
        assert error < 1e-8
        assert torch.allclose(contrib_back, -contrib, rtol=1e-10, atol=1e-8)
        single = chain.float()
        error32 = (single.inverse(single(x.float())[0])[0] - x.float()).abs().max().item()
    print(f"round trip at 3x32x32: float64 {error:.1e}, float32 {error32:.1e}")
    assert error32 < 1e-2


# ---- half precision and compilation ------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_bf16_autocast_touches_only_the_networks(name):
    flow, x = image_flow(name)
    flow.eval()
    torch.manual_seed(1)
    full = flow.log_weight(x)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = flow.log_weight(x)
        loss = -half.mean()
    loss.backward()
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)  # something ran in half precision
    assert (half - full).abs().max() < 0.02 * full.abs().mean()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in flow.parameters()
    )


def test_flow_arithmetic_stays_in_float32_under_autocast():
    """The linear layer's own matrix product must not round the data to 8 bits."""
    layer, x = InvertibleLinear(6), torch.randn(4, 6, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x)[0], layer(x.clone())[0])
        inside = layer(x)[0]
    assert torch.equal(inside, layer(x)[0])


# torch's own tracer looks at .grad of tensors that are no leaves
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)
@pytest.mark.parametrize(
    "name", ["flowpp", "vflow", "vflow as released", "glow", "realnvp", "anf"]
)
def test_compiled_recipe_says_the_same(name):
    flow, x = image_flow(name)
    torch.manual_seed(1)
    eager = flow.log_weight(x)
    if "flow" in name:  # many layers: compile the repeated parts
        compiled = compile_parts(flow, backend="aot_eager").log_weight
    else:  # checks of the data fall away inside the graph, so it is one graph
        compiled = torch.compile(flow.chain, backend="aot_eager", fullgraph=True)
        compiled = lambda x, run=compiled: (lambda z, c: flow.base.log_prob(z) + c)(*run(x))  # noqa: E731
    torch.manual_seed(1)
    again = compiled(x)
    again.mean().backward()
    assert torch.allclose(again, eager, rtol=1e-5)
    torch._dynamo.reset()


PLANE = {
    "realnvp": (lambda: realnvp(2, couplings=2, linear=True), 2),
    "vae": (lambda: vae(2, 1), 3),
    "anf": (lambda: anf(2, 2, steps=2), 4),
    "hierarchical anf": (lambda: hierarchical_anf(2, [1, 1]), 4),
    "cif": (lambda: cif(2, 1, steps=1, couplings=2), 2),
    "vflow": (lambda: vflow(2, 2, joint=realnvp(4, couplings=2)), 4),
}


def plane_flow(name):
    make, width = PLANE[name]
    torch.manual_seed(0)
    return Flow(make(), StandardNormal(width)), torch.randn(64, 2)


def log_weight_and_gradients(log_weight, x, parameters):
    torch.manual_seed(1)
    log_w = log_weight(x)
    return log_w, torch.autograd.grad(log_w.mean(), [*parameters])


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)
@pytest.mark.parametrize("name", PLANE)
def test_compiled_recipe_of_vectors_says_the_same(name):
    """One graph, without a break; values and gradients."""
    flow, x = plane_flow(name)
    compiled = torch.compile(flow.chain, backend="aot_eager", fullgraph=True)

    def log_weight(x):
        z, contrib = compiled(x)
        return flow.base.log_prob(z) + contrib

    expected, gradients = log_weight_and_gradients(flow.log_weight, x, flow.parameters())
    again, found = log_weight_and_gradients(log_weight, x, flow.parameters())
    assert torch.allclose(again, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(found, gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", PLANE)
def test_recipe_of_vectors_takes_half_precision(name):
    flow, x = plane_flow(name)
    full, _ = log_weight_and_gradients(flow.log_weight, x, flow.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, gradients = log_weight_and_gradients(flow.log_weight, x, flow.parameters())
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)  # something ran in half precision
    assert (half - full).abs().mean() < 0.02 * full.abs().mean()
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


# ---- checks that may be switched off -----------------------------------------------------------


def test_validate_false_skips_the_look_and_stays_finite():
    bad = torch.tensor([[0.0, 1.0]])
    with pytest.raises(ValueError, match="Scale"):
        Logit()(bad)
    z, contrib = Logit(validate=False)(bad)
    assert z.isfinite().all()
    assert contrib.isfinite().all()
    with pytest.raises(ValueError, match="raw levels"):
        Carry(4)(torch.tensor([[7.0, 0.5]]))
    assert Carry(4, validate=False)(torch.tensor([[7.0, 0.5]]))[0].isfinite().all()
    with pytest.raises(ValueError, match="binarise"):
        BernoulliNet(MLP(1, 1)).log_prob(torch.tensor([[0.5]]), torch.zeros(1, 1))
    law = BernoulliNet(MLP(1, 1), validate=False)
    assert law.log_prob(torch.tensor([[0.5]]), torch.zeros(1, 1)).isfinite().all()
    flow = Flow([], StandardNormal(2), validate=False)
    assert flow.log_prob(torch.full((1, 2), torch.nan)).isnan().all()


# ---- hierarchical ANF, CIF, residual flows -----------------------------------------------------


def gaussian(value, log_s, mean):
    return td.Normal(mean, log_s.exp()).log_prob(value).sum(1)


@pytest.mark.parametrize("widths", [[2, 1], [2, 1, 3]])
def test_one_step_hierarchical_anf_is_the_hvae_integrand(widths):
    """log p(z_L) + sum log p(z_l | z_>l) + log p(x | z) - sum log q(z_l | z_<l, x), by hand."""
    n, levels = 3, len(widths)
    flow = Flow(
        hierarchical_anf(n, widths, hidden=(8,), activation=nn.Tanh),
        StandardNormal(n + sum(widths)),
    ).double()
    randomise(flow, seed=2, scale=0.7)
    x = normal(6, n)
    torch.manual_seed(3)
    log_w = flow.log_weight(x)
    torch.manual_seed(3)
    e = torch.randn(6, sum(widths), dtype=D64).split(widths, dim=1)

    encoders = [layer.net for layer in flow.chain if isinstance(layer, AffineCoupling)]
    decoders = [
        layer.layer.net
        for layer in flow.chain
        if isinstance(layer, Inverse) and not isinstance(layer, Augment)
    ]
    assert (len(encoders), len(decoders)) == (levels, levels)
    z, log_q = [], 0.0
    for e_l, net in zip(e, encoders, strict=True):
        log_s, mean = net(torch.cat([x, *z], 1)).chunk(2, 1)
        z.append(mean + log_s.exp() * e_l)
        log_q = log_q + gaussian(z[-1], log_s, mean)
    log_p = td.Normal(0.0, 1.0).log_prob(z[-1]).sum(1)
    log_p = log_p + gaussian(x, *decoders[0](torch.cat(z, 1)).chunk(2, 1))
    for i, net in enumerate(decoders[1:]):
        log_p = log_p + gaussian(z[i], *net(torch.cat(z[i + 1 :], 1)).chunk(2, 1))
    assert torch.allclose(log_w, log_p - log_q, rtol=0, atol=1e-10)


def test_one_level_hierarchical_anf_is_anf():
    options = dict(steps=2, hidden=(8,))
    a = Flow(hierarchical_anf(3, [2], **options), StandardNormal(5)).double()
    b = Flow(anf(3, 2, **options), StandardNormal(5)).double()
    randomise(a, seed=0)
    b.load_state_dict(a.state_dict())
    x = normal(6, 3)
    torch.manual_seed(1)
    first = a.log_weight(x)
    torch.manual_seed(1)
    assert torch.equal(first, b.log_weight(x))
    assert str(a) == str(b)


def test_cif_density_integrates_to_one():
    grid = torch.linspace(-12, 12, 481, dtype=D64)[:, None]
    flow = Flow(
        cif(1, 1, steps=2, hidden=(8,), activation=nn.Tanh, clamp=1.0), StandardNormal(1)
    ).double()
    randomise(flow, seed=3, scale=0.4)
    torch.manual_seed(0)
    check_normalised(flow, grid, 24 / 480, k=2000, atol=5e-3)


def test_cif_keeps_nothing_of_its_noise():
    flow = Flow(cif(2, 1, steps=2, couplings=2, hidden=(8,)), StandardNormal(2)).double()
    x = normal(4, 2)
    latents = flow.encode(x)
    assert latents.z.shape == (4, 2)
    assert torch.allclose(flow.decode(latents), x, rtol=0, atol=1e-12)
    assert flow.sample(3).shape == (3, 2)
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    start = flow.elbo(x, draws=200).mean().item()
    for _ in range(30):
        optimiser.zero_grad()
        (-flow.log_weight(x).mean()).backward()
        optimiser.step()
    assert flow.elbo(x, draws=200).mean().item() > start


def trained_residual():
    layer = InvertibleResidual(2, hidden=(16, 16)).double()
    flow = Flow([layer, InvertibleResidual(2, hidden=(16, 16)).double()], StandardNormal(2))
    optimiser = torch.optim.Adam(flow.parameters(), lr=2e-2)
    x = normal(128, 2) * torch.tensor([1.5, 0.4])
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    return layer, x


def test_residual_layer_contracts_inverts_and_estimates_after_training():
    layer, x = trained_residual()
    norms = [
        torch.linalg.matrix_norm(m.weight, ord=2) for m in layer.net if isinstance(m, nn.Linear)
    ]
    assert torch.stack(norms).prod() <= layer.lipschitz + 1e-12
    points = 3 * normal(256, 2, seed=5)
    jacobian = layer._jacobian(points) - torch.eye(2, dtype=D64)
    assert torch.linalg.matrix_norm(jacobian, ord=2).max() < layer.lipschitz
    z, contrib = layer(points)
    assert torch.allclose(layer.inverse(z)[0], points, rtol=0, atol=1e-8)
    with torch.no_grad():
        exact = layer(x[:4])[1]
        draws = torch.stack([layer.log_det_estimate(x[:4]) for _ in range(3000)])
    error = (draws.mean(0) - exact) / (draws.std(0) / 3000**0.5)
    assert (error.abs() < 3).all()
    gradient = torch.autograd.grad(layer.log_det_estimate(x).sum(), layer.net[0].bias)[0]
    assert gradient.abs().max() > 0


def test_residual_layer_refuses_a_bound_of_one():
    with pytest.raises(ValueError, match="need not be invertible"):
        InvertibleResidual(2, lipschitz=1.0)


def test_every_public_size_of_the_hierarchy_counts_its_couplings():
    for levels, steps in itertools.product((1, 2, 3), (1, 2)):
        layers = hierarchical_anf(2, [1] * levels, steps=steps)
        assert len(layers) == 1 + 2 * levels * steps
    assert isinstance(affine_mlp(slice(0, 1), [slice(1, 2), slice(3, 4)]), AffineCoupling)


# ---- the chain's short cut ---------------------------------------------------------------------


def test_a_subclass_with_its_own_forward_is_asked_by_the_chain():
    class Doubled(AffineCoupling):
        def forward(self, x):
            z, contrib = super().forward(x)
            return z, 2 * contrib

    layers = [
        Doubled(layer.net, writes=layer.writes, reads=layer.reads)
        for layer in realnvp(2, couplings=2)
    ]
    chain, x = randomise(Chain(layers).double(), seed=0), normal(4, 2)
    first, a = layers[0](x)
    assert torch.equal(chain(x)[1], a + layers[1](first)[1])


def test_a_contribution_of_a_wrong_shape_is_seen_in_a_run_of_couplings():
    class Unsummed(AffineCoupling):
        def move(self, x, params):
            z, _ = super().move(x, params)
            return z, params[:, :1]

    good, bad = realnvp(2, couplings=2)
    chain = Chain([good, Unsummed(bad.net, writes=bad.writes, reads=bad.reads)])
    assert chain[1].cut is not None
    with pytest.raises(ValueError, match=r"Unsummed returned a contribution of shape \(4, 1\)"):
        chain(torch.randn(4, 2))


@pytest.mark.parametrize("layers", [anf(3, 2, steps=2), realnvp(5, couplings=4)])
def test_a_run_of_couplings_on_two_halves_is_what_its_layers_are(layers):
    """A chain cuts once for couplings that share their halves; each layer alone cuts itself."""
    chain = randomise(Chain(layers[-4:]).double(), seed=0)
    assert len({layer.cut for layer in chain}) == 1
    assert chain[0].cut is not None
    x = normal(6, 5)
    one_by_one, total = x, 0.0
    for layer in chain:
        one_by_one, contrib = layer(one_by_one)
        total = total + contrib
    z, contrib = chain(x)
    assert torch.equal(z, one_by_one)
    assert torch.equal(contrib, total)
    back, minus = chain.inverse(z)
    assert torch.allclose(back, x, rtol=0, atol=1e-12)
    assert torch.allclose(minus, -contrib, rtol=0, atol=1e-12)
    wider = torch.cat([x, x[:, :1]], 1)  # the layers leave a sixth feature alone, together too
    assert torch.equal(chain(wider)[0], torch.cat([z, x[:, :1]], 1))
