"""Bad input to layers, laws and networks: what came, what was expected, what to do."""

import math

import pytest
import torch
from by_hand import assert_explains, begin
from torch import nn

from augflow_mini import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Augment,
    BernoulliNet,
    Carry,
    Chain,
    Flow,
    GaussianNet,
    InvertibleLinear,
    Logit,
    On,
    Permute,
    ScalarANF,
    Scale,
    Slice,
    Squeeze,
    StandardNormal,
    StandardUniform,
    Transform,
    affine_mlp,
    cif,
    realnvp,
    uniform_dequantize,
)


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


class Column(Transform):
    def forward(self, x):
        return x, x.new_zeros(len(x), 1)

    def inverse(self, z):
        return z, z.new_zeros(len(z), 1)


def dequantised():
    return Flow(uniform_dequantize(17, 2), StandardNormal(2))


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs)


x2, x3, image = torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, 3, 5, 4)

# name -> what is done, and words of the message: what came | what was expected | what to do
WRONG = {
    "ActNorm inverted before initialisation": (
        lambda: ActNorm(2).inverse(x2),
        "ActNorm(2): inverse before initialisation | first batch | train() mode | state_dict",
    ),
    "ActNorm evaluated before initialisation": (
        lambda: ActNorm(2).eval()(x2),
        "forward in eval mode before initialisation | train() mode",
    ),
    "sampling before initialisation": (
        lambda: Flow([ActNorm(2)], StandardNormal(2)).sample(3),
        "inverse before initialisation | call the flow once on data",
    ),
    "ActNorm started on one example": (
        lambda: ActNorm(2)(x2[:1]),
        "shape (1, 2) | at least 2 examples",
    ),
    "ActNorm of another width": (
        lambda: ActNorm(2)(x3),
        "ActNorm(2) | shape (4, 3) | expected 2 features",
    ),
    "ActNorm at other positions": (
        lambda: ActNorm(3, 2, 2)(image),
        "shape (4, 3, 5, 4) | expected positions (2, 2) | without positions",
    ),
    "linear of another width": (
        lambda: InvertibleLinear(2).inverse(x3),
        "InvertibleLinear(2) | shape (4, 3) | expected 2 features",
    ),
    "no permutation": (lambda: Permute([0, 0, 2]), "[0, 0, 2] | permutation of 0 .. 2"),
    "permutation of another width": (
        lambda: Permute([1, 0])(x3),
        "shape (4, 3) | expected 2 features",
    ),
    "odd image": (lambda: Squeeze()(image), "shape (4, 3, 5, 4) | even H and W | pad or crop"),
    "unsqueezing odd channels": (
        lambda: Squeeze().inverse(image),
        "shape (4, 3, 5, 4) | (B, 4 C, H, W)",
    ),
    "nothing to slice": (
        lambda: Slice(StandardNormal(1), keep=2)(x2),
        "Slice(keep=2) | shape (4, 2) | more than 2 features",
    ),
    "keep nothing": (lambda: Augment(StandardNormal(1), keep=0), "keep is 0 | at least 1"),
    "slice of another width": (
        lambda: Slice(StandardNormal(1), keep=1)(x3),
        "event shape (2,) | expected (1,) | check the widths",
    ),
    "one level": (lambda: Carry(1), "levels is 1 | at least 2"),
    "half levels": (lambda: Carry(2.5), "levels is 2.5 | an integer"),
    "integers without noise": (
        lambda: Carry(17)(x3),
        "shape (4, 3) | (B, 2 D, ...) | put Augment before it",
    ),
    "pixels scaled to [0, 1]": (
        lambda: dequantised().elbo(x2 + 0.5),
        "data in [0.5, 0.5] | integers 0 .. 16 | raw levels",
    ),
    "too many levels": (
        lambda: dequantised().elbo(x2 + 17),
        "data in [17, 17] | integers 0 .. 16",
    ),
    "noise of 1": (
        lambda: Carry(17)(torch.ones(4, 2)),
        "noise in [1, 1] | expected [0, 1) | StandardUniform",
    ),
    "negative noise": (
        lambda: Carry(17)(-0.25 * torch.eye(2)[[1]]),
        "noise in [-0.25, -0.25] | expected [0, 1) | Sigmoid",
    ),
    "unbounded noise": (
        lambda: Flow([Augment(StandardNormal(2), keep=2), Carry(17)], StandardNormal(2)).elbo(
            x2.repeat(9, 1)
        ),
        "noise in | expected [0, 1) | end its flow with Sigmoid",
    ),
    "logit of 0": (
        lambda: Logit()(x2),
        "numbers in [0, 0] | open interval (0, 1) | scale the data",
    ),
    "scale of 0": (lambda: Scale(0.0), "scale=0.0 | scale != 0"),
    "scale of NaN": (lambda: Scale(math.nan), "scale=nan | finite"),
    "reads what it writes": (
        lambda: AffineCoupling(linear(2, 2), writes=slice(1, 2), reads=slice(0, 2)),
        "reads 0:2 and writes 1:2 | must not overlap",
    ),
    "open block": (
        lambda: AffineCoupling(linear(1, 2), writes=slice(1, None)),
        "slice(1, None, None) | slice(start, stop)",
    ),
    "block with a step": (
        lambda: AffineCoupling(linear(1, 2), writes=slice(0, 4, 2)),
        "slice(0, 4, 2) | step 1",
    ),
    "empty block": (lambda: On(slice(2, 2), Scale(2.0)), "slice(2, 2, None) | start < stop"),
    "negative block": (
        lambda: AffineCoupling(linear(1, 2), writes=slice(-1, 3)),
        "slice(-1, 3, None) | 0 <= start",
    ),
    "a number as block": (
        lambda: AdditiveCoupling(linear(1, 1), writes=1),
        "writes is 1 | slice(start, stop)",
    ),
    "block beyond the data": (
        lambda: On(slice(1, 4), Scale(2.0))(x3),
        "features 1:4 | shape (4, 3) | check",
    ),
    "network too narrow": (
        lambda: AffineCoupling(linear(1, 1), writes=slice(1, 2))(x2),
        "returned shape (4, 1) | expected (4, 2) | 2 features for each",
    ),
    "network of another input": (
        lambda: affine_mlp(slice(1, 2), slice(0, 1)).net(x2),
        "shape (4, 2) | expected (B, 1) | reads=",
    ),
    "negative clamp": (
        lambda: AffineCoupling(linear(1, 2), writes=slice(1, 2), clamp=-1.0),
        "clamp is -1.0 | positive number or None",
    ),
    "contribution of a wrong shape": (
        lambda: Chain([Column()])(x2),
        "Column | shape (4, 1) | expected (4,) | sum_event",
    ),
    "law without a shape": (
        lambda: StandardNormal(),
        "shape () | positive integers | StandardNormal(2)",
    ),
    "law of no features": (lambda: StandardUniform(0), "shape (0,) | positive integers"),
    "value of another shape": (
        lambda: StandardNormal(2).log_prob(x3),
        "event shape (3,) | expected (2,) | check the widths",
    ),
    "odd Gaussian network": (
        lambda: GaussianNet(linear(2, 3)).draw(x2),
        "returned 3 features | even number",
    ),
    "Gaussian network of another width": (
        lambda: GaussianNet(linear(2, 4)).log_prob(x3, x2),
        "shape (4, 3) | (4, 2) | 2 numbers for each feature",
    ),
    "grey values as bits": (
        lambda: BernoulliNet(linear(2, 3)).log_prob(x3 + 0.5, x2),
        "other than 0 and 1 | binarise",
    ),
    "one feature in halves": (
        lambda: realnvp(1, couplings=2),
        "1 feature cannot be split | at least 2 | Augment the data first",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_error_says_what_came_what_was_expected_and_what_to_do(name):
    do, words = WRONG[name]
    assert_explains(do, words, RuntimeError if "initialisation" in name else ValueError)


def test_a_list_in_a_chain_is_explained():
    with pytest.raises(
        TypeError, match=r"element 1 is a list, expected a Transform.*\[\*a, \*b\]"
    ):
        Chain([Scale(2.0), realnvp(2, couplings=2)])


def test_a_network_that_pools_the_image_is_refused():
    """(B, 2 W, 1, 1) would broadcast, and the log-determinant would count one place for all."""
    pool = nn.Sequential(nn.Conv2d(2, 4, 1), nn.AdaptiveAvgPool2d(1))
    layer = AffineCoupling(pool, reads=slice(0, 2), writes=slice(2, 4))
    with pytest.raises(
        ValueError, match=r"returned shape \(3, 4, 1, 1\), expected \(3, 4, 5, 5\)"
    ):
        layer(torch.randn(3, 4, 5, 5))


def test_on_keeps_what_is_dropped_and_refuses_another_width():
    torch.manual_seed(0)
    block = slice(0, 2)
    flow = Flow([On(block, Chain(cif(2, 1, steps=2)))], StandardNormal(3))
    x = torch.randn(6, 3)
    torch.testing.assert_close(flow.decode(flow.encode(x)), x)
    wider = On(block, Augment(StandardNormal(1), keep=2))
    with pytest.raises(ValueError, match="made 3 features of the block's 2"):
        wider(torch.randn(2, 4))


def test_a_posterior_narrower_than_the_grid_is_refused():
    with pytest.raises(ValueError, match="expected more than 0.02"):
        ScalarANF(1.0, 0.0, 1.0, 0.005).iw_gap(torch.tensor(0.5), 2)


@pytest.mark.parametrize("layer", [Scale(2.0), InvertibleLinear(3), Permute([2, 0, 1])])
def test_a_batch_of_none_passes(layer):
    z, contrib = layer(torch.zeros(0, 3))
    assert z.shape == (0, 3) and contrib.shape == (0,)
