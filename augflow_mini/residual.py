"""Invertible residual layers: x + g(x) with a network g that contracts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .transform import Transform, sum_event


class SpectralBound(nn.Module):
    """A parametrization: W shrunk so that its largest singular value is at most `bound`.

    The value is exact (a singular value decomposition), so the bound holds in every step; power
    iteration, which the papers use on wide layers, approaches it from the wrong side.
    """

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, weight: Tensor) -> Tensor:
        norm = torch.linalg.matrix_norm(weight, ord=2)
        return weight * (self.bound / norm).clamp(max=1.0)


class LipSwish(nn.Module):
    """x sigmoid(x) / 1.1: smooth, and its slope stays below 1. Chen et al. 2019, section 3.3."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x) / 1.1


class ContractiveMLP(nn.Sequential):
    """Fully connected network (B, D) -> (B, D) with Lipschitz constant at most `lipschitz`.

    Args:
        features: D.
        hidden: widths of the hidden layers.
        lipschitz: the bound, below 1; the layers share it evenly.
    """

    def __init__(
        self, features: int, *, hidden: Sequence[int] = (64, 64), lipschitz: float = 0.9
    ) -> None:
        widths = [features, *hidden, features]
        bound = lipschitz ** (1 / (len(widths) - 1))
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            linear = nn.Linear(a, b)
            parametrize.register_parametrization(linear, "weight", SpectralBound(bound))
            layers += [linear, LipSwish()]
        super().__init__(*layers[:-1])


class InvertibleResidual(Transform):
    """Residual layer with a contractive network: free-form Jacobian, no blocks.

    forward   z = x + g(x)
    inverse   x = z - g(x), iterated until it stands still (Banach's fixed point)
    contrib   log det (I + dg/dx), exactly, from the full Jacobian: for low dimension D

    `log_det_estimate` is the unbiased estimate that makes high dimensions affordable.

    Args:
        features: D.
        hidden: widths of g's hidden layers.
        lipschitz: bound on g's Lipschitz constant, between 0 and 1.

    Raises:
        ValueError: a bound outside (0, 1), or the input is not (B, D).

    Behrmann et al. 2019, Invertible Residual Networks; Chen et al. 2019, Residual Flows.
    """

    def __init__(
        self, features: int, *, hidden: Sequence[int] = (64, 64), lipschitz: float = 0.9
    ) -> None:
        super().__init__()
        if not 0 < lipschitz < 1:
            raise ValueError(
                f"InvertibleResidual: lipschitz is {lipschitz}, expected between 0 and 1; "
                "at 1 and above x + g(x) need not be invertible"
            )
        self.features, self.lipschitz = features, lipschitz
        self.net = ContractiveMLP(features, hidden=hidden, lipschitz=lipschitz)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._check(x)
        with parametrize.cached():
            return x + self.net(x), torch.linalg.slogdet(self._jacobian(x)).logabsdet

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self._check(z)
        with parametrize.cached():
            x = self._fixed_point(z)
            # One Newton step: removes what the iteration left, and carries the implicit gradient.
            error = z - x - self.net(x)
            x = x + torch.linalg.solve(self._jacobian(x).detach(), error)
            return x, -torch.linalg.slogdet(self._jacobian(x)).logabsdet

    @torch.no_grad()
    def _fixed_point(self, z: Tensor) -> Tensor:
        x, near = z, 8 * torch.finfo(z.dtype).eps
        for _ in range(1000):
            x, before = z - self.net(x), x
            if (x - before).abs().max() <= near * (1 + x.abs().max()):
                break
        return x

    def _jacobian(self, x: Tensor) -> Tensor:
        """I + dg/dx: (B, D, D)."""
        one = lambda row: self.net(row.unsqueeze(0)).squeeze(0)  # noqa: E731
        jacobian = torch.func.vmap(torch.func.jacrev(one))(x)
        return jacobian + torch.eye(self.features, dtype=x.dtype, device=x.device)

    def log_det_estimate(self, x: Tensor, *, sure: int = 2, stop: float = 0.5) -> Tensor:
        """One unbiased draw of the contribution for each row: (B,).

        log det (I + J) = sum over k of (-1)^(k+1) / k * tr J^k, traces from one random sign vector
        v as v' J^k v, the sum cut at a random length and each term divided by the probability of
        reaching it (Russian roulette).

        Args:
            x: (B, D).
            sure: terms that are always taken.
            stop: probability of stopping after each further term.

        Raises:
            ValueError: sure < 1, or stop outside (0, 1).

        Chen et al. 2019, Residual Flows, eq. 6.
        """
        if sure < 1 or not 0 < stop < 1:
            raise ValueError(
                f"log_det_estimate: sure={sure}, stop={stop}; expected sure >= 1 and 0 < stop < 1"
            )
        self._check(x)
        keep_graph = torch.is_grad_enabled()
        terms = sure + int(torch.empty(()).geometric_(stop).item())
        with torch.enable_grad(), parametrize.cached():
            x = x if x.requires_grad else x.detach().requires_grad_()
            g = self.net(x)
            v = torch.randint(0, 2, x.shape, device=x.device).to(x.dtype) * 2 - 1
            power, total = v, 0.0
            for k in range(1, terms + 1):
                power = torch.autograd.grad(
                    g, x, power, create_graph=keep_graph, retain_graph=True
                )[0]  # v' J^k
                reached = (1 - stop) ** max(k - sure - 1, 0)
                total = total + (-1) ** (k + 1) / (k * reached) * sum_event(power * v)
        return total if keep_graph else total.detach()

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != self.features:
            raise ValueError(
                f"InvertibleResidual({self.features}) got an input of shape {tuple(x.shape)}, "
                f"expected (B, {self.features})"
            )

    def extra_repr(self) -> str:
        return f"{self.features}, lipschitz={self.lipschitz}"
