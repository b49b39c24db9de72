"""Identities D9-D14, D18, D19: linear models against multivariate Gaussians, to all digits."""

import math

import pytest
import torch
from by_hand import (
    F64,
    begin,
    equal,
    hermite,
    normal,
    seeded,
    tensor,
)
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from augflow_mini import (
    AffineCoupling,
    Augment,
    Flow,
    Inverse,
    InvertibleLinear,
    StandardNormal,
)
from augflow_mini.gap import LinearGaussian, ScalarANF, quadrature


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


PRINTED = {
    (0.7, 0.3, 1.1, 0.6): (
        [-1.144476342885, -1.462947680464, -2.418361693203],
        [0.188783732715, 0.538784617357, 1.588787271285],
    ),
    (1.0, 0.0, 1.0, 1.0): (None, [0.153426409720, 0.403426409720, 1.153426409720]),
    (math.sqrt(0.5), 0.5, 1.0, 1.0): (None, [0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("abcd", PRINTED)
def test_d13_regression_values(abcd):
    scalar, x = ScalarANF(*abcd), tensor(0.0, 1.0, -2.0)
    log_p, gap = PRINTED[abcd]
    flow = scalar.flow()
    linear, found = LinearGaussian.from_flow(flow), quadrature(flow, x[:, None])
    for source in (scalar.gap(x), linear.gap(x[:, None]), found.gap):
        torch.testing.assert_close(source, tensor(*gap), atol=5.1e-13, rtol=0)
    for source in (linear.log_prob(x[:, None]), found.log_p):
        equal(source, scalar.log_prob(x), 1e-12)
    if log_p:
        torch.testing.assert_close(scalar.log_prob(x), tensor(*log_p), atol=5.1e-13, rtol=0)
    assert linear.has_zero_gap() == (max(gap) == 0)
    assert scalar.gap(tensor(0.0)).item() == pytest.approx(gap[0], abs=5.1e-13)


def test_d13_expected_gaps_and_chi2():
    scalar, x = ScalarANF(0.7, 0.3, 1.1, 0.6), tensor(0.0, 1.0, 2.0)
    printed = {
        1: [0.188784, 0.538785, 1.588787],
        2: [0.062263, 0.185096, 0.710959],
        3: [0.036525, 0.103851, 0.434596],
    }
    for k, gaps in printed.items():
        torch.testing.assert_close(scalar.iw_gap(x, k), tensor(*gaps), atol=5.1e-7, rtol=0)
    chi2 = tensor(0.181031, 0.462579, 1.777752)
    torch.testing.assert_close(scalar.chi2(x), chi2, atol=5.1e-7, rtol=0)
    assert scalar.tau2 == pytest.approx(0.467958, abs=5.1e-7)
    equal(scalar.iw_gap(x, 1), scalar.gap(x))


def test_d9_chi2_is_the_variance_of_the_weights_and_gives_the_rate():
    scalar, x = ScalarANF(0.7, 0.3, 1.1, 0.6), tensor(0.0, 1.0, 2.0)
    e = torch.linspace(-14, 14, 4001, dtype=F64)[:, None]
    mean, var = scalar.posterior(x)
    log_p, log_q = Normal(mean, var.sqrt()).log_prob(e), Normal(0.0, 1.0).log_prob(e)
    chi2 = torch.exp(2 * log_p - log_q).sum(0) * 28 / 4000 - 1
    equal(scalar.chi2(x), chi2, 1e-9)
    for k in (100, 1000, 10_000):
        ratio = scalar.iw_gap(x, k) * 2 * k / scalar.chi2(x)
        assert ((ratio - 1).abs() < 6 / k).all()


@pytest.mark.parametrize(("tau2", "finite"), [(1.999, True), (2.0, False), (3.0, False)])
def test_d9_variance_of_the_weights_is_finite_below_two(tau2, finite):
    scalar = ScalarANF(math.sqrt(0.5 / tau2), 0.5, 1.0, 1.0)  # v = 1/2
    assert scalar.tau2 == pytest.approx(tau2)
    chi2 = scalar.chi2(tensor(0.0)).item()
    assert math.isfinite(chi2) if finite else chi2 == math.inf
    assert scalar.iw_gap(tensor(0.0), 1000) < scalar.iw_gap(
        tensor(0.0), 10
    )  # it converges all the same


def random_linear(features, noise, seed=0):
    d = features + noise
    return LinearGaussian(
        torch.eye(d, dtype=F64) + 0.4 * normal(d, d, seed=seed), normal(d), features
    )


def joint_gaussian(linear):
    inverse = torch.linalg.inv(linear.a)
    return MultivariateNormal(-inverse @ linear.t, inverse @ inverse.T)


def conditional(joint, x, n):
    """p(e | x) by the textbook formula with covariances, not precisions."""
    mean, cov = joint.mean, joint.covariance_matrix
    slope = cov[n:, :n] @ torch.linalg.inv(cov[:n, :n])
    return MultivariateNormal(
        mean[n:] + (x - mean[:n]) @ slope.T, cov[n:, n:] - slope @ cov[:n, n:]
    )


@pytest.mark.parametrize(("features", "noise"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_d12_linear_anf_against_conditioned_gaussians(features, noise):
    linear, x = random_linear(features, noise), normal(9, features, seed=3) * 2
    joint = joint_gaussian(linear)
    marginal = MultivariateNormal(
        joint.mean[:features], joint.covariance_matrix[:features, :features]
    )
    posterior = conditional(joint, x, features)
    q = MultivariateNormal(torch.zeros(noise, dtype=F64), torch.eye(noise, dtype=F64))
    gap = kl_divergence(q.expand((9,)), posterior)
    equal(linear.log_prob(x), marginal.log_prob(x))
    equal(linear.posterior(x)[0], posterior.mean)
    equal(torch.linalg.inv(linear.posterior(x)[1]), posterior.covariance_matrix[0])
    equal(linear.gap(x), gap)
    equal(linear.elbo(x), marginal.log_prob(x) - gap)
    assert not linear.has_zero_gap()
    assert (gap - kl_divergence(posterior, q.expand((9,)))).abs().max() > 1e-2  # not the other KL


def linear_flow(features, noise, steps, seed=0):
    """Encoders and decoders that are linear with constant scales, and an invertible matrix."""
    x, e = slice(0, features), slice(features, features + noise)
    layers = [Augment(StandardNormal(noise), keep=features)]
    for i in range(steps):
        encode = AffineCoupling(constant_scale(features, noise, seed + i), writes=e, reads=x)
        decode = AffineCoupling(constant_scale(noise, features, seed + 50 + i), writes=x, reads=e)
        layers += [encode, Inverse(decode)]
    torch.manual_seed(seed)
    layers.append(InvertibleLinear(features + noise))
    return Flow(layers, StandardNormal(features + noise)).double()


def constant_scale(inputs, outputs, seed):
    net = nn.Linear(inputs, 2 * outputs)
    with torch.no_grad():
        net.weight.copy_(0.4 * normal(2 * outputs, inputs, seed=seed))
        net.weight[:outputs] = 0
        net.bias.copy_(0.3 * normal(2 * outputs, seed=seed + 1))
    return net


@pytest.mark.parametrize(("features", "noise", "steps"), [(1, 1, 1), (2, 1, 4), (1, 2, 2)])
def test_d12_read_off_a_flow_agrees_with_quadrature(features, noise, steps):
    flow, x = linear_flow(features, noise, steps), normal(5, features)
    linear, found = LinearGaussian.from_flow(flow), quadrature(flow, x)
    equal(found.log_p, linear.log_prob(x))
    equal(found.gap, linear.gap(x))
    equal(found.elbo, linear.elbo(x))


def test_d12_monte_carlo_agrees_with_the_closed_form():
    flow, x = linear_flow(2, 3, 2), normal(8, 2)
    linear = LinearGaussian.from_flow(flow)
    bound = flow.iw_bound(x, 4000)
    se = (bound.var_log_weight / 4000).sqrt()
    assert ((bound.elbo - linear.elbo(x)).abs() < 4.5 * se).all()
    assert (bound.elbo + linear.gap(x) - linear.log_prob(x)).abs().max() < 4.5 * se.max()


def test_d11_joint_divergence_is_model_error_plus_gap():
    """KL(data(x) q(e) || p(x, e)) by one formula for Gaussians, against the two bars."""
    linear = random_linear(2, 2)
    root = torch.eye(2, dtype=F64) + 0.3 * normal(2, 2, seed=5)
    mean, cov = normal(2, seed=6), root @ root.T
    both = MultivariateNormal(
        torch.cat([mean, torch.zeros(2, dtype=F64)]),
        torch.block_diag(cov, torch.eye(2, dtype=F64)),
    )
    bars = linear.model_error(mean, cov), linear.expected_gap(mean, cov)
    equal(sum(bars), kl_divergence(both, joint_gaussian(linear)))
    data = MultivariateNormal(mean, cov)
    equal(bars[0], kl_divergence(data, MultivariateNormal(*linear.marginal)))
    gaps = linear.gap(seeded(lambda: data.sample((200_000,))))
    assert abs(bars[1] - gaps.mean()) < 5 * gaps.std() / math.sqrt(200_000)


def test_d14_what_a_diagonal_q_cannot_close():
    linear = random_linear(1, 3)
    lee = linear.posterior(tensor(0.0)[:, None])[1]
    posterior = MultivariateNormal(torch.zeros(3, dtype=F64), precision_matrix=lee)
    best = MultivariateNormal(torch.zeros(3, dtype=F64), torch.diag(1 / lee.diagonal()))
    equal(linear.diagonal_floor(), kl_divergence(best, posterior))
    for factor in (0.9, 1.1):
        other = MultivariateNormal(best.mean, factor * best.covariance_matrix)
        assert kl_divergence(other, posterior) > linear.diagonal_floor() + 1e-3
    assert linear.diagonal_floor() > 0.01


def test_d18_gap_of_two_noise_blocks_by_the_chain_rule():
    linear, x, n = random_linear(1, 2), normal(4, 1), 1
    posterior = conditional(joint_gaussian(linear), x, n)
    cov = posterior.covariance_matrix[0]
    unit = Normal(tensor(0.0)[0], tensor(1.0)[0])
    first = kl_divergence(unit, Normal(posterior.mean[:, 0], cov[0, 0].sqrt()))
    slope, var = cov[1, 0] / cov[0, 0], cov[1, 1] - cov[1, 0] ** 2 / cov[0, 0]
    e, mass = hermite(20)
    means = posterior.mean[:, 1:] + slope * (e - posterior.mean[:, :1])  # of e2 given e1
    second = kl_divergence(unit, Normal(means, var.sqrt())) @ mass
    equal(linear.gap(x), first + second)


def test_d10_eubo_lies_above_log_p_by_the_other_divergence():
    scalar, x = ScalarANF(0.7, 0.3, 1.1, 0.6), tensor(0.0, 1.0, 2.0)
    found = quadrature(scalar.flow(), x[:, None])
    mean, var = scalar.posterior(x)
    other = kl_divergence(Normal(mean, var.sqrt()), Normal(tensor(0.0)[0], tensor(1.0)[0]))
    equal(found.eubo, scalar.log_prob(x) + other)
    assert (found.elbo < found.log_p).all() and (found.log_p < found.eubo).all()


def test_d19_the_posterior_as_encoder_closes_the_gap():
    scalar = ScalarANF(0.7, 0.3, 1.1, 0.6)
    best, x = scalar.with_best_encoder(), tensor(-3.0, 0.0, 2.0)
    equal(best.log_prob(x), scalar.log_prob(x))
    assert best.gap(x).abs().max() < 1e-14
    found = quadrature(best.flow(), x[:, None])
    assert found.gap.abs().max() < 1e-12
    assert best.flow().iw_bound(x[:, None], 50).var_log_weight.max() < 1e-24
    for a, b in [(1.05 * best.a, best.b), (best.a, best.b + 0.05)]:  # both conditions are needed
        assert ScalarANF(a, b, best.c, best.d).gap(tensor(1.0)).item() > 1e-4


def test_d19_a_collapsed_model_has_no_gap_and_a_bad_likelihood():
    """Data N(0, 4): the decoder of the collapsed model ignores z."""
    collapsed, good = ScalarANF(1.0, 0.0, 0.0, 1.0), ScalarANF(0.5, 0.4, math.sqrt(3), 1.0)
    mean, cov = tensor(0.0), tensor(4.0)[:, None]
    one, other = (LinearGaussian.from_flow(s.flow()) for s in (collapsed, good))
    assert one.expected_gap(mean, cov) < 1e-12 < other.expected_gap(mean, cov)
    assert other.model_error(mean, cov) < 1e-12
    assert one.model_error(mean, cov) > 0.8
