"""Identities D4-D8, D17, D24: Jacobians, normalisation, the gap, bounds in K, discrete data."""

import math

import pytest
import torch
from by_hand import (
    F64,
    SMALL,
    begin,
    equal,
    legendre,
    model,
    noise_like,
    noise_log_prob,
    normal,
    seeded,
    tensor,
)
from torch import nn
from torch.distributions import Normal

from augflow_mini import (
    Carry,
    Chain,
    Flow,
    InvertibleLinear,
    LogWeights,
    Scale,
    Sigmoid,
    StandardNormal,
    StandardUniform,
    Transform,
    anf,
    randomise,
    realnvp,
    uniform_dequantize,
)
from augflow_mini.gap import ScalarANF, log_joint, quadrature


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


def test_d4_contributions_are_the_jacobian_of_the_whole_map():
    layers = [
        *anf(2, 2, steps=3, **SMALL)[1:],
        InvertibleLinear(4),
        *realnvp(4, couplings=2, **SMALL),
    ]
    chain = randomise(Chain(layers).double(), seed=0)
    v = normal(8, 4)
    contrib = chain(v)[1]
    jacobians = [torch.autograd.functional.jacobian(lambda r: chain(r[None])[0][0], r) for r in v]
    equal(contrib, torch.linalg.slogdet(torch.stack(jacobians)).logabsdet)
    z = chain(v)[0]
    equal(chain.inverse(z)[0], v)


def plane(reach, n):
    """Nodes of the trapezoid rule and their distance; the edges must hold no mass."""
    line = torch.linspace(-reach, reach, n, dtype=F64)
    return line, (2 * reach / (n - 1))


def test_d5_the_joint_integrates_to_one():
    flow = model(anf(1, 1, steps=3, **SMALL), 2, scale=0.2)
    line, h = plane(14, 561)
    pairs = torch.cartesian_prod(line, line)
    p = log_joint(flow, pairs[:, :1], pairs[:, 1:]).exp().view(561, 561)
    assert (p.sum() * h * h).item() == pytest.approx(1, abs=1e-8)
    assert max(p[0].max(), p[-1].max(), p[:, 0].max(), p[:, -1].max()) < 1e-10


def test_d5_the_marginal_integrates_to_one():
    flow = model(anf(1, 1, steps=3, **SMALL), 2, scale=0.7)
    line, h = plane(14, 281)
    found = quadrature(flow, line[:, None])
    p = found.log_p.exp()
    assert (p.sum() * h).item() == pytest.approx(1, abs=1e-7)
    assert p[[0, -1]].max() < 1e-10


def test_d5_a_fixed_window_on_the_noise_loses_mass_without_a_sign():
    """The trap of the identity above: some x have their posterior outside |e| < 14."""
    flow = model(anf(1, 1, steps=3, **SMALL), 2, scale=0.7)
    line, h = plane(14, 561)
    pairs = torch.cartesian_prod(line, line)
    p = log_joint(flow, pairs[:, :1], pairs[:, 1:]).exp().view(561, 561)
    assert (p.sum() * h * h).item() < 0.9
    assert quadrature(flow, line[:, None]).log_p.exp().sum() * h == pytest.approx(1, abs=1e-6)


def test_d6_gap_is_the_divergence_from_q_to_the_posterior():
    flow, x = model(anf(2, 1, steps=2, **SMALL), 3), normal(8, 2)
    found = quadrature(flow, x, tol=1e-11)
    line, h = plane(12, 1201)
    rows = x.repeat_interleave(1201, 0)
    joint = log_joint(flow, rows, line.repeat(8)[:, None]).view(8, -1)
    log_q = noise_log_prob(line[:, None])
    log_p = torch.logsumexp(joint, 1) + math.log(h)
    divergence = (log_q.exp() * (log_q - (joint - log_p[:, None]))).sum(1) * h
    equal(found.log_p, log_p)
    equal(found.gap, divergence)
    equal(found.elbo, (log_q.exp() * (joint - log_q)).sum(1) * h)
    assert (found.gap > 1e-3).all()


