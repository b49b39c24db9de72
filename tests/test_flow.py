"""Flows as models: samples, codes that lose nothing, bits per dimension, seeds, learning."""

import math

import pytest
import torch
from by_hand import F64, SMALL, begin, equal, model, normal, tensor
from torch import nn

from augflow_mini import (
    ActNorm,
    AffineCoupling,
    Augment,
    Chain,
    Flow,
    GaussianNet,
    Inverse,
    InvertibleLinear,
    Logit,
    Scale,
    Slice,
    Squeeze,
    StandardNormal,
    StandardUniform,
    affine_mlp,
    anf,
    bits_per_dim,
    randomise,
    realnvp,
    uniform_dequantize,
    variational_dequantize,
)
from augflow_mini.gap import quadrature


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


# ---- samples --------------------------------------------------------------------------------


def test_samples_follow_the_density():
    """Kolmogorov-Smirnov distance between samples and the integrated density, by quadrature."""
    flow = model(anf(1, 1, steps=2, **SMALL), 2, scale=0.8)
    with torch.no_grad():
        x = flow.sample(20_000)[:, 0].sort().values
    grid = torch.linspace(x[0].item() - 3, x[-1].item() + 3, 801, dtype=F64)
    p = quadrature(flow, grid[:, None], tol=1e-4).log_p.exp()
    cdf = torch.cat([tensor(0.0), ((p[1:] + p[:-1]) / 2 * grid.diff()).cumsum(0)])
    at = (x - grid[0]) / (grid[1] - grid[0])
    left = at.long()
    model_cdf = cdf[left] + (at - left) * (cdf[left + 1] - cdf[left])
    distance = (model_cdf - torch.arange(0.5, 20_000, dtype=F64) / 20_000).abs().max()
    assert cdf[-1].item() == pytest.approx(1, abs=1e-3)
    assert distance < 1.95 / math.sqrt(20_000)  # 1 in 1000
    assert model_cdf.diff().min() >= 0


def test_sampling_carries_gradients():
    flow = model(anf(2, 1, steps=2, **SMALL), 3)
    grads = torch.autograd.grad(flow.sample(8).square().sum(), list(flow.parameters()))
    assert sum(g.abs().sum() for g in grads) > 0


def test_discrete_models_sample_integers_in_range():
    read = affine_mlp(slice(3, 6), slice(0, 3), hidden=(8,))
    noise = variational_dequantize(17, 3, layers=[read])
    flow = Flow([*noise, Scale(0.9, shift=0.05), Logit()], StandardNormal(3))
    with torch.no_grad():
        x = flow.sample(20_000)
    assert torch.equal(x, x.floor()) and x.min() >= 0 and x.max() <= 16
    assert flow.elbo(x).isfinite().all()


def test_seeds_decide_everything():
    flow, x = model(anf(2, 2, steps=1, **SMALL), 4), normal(8, 2)
    runs = {
        "weights": lambda: flow.log_weight(x),
        "bound": lambda: flow.iw_bound(x, 5).value,
        "samples": lambda: flow.sample(8),
        "codes": lambda: flow.encode(x).z,
        "sandwich": lambda: tensor(flow.sandwich(8).eubo),
        "initial weights": lambda: Chain(realnvp(3, couplings=2, linear=True))(
            normal(4, 3).float()
        )[0],
    }
    for name, run in runs.items():
        results = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            results.append(run())
        assert torch.equal(results[0], results[1]), name
        assert not torch.equal(results[0], results[2]), name


def test_models_without_parameters_work_in_float32():
    flow = Flow([*uniform_dequantize(5, 2), Scale(5.0)], StandardNormal(2))
    assert flow.sample(3).dtype == torch.float32
    assert flow.elbo(torch.tensor([[0.0, 4.0]])).dtype == torch.float32


# ---- codes ----------------------------------------------------------------------------------


def conv(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, 6, 1), nn.Tanh(), nn.Conv2d(6, outputs, 1))


def multi_scale():
    """Squeeze, flow, drop half of the channels under a law, squeeze and flow again."""
    return [
        Squeeze(),
        ActNorm(8),
        AffineCoupling(conv(4, 8), writes=slice(4, 8)),
        Slice(GaussianNet(conv(4, 8)), keep=4),
        Squeeze(),
        InvertibleLinear(16),
        AffineCoupling(conv(8, 16), writes=slice(0, 8)),
        Slice(StandardNormal(8, 1, 1), keep=8),
    ]


