"""The two-sided interval for a reader's own model: its coverage, and when it says "not known"."""

import math

import pytest
import torch
from by_hand import F64, assert_explains, begin
from torch.distributions import Independent, MultivariateNormal, Normal

from augflow_mini import Flow, LinearGaussian, StandardNormal, anf, randomise, sandwich


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


def diagonal(mean, sd):
    return Independent(Normal(mean, sd), 1)


class OwnVAE:
    """A linear VAE with a diagonal q that is a little off, as a reader would write it in torch.

    z ~ N(0, I),  x = W z + b + s noise;  q(z | x) = N(V (x - b) + shift, diag(sd^2)).
    """

    def __init__(self, seed, *, off=0.25):
        torch.manual_seed(seed)
        d_x, d_z = 1 + seed % 3, 1 + seed // 3 % 3
        self.w, self.b = torch.randn(d_x, d_z, dtype=F64), torch.randn(d_x, dtype=F64)
        self.s = torch.empty(d_x, dtype=F64).uniform_(0.5, 1.5)
        self.prior = diagonal(torch.zeros(d_z, dtype=F64), 1.0)
        self.precision = torch.eye(d_z, dtype=F64) + self.w.T @ (self.w / self.s[:, None] ** 2)
        slope = torch.linalg.solve(self.precision, (self.w / self.s[:, None] ** 2).T)
        self.v = slope * (1 + off * torch.randn_like(slope))
        self.shift = off * torch.randn(d_z, dtype=F64) / self.precision.diagonal().sqrt()
        self.sd = (off * torch.randn(d_z, dtype=F64)).exp() / self.precision.diagonal().sqrt()

    def decoder(self, z):
        return diagonal(z @ self.w.T + self.b, self.s)

    def encoder(self, x):
        return diagonal((x - self.b) @ self.v.T + self.shift, self.sd)

    def measured(self, n, k):
        z = self.prior.sample((n,))
        x = self.decoder(z).sample()
        log_w = lambda z: (  # noqa: E731
            self.prior.log_prob(z) + self.decoder(z).log_prob(x) - self.encoder(x).log_prob(z)
        )
        return sandwich(log_w(z), log_w(self.encoder(x).sample((k,))))

    def truth(self):
        """Mean log p(x) over the model's own x: minus its entropy."""
        cov = self.w @ self.w.T + torch.diag(self.s**2)
        return -MultivariateNormal(self.b, cov).entropy().item()

    def variance_is_finite(self):
        """E_q[w^2] is the integral of p(z | x)^2 / q(z): Gaussian, of precision 2 P - 1/sd^2."""
        square = 2 * self.precision - torch.diag(self.sd**-2)
        return torch.linalg.eigvalsh(square).min().item() > 0


def test_the_interval_covers_the_truth_of_a_thousand_models_and_says_when_it_may_not():
    hits, finite, infinite = 0, [], []
    for seed in range(1000):
        model = OwnVAE(seed)
        found = model.measured(100, 400)
        hits += found.log_p[0] <= model.truth() <= found.log_p[1]
        kind = finite if model.variance_is_finite() else infinite
        kind.append(found.finite_variance)
    assert 930 <= hits <= 970, hits
    assert len(infinite) > 100 and not any(infinite), "an infinite variance passed as finite"
    assert sum(finite) > 0.4 * len(finite), "it calls everything doubtful"


@pytest.mark.parametrize("seed", range(12))
def test_the_interval_of_a_flow_holds_likelihood_and_gap(seed):
    """The flow's own samples, through `Flow.sandwich`; 4.5 errors instead of 1.96."""
    torch.manual_seed(seed)
    d_e = 1 + seed % 2
    flow = Flow(anf(2, d_e, steps=1, hidden=()), StandardNormal(2 + d_e)).double()
    with torch.no_grad():
        randomise(flow, seed=seed, scale=0.3)
        for layer in (flow.chain[1], flow.chain[2].layer):  # constant scales: a linear model
            last = layer.net.layers[-1]
            last.weight[: last.weight.shape[0] // 2] = 0
    linear = LinearGaussian.from_flow(flow)
    mean, cov = linear.marginal
    log_p = -MultivariateNormal(mean, cov).entropy().item()
    gap = linear.expected_gap(mean, cov).item()
    found = flow.sandwich(400, draws=200)
    widen = lambda low, high, truth: (low - 0.65 * (high - low), truth, high + 0.65 * (high - low))  # noqa: E731
    low, truth, high = widen(*found.log_p, log_p)
    assert low < truth < high
    low, truth, high = widen(*found.gap, gap)
    assert low - 1e-3 < truth < high + 1e-3
    assert found.k == 200 and found.n == 400


def test_more_draws_close_in_from_both_sides():
    model = OwnVAE(4, off=0.5)
    width = [
        found.log_p[1] - found.log_p[0] for found in (model.measured(2000, k) for k in (1, 100))
    ]
    assert width[1] < 0.7 * width[0]


def test_a_fresh_draw_too_few_is_not_known_and_weights_of_zero_are_doubtful():
    own, fresh = torch.zeros(50, dtype=F64), 0.1 * torch.randn(24, 50, dtype=F64)
    few = sandwich(own, fresh)
    assert math.isnan(few.tail) and not few.finite_variance and "too few draws" in str(few)
    assert sandwich(own, fresh.repeat(2, 1)).finite_variance
    none = sandwich(own, torch.full((30, 50), -math.inf))
    assert not none.finite_variance and none.elbo == -math.inf
    heavy = sandwich(own, torch.distributions.Exponential(1.5).sample((400, 50)))  # index 2/3
    assert heavy.tail == pytest.approx(2 / 3, abs=0.05)
    assert "not known to be finite" in str(heavy)


def test_weights_that_are_no_weights_are_refused():
    good = torch.zeros(5)
    for own, fresh, words in [
        (good, good, "fresh (5,) | (K, n)"),
        (good, torch.zeros(3, 4), "fresh (3, 4) | n >= 2"),
        (good[:1], torch.zeros(3, 1), "own has shape (1,) | n >= 2"),
        (torch.tensor(0.0), torch.zeros(3, 1), "own has shape ()"),
        (good, torch.zeros(0, 5), "K >= 1"),
        (good * math.nan, torch.zeros(3, 5), "log-weight is nan | -inf for a weight of 0"),
        (good, torch.full((3, 5), math.inf), "log-weight is inf"),
    ]:
        assert_explains(lambda: sandwich(own, fresh), words)  # noqa: B023