def test_d7_amle_objective_and_bound_have_the_same_gradient():
    flow, x = model(anf(1, 1, steps=2, **SMALL), 2), normal(256, 1)
    parameters = list(flow.parameters())
    bound = torch.autograd.grad(seeded(lambda: flow.elbo(x)).mean(), parameters)
    e = noise_like(256, 1)
    amle = torch.autograd.grad(log_joint(flow, x, e).mean(), parameters)
    for one, other in zip(bound, amle, strict=True):
        equal(one, other)
    shift = seeded(lambda: flow.elbo(x)) - log_joint(flow, x, e)
    equal(shift, -noise_log_prob(e))  # whose mean is H(e)


@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_d8_leaving_one_weight_out_never_raises_the_bound(spread):
    """mean_i LS(K-1; without i) <= LS(K) for any fixed weights: Jensen, no randomness left."""
    log_w = normal(12, 50) * spread
    whole = LogWeights().add(log_w).bound().value
    for k in range(12, 1, -1):
        parts = [torch.cat([log_w[:i], log_w[i + 1 : k]]) for i in range(k)]
        without = torch.stack([LogWeights().add(p).bound().value for p in parts]).mean(0)
        whole = LogWeights().add(log_w[:k]).bound().value
        assert (without <= whole + 1e-12).all()
    assert (without < whole - 1e-6).any()


def expected_bound_by_tensor_grid(scalar, x, k, n=161):
    """E[L_K] - log p(x): the trapezoid rule in K dimensions, weights from densities."""
    e = torch.linspace(-9, 9, n, dtype=F64)
    mass = torch.softmax(-0.5 * e * e, 0)
    mean, var = scalar.posterior(x)
    w = Normal(mean, var.sqrt()).log_prob(e).exp() / Normal(0.0, 1.0).log_prob(e).exp()
    total, weight = w, mass
    for _ in range(k - 1):
        total = (total[..., None] + w).reshape(-1)
        weight = (weight[..., None] * mass).reshape(-1)
    return (weight * (total / k).log()).sum()


def test_d8_expected_bounds_rise_with_k():
    scalar = ScalarANF(0.7, 0.3, 1.1, 0.6)
    for value in (0.0, 1.0, -2.0):
        x = tensor(value)[0]
        gaps = [-expected_bound_by_tensor_grid(scalar, x, k) for k in (1, 2, 3)]
        assert gaps[0] > gaps[1] > gaps[2] > 0
        for k, gap in enumerate(gaps, 1):
            assert scalar.iw_gap(x, k).item() == pytest.approx(gap.item(), abs=1e-10)


def test_d17_gap_of_uniform_noise_on_a_discretised_logistic():
    levels, mu, s = 17, 7.3, 1.9
    squash = [Scale(levels / s, shift=-mu / s), Sigmoid()]  # y -> F((L y - mu) / s)
    flow = Flow([*uniform_dequantize(levels, 1), *squash], StandardUniform(1))
    x = torch.arange(levels, dtype=F64)
    found = quadrature(flow, x[:, None])
    cdf = lambda t: torch.sigmoid((t - mu) / s)  # noqa: E731
    log_p = (cdf(x + 1) - cdf(x)).log()
    equal(found.log_p, log_p)
    u, weight = legendre(40)
    t = (x[:, None] + u - mu) / s
    log_density = -t - 2 * nn.functional.softplus(-t) - math.log(s)
    divergence = -((log_density - log_p[:, None]) @ weight)  # KL(U || p(u|x))
    equal(found.gap, divergence)
    equal(found.elbo, log_density @ weight)
    assert found.gap.min() > 1e-5


def test_d17_no_gap_where_the_density_is_constant_on_each_bin():
    flow = Flow(uniform_dequantize(5, 1), StandardUniform(1))
    found = quadrature(flow, torch.arange(5, dtype=F64)[:, None])
    equal(found.log_p, torch.full((5,), -math.log(5), dtype=F64), 1e-12)
    assert found.gap.abs().max() < 1e-12


