"""Bad input to models and to the gap: what came, what was expected, what to do."""

import math

import pytest
import torch
from by_hand import F64, assert_explains, begin
from torch import nn

from augflow_mini import (
    ActNorm,
    Augment,
    BernoulliNet,
    Flow,
    LogWeights,
    StandardNormal,
    Transform,
    anf,
    bits_per_dim,
    realnvp,
    uniform_dequantize,
)
from augflow_mini.gap import (
    LinearGaussian,
    ScalarANF,
    expected_iw_bound,
    log_joint,
    measure_gap,
    quadrature,
)


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


class Noisy(Transform):
    """Draws noise that is not Augment's."""

    stochastic_forward = True

    def forward(self, x):
        return x + torch.randn_like(x), x.new_zeros(len(x))

    def inverse(self, z):
        return z, z.new_zeros(len(z))


def with_nan(value=math.nan):
    x = torch.zeros(5, 2)
    x[3, 1] = value
    return x


def vanilla():
    return Flow(realnvp(2, couplings=2), StandardNormal(2))


def augmented(noise=1):
    return Flow(anf(2, noise, steps=1), StandardNormal(2 + noise))


def dequantised():
    return Flow(uniform_dequantize(17, 2), StandardNormal(2))


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs)


x2, x3 = torch.zeros(4, 2), torch.zeros(4, 3)

