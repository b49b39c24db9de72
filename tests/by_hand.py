"""What the tests share: small models, fixed noise, and Gaussian arithmetic by other code."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from augflow_mini import Flow, StandardNormal, randomise

F64 = torch.float64
SMALL = {"hidden": (8, 8), "activation": nn.Tanh}


def begin():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def model(layers, features, *, seed=0, scale=0.5):
    flow = Flow(layers, StandardNormal(features)).double()
    return randomise(flow, seed=seed, scale=scale)


def noise_log_prob(e):
    return Independent(Normal(torch.zeros_like(e), 1.0), 1).log_prob(e)


def gaussian(mean, log_s):
    return Independent(Normal(mean, log_s.exp()), 1)


def seeded(run):
    torch.manual_seed(7)
    return run()


def noise_like(*shape):
    return seeded(lambda: torch.randn(*shape, dtype=F64))


def equal(one, other, atol=1e-10):
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


def assert_explains(do, words, kind=ValueError):
    """`do` fails with exactly this kind of error, whose message holds all the words."""
    with pytest.raises(kind) as caught:
        do()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert not [word for word in words.split(" | ") if word not in message], message


def affine_by_hand(net, x):
    """log_s and m of a network's output, taken apart by index."""
    out = net(x)
    half = out.shape[1] // 2
    return out[:, :half], out[:, half:]


def hermite(n):
    """Nodes and probabilities for N(0, 1), by numpy."""
    from numpy.polynomial.hermite_e import hermegauss

    nodes, weights = hermegauss(n)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


def legendre(n):
    """Nodes and weights on [0, 1], by numpy."""
    from numpy.polynomial.legendre import leggauss

    nodes, weights = leggauss(n)
    return torch.tensor(nodes) / 2 + 0.5, torch.tensor(weights) / 2
