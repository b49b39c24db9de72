"""Toys: sampler, density and entropy agree by independent roads. Digits: the split never moves."""

import hashlib
import math

import numpy as np
import pytest
import torch

from augflow_mini import data
from augflow_mini.data import TOYS, digits, histogram_bits

N = 20_000
SPLIT_SHA256 = "22ccb51d1417f8119764af32a91d6d7351b6b6f703ee31920487dcfdf6a4e72a"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def grid(toy, *, nodes):
    """Cell midpoints and cell volume: not the rule and grid that the constants came from."""
    reach = 6.0
    edges = torch.linspace(-reach, reach, nodes + 1, dtype=torch.float64)
    line = (edges[1:] + edges[:-1]) / 2
    x = line[:, None] if toy.dims == 1 else torch.cartesian_prod(line, line)
    return x, (2 * reach / nodes) ** toy.dims


@pytest.fixture(scope="module", params=TOYS.values(), ids=TOYS)
def case(request):
    """A toy, its density on a grid, and samples."""
    toy = request.param
    x, volume = grid(toy, nodes=4000 if toy.dims == 1 else 360)
    return toy, x, toy.log_prob(x), volume, toy.sample(N, 11)


def test_density_integrates_to_one(case):
    _, _, log_p, volume, _ = case
    assert log_p.exp().sum().item() * volume == pytest.approx(1, abs=1e-9)


def test_entropy_and_best_gaussian_by_quadrature(case):
    toy, x, log_p, volume, _ = case
    p = log_p.exp() * volume
    entropy = -torch.where(p > 0, p * log_p, 0.0).sum().item()
    assert entropy == pytest.approx(toy.entropy, abs=1e-8)
    mean = p @ x
    covariance = (x - mean).T @ ((x - mean) * p[:, None])
    covariance += (
        torch.eye(toy.dims)
        * (volume ** (2 / toy.dims) / 12)
        * (
            toy.name == "checkerboard"  # a flat density: midpoints miss the variance within a cell
        )
    )
    gaussian = 0.5 * (toy.dims * (1 + math.log(2 * math.pi)) + torch.logdet(covariance).item())
    assert gaussian == pytest.approx(toy.gaussian, abs=1e-8)
    assert toy.gaussian > toy.entropy + 0.5


def test_entropy_by_monte_carlo(case):
    toy, *_, samples = case
    log_p = toy.log_prob(samples.double())
    assert log_p.isfinite().all(), "a sample where the density is 0"
    error = max(log_p.std().item() / N**0.5, 1e-6)
    assert abs(-log_p.mean().item() - toy.entropy) < 4 * error


def test_samples_follow_the_density(case):
    """Chi-square over coarse cells: a sampler that differs from the density is seen."""
    toy, x, log_p, volume, samples = case
    cells = 40 if toy.dims == 1 else 20
    place = lambda t: ((t + 6) / 12 * cells).floor().long().clamp(0, cells - 1)  # noqa: E731
    powers = torch.tensor([cells**i for i in range(toy.dims)])
    size = cells**toy.dims
    expected = torch.zeros(size, dtype=torch.float64)
    expected.index_add_(0, place(x) @ powers, log_p.exp() * volume * N)
    found = torch.bincount(place(samples.double()) @ powers, minlength=size)
    assert found[expected < 1e-9].sum() == 0
    used = expected > 5
    chi2 = ((found - expected).square() / expected.clamp(min=1e-300))[used].sum().item()
    freedom = int(used.sum())
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


def test_same_seed_same_samples(case):
    toy, *_, samples = case
    assert torch.equal(toy.sample(N, 11), samples)
    assert not torch.equal(toy.sample(N, 12), samples)
    assert toy.sample(5, torch.Generator().manual_seed(11)).shape == (5, toy.dims)
    assert samples.dtype == torch.float32


def test_the_numbers_of_e2():
    toy = TOYS["two_modes"]
    assert toy.entropy == pytest.approx(1.4188449981, abs=1e-10)
    assert toy.gaussian == pytest.approx(2.1423980247, abs=1e-10)
    assert TOYS["checkerboard"].entropy == math.log(32)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"two_modes.log_prob got torch.float32 \(4, 2\)"):
        TOYS["two_modes"].log_prob(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="int64"):
        TOYS["rings"].log_prob(torch.zeros(4, 2, dtype=torch.int64))


# ---- digits ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    return digits()


def test_digits_are_integers_in_a_fixed_split(found):
    parts = (found.train, found.valid, found.test)
    assert [tuple(p.shape) for p in parts] == [(1200, 64), (300, 64), (297, 64)]
    for part in parts:
        assert part.dtype == torch.float32
        assert torch.equal(part, part.round())
        assert 0 <= part.min() and part.max() <= 16
    assert found.train.max() == 16 and found.levels == 17
    digest = hashlib.sha256(torch.cat(parts).to(torch.uint8).numpy().tobytes()).hexdigest()
    assert digest == SPLIT_SHA256, "the split moved: no recorded number would compare"
    assert torch.equal(digits().test, found.test)


def test_the_parts_are_disjoint_and_complete(found):
    from sklearn.datasets import load_digits

    parts = (found.train, found.valid, found.test)
    rows = [row.tobytes() for p in parts for row in p.to(torch.uint8).numpy()]
    whole = [row.tobytes() for row in load_digits().data.astype(np.uint8)]
    assert len(rows) == len(set(rows)) == 1797  # no image comes twice in this data set
    assert set(rows) == set(whole)
    labels = torch.cat([found.labels[k] for k in ("train", "valid", "test")])
    by_image = dict(zip(whole, load_digits().target.tolist(), strict=True))
    assert labels.tolist() == [by_image[row] for row in rows]


def test_other_digits_are_refused(monkeypatch):
    monkeypatch.setattr(data, "DIGITS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="sha256 8f26b2bd.*expected 0000"):
        digits()


def test_histogram_baseline(found):
    """Against a count by hand in plain Python, position by position."""
    train, test = found.train.long().tolist(), found.test.long().tolist()
    bits = 0.0
    for d in range(64):
        column = [row[d] for row in train]
        bits -= sum(math.log2((column.count(row[d]) + 1) / (1200 + 17)) for row in test)
    by_hand = bits / (297 * 64)
    assert histogram_bits(found.train, found.test, 17) == pytest.approx(by_hand, abs=1e-5)
    assert 2.35 < by_hand < 2.5
