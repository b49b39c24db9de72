"""Bounds: streamed sums, weights of zero, order in K, the sandwich from both sides."""

import math
import subprocess
import sys

import pytest
import torch
from by_hand import F64, SMALL, begin, equal, model, noise_log_prob, normal, tensor

from augflow_mini import (
    MLP,
    AffineCoupling,
    Augment,
    Flow,
    GaussianNet,
    LogWeights,
    Slice,
    StandardNormal,
    StandardUniform,
    affine_mlp,
    anf,
    realnvp,
)
from augflow_mini.gap import LinearGaussian, ScalarANF, quadrature

FIELDS = ("value", "elbo", "ess", "var_log_weight")


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


# ---- streaming ------------------------------------------------------------------------------


def plain(log_w):
    """What K log-weights (K, B) say, without streaming."""
    k, w = len(log_w), (log_w - log_w.amax(0)).exp()
    return {
        "value": torch.logsumexp(log_w, 0) - math.log(k),
        "elbo": log_w.mean(0),
        "ess": w.sum(0) ** 2 / (w * w).sum(0),
        "var_log_weight": log_w.var(0),
    }


@pytest.mark.parametrize("chunks", [[60], [1] * 60, [7] * 8 + [4], [59, 1], [1, 59]])
@pytest.mark.parametrize("offset", [0.0, -5000.0, 700.0])
def test_streamed_sums_equal_the_plain_ones(chunks, offset):
    log_w = normal(60, 5) * 4 + offset
    log_w[:, 0] = offset + torch.arange(60, dtype=F64)  # rising maximum: every chunk rescales
    log_w[:, 1] = offset - torch.arange(60, dtype=F64)
    total = LogWeights()
    for part in log_w.split(chunks):
        total.add(part)
    bound = total.bound()
    for name, expected in plain(log_w).items():
        torch.testing.assert_close(getattr(bound, name), expected, atol=1e-12, rtol=1e-12)
    assert bound.k == 60


class Replay(StandardNormal):
    """Standard normal noise read from a list: the same draws in chunks of any size."""

    def __init__(self, noise):
        super().__init__(noise.shape[1])
        self.noise, self.at = noise, 0

    def draw(self, given):
        value = self.noise[self.at : self.at + len(given)]
        self.at += len(given)
        return value, self.density(value)


@pytest.mark.parametrize("rows", [10_000, 128, 17, 16])
def test_streamed_flow_equals_the_unstreamed_one_on_the_same_draws(rows):
    layers, x = anf(2, 2, steps=2, **SMALL), normal(16, 2)
    flow = model(layers, 4)
    noise = normal(40 * 16, 2, seed=5)
    log_w = []
    for e in noise.view(40, 16, 2):
        replayed = Flow([Augment(Replay(e), keep=2), *flow.chain[1:]], StandardNormal(4))
        log_w.append(replayed.log_weight(x))
    streamed = Flow([Augment(Replay(noise), keep=2), *flow.chain[1:]], StandardNormal(4))
    bound = streamed.iw_bound(x, 40, rows=rows)
    for name, expected in plain(torch.stack(log_w)).items():
        torch.testing.assert_close(getattr(bound, name), expected, atol=1e-12, rtol=1e-12)


def test_a_batch_larger_than_the_rows_is_split():
    flow, x = model(realnvp(2, couplings=2, **SMALL), 2), normal(10, 2)
    bound = flow.iw_bound(x, 3, rows=4)
    assert all(getattr(bound, name).shape == (10,) for name in FIELDS)
    equal(bound.value, flow.log_prob(x))


def test_streamed_bound_has_the_gradient_of_the_plain_one():
    log_w = (normal(30, 4) * 3).requires_grad_()
    total = LogWeights()
    for part in log_w.split(7):
        total.add(part)
    for name in ("value", "elbo"):
        streamed = torch.autograd.grad(
            getattr(total.bound(), name).sum(), log_w, retain_graph=True
        )[0]
        expected = torch.autograd.grad(plain(log_w)[name].sum(), log_w)[0]
        equal(streamed, expected, 1e-14)