CODES = {
    "vanilla": (realnvp(3, couplings=4, **SMALL), (3,), (3,), 0),
    "augmented": (anf(3, 2, steps=2, **SMALL), (5,), (3,), 0),
    "sliced": (
        [*realnvp(3, couplings=2, **SMALL), Slice(StandardNormal(2), keep=1)],
        (1,),
        (3,),
        1,
    ),
    "multi-scale image": (multi_scale(), (8, 1, 1), (2, 4, 4), 2),
    "inverse of augment": ([Inverse(Augment(StandardNormal(2), keep=1))], (1,), (3,), 1),
    "inverse of a chain": (
        [Inverse(Chain([Augment(StandardNormal(2), keep=1), *realnvp(3, couplings=1, **SMALL)]))],
        (1,),
        (3,),
        1,
    ),
    "twice inverted slice": ([Inverse(Inverse(Slice(StandardNormal(2), keep=1)))], (1,), (3,), 1),
}


def leaves(dropped):
    if dropped is None:
        return []
    if isinstance(dropped, torch.Tensor):
        return [dropped]
    return [leaf for part in dropped for leaf in leaves(part)]


@pytest.mark.parametrize("name", CODES)
def test_codes_keep_every_latent_and_decode_exactly(name):
    layers, latent, event, sliced = CODES[name]
    flow = Flow(layers, StandardNormal(*latent)).double()
    x = normal(6, *event)
    flow.log_weight(x)  # initialises ActNorm
    randomise(flow, seed=0)
    code = flow.encode(x)
    assert code.z.shape == (6, *latent)
    lost = leaves(code.dropped)
    assert len(lost) == sliced
    numbers = code.z[0].numel() + sum(part[0].numel() for part in lost)
    assert numbers >= x[0].numel()
    equal(flow.decode(code), x, 1e-10)
    if lost:  # decoding without the sliced latents would draw them anew
        assert (flow.chain.inverse(code.z)[0] - x).abs().max() > 1e-2


def test_decoding_another_code_gives_another_x():
    flow = model(realnvp(3, couplings=4, **SMALL), 3)
    x = normal(6, 3)
    code = flow.encode(x)
    moved = type(code)(code.z + 0.1, code.dropped)
    equal(flow.encode(flow.decode(moved)).z, moved.z)
    assert (flow.decode(moved) - x).abs().min() > 1e-4


# ---- bits -----------------------------------------------------------------------------------


def test_a_uniform_model_of_bytes_needs_eight_bits():
    flow = Flow(uniform_dequantize(256, 3, 4, 4), StandardUniform(3, 4, 4))
    x = (torch.rand(5, 3, 4, 4) * 256).floor()
    torch.testing.assert_close(bits_per_dim(flow.elbo(x), x), torch.full((5,), 8.0))


def test_augmented_dimensions_do_not_count():
    x = (torch.rand(5, 2) * 256).floor()
    layers = [*uniform_dequantize(256, 2), Augment(StandardUniform(7), keep=2)]
    flow = Flow(layers, StandardUniform(9))
    torch.testing.assert_close(bits_per_dim(flow.elbo(x), x), torch.full((5,), 8.0))


def test_a_density_on_scaled_pixels_needs_eight_bits_more():
    couple = realnvp(2, couplings=2, **SMALL)
    whole = model([*uniform_dequantize(256, 2), *couple], 2)
    x = (normal(5, 2).abs() * 40).floor()
    torch.manual_seed(3)
    bits = bits_per_dim(whole.log_weight(x), x)
    torch.manual_seed(3)
    y = (x + torch.rand(5, 2, dtype=F64)) / 256
    equal(bits, bits_per_dim(Flow(couple, StandardNormal(2)).log_prob(y), y) + 8)


# ---- it learns ------------------------------------------------------------------------------


def test_a_vae_learns_a_gaussian():
    data = 0.7 + 1.5 * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    flow = Flow(anf(1, 1, steps=1, hidden=(16,), activation=nn.Tanh), StandardNormal(2))
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for step in range(300):
        batch = data[(step * 256) % 4096 :][:256]
        optimiser.zero_grad()
        (-flow.elbo(batch).mean()).backward()
        optimiser.step()
    entropy = 0.5 * math.log(2 * math.pi * math.e * 1.5**2)
    nll = -quadrature(flow, data[:512]).log_p.mean().item()
    assert nll == pytest.approx(entropy, abs=0.05)


def test_a_hook_on_any_layer_is_called():
    flow = Flow(realnvp(2, couplings=3, hidden=(4,)), StandardNormal(2))
    heard = []
    for layer in (*flow.chain, flow.chain.layers[1].net, flow.chain.layers[1].net.layers[0]):
        layer.register_forward_hook(lambda module, *_: heard.append(module))
    flow.log_prob(torch.zeros(3, 2))
    assert len(heard) == 5
