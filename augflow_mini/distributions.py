"""Laws: what noise is drawn from, and what a base or a decoder is made of.

A law answers two questions about (B, ...) tensors: `log_prob(value, given)` and
`draw(given) -> (value, log_prob)`. An unconditional law reads nothing of `given` but its batch
size, dtype and device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transform import checked_count, may_look, sum_event

LOG_2PI = math.log(2 * math.pi)


class Law(nn.Module, ABC):
    """p(value | given), in nats per example."""

    @abstractmethod
    def log_prob(self, value: Tensor, given: Tensor) -> Tensor:
        """log p(value | given): (B,)."""

    @abstractmethod
    def draw(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """One value for each row of `given`, and its log-probability (B,)."""


class Fixed(Law):
    """A parameter-free law on tensors of one event shape.

    Args:
        shape: the event shape, (D,) or (C, H, W), or the number D.

    Raises:
        ValueError: `log_prob` got a value of another event shape.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        try:
            self.shape = tuple(checked_count(n, "n") for n in shape)
        except ValueError:
            self.shape = ()
        if not self.shape:
            raise ValueError(
                f"{type(self).__name__}: shape {shape}, expected one or more positive integers, "
                f"as in {type(self).__name__}(2) or {type(self).__name__}(3, 32, 32)"
            )

    def log_prob(self, value: Tensor, given: Tensor | None = None) -> Tensor:
        if value.shape[1:] != self.shape:
            raise ValueError(
                f"{self} got a value of event shape {tuple(value.shape[1:])}, expected "
                f"{self.shape}; check the widths of the layers before it"
            )
        return self.density(value)

    @abstractmethod
    def density(self, value: Tensor) -> Tensor:
        """log-density (B,) of a value whose shape has been checked."""

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.shape))


class StandardNormal(Fixed):
    """N(0, I): log p = -1/2 sum (value^2 + log 2 pi)."""

    def density(self, value: Tensor) -> Tensor:
        return -0.5 * (sum_event(value * value) + LOG_2PI * math.prod(self.shape))

    def draw(self, given: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.randn(given.shape[0], *self.shape, dtype=given.dtype, device=given.device)
        return value, self.density(value)

    def entropy(self) -> float:
        """H = D/2 (1 + log 2 pi), nats."""
        return 0.5 * math.prod(self.shape) * (1 + LOG_2PI)


class StandardUniform(Fixed):
    """Uniform on [0, 1)^D: log p = 0 inside, -inf outside."""

    def density(self, value: Tensor) -> Tensor:
        inside = ((value >= 0) & (value < 1)).flatten(1).all(1)
        zero = value.new_zeros(value.shape[0])
        return torch.where(inside, zero, zero - math.inf)

    def draw(self, given: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.rand(given.shape[0], *self.shape, dtype=given.dtype, device=given.device)
        # Once in 2^24 numbers float32 draws 0, whose logit is infinite: half a step above it.
        value = value.clamp_min(torch.finfo(given.dtype).eps / 4)
        return value, value.new_zeros(value.shape[0])


class GaussianNet(Law):
    """N(mean(given), diag(exp(log_s(given))^2)) with (log_s, mean) = net(given).

    Args:
        net: maps `given` (B, R, ...) to (B, 2 W, ...), log_s first (as `AffineCoupling`).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def log_prob(self, value: Tensor, given: Tensor) -> Tensor:
        log_s, mean = self._params(given)
        if value.shape != mean.shape:
            raise ValueError(
                f"GaussianNet got a value of shape {tuple(value.shape)}, its network describes "
                f"{tuple(mean.shape)}; the network must return 2 numbers for each feature"
            )
        standard = (value - mean) * torch.exp(-log_s)
        return -sum_event(0.5 * (standard * standard + LOG_2PI) + log_s)

    def draw(self, given: Tensor) -> tuple[Tensor, Tensor]:
        log_s, mean = self._params(given)
        noise = torch.randn_like(mean)
        return mean + log_s.exp() * noise, -sum_event(0.5 * (noise * noise + LOG_2PI) + log_s)

    def _params(self, given: Tensor) -> tuple[Tensor, Tensor]:
        out = self.net(given).to(
            given.dtype
        )  # under autocast only the network is in half precision
        if out.shape[1] % 2:
            raise ValueError(
                f"GaussianNet: the network returned {out.shape[1]} features, expected an even "
                "number (log_s, then mean)"
            )
        return out.chunk(2, dim=1)


class BernoulliNet(Law):
    """Independent bits: log P(value | given) = -BCE(logits, value), logits = net(given).

    `draw` is not reparameterised: no gradient reaches the network through the drawn value.

    Args:
        net: maps `given` (B, R, ...) to the logits (B, W, ...).
        validate: look at the values and raise; False spares an accelerator the wait.

    Raises:
        ValueError: a value is neither 0 nor 1.
    """

    def __init__(self, net: nn.Module, *, validate: bool = True) -> None:
        super().__init__()
        self.net, self.validate = net, validate

    def log_prob(self, value: Tensor, given: Tensor) -> Tensor:
        if may_look(self.validate) and not ((value == 0) | (value == 1)).all():
            raise ValueError(
                "BernoulliNet got values other than 0 and 1; binarise the data first "
                "(x > 0.5).to(x.dtype)"
            )
        logits = self.net(given).to(given.dtype)
        return -sum_event(F.binary_cross_entropy_with_logits(logits, value, reduction="none"))

    def draw(self, given: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(given).to(given.dtype)
        value = torch.bernoulli(torch.sigmoid(logits))
        return value, -sum_event(
            F.binary_cross_entropy_with_logits(logits, value, reduction="none")
        )