MEMORY = """
import pathlib, torch
from augflow_mini import Flow, StandardNormal, anf

def peak():  # of this program alone; getrusage would inherit the peak of pytest's process
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

torch.set_num_threads(1)
flow = Flow(anf(2, 2, steps=2, hidden=(32,)), StandardNormal(4))
x = torch.randn(16, 2)
with torch.no_grad():
    flow.iw_bound(x, 4)
    before = peak()
    bound = flow.iw_bound(x, 100_000)
print(peak() - before, bound.k)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_hundred_thousand_samples_need_little_memory():
    """In a process of its own, since the peak of this one has long been reached."""
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kilobytes, k = map(int, done.stdout.split())
    assert k == 100_000
    assert kilobytes < 50_000


# ---- degenerate weights ---------------------------------------------------------------------


def test_one_weight_is_its_own_bound():
    log_w = normal(1, 6)
    bound = LogWeights().add(log_w).bound()
    equal(bound.value, log_w[0])
    equal(bound.elbo, log_w[0])
    equal(bound.ess, torch.ones(6, dtype=F64))
    assert bound.var_log_weight.isnan().all()


@pytest.mark.parametrize("chunks", [[4], [1, 1, 1, 1], [2, 2], [3, 1]])
def test_zero_weights_count_as_what_they_are(chunks):
    no = -math.inf
    log_w = tensor([0.0, no, no, 0.0], [no, 1.0, no, 0.0], [2.0, no, no, 0.0], [no, no, no, 0.0])
    total = LogWeights()
    for part in log_w.split(chunks):
        total.add(part)
    bound = total.bound()
    e2 = math.exp(2.0)
    expected = [math.log((1 + e2) / 4), 1 - math.log(4), no, 0.0]
    torch.testing.assert_close(bound.value, tensor(*expected), atol=1e-12, rtol=0)
    ess = [(1 + e2) ** 2 / (1 + e2**2), 1.0, 0.0, 4.0]
    torch.testing.assert_close(bound.ess, tensor(*ess), atol=1e-12, rtol=0)
    assert bound.elbo.tolist() == [no, no, no, 0.0]
    assert bound.var_log_weight.tolist() == [math.inf, math.inf, math.inf, 0.0]


def test_a_flow_whose_base_has_an_edge_gives_sensible_bounds():
    """Noise moves some draws off the unit interval: weights of 0, and still a mean of 1."""
    x, e = slice(0, 1), slice(1, 2)
    net = MLP(1, 2, hidden=(), last_gain=0.0)
    with torch.no_grad():
        net.layers[-1].weight[1] = 1.0  # x -> x + e
    layers = [Augment(StandardUniform(1), keep=1), AffineCoupling(net, writes=x, reads=e)]
    flow = Flow(layers, StandardUniform(2)).double()
    bound = flow.iw_bound(tensor([0.25], [-3.0]), 4000)
    assert bound.value[0].exp().item() == pytest.approx(0.75, abs=0.04)
    assert bound.ess[0].item() == pytest.approx(3000, abs=150)
    assert bound.value[1] == -math.inf and bound.ess[1] == 0


def test_nan_is_not_hidden():
    log_w = tensor([0.0, 1.0], [math.nan, 1.0])
    assert LogWeights().add(log_w).bound().value.isnan().tolist() == [True, False]


# ---- bounds and the sandwich ----------------------------------------------------------------


def test_elbo_with_more_draws_is_the_mean_of_log_weights():
    flow, x = model(anf(2, 1, steps=1, **SMALL), 3), normal(4, 2)
    torch.manual_seed(1)
    many = flow.elbo(x, draws=50)
    torch.manual_seed(1)
    equal(many, flow.iw_bound(x, 50).elbo)
    torch.manual_seed(1)
    one = flow.elbo(x)
    torch.manual_seed(1)
    assert torch.equal(one, flow.log_weight(x))


def test_bounds_rise_with_k_and_stay_below():
    scalar, x = ScalarANF(0.7, 0.3, 1.1, 0.6), tensor(1.0).expand(4000)
    flow, log_p = scalar.flow(), scalar.log_prob(tensor(1.0)).item()
    means = [flow.iw_bound(x[:, None], k).value.mean().item() for k in (1, 4, 16, 64)]
    assert means == sorted(means) and means[-1] < log_p + 0.005
    assert means[0] == pytest.approx(log_p - scalar.gap(tensor(1.0)).item(), abs=0.06)


def sandwich_of(scalar):
    """Mean log p, ELBO and EUBO over the model's own x, in closed form."""
    linear = LinearGaussian.from_flow(scalar.flow())
    mean, cov = linear.marginal
    entropy = 0.5 * math.log(2 * math.pi * math.e * cov.item())
    var = scalar.tau2
    spread = (scalar.k - scalar.b) ** 2 / scalar.a**2 * cov.item()  # of the posterior's mean
    above = 0.5 * (var + spread - 1 - math.log(var))
    return -entropy, -entropy - linear.expected_gap(mean, cov).item(), -entropy + above


