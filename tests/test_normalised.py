"""Densities integrate to one and probabilities sum to one, and a wrong contribution is seen."""

import math

import pytest
import torch
from by_hand import F64, SMALL, begin, model, tensor

from augflow_mini import (
    MLP,
    Augment,
    Carry,
    Flow,
    GaussianNet,
    Logit,
    On,
    Scale,
    Sigmoid,
    Slice,
    StandardNormal,
    StandardUniform,
    Transform,
    affine_mlp,
    anf,
    check_normalised,
    randomise,
    realnvp,
    uniform_dequantize,
    variational_dequantize,
    vflow,
)
from augflow_mini.gap import quadrature


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    begin()


class WrongSign(Transform):
    """A layer whose contribution has the wrong sign both ways: the sign law still holds."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.stochastic_forward = layer.stochastic_forward
        self.stochastic_inverse = layer.stochastic_inverse

    def forward(self, x):
        z, contrib = self.layer(x)
        return z, -contrib

    def inverse(self, z):
        x, contrib = self.layer.inverse(z)
        return x, -contrib


class NoContribution(WrongSign):
    def forward(self, x):
        return self.layer(x)[0], x.new_zeros(len(x))

    def inverse(self, z):
        return self.layer.inverse(z)[0], z.new_zeros(len(z))


def same(layer):
    return layer


def line(reach, n):
    return torch.linspace(-reach, reach, n, dtype=F64)[:, None], 2 * reach / (n - 1)


def plane(reach, n):
    grid, h = line(reach, n)
    return torch.cartesian_prod(grid[:, 0], grid[:, 0]), h * h


# ---- continuous data ------------------------------------------------------------------------


def law(features, noise):
    return GaussianNet(MLP(features, 2 * noise, **SMALL))


def sliced(fault=same):
    """Two features of data, the second sliced off under a law that reads the first."""
    couple = affine_mlp(slice(1, 2), slice(0, 1), **SMALL)
    return model([couple, fault(Slice(law(1, 1), keep=1)), Scale(0.8)], 1, seed=1)


def augmented(fault=same):
    layers = anf(1, 1, steps=1, **SMALL)
    return model([fault(layers[0]), *layers[1:]], 2, seed=1)


def sliced_and_augmented(fault=same):
    """One feature is sliced off, then noise is added, and some of that is sliced off again."""
    layers = [
        affine_mlp(slice(1, 2), slice(0, 1), **SMALL),
        fault(Slice(law(1, 1), keep=1)),
        Augment(law(1, 1), keep=1),
        affine_mlp(slice(0, 1), slice(1, 2), **SMALL),
        affine_mlp(slice(1, 2), slice(0, 1), **SMALL),
        Slice(law(1, 1), keep=1),
    ]
    return model(layers, 1, seed=2)


def with_posterior_flow(fault=same):
    q = affine_mlp(slice(1, 2), slice(0, 1), **SMALL)
    layers = vflow(1, 1, posterior=[q], joint=realnvp(2, couplings=3, **SMALL))
    return model([fault(layers[0]), *layers[1:]], 2, seed=3)


def integral(flow, grid, volume):
    if flow.exact:
        return check_normalised(flow, grid, volume, atol=1e-6)
    found = quadrature(flow, grid)
    return (found.log_p.exp().sum() * volume).item()


CONTINUOUS = {
    "sliced": (sliced, plane(11, 111)),
    "augmented": (augmented, line(14, 141)),
    "sliced and augmented": (sliced_and_augmented, plane(10, 31)),
    "posterior flow": (with_posterior_flow, line(14, 141)),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_density_integrates_to_one(name):
    make, (grid, volume) = CONTINUOUS[name]
    assert integral(make(), grid, volume) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["sliced", "sliced and augmented"])
@pytest.mark.parametrize("fault", [WrongSign, NoContribution])
def test_a_wrong_slice_breaks_the_integral(name, fault):
    make, (grid, volume) = CONTINUOUS[name]
    with pytest.raises(AssertionError):
        assert integral(make(fault), grid, volume) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("make", [augmented, with_posterior_flow])
def test_the_weights_of_an_augmented_flow_average_to_the_density(make):
    """The same by sampling, without quadrature: E[w] = p(x)."""
    grid, volume = line(8, 161)
    check_normalised(make(), grid, volume, k=4000, atol=0.02)


@pytest.mark.parametrize("fault", [WrongSign, NoContribution])
@pytest.mark.parametrize("make", [augmented, with_posterior_flow])
def test_a_wrong_augment_breaks_the_average(make, fault):
    grid, volume = line(8, 161)
    with pytest.raises(AssertionError, match="the density sums to"):
        check_normalised(make(fault), grid, volume, k=4000, atol=0.1)


# ---- integers: every value is tried ---------------------------------------------------------


def on_the_unit_interval(levels, d, fault=same):
    """Base uniform on the unit cube, so that no probability lies outside the levels."""
    layers = uniform_dequantize(levels, d)
    return [layers[0], fault(layers[1])]


def bent(d, seed=0):
    """A map of the unit cube: to the line, through couplings, and back.

    Scales above 1 keep the density finite at the faces of the cube.
    """
    couplings = realnvp(d, couplings=2, clamp=0.2, **SMALL) if d > 1 else []
    margin = Scale(1 - 1e-9, shift=5e-10)
    chain = [margin, Logit(), *couplings, Scale(1.5, shift=0.3), Sigmoid()]
    return [randomise(layer.double(), seed=seed) for layer in chain]


@pytest.mark.parametrize(("levels", "d"), [(17, 1), (5, 2)])
def test_probabilities_sum_to_one(levels, d):
    flow = Flow([*on_the_unit_interval(levels, d), *bent(d)], StandardUniform(d))
    values = torch.arange(levels, dtype=F64)
    values = torch.cartesian_prod(*[values] * d).view(-1, d)
    p = quadrature(flow, values).log_p.exp()
    assert p.sum().item() == pytest.approx(1, abs=2e-6)
    assert p.max() > 1.3 * p.min()


@pytest.mark.parametrize(("levels", "d"), [(17, 1), (5, 2)])
def test_probabilities_sum_to_one_by_sampling(levels, d):
    flow = Flow([*on_the_unit_interval(levels, d), *bent(d)], StandardUniform(d))
    values = torch.arange(levels, dtype=F64)
    values = torch.cartesian_prod(*[values] * d).view(-1, d)
    check_normalised(flow, values, 1.0, k=4000, atol=0.02)


@pytest.mark.parametrize("fault", [WrongSign, NoContribution])
def test_a_wrong_carry_breaks_the_sum(fault):
    flow = Flow([*on_the_unit_interval(17, 1, fault), *bent(1)], StandardUniform(1))
    with pytest.raises(AssertionError, match="the density sums to"):
        check_normalised(flow, torch.arange(17, dtype=F64)[:, None], 1.0, k=1000, atol=0.02)


def test_variational_noise_leaves_the_probabilities_alone():
    """Any r(u | x) gives the same P(x), by quadrature; only the bound moves."""
    x = torch.arange(5, dtype=F64)[:, None]
    read = affine_mlp(slice(1, 2), slice(0, 1), **SMALL)
    squash = [Scale(5.0, shift=-2.2), Sigmoid()]
    uniform = Flow([*uniform_dequantize(5, 1), *squash], StandardUniform(1))
    noise = variational_dequantize(5, 1, layers=[read])
    variational = Flow([*noise, *squash], StandardUniform(1)).double()
    randomise(variational, seed=0, scale=0.2)
    one, other = quadrature(uniform, x), quadrature(variational, x)
    torch.testing.assert_close(one.log_p, other.log_p, atol=1e-7, rtol=0)
    assert (one.elbo - other.elbo).abs().max() > 1e-2
    assert (other.gap > 0).all()


def test_the_sigmoid_on_the_noise_may_not_be_left_out_of_the_account():
    noise = slice(1, 2)

    def flow(fault):
        squash = On(noise, fault(Sigmoid()))
        layers = [Augment(StandardNormal(1), keep=1), squash, Carry(5), Scale(6.0, shift=-3.0)]
        return Flow(layers, StandardNormal(1))

    integers = tensor([0.0], [1.0], [2.0], [3.0], [4.0])
    mass = math.erf(3 / math.sqrt(2))  # of the base between -3 and 3, where the integers lie
    assert quadrature(flow(same), integers).log_p.exp().sum() == pytest.approx(mass, abs=1e-7)
    assert quadrature(flow(NoContribution), integers).log_p.exp().sum() > 2
