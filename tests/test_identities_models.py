"""Identities D1-D3, D15, D16, D22: ANF, VFlow and the VAE are one model, in float64 to 1e-10.

One side is the library; the other is written out here with `torch.distributions` or plain tensor
arithmetic. Where it is cheap the identity is also shown to fail with a term forgotten or turned.
"""

import math

import pytest
import torch
from by_hand import (
    F64,
    SMALL,
    affine_by_hand,
    begin,
    equal,
    gaussian,
    hermite,
    model,
    noise_like,
    noise_log_prob,
    normal,
    seeded,
)
from torch import nn

from augflow_mini import (
    MLP,
    AffineCoupling,
    Augment,
    Chain,
    Flow,
    GaussianNet,
    Permute,
    Slice,
    StandardNormal,
    affine_mlp,
    anf,
    randomise,
    realnvp,
    vae,
    vflow,
)
from augflow_mini.gap import log_joint, quadrature


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_d1_anf_is_vflow_with_standard_normal_q(steps):
    x = normal(64, 2)
    layers = anf(2, 3, steps=steps, **SMALL)
    ours = model(vflow(2, 3, posterior=(), joint=layers[1:]), 5)
    one = seeded(lambda: ours.log_weight(x))

    e = noise_like(64, 3)  # the draw that Augment makes
    y, z, log_det = x, e, 0.0
    for i in range(steps):
        encode, decode = layers[1 + 2 * i].net, layers[2 + 2 * i].layer.net
        log_s, m = affine_by_hand(encode, y)
        z, log_det = z * log_s.exp() + m, log_det + log_s.sum(1)
        log_s, m = affine_by_hand(decode, z)
        y, log_det = (y - m) / log_s.exp(), log_det - log_s.sum(1)
    log_joint_by_hand = noise_log_prob(torch.cat([y, z], 1)) + log_det
    equal(one, log_joint_by_hand - noise_log_prob(e))
    equal(log_joint(ours, x, e), log_joint_by_hand)
    assert (one - log_joint_by_hand).abs().min() > 1e-3  # forgetting log q is seen


def test_d1_the_entropy_form_holds_only_in_expectation():
    e, mass = hermite(40)
    entropy = 0.5 * (1 + math.log(2 * math.pi))
    log_q = noise_log_prob(e[:, None])
    assert -(mass @ log_q).item() == pytest.approx(entropy, abs=1e-12)
    assert (-log_q - entropy).abs().max() > 1
    assert StandardNormal(1).entropy() == pytest.approx(entropy, abs=1e-14)


@pytest.mark.parametrize(("features", "latent"), [(1, 1), (3, 2), (2, 5)])
def test_d2_one_step_anf_is_the_gaussian_vae(features, latent):
    x = normal(128, features)
    layers = vae(features, latent, **SMALL)
    ours = seeded(lambda: model(layers, features + latent).log_weight(x))

    log_s, mean = affine_by_hand(layers[1].net, x)
    q = gaussian(mean, log_s)
    z = mean + log_s.exp() * noise_like(128, latent)  # reparameterised with the same noise
    log_sd, m = affine_by_hand(layers[2].layer.net, z)
    likelihood, prior = gaussian(m, log_sd).log_prob(x), noise_log_prob(z)
    equal(ours, likelihood + prior - q.log_prob(z))
    for wrong in (likelihood + prior, likelihood + prior + q.log_prob(z), likelihood - prior):
        assert (ours - wrong).abs().max() > 1e-2


def test_d2_iwae_is_the_importance_bound_on_the_same_noise():
    x, k = normal(16, 2), 7
    layers = vae(2, 2, **SMALL)
    bound = seeded(lambda: model(layers, 4).iw_bound(x, k))
    e = noise_like(k * 16, 2).view(k, 16, 2)
    weights = []
    for draw in e:
        log_s, mean = affine_by_hand(layers[1].net, x)
        z = mean + log_s.exp() * draw
        log_sd, m = affine_by_hand(layers[2].layer.net, z)
        log_w = gaussian(m, log_sd).log_prob(x) + noise_log_prob(z)
        weights.append(log_w - gaussian(mean, log_s).log_prob(z))
    w = torch.stack(weights).exp()
    equal(bound.value, w.mean(0).log())  # 1/K, not 1/J
    equal(bound.elbo, w.log().mean(0))
    equal(bound.ess, w.sum(0) ** 2 / (w**2).sum(0))
    equal(bound.var_log_weight, w.log().var(0))


