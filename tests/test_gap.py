"""Quadrature against models whose answer is known, its own account of its error, and the panel."""

import copy
import math
import time

import pytest
import torch
from by_hand import F64, SMALL, begin, equal, model, noise_log_prob, normal, tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
)

from augflow_mini import (
    Augment,
    Flow,
    StandardNormal,
    Transform,
    affine_mlp,
    anf,
    realnvp,
    uniform_dequantize,
    vflow,
)
from augflow_mini.gap import (
    LinearGaussian,
    ScalarANF,
    expected_iw_bound,
    log_joint,
    measure_gap,
    noise_features,
    quadrature,
)


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


class Reweigh(Transform):
    """Contributes log p(e) - log N(e) and moves nothing: so p(e | x) is p, and log p(x) stays."""

    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def contrib(self, v):
        e = v[:, 1:]
        return self.posterior.log_prob(e if e.shape[1] > 1 else e[:, 0]) - noise_log_prob(e)

    def forward(self, v):
        return v, self.contrib(v)

    def inverse(self, v):
        return v, -self.contrib(v)


def flow_with(posterior, noise):
    layers = [Augment(StandardNormal(noise), keep=1), Reweigh(posterior)]
    return Flow(layers, StandardNormal(1 + noise))


def mixture(means, sd, weights=None):
    means = tensor(*means)
    weights = torch.ones(len(means), dtype=F64) if weights is None else tensor(*weights)
    parts = Normal(means, torch.full_like(means, sd))
    parts = parts if means.dim() == 1 else Independent(parts, 1)
    return MixtureSameFamily(Categorical(weights), parts)


def correlated(rho, sd=1.0, mean=(0.0, 0.0)):
    return MultivariateNormal(tensor(*mean), sd**2 * tensor([1.0, rho], [rho, 1.0]))


class Banana:
    """e1 ~ N(0, 1), e2 | e1 ~ N(e1^2 - 1, 0.3^2)."""

    def log_prob(self, e):
        first = Normal(0.0, 1.0).log_prob(e[:, 0])
        return first + Normal(e[:, 0] ** 2 - 1, 0.3).log_prob(e[:, 1])