# name -> what is done, and words of the message: what came | what was expected | what to do
WRONG = {
    # data
    "integers": (
        lambda: vanilla().log_prob(x2.long()),
        "torch.int64 (4, 2) | floating-point tensor (B, D) | convert with",
    ),
    "no batch": (
        lambda: vanilla().elbo(torch.zeros(2)),
        "torch.float32 (2,) | (B, D) or (B, C, H, W) | keep the batch",
    ),
    "a list": (lambda: vanilla().log_prob([[0.0, 0.0]]), "got list | tensor (B, D) | as_tensor"),
    "float64 data": (
        lambda: vanilla().log_prob(x2.double()),
        "got torch.float64 | parameters are torch.float32 | x.to(torch.float32)",
    ),
    "float32 data": (
        lambda: vanilla().double().iw_bound(x2, 3),
        "got torch.float32 | parameters are torch.float64 | flow.to(torch.float32)",
    ),
    "NaN": (
        lambda: vanilla().log_prob(with_nan()),
        "NaN or infinite numbers in 1 of 5 rows | row 3 | clean the data",
    ),
    "infinity": (
        lambda: vanilla().encode(with_nan(math.inf)),
        "NaN or infinite numbers in 1 of 5 rows | row 3 | clean the data",
    ),
    "wide data in a coupling": (
        lambda: vanilla().log_prob(x3),
        "event shape (3,) | expected (2,) | check the widths",
    ),
    "narrow data in a coupling": (
        lambda: vanilla().log_prob(x3[:, :1]),
        "features 1:2 | shape (4, 1) | check",
    ),
    "wide data in Augment": (
        lambda: augmented().elbo(x3),
        "Augment(keep=2) | shape (4, 3) | expected 2 features | keep=3",
    ),
    "wrong base": (
        lambda: Flow(realnvp(2, couplings=1), StandardNormal(3)).log_prob(x2),
        "StandardNormal(3) | event shape (2,) | expected (3,) | check the widths",
    ),
    # questions a model cannot answer
    "log_prob of an augmented flow": (
        lambda: augmented().log_prob(x2),
        "log p(x) is not available | Augment draws noise | elbo(x) | iw_bound(x, k)",
    ),
    "log_prob of a dequantised flow": (
        lambda: dequantised().log_prob(x2),
        "not available | Augment draws noise | elbo(x)",
    ),
    "log_prob of another noisy layer": (
        lambda: Flow([Noisy()], StandardNormal(2)).log_prob(x2),
        "Noisy draws noise | elbo(x)",
    ),
    "K = 0": (lambda: augmented().iw_bound(x2, 0), "k is 0 | expected an integer of at least 1"),
    "K = 2.5": (lambda: augmented().iw_bound(x2, 2.5), "k is 2.5 | expected an integer"),
    "no draws": (lambda: augmented().elbo(x2, draws=0), "k is 0 | at least 1"),
    "no rows": (lambda: augmented().iw_bound(x2, 3, rows=0), "rows is 0 | at least 1"),
    "sandwich of one": (lambda: augmented().sandwich(1), "n is 1 | at least 2 samples"),
    "no samples": (lambda: augmented().sample(0), "n is 0 | at least 1"),
    "no weights": (lambda: LogWeights().bound(), "no log-weights were added | add"),
    "weights without a batch": (
        lambda: LogWeights().add(torch.zeros(5)),
        "shape (5,) | expected (k, B)",
    ),
    "weights of another batch": (
        lambda: LogWeights().add(torch.zeros(5, 3)).add(torch.zeros(5, 2)),
        "shape (5, 2) | expected (k, 3)",
    ),
    "bits of another batch": (
        lambda: bits_per_dim(torch.zeros(3), x2),
        "shape (3,) | (4, 2) | one log-probability for each row",
    ),
    # the gap
    "quadrature without noise": (
        lambda: quadrature(vanilla(), x2),
        "0 noise features | expected (B, D_X) and 1 or 2 | measure_gap",
    ),
    "quadrature in three dimensions": (
        lambda: quadrature(augmented(3), x2),
        "3 noise features | 1 or 2 | iw_bound(x, k)",
    ),
    "quadrature with 3 nodes": (
        lambda: quadrature(augmented(), x2, max_nodes=3),
        "max_nodes is 3 | at least 9",
    ),
    "quadrature of NaN": (lambda: quadrature(augmented(), with_nan()), "NaN or infinite | row 3"),
    "quadrature of bits": (
        lambda: quadrature(
            Flow([Augment(BernoulliNet(linear(2, 1)), keep=2)], StandardNormal(3)), x2
        ),
        "noise from BernoulliNet | expected StandardNormal | iw_bound",
    ),
    "quadrature of other noise": (
        lambda: log_joint(Flow([Noisy()], StandardNormal(2)), x2, x2),
        "Noisy draws noise | comes from Augment | iw_bound",
    ),
    "noise of another width": (
        lambda: log_joint(augmented(), x2, x3),
        "shape (4, 3) | expected (B, 1)",
    ),
    "noise that is too narrow": (
        lambda: log_joint(augmented(2), x2, x2[:, :1]),
        "shape (4, 1) | expected (B, 2)",
    ),
    "closed form of a network": (
        lambda: LinearGaussian.from_flow(augmented()),
        "off a linear map by | use quadrature | linear",
    ),
    "closed form of uniform noise": (
        lambda: LinearGaussian.from_flow(dequantised()),
        "StandardUniform(2) | expected Augment(StandardNormal",
    ),
    "closed form without noise": (
        lambda: LinearGaussian.from_flow(vanilla()),
        "StandardNormal(2) | expected Augment",
    ),
    "matrix that is not square": (
        lambda: LinearGaussian(torch.zeros(2, 3), torch.zeros(2), 1),
        "a (2, 3) | expected (D, D)",
    ),
    "scale of 0 in the scalar model": (
        lambda: ScalarANF(0.0, 0.0, 1.0, 1.0),
        "(0.0, 0.0, 1.0, 1.0) | a > 0 and d > 0",
    ),
    "expected bound of no samples": (
        lambda: expected_iw_bound(x2, x2[0], 0),
        "k is 0 | at least 1",
    ),
    "panel of one example": (
        lambda: measure_gap(augmented(), x2[:1]),
        "1 examples | at least 2 of each",
    ),
    "panel with one draw": (
        lambda: measure_gap(augmented(), x2, k=1),
        "k = 1 | at least 2 of each",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_error_says_what_came_what_was_expected_and_what_to_do(name):
    do, words = WRONG[name]
    assert_explains(do, words, RuntimeError if "initialisation" in name else ValueError)


def test_failing_input_leaves_the_model_usable():
    flow = Flow([ActNorm(2), *realnvp(2, couplings=1)], StandardNormal(2))
    with pytest.raises(ValueError, match="NaN"):
        flow.log_prob(with_nan())
    assert not flow.chain[0].initialised
    flow.log_prob(torch.randn(8, 2))
    assert flow.sample(3).isfinite().all()


def test_one_bad_row_is_named_among_many():
    x = torch.zeros(1000, 2, dtype=F64)
    x[[17, 500], 0] = math.nan
    with pytest.raises(ValueError, match="in 2 of 1000 rows, the first is row 17"):
        vanilla().double().log_prob(x)