def test_d3_conditional_affine_q_is_one_more_encoder():
    x, data, noise = normal(64, 2), slice(0, 2), slice(2, 4)
    q = affine_mlp(noise, data, **SMALL)
    body = anf(2, 2, steps=2, **SMALL)[1:]
    as_layers = model(vflow(2, 2, posterior=[q], joint=body), 4)
    as_law = Flow([Augment(GaussianNet(q.net), keep=2), *body], StandardNormal(4))
    equal(seeded(lambda: as_layers.log_weight(x)), seeded(lambda: as_law.log_weight(x)))

    log_s, mean = affine_by_hand(q.net, x)  # and written out: log p(x, z) - log q(z | x)
    z = mean + log_s.exp() * noise_like(64, 2)
    latent, log_det = Chain(body)(torch.cat([x, z], 1))
    by_hand = noise_log_prob(latent) + log_det - gaussian(mean, log_s).log_prob(z)
    equal(seeded(lambda: as_layers.log_weight(x)), by_hand)


def test_d3_gap_and_marginal_do_not_depend_on_where_q_ends():
    """KL(q(z|x) || p(z|x)) = KL(N || p'(e|x)): quadrature over z and over its base noise."""
    x, q = normal(6, 1), affine_mlp(slice(1, 2), slice(0, 1), **SMALL)
    body = anf(1, 1, steps=1, **SMALL)[1:]
    as_layers = model(vflow(1, 1, posterior=[q], joint=body), 2)
    as_law = Flow([Augment(GaussianNet(q.net), keep=1), *body], StandardNormal(2))
    without = Flow([Augment(StandardNormal(1), keep=1), *body], StandardNormal(2))
    one, other, plain = (quadrature(f, x) for f in (as_layers, as_law, without))
    equal(one.log_p, other.log_p)
    equal(one.gap, other.gap)
    equal(one.log_p, plain.log_p)  # q is no part of the model
    assert (one.gap - plain.gap).abs().max() > 1e-3


def test_two_encoders_in_a_row_fold_into_one():
    class Folded(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            (a1, m1), (a2, m2) = affine_by_hand(self.first, x), affine_by_hand(self.second, x)
            return torch.cat([a1 + a2, m1 * a2.exp() + m2], 1)

    a, b = (affine_mlp(slice(1, 3), slice(0, 1), **SMALL) for _ in range(2))
    two = randomise(Chain([a, b]).double(), seed=0)
    one = AffineCoupling(Folded(a.net, b.net), writes=slice(1, 3), reads=slice(0, 1))
    x = normal(32, 3)
    for ours, other in zip(two(x), one(x), strict=True):
        equal(ours, other)


def test_d15_without_noise_the_bound_is_the_likelihood():
    flow, x = model(realnvp(3, couplings=4, **SMALL), 3), normal(16, 3)
    bound = flow.iw_bound(x, 5)
    for value in (flow.elbo(x), bound.value, bound.elbo):
        equal(value, flow.log_prob(x))
    assert bound.var_log_weight.max() < 1e-24
    equal(bound.ess, torch.full((16,), 5.0, dtype=F64))


def test_d15_a_vanilla_flow_embeds_with_any_noise():
    vanilla = realnvp(2, couplings=4, **SMALL)
    plain = model(vanilla, 2)
    lifted = Flow([Augment(StandardNormal(2), keep=2), *vanilla], StandardNormal(4))  # e untouched
    x = normal(64, 2)
    equal(seeded(lambda: lifted.log_weight(x)), plain.log_prob(x))


def test_d16_noise_that_nobody_reads_changes_nothing():
    small = model(anf(2, 1, steps=2, **SMALL), 3)
    wide = Flow([Augment(StandardNormal(3), keep=2), *small.chain[1:]], StandardNormal(5))
    x, e = normal(16, 2), normal(16, 3, seed=1)
    one = log_joint(small, x, e[:, :1]) - noise_log_prob(e[:, :1])
    equal(log_joint(wide, x, e) - noise_log_prob(e), one)


def test_d22_augment_then_slice_under_one_law_contributes_nothing():
    law = randomise(GaussianNet(MLP(2, 6, **SMALL)).double(), seed=0)
    chain, x = Chain([Augment(law, keep=2), Slice(law, keep=2)]), normal(16, 2)
    z, contrib = chain(x)
    assert torch.equal(z, x)
    equal(contrib, torch.zeros(16, dtype=F64), 1e-12)


def test_a_vae_with_a_sliced_decoder_is_the_same_vae():
    """Augment(q), swap, Slice(p(x|z)): the decoder as a law in place of a coupling."""
    x, layers = normal(32, 2), vae(2, 2, **SMALL)
    flow = model(layers, 4)
    sliced = Flow(
        [
            Augment(GaussianNet(layers[1].net), keep=2),
            Permute([2, 3, 0, 1]),
            Slice(GaussianNet(layers[2].layer.net), keep=2),
        ],
        StandardNormal(2),
    )
    equal(seeded(lambda: sliced.log_weight(x)), seeded(lambda: flow.log_weight(x)))
