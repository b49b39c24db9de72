"""The floors against computations that do not use their formulas."""

import math

import pytest
import torch

from augflow_mini.floors import (
    constant_jacobian_floor,
    one_coupling_floor,
    rearrangement_floor,
    steepness_frontier,
)

LOG_2PI = math.log(2 * math.pi)


def normal(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - 0.5 * LOG_2PI - math.log(sd)


def two_modes(x):
    parts = [normal(x[:, 0], m, 0.5) for m in (-2.0, 2.0)]
    return torch.logsumexp(torch.stack(parts), 0) - math.log(2)


def checkerboard(x):
    black = (x / 2).floor().sum(1) % 2 == 0
    inside = black & (x.abs() < 4).all(1)
    return torch.where(inside, -math.log(32.0), -math.inf).double()


def test_constant_jacobian_floor_has_the_printed_values():
    printed = {0: 0.3069, 1: 0.1204, 2: 0.0653, 3: 0.0411, 4: 0.0283, 8: 0.0101}
    for k, value in printed.items():
        assert constant_jacobian_floor(k) == pytest.approx(value, abs=6e-5)
    assert constant_jacobian_floor(0) == pytest.approx(1 - math.log(2), abs=1e-12)


@pytest.mark.parametrize("noise", [0, 1, 2])
def test_sorting_cells_gives_the_same_floor(noise):
    """A uniform square times N(0, I_k), rearranged cell by cell: no gamma function, no M."""
    edge = torch.linspace(-6, 6, 301, dtype=torch.float64)
    e = (edge[1:] + edge[:-1]) / 2
    log_q = torch.zeros(1, dtype=torch.float64)
    for _ in range(noise):
        log_q = (log_q[:, None] + normal(e, 0.0, 1.0)).flatten()
    squares = 64 if noise < 2 else 4  # cells of the data square, all alike
    grid = log_q.expand(squares, -1)
    floor = rearrangement_floor(grid, (12 / 300) ** noise / squares, dims=2 + noise)
    assert floor == pytest.approx(constant_jacobian_floor(noise), abs=6e-3 if noise == 0 else 2e-3)


def test_floor_by_sampling_the_optimal_map():
    """The map that attains the floor for k = 1, run: push (x, e) to nested balls, measure the loss."""
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(2_000_000, generator=generator, dtype=torch.float64).abs()
    volume = 2 * r  # of the superlevel set {|e'| < r} over a unit area
    radius2 = (volume / (4 / 3 * math.pi)) ** (2 / 3)
    c = (3 / radius2.mean()) ** 1.5
    loss = 1.5 * LOG_2PI + 1.5 - c.log() - 0.5 * (LOG_2PI + 1)
    assert loss.item() == pytest.approx(constant_jacobian_floor(1), abs=2e-3)


def test_a_gaussian_has_no_floor():
    """Rearranging N(0, I_2) gives N(0, I_2) back: the bound is about 0 (a negative control)."""
    axis = (torch.arange(400, dtype=torch.float64) + 0.5) * 0.03 - 6
    grid = normal(axis, 0.0, 1.0)[:, None] + normal(axis, 0.0, 1.0)
    assert rearrangement_floor(grid, 0.03**2, dims=2) == pytest.approx(0, abs=2e-3)


def test_frontier_has_the_printed_values_and_ends_at_zero():
    for steepness, excess in {2: 0.462, 5: 0.119, 10: 0.046, 20: 0.018, 50: 0.005}.items():
        value = steepness_frontier(two_modes, steepness, low=-6, high=6, cells=1000)
        assert value == pytest.approx(excess, abs=6e-4)
    assert steepness_frontier(two_modes, 5000, low=-6, high=6, cells=1000) < 2e-4


def test_frontier_of_a_gaussian_is_a_formula():
    """N(0, 2^2) by maps of steepness 1: the best is the identity, KL(N(0,4) || N(0,1))."""
    value = steepness_frontier(lambda x: normal(x[:, 0], 0.0, 2.0), 1.0, low=-16, high=16)
    assert value == pytest.approx(0.5 * (4 - 1) - math.log(2), abs=1e-3)


def test_one_coupling_floor():
    assert one_coupling_floor(checkerboard, low=-4, high=4) == pytest.approx(4.408, abs=2e-3)
    turned = one_coupling_floor(checkerboard, low=-6, high=6, cells=1200, angle=math.radians(45))
    assert 3.4657 < turned < 4.408


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="expected >= 0"):
        constant_jacobian_floor(-1)
    with pytest.raises(ValueError, match="mass of"):
        rearrangement_floor(torch.zeros(10), 1.0, dims=1)
    with pytest.raises(ValueError, match="positive"):
        steepness_frontier(two_modes, 0.0, low=-6, high=6)
    with pytest.raises(ValueError, match="mass of"):
        steepness_frontier(two_modes, 2.0, low=-1, high=1)
    with pytest.raises(ValueError, match="mass of"):
        one_coupling_floor(checkerboard, low=-1, high=1)
