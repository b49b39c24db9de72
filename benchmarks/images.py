"""A Glow-like model of 3x32x32 images in four libraries, and the bare networks beside them.

Squeeze, 4 steps, squeeze, 4 steps, nothing factored out: 8 times (norm, 1x1 convolution, affine
coupling), networks 3x3 - 1x1 - 3x3 of one width. Exp scales where the library has them.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from augflow_mini import ActNorm, AffineCoupling, Flow, InvertibleLinear, Squeeze, StandardNormal

SCALES, STEPS, SHAPE = 2, 4, (3, 32, 32)


def conv_net(inputs: int, outputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(),
        nn.Conv2d(hidden, hidden, 1), nn.ReLU(),
        nn.Conv2d(hidden, outputs, 3, padding=1),
    )  # fmt: skip


class NllModel(nn.Module):
    """`log_prob(x)` of a module that says it under another name."""

    def __init__(self, module: nn.Module, log_prob: object) -> None:
        super().__init__()
        self.module, self.log_prob = module, log_prob


def ours(hidden: int) -> NllModel:
    layers, c = [], SHAPE[0]
    for _ in range(SCALES):
        layers.append(Squeeze())
        c *= 4
        for _ in range(STEPS):
            net = conv_net(c // 2, c, hidden)
            layers += [ActNorm(c), InvertibleLinear(c)]
            layers.append(AffineCoupling(net, reads=slice(0, c // 2), writes=slice(c // 2, c)))
    flow = Flow(layers, StandardNormal(c, 8, 8))
    return NllModel(flow, flow.log_prob)


def normflows(hidden: int) -> NllModel:
    import normflows as nf

    flows, c = [], SHAPE[0]
    for _ in range(SCALES):  # from data to noise; turned round below
        flows.append(nf.flows.Squeeze())
        c *= 4
        for _ in range(STEPS):
            net = conv_net(c // 2, c, hidden)
            flows += [
                nf.flows.ActNorm((c, 1, 1)),
                nf.flows.Invertible1x1Conv(c, use_lu=True),
                nf.flows.AffineCouplingBlock(net, scale_map="exp"),
            ]
    base = nf.distributions.DiagGaussian((c, 8, 8), trainable=False)
    flow = nf.NormalizingFlow(base, flows[::-1])
    return NllModel(flow, flow.log_prob)


def nflows(hidden: int) -> NllModel:
    from nflows import transforms as t
    from nflows.distributions.normal import StandardNormal as Base
    from nflows.flows.base import Flow as Peer

    from benchmarks.peers import _IgnoresContext

    steps, c = [], SHAPE[0]
    for _ in range(SCALES):
        steps.append(t.SqueezeTransform())
        c *= 4
        mask = [-1] * (c // 2) + [1] * (c // 2)
        for _ in range(STEPS):
            net = _IgnoresContext(conv_net(c // 2, c, hidden))
            steps += [t.ActNorm(c), t.OneByOneConvolution(c)]
            steps.append(t.AffineCouplingTransform(mask, lambda *_, net=net: net))
    flow = Peer(t.CompositeTransform(steps), Base((c, 8, 8)))
    return NllModel(flow, flow.log_prob)


def freia(hidden: int) -> NllModel:
    """One-sided couplings; norm and fixed 1x1 convolution are its own modules."""
    import FrEIA.framework as Ff
    import FrEIA.modules as Fm

    inn, c = Ff.SequenceINN(*SHAPE), SHAPE[0]
    for _ in range(SCALES):
        inn.append(Fm.IRevNetDownsampling)
        c *= 4
        for _ in range(STEPS):
            inn.append(Fm.ActNorm)
            inn.append(Fm.Fixed1x1Conv, M=torch.linalg.qr(torch.randn(c, c))[0])
            inn.append(
                Fm.AffineCouplingOneSided,
                subnet_constructor=lambda a, b: conv_net(a, b, hidden),
                clamp=1.0,
                clamp_activation=lambda u: u,
            )

    def log_prob(x: Tensor) -> Tensor:
        z, log_det = inn(x)
        normal = -0.5 * (z.flatten(1) ** 2 + torch.log(torch.tensor(2 * torch.pi))).sum(1)
        return normal + log_det

    return NllModel(inn, log_prob)


def floor(hidden: int, *, pass_on: bool = False) -> NllModel:
    """The coupling networks alone, fed with slices of the squeezed image.

    `pass_on` asks for the gradient of their inputs too, as what stands before them in a flow does.
    """
    nets, c = nn.ModuleList(), SHAPE[0]
    for _ in range(SCALES):
        c *= 4
        nets.extend(conv_net(c // 2, c, hidden) for _ in range(STEPS))

    def log_prob(x: Tensor) -> Tensor:
        total, x = 0.0, x.detach().requires_grad_(pass_on)
        for i, net in enumerate(nets):
            if i % STEPS == 0:
                x = nn.functional.pixel_unshuffle(x, 2)
            total = total + net(x[:, : x.shape[1] // 2]).flatten(1).sum(1)
        return total

    return NllModel(nets, log_prob)


GLOW = {"ours": ours, "normflows": normflows, "nflows": nflows, "FrEIA": freia, "floor": floor}
GLOW["floor, gradients passed on"] = partial(floor, pass_on=True)
