"""The same RealNVP and the same Glow in other flow libraries, with our networks' weights.

Installed as the extra `peers`, without their dependencies (see the README of this folder). Each
builder takes fresh networks and returns a model with `log_prob(x)` and `sample(n)`, in the way the
library's own examples build it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from augflow_mini import MLP


def shift_first(net: MLP) -> nn.Sequential:
    """A copy of our network with its outputs in the other libraries' order: m, then log_s."""
    layers = copy.deepcopy(net.layers)
    last, half = layers[-1], layers[-1].out_features // 2
    with torch.no_grad():
        last.weight.copy_(last.weight.roll(half, 0))
        last.bias.copy_(last.bias.roll(half, 0))
    return layers


class Adapter(nn.Module):
    """Our network with log_s in another library's parametrisation."""

    def __init__(self, net: nn.Module, log_s: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.log_s = net, log_s

    def forward(self, x: Tensor) -> Tensor:
        raw, m = self.net(x).chunk(2, dim=1)
        return torch.cat([self.log_s(raw), m], dim=1)


def nflows_log_s(raw: Tensor) -> Tensor:
    return (torch.sigmoid(raw + 2) + 1e-3).log()


def zuko_log_s(raw: Tensor) -> Tensor:
    return raw / (1 + (raw / torch.tensor(1e-3, dtype=raw.dtype).log()).abs())


class _IgnoresContext(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(x)


class _Model(nn.Module):
    """One interface for all: `log_prob(x)` and `sample(n)`."""

    def __init__(self, module: nn.Module, log_prob: Callable, sample: Callable) -> None:
        super().__init__()
        self.module, self.log_prob, self.sample = module, log_prob, sample


def nflows_realnvp(nets: Sequence[MLP]) -> _Model:
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms.base import CompositeTransform
    from nflows.transforms.coupling import AffineCouplingTransform

    steps = []
    for i, net in enumerate(nets):
        mask = [-1, 1] if i % 2 == 0 else [1, -1]  # 1 is written
        inner = _IgnoresContext(shift_first(net))
        steps.append(AffineCouplingTransform(mask, lambda *_, inner=inner: inner))
    flow = Flow(CompositeTransform(steps), StandardNormal([2]))
    return _Model(flow, flow.log_prob, flow.sample)


def normflows_realnvp(nets: Sequence[MLP]) -> _Model:
    """Its couplings run from noise to data, so ours equal them as `Inverse(AffineCoupling)`."""
    import normflows as nf

    steps = []
    for net in nets:
        steps += [nf.flows.AffineCouplingBlock(shift_first(net)), nf.flows.Permute(2, mode="swap")]
    base = nf.distributions.DiagGaussian(2, trainable=False)
    flow = nf.NormalizingFlow(base, steps[:-1][::-1])
    return _Model(flow, flow.log_prob, lambda n: flow.sample(n)[0])


def zuko_realnvp(nets: Sequence[MLP]) -> _Model:
    import zuko

    widths = [m.out_features for m in nets[0].layers if isinstance(m, nn.Linear)][:-1]
    steps = []
    for i, net in enumerate(nets):
        mask = [True, False] if i % 2 == 0 else [False, True]  # True is read
        step = zuko.flows.GeneralCouplingTransform(2, mask=mask, hidden_features=widths)
        copied = shift_first(net)
        step = step.to(copied[0].weight.dtype)
        step.hyper.load_state_dict(copied.state_dict())
        steps.append(step)
    base = zuko.flows.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(2), torch.ones(2), buffer=True
    )
    flow = zuko.flows.Flow(steps, base)
    return _Model(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def freia_realnvp(nets: Sequence[MLP]) -> _Model:
    """Its blocks hold two couplings, the first writes the first half: features flipped."""
    import FrEIA.framework as Ff
    import FrEIA.modules as Fm

    inn = Ff.SequenceINN(2)
    for first, second in zip(nets[0::2], nets[1::2], strict=True):
        pair = iter([copy.deepcopy(second.layers), copy.deepcopy(first.layers)])
        inn.append(
            Fm.GLOWCouplingBlock,
            subnet_constructor=lambda *_, pair=pair: next(pair),
            clamp=1.0,
            clamp_activation=lambda u: u,
        )
    base = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1
    )

    def log_prob(x: Tensor) -> Tensor:
        z, log_det = inn(x.flip(1))
        return base.log_prob(z) + log_det

    return _Model(inn, log_prob, lambda n: inn(base.sample((n,)), rev=True)[0].flip(1))


REALNVP: dict[str, Callable[[Sequence[MLP]], _Model]] = {
    "normflows": normflows_realnvp,
    "nflows": nflows_realnvp,
    "zuko": zuko_realnvp,
    "FrEIA": freia_realnvp,
}