def test_d17_both_gaps_of_dequantisation_and_augmentation_add_up():
    """Integers, uniform u, then the scalar model on (x + u): two noises, each with its own gap."""
    levels, scalar = 5, ScalarANF(0.7, 0.3, 1.1, 0.6)
    centred = Scale(levels, shift=-levels / 2)
    layers = [*uniform_dequantize(levels, 1), centred, *scalar.flow().chain]
    x = torch.arange(levels, dtype=F64)
    found = quadrature(Flow(layers, StandardNormal(2)), x[:, None])
    sd = math.sqrt(1.1**2 + 0.6**2)
    cdf = lambda t: torch.special.ndtr((t - levels / 2) / sd)  # noqa: E731
    log_p = (cdf(x + 1) - cdf(x)).log()
    u, weight = legendre(30)
    y = x[:, None] + u - levels / 2
    first = log_p - scalar.log_prob(y) @ weight
    second = scalar.gap(y) @ weight
    equal(found.log_p, log_p)
    equal(found.gap, first + second)
    assert first.min() > 1e-4 and second.min() > 1e-2


class TruncatedLogistic(Transform):
    """v uniform -> u with the density of a logistic, cut to the bin of the integer beside it."""

    def __init__(self, mu, s):
        super().__init__()
        self.mu, self.s = mu, s

    def ends(self, x):
        return torch.sigmoid((x - self.mu) / self.s), torch.sigmoid((x + 1 - self.mu) / self.s)

    def forward(self, xv):
        x, v = xv.chunk(2, 1)
        low, high = self.ends(x)
        f = low + v * (high - low)
        u = self.mu + self.s * torch.logit(f) - x
        slope = (high - low) * self.s / (f * (1 - f))  # du/dv
        return torch.cat([x, u.clamp(0, 1 - 1e-15)], 1), slope.log().sum(1)

    def inverse(self, xu):
        x, u = xu.chunk(2, 1)
        low, high = self.ends(x)
        f = torch.sigmoid((x + u - self.mu) / self.s)
        slope = (high - low) * self.s / (f * (1 - f))
        return torch.cat([x, (f - low) / (high - low)], 1), -slope.log().sum(1)


def test_d17_variational_noise_that_is_the_posterior_closes_the_gap():
    """For a logistic the posterior of u is a truncated logistic: sample it exactly by its CDF."""
    levels, mu, s = 5, 2.2, 0.8
    cdf = lambda t: torch.sigmoid((t - mu) / s)  # noqa: E731
    x = torch.arange(levels, dtype=F64)
    flow = Flow(
        [
            *uniform_dequantize(levels, 1)[:1],
            TruncatedLogistic(mu, s),
            Carry(levels),
            Scale(levels / s, shift=-mu / s),
            Sigmoid(),
        ],
        StandardUniform(1),
    )
    log_w = torch.stack([flow.log_weight(x[:, None]) for _ in range(20)])
    equal(log_w, (cdf(x + 1) - cdf(x)).log().expand(20, -1))


def test_d24_the_mean_weight_is_the_likelihood():
    scalar, x = ScalarANF(0.7, 0.3, 1.1, 0.6), 0.8
    flow = scalar.flow()
    e = torch.linspace(-9, 9, 401, dtype=F64)
    mass = torch.softmax(-0.5 * e * e, 0)
    log_w = log_joint(flow, torch.full((401, 1), x, dtype=F64), e[:, None]) - noise_log_prob(
        e[:, None]
    )
    p = scalar.log_prob(tensor(x)).exp().item()
    assert (mass @ log_w.exp()).item() == pytest.approx(p, abs=1e-12)
    pairs = torch.stack([log_w[:, None].expand(401, 401), log_w.expand(401, 401)])
    bound = LogWeights().add(pairs.reshape(2, -1)).bound().value.view(401, 401)
    assert (mass @ bound.exp() @ mass).item() == pytest.approx(p, abs=1e-12)  # K = 2
    assert (mass @ bound @ mass).item() < math.log(p)