POSTERIORS = {
    "as q": (Normal(tensor(0.0)[0], 1.0), 1),
    "narrow": (Normal(tensor(0.3137)[0], 1e-4), 1),
    "far": (Normal(tensor(57.0)[0], 1.0), 1),
    "far and narrow": (Normal(tensor(-113.7)[0], 1e-3), 1),
    "wide": (Normal(tensor(0.0)[0], 30.0), 1),
    "two modes": (mixture([-2.0, 2.0], 0.5), 1),
    "two narrow modes": (mixture([-2.0, 2.1], 0.02), 1),
    "two uneven modes, far apart": (mixture([-15.0, 20.0], 0.2, [0.1, 0.9]), 1),
    "narrow in two dimensions": (correlated(0.0, 0.003, (1.0, -2.0)), 2),
    "far in two dimensions": (correlated(0.5, 0.5, (30.0, -40.0)), 2),
    "correlated": (correlated(0.999), 2),
    "correlated and narrow": (correlated(-0.99, 0.02, (0.7, 0.7)), 2),
    "four modes": (mixture([[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]], 0.3), 2),
    "banana": (Banana(), 2),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_grid_follows_the_posterior(name):
    posterior, noise = POSTERIORS[name]
    x = tensor([-1.0], [2.0])
    nodes = 257 if name == "banana" else None
    found = quadrature(flow_with(posterior, noise), x, tol=1e-7, max_nodes=nodes)
    exact = noise_log_prob(x)
    assert (found.log_p - exact).abs().max() < 1e-7, found
    e = found.e.reshape(-1, noise)
    log_posterior = posterior.log_prob(e if noise > 1 else e[:, 0]).view(2, -1)
    torch.testing.assert_close(found.log_posterior, log_posterior, atol=1e-6, rtol=1e-9)
    equal(found.mass.sum(1), torch.ones(2, dtype=F64), 1e-12)
    assert (found.edge < 1e-7).all()
    assert ((found.log_p - exact).abs() <= found.error + 1e-12).all()


@pytest.mark.parametrize("name", [n for n in POSTERIORS if POSTERIORS[n][1] == 1])
def test_bound_is_integrated_over_q_not_over_the_posterior(name):
    posterior = POSTERIORS[name][0]
    e = torch.linspace(-10, 10, 400_001, dtype=F64)
    q = Normal(0.0, 1.0).log_prob(e)
    gap = (q.exp() * (q - posterior.log_prob(e))).sum() * 20 / 400_000
    found = quadrature(flow_with(posterior, 1), tensor([0.5]))
    assert (found.gap - gap).abs() <= found.error + 1e-9 * (1 + gap)
    assert found.error <= 2e-5 * (1 + gap)


def fixed_grid(flow, x, n=801, reach=8.0):
    """log p(x) on one grid for all x, as is often done."""
    e = torch.linspace(-reach, reach, n, dtype=F64)
    joint = log_joint(flow, x.repeat_interleave(n, 0), e.repeat(len(x))[:, None]).view(len(x), n)
    return torch.logsumexp(joint, 1) + math.log(2 * reach / (n - 1))


@pytest.mark.parametrize(("d", "x"), [(0.008, 1.0), (0.1, 9.0)])
def test_a_fixed_grid_is_wrong_where_ours_is_not(d, x):
    scalar, x = ScalarANF(1.0, 0.0, 1.0, d), tensor([x])
    flow = scalar.flow()
    exact = scalar.log_prob(x[:, 0])
    assert (fixed_grid(flow, x) - exact).abs() > 0.05
    found = quadrature(flow, x)
    equal(found.log_p, exact)
    torch.testing.assert_close(found.gap, scalar.gap(x[:, 0]), atol=1e-9, rtol=1e-12)


HARD = {
    "few nodes": (mixture([-2.0, 2.1], 0.02), 1, {"max_nodes": 65}),
    "modes too narrow for the limit": (mixture([-2.0, 2.1], 1e-5), 1, {}),
    "heavy tail": (StudentT(tensor(2.0)[0]), 1, {}),
    "few nodes in two dimensions": (
        mixture([[-1.0, -1.0], [1.0, 1.0]], 0.02),
        2,
        {"max_nodes": 33},
    ),
}


@pytest.mark.parametrize("name", HARD)
def test_where_the_nodes_do_not_suffice_the_account_says_so(name):
    posterior, noise, options = HARD[name]
    x = tensor([0.5])
    found = quadrature(flow_with(posterior, noise), x, **options)
    wrong = (found.log_p - noise_log_prob(x)).abs()
    assert (wrong > 1e-7).all()
    assert (found.error + found.edge > 1e-5).all()
    assert (wrong < 100 * (found.error + found.edge)).all()


def test_error_estimate_bounds_the_error_with_relu_networks():
    """Kinks make the trapezoid rule slow: compare with a grid of its own that is much finer."""
    flow = model(anf(1, 1, steps=2, hidden=(16,)), 2)
    x = normal(4, 1)
    found = quadrature(flow, x, max_nodes=257)
    truth = fixed_grid(flow, x, n=200_001, reach=12.0)
    assert ((found.log_p - truth).abs() <= found.error).all()
    assert (found.error > 1e-12).all()


def test_quadrature_leaves_the_flow_and_the_random_numbers_alone():
    flow = Flow(anf(2, 1, steps=2, **SMALL), StandardNormal(3)).train()
    x = torch.randn(8, 2)
    state = torch.get_rng_state()
    found = quadrature(flow, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert flow.training and next(flow.parameters()).dtype == torch.float32
    assert found.log_p.dtype == F64 and not found.log_p.requires_grad
    double = quadrature(copy.deepcopy(flow).double(), x.double())
    assert torch.equal(found.log_p, double.log_p) and torch.equal(found.elbo, double.elbo)


def test_quadrature_is_fast_enough_to_scan_with():
    flow = Flow(anf(1, 1, steps=2, hidden=(32, 32), activation=torch.nn.Tanh), StandardNormal(2))
    x = torch.linspace(-3, 3, 64)[:, None]
    start = time.process_time()
    found = quadrature(flow, x)
    assert time.process_time() - start < 2
    assert found.error.max() < 1e-6


def test_log_weight_is_the_joint_less_q():
    q = affine_mlp(slice(2, 3), slice(0, 2), **SMALL)
    flow = model(vflow(2, 1, posterior=[q], joint=realnvp(3, couplings=2, **SMALL)), 3)
    x = normal(16, 2)
    torch.manual_seed(3)
    log_w = flow.log_weight(x)
    torch.manual_seed(3)
    e = torch.randn(16, 1, dtype=F64)
    equal(log_joint(flow, x, e) - noise_log_prob(e), log_w)


def test_noise_features_counts_every_augment():
    layers = [*uniform_dequantize(5, 1), *anf(1, 2, steps=1, **SMALL)]
    assert noise_features(Flow(layers, StandardNormal(3))) == 3
    assert noise_features(Flow(realnvp(2, couplings=1), StandardNormal(2))) == 0


# ---- the panel ------------------------------------------------------------------------------


def test_panel_of_an_exact_flow_has_no_gap():
    report = measure_gap(model(realnvp(2, couplings=2, **SMALL), 2), normal(32, 2), k=10)
    assert report.exact and report.error == 0 and report.gap == pytest.approx(0, abs=1e-12)
    assert report.nll == pytest.approx(-report.elbo) and report.ess == pytest.approx(10)


def test_panel_by_quadrature_agrees_with_its_own_monte_carlo():
    scalar, x = ScalarANF(0.7, 0.3, 1.1, 0.6), normal(32, 1)
    report = measure_gap(scalar.flow(), x, k=2000)
    assert report.exact and report.gap_se == 0 and report.error < 1e-9
    assert report.gap == pytest.approx(scalar.gap(x[:, 0]).mean().item(), abs=1e-9)
    assert report.nll == pytest.approx(-scalar.log_prob(x[:, 0]).mean().item(), abs=1e-9)
    assert abs(-report.nll - report.gap - report.elbo) < 4.5 * report.elbo_se
    assert report.elbo < report.bound < -report.nll + 0.01
    assert f"NLL {report.nll:.4f}" in str(report) and "gap = " in str(report)


class Jitter(Transform):
    """Noise that is not Augment's, so that no grid can follow it."""

    stochastic_forward = True

    def forward(self, x):
        e = torch.randn_like(x)
        return x + e, -noise_log_prob(e)

    def inverse(self, z):
        e = torch.randn_like(z)
        return z - e, noise_log_prob(e)


def test_panel_of_noise_that_cannot_be_integrated_falls_back_to_the_bound():
    report = measure_gap(Flow([Jitter()], StandardNormal(1)), normal(8, 1), k=50)
    assert not report.exact and report.gap > 0


def test_panels_error_is_the_spread_of_its_bound():
    flow, x = ScalarANF(0.7, 0.3, 1.1, 0.6).flow(), normal(8, 1)
    panels = [measure_gap(flow, x, k=20) for _ in range(200)]
    spread = torch.tensor([panel.elbo for panel in panels]).std().item()
    said = sum(panel.elbo_se for panel in panels) / len(panels)
    assert said == pytest.approx(spread, rel=0.2)


def test_panel_without_quadrature_reports_a_lower_estimate():
    x, data, noise = normal(16, 1), slice(0, 1), slice(1, 4)
    flow = model([Augment(StandardNormal(3), keep=1), affine_mlp(data, noise, **SMALL)], 4)
    report = measure_gap(flow, x, k=500)
    assert not report.exact and math.isnan(report.error) and report.gap > 0 < report.gap_se
    assert -report.nll == report.bound and "gap >= " in str(report) and "<= " in str(report)


def test_expected_bound_for_many_samples_agrees_with_monte_carlo():
    scalar, x, k = ScalarANF(0.7, 0.3, 1.1, 0.6), tensor([1.0]), 20
    draws = scalar.flow().iw_bound(x.expand(4000, 1), k).value
    gap = scalar.log_prob(x[:, 0]) - draws
    assert abs(gap.mean() - scalar.iw_gap(x[:, 0], k)) < 4.5 * gap.std() / math.sqrt(4000)


def test_expected_bound_of_equal_weights_is_that_weight():
    log_w, mass = torch.full((3, 5), -7.5, dtype=F64), torch.full((5,), 0.2, dtype=F64)
    for k in (1, 10, 1000):
        equal(expected_iw_bound(log_w, mass, k), torch.full((3,), -7.5, dtype=F64), 1e-9)


def test_linear_model_of_a_flow_with_q_and_slices_of_noise():
    """A posterior flow and a linear layer before the noise are read off all the same."""
    scalar = ScalarANF(0.7, 0.3, 1.1, 0.6)
    layers = list(scalar.flow().chain)
    linear = LinearGaussian.from_flow(Flow(layers, StandardNormal(2)))
    equal(linear.a, tensor([(1 - 1.1 * 0.3) / 0.6, -1.1 * 0.7 / 0.6], [0.3, 0.7]))
    equal(linear.t, torch.zeros(2, dtype=F64))
