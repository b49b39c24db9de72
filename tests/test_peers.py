"""Copied weights give the same numbers in independent libraries. Needs the extra `peers`.

The only tests that may be skipped: without the extra there is nothing to compare with.
"""

import pytest
import torch
from torch import nn

from augflow_mini import (
    ActNorm,
    AffineCoupling,
    Chain,
    Flow,
    Inverse,
    InvertibleLinear,
    Permute,
    StandardNormal,
    randomise,
    realnvp,
)
from benchmarks import peers

A, B = slice(0, 1), slice(1, 2)
D64 = torch.float64


def randomised_realnvp():
    flow = Flow(realnvp(2, couplings=8), StandardNormal(2)).double()
    randomise(flow, seed=0, scale=0.4)
    return flow, [layer.net for layer in flow.chain]


def ours(name, nets):
    """Our flow in the parametrisation and direction of the other library."""
    adapt = {"nflows": peers.nflows_log_s, "zuko": peers.zuko_log_s}.get(name)
    layers = []
    for i, net in enumerate(nets):
        net = peers.Adapter(net, adapt) if adapt else net
        writes, reads = (B, A) if i % 2 == 0 else (A, B)
        layer = AffineCoupling(net, writes=writes, reads=reads)
        layers.append(Inverse(layer) if name == "normflows" else layer)
    return Flow(layers, StandardNormal(2)).double()


@pytest.mark.parametrize("name", peers.REALNVP)
def test_realnvp_agrees_with(name):
    pytest.importorskip(name)
    _, nets = randomised_realnvp()
    theirs = peers.REALNVP[name](nets).double()
    x = 2 * torch.randn(500, 2, dtype=D64, generator=torch.Generator().manual_seed(1))
    log_p = theirs.log_prob(x)
    expected = ours(name, nets).log_prob(x)
    assert log_p.dtype == D64
    assert log_p.std() > 0.1
    assert torch.allclose(log_p, expected, rtol=1e-12, atol=1e-10)


def image():
    return torch.randn(3, 4, 5, 5, dtype=D64, generator=torch.Generator().manual_seed(2))


def actnorm():
    layer = randomise(ActNorm(4).double(), seed=3)
    layer.initialised.fill_(True)
    return layer


def theirs_nflows_actnorm(layer):
    from nflows.transforms.normalization import ActNorm as Peer

    peer = Peer(4).double()
    peer.initialized.fill_(True)
    with torch.no_grad():
        peer.log_scale.copy_(layer.log_s)
        peer.shift.copy_(layer.shift * layer.log_s.exp())
    return peer


def theirs_normflows_actnorm(layer):
    import normflows as nf

    peer = nf.flows.ActNorm((4, 1, 1)).double()
    peer.data_dep_init_done = torch.tensor(1.0)
    with torch.no_grad():
        peer.s.copy_(-layer.log_s.view(1, 4, 1, 1))
        peer.t.copy_(-layer.shift.view(1, 4, 1, 1))
    return peer.inverse


@pytest.mark.parametrize("name", ["nflows", "normflows"])
def test_actnorm_agrees_with(name):
    pytest.importorskip(name)
    layer, x = actnorm(), image()
    z, contrib = layer(x)
    peer_z, log_det = globals()[f"theirs_{name}_actnorm"](layer)(x)
    assert torch.allclose(z, peer_z, rtol=0, atol=1e-10)
    assert torch.allclose(contrib, log_det.expand(3), rtol=0, atol=1e-10)


def theirs_nflows_linear(layer, order):
    from nflows.transforms.conv import OneByOneConvolution

    peer = OneByOneConvolution(4).double()
    lower, upper = layer.lower, layer.upper
    with torch.no_grad():
        peer.permutation._permutation.copy_(torch.tensor(order))
        peer.lower_entries.copy_(lower[peer.lower_indices])
        peer.upper_entries.copy_(upper[peer.upper_indices])
        peer.unconstrained_upper_diag.copy_((layer.log_diag.exp() - peer.eps).expm1().log())
    return peer


def theirs_normflows_linear(layer, order):
    import normflows as nf

    peer = nf.flows.Invertible1x1Conv(4, use_lu=True).double()
    with torch.no_grad():
        peer.P.copy_(torch.eye(4))
        peer.sign_S.fill_(1.0)
        peer.eye = peer.eye.double()
        peer.L.copy_(layer.lower)
        peer.U.copy_(layer.upper)
        peer.log_S.copy_(layer.log_diag)
    return lambda x: peer.inverse(x[:, order])


# normflows still calls torch.lu
@pytest.mark.filterwarnings("ignore:torch.lu is deprecated:UserWarning")
@pytest.mark.parametrize("name", ["nflows", "normflows"])
def test_one_by_one_convolution_agrees_with(name):
    pytest.importorskip(name)
    order = [2, 0, 3, 1]
    layer = randomise(InvertibleLinear(4).double(), seed=4)
    # the other library permutes first, so a layer of its own does here
    layer.p.copy_(torch.eye(4))
    layer.sign.fill_(1.0)
    x = image()
    z, contrib = Chain([Permute(order), layer])(x)
    peer_z, log_det = globals()[f"theirs_{name}_linear"](layer, order)(x)
    assert torch.allclose(z, peer_z, rtol=0, atol=1e-10)
    assert torch.allclose(contrib, log_det.expand(3), rtol=0, atol=1e-10)


def test_a_planted_fault_is_seen():
    """The comparison itself: one weight nudged by a thousandth must not pass."""
    pytest.importorskip("nflows")
    _, nets = randomised_realnvp()
    theirs = peers.REALNVP["nflows"](nets).double()
    with torch.no_grad():
        next(m for m in theirs.modules() if isinstance(m, nn.Linear)).bias[0] += 1e-3
    x = torch.randn(50, 2, dtype=D64)
    gap = (theirs.log_prob(x) - ours("nflows", nets).log_prob(x)).abs().max()
    assert gap > 1e-6
