"""Reuse probe: does the tensor a coupling passes on still hold the features its network found?

VFlow's reason why extra channels help: a flow on three channels must extract its features anew in
every block, since three channels cannot carry them; with more channels a block can leave them for
the next ones. So a small network, the same for every model, is to predict the hidden features of
coupling k from what goes on to coupling k+1 (`lag` 0), and from what that passes on (`lag` 1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..flow import Flow
from ..mixlogistic import MixLogisticCoupling


def joint_couplings(flow: Flow) -> list[MixLogisticCoupling]:
    """The joint's couplings, without those of dequantiser and posterior (these read context)."""
    return [m for m in flow.modules() if isinstance(m, MixLogisticCoupling) and not m.net.context]


@torch.no_grad()
def collect(flow: Flow, x: Tensor, *, batch: int = 256) -> tuple[list[Tensor], list[Tensor]]:
    """Each joint coupling's hidden features and the tensor it passes on, of one noise draw."""
    couplings = joint_couplings(flow)
    hidden: list[list[Tensor]] = [[] for _ in couplings]
    passed: list[list[Tensor]] = [[] for _ in couplings]
    hooks = []
    for i, coupling in enumerate(couplings):
        hooks += [
            coupling.net.last.register_forward_pre_hook(
                lambda _, args, i=i: hidden[i].append(args[0].permute(0, 3, 1, 2).float())
            ),
            coupling.register_forward_hook(lambda _, args, out, i=i: passed[i].append(out[0])),
        ]
    training = flow.training
    try:
        flow.eval()
        for part in x.split(batch):
            flow.chain(part.float())
    finally:
        flow.train(training)
        for hook in hooks:
            hook.remove()
    return [torch.cat(h) for h in hidden], [torch.cat(p) for p in passed]


def r_squared(
    seen: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], *, width: int = 32,
    steps: int = 200, batch: int = 128, seed: int = 0,
) -> float:  # fmt: skip
    """R^2 on the second of each pair of a probe trained on the first: three convolutions.

    Args:
        seen: inputs (N, C, H, W) for training and for testing.
        wanted: features (N, F, H, W) of the same images; every feature counts the same.
    """
    device = seen[0].device
    standard = lambda t, like: (t - _mean(like)) / (_std(like) + 1e-6)  # noqa: E731
    x, x_test = (standard(t, seen[0]) for t in seen)
    y, y_test = (standard(t, wanted[0]) for t in wanted)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        probe = nn.Sequential(
            nn.Conv2d(x.shape[1], width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, y.shape[1], 1),
        ).to(device)  # fmt: skip
        optimizer = torch.optim.Adam(probe.parameters(), lr=3e-3)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            rows = torch.randint(len(x), (batch,), device=device)
            loss = F.mse_loss(probe(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
    with torch.no_grad():
        error = sum(
            F.mse_loss(probe(a), b, reduction="sum").item()
            for a, b in zip(x_test.split(256), y_test.split(256), strict=True)
        )
        return 1 - error / (y_test - _mean(y_test)).square().sum().item()


def reuse(flow: Flow, train: Tensor, test: Tensor, *, seed: int = 0, **probe: int) -> list[dict]:
    """R^2 for each coupling of the joint and lag 0 and 1, where the positions are the same ones.

    Args:
        flow: the model.
        train, test: images for the probe; none of the test images among the others.
        probe: options of `r_squared`.
    """
    with torch.random.fork_rng(devices=[train.device] if train.device.type == "cuda" else []):
        torch.manual_seed(seed)
        hidden, passed = collect(flow, train)
        hidden_test, passed_test = collect(flow, test)
    out = []
    for k in range(len(hidden)):
        for lag in (0, 1):
            if k + lag < len(passed) and passed[k + lag].shape[2:] == hidden[k].shape[2:]:
                value = r_squared(
                    (passed[k + lag], passed_test[k + lag]), (hidden[k], hidden_test[k]),
                    seed=seed, **probe,
                )  # fmt: skip
                shape = tuple(hidden[k].shape[1:])
                out.append({"coupling": k, "lag": lag, "r2": value, "features": shape,
                            "channels": passed[k + lag].shape[1]})  # fmt: skip
    return out


def _mean(t: Tensor) -> Tensor:
    return t.mean((0, 2, 3), keepdim=True)


def _std(t: Tensor) -> Tensor:
    return t.std((0, 2, 3), keepdim=True)