def test_sandwich_brackets_the_models_own_likelihood():
    scalar = ScalarANF(0.7, 0.3, 1.1, 0.6)
    log_p, below, above = sandwich_of(scalar)
    found = scalar.flow().sandwich(20_000)
    assert abs(found.elbo - below) < 4.5 * found.elbo_se
    assert abs(found.eubo - above) < 4.5 * found.eubo_se
    assert found.elbo + 10 * found.elbo_se < log_p < found.eubo - 10 * found.eubo_se
    tighter = scalar.flow().sandwich(2000, draws=50)
    assert tighter.elbo_se < scalar.flow().sandwich(2000).elbo_se


def test_a_samples_own_noise_is_biased_upwards():
    """The trap: the log-weight of a sample with its own e is no lower bound."""
    scalar = ScalarANF(0.7, 0.3, 1.1, 0.6)
    log_p, _, above = sandwich_of(scalar)
    assert above > log_p + 0.1
    assert scalar.flow().sandwich(20_000).eubo > log_p + 0.05


def test_sandwich_closes_on_an_exact_flow():
    found = model(realnvp(2, couplings=2, **SMALL), 2).sandwich(50)
    assert found.elbo == pytest.approx(found.eubo, abs=1e-10)


def test_sandwich_of_a_sliced_and_augmented_flow_brackets_quadrature():
    law = GaussianNet(MLP(1, 2, **SMALL))
    couple = affine_mlp(slice(0, 1), slice(1, 2), **SMALL)
    layers = [Augment(StandardNormal(1), keep=1), couple, Slice(law, keep=1)]
    flow = model(layers, 1)
    found = flow.sandwich(20_000)
    log_p = quadrature(flow, flow.sample(500).detach()).log_p
    se = 3 * (log_p.std() / math.sqrt(500)).item()
    assert found.elbo < log_p.mean().item() + se
    assert found.eubo > log_p.mean().item() - se
    assert found.elbo < found.eubo


def test_exact_flows_say_so():
    exact, bounded = (
        Flow(realnvp(2, couplings=2), StandardNormal(2)),
        Flow(anf(2, 1, steps=1), StandardNormal(3)),
    )
    assert exact.exact and not bounded.exact
    x = torch.randn(5, 2)
    assert torch.equal(exact.log_prob(x), exact.elbo(x))
    dropped = Flow([Slice(StandardNormal(1), keep=1)], StandardNormal(1))
    assert dropped.exact  # dropping is exact: the law says how likely the dropped was
    torch.testing.assert_close(dropped.log_prob(x), noise_log_prob(x))
