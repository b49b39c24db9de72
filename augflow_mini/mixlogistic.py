"""Mixture-of-logistics coupling: the elementwise map of Flow++, kept in log-space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coupling import Blocks, Coupling
from .transform import sum_event

MIN_LOG_SCALE = -7.0  # of a mixture component, as in the released Flow++ and VFlow code


class MixLogisticCoupling(Coupling):
    """Each written number goes through a mixture's CDF, a logit and an affine map.

    forward   z[writes] = logit(CDF(x[writes])) * exp(log_s) + m
    inverse   x[writes] = CDF^{-1}(sigmoid((z[writes] - m) * exp(-log_s))), by bisection
    contrib   sum of log pdf - log CDF - log(1 - CDF) + log_s over the writes block

    CDF and pdf are those of a mixture of K logistics; its weights, means and log-scales, log_s and
    m come from a network that sees only `reads`. Both tails are taken from log CDF and
    log(1 - CDF), so nothing saturates: far outside, the map is a line. It is a bijection of R.

    Args: as `Coupling`, and
        net: maps (B, R, ...) to (B, (2 + 3 K) W, ...): log_s, m (W each), then weights' logits,
            means and log-scales (W K each, feature by feature).
        components: K.
        clamp: log_s becomes clamp * tanh(log_s / clamp); None leaves it free.

    Ho et al. 2019, Flow++, section 3.2. The released VFlow code squeezes the CDF into (.05, .95)
    against NaN gradients (Chen et al. 2020, appendix B); log-space needs no squeeze.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        writes: slice,
        reads: Blocks = None,
        components: int = 8,
        clamp: float | None = 1.0,
    ) -> None:
        super().__init__(net, writes=writes, reads=reads)
        if components < 1:
            raise ValueError(
                f"MixLogisticCoupling: components is {components}, expected at least 1"
            )
        if clamp is not None and not clamp > 0:
            raise ValueError(
                f"MixLogisticCoupling: clamp is {clamp}, expected a positive number or None"
            )
        self.components, self.clamp = components, clamp
        self.per_feature = 2 + 3 * components

    def move(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_s, m, mixture = self._split(params)
        y, log_slope = mixture_logit(x, *mixture)
        return torch.addcmul(m, y, log_s.exp()), sum_event(log_slope + log_s)

    def move_back(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_s, m, mixture = self._split(params)
        x, log_slope = mixture_logit_inverse((z - m) * torch.exp(-log_s), *mixture)
        return x, -sum_event(log_slope + log_s)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        width = params.shape[1] // self.per_feature
        log_s, m, mixture = params.split([width, width, 3 * self.components * width], dim=1)
        if self.clamp is not None:
            log_s = self.clamp * torch.tanh(log_s / self.clamp)
        logits, mean, log_scale = mixture.unflatten(1, (3, width, self.components)).unbind(1)
        log_weight = F.log_softmax(logits, dim=2)  # (B, W, K, ...)
        return log_s, m, (log_weight, mean, log_scale.clamp_min(MIN_LOG_SCALE))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}; {self.components} logistics"


def mixture_logit(
    x: Tensor, log_weight: Tensor, mean: Tensor, log_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """y = logit CDF(x) of a mixture of logistics, and log dy/dx.

    Args:
        x: (B, W, ...).
        log_weight, mean, log_scale: (B, W, K, ...).
    """
    standard = (x.unsqueeze(2) - mean) * torch.exp(-log_scale)
    below = F.logsigmoid(standard)  # log CDF of each component
    above = below - standard  # log(1 - CDF): logsigmoid(-t) = logsigmoid(t) - t
    log_cdf = torch.logsumexp(log_weight + below, dim=2)
    log_rest = torch.logsumexp(log_weight + above, dim=2)
    log_pdf = torch.logsumexp(log_weight + below + above - log_scale, dim=2)
    return log_cdf - log_rest, log_pdf - log_cdf - log_rest


def mixture_logit_inverse(
    y: Tensor, log_weight: Tensor, mean: Tensor, log_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The x with mixture_logit(x) = y, and log dy/dx there; differentiable.

    Bisection between the components' own answers: a mixture's quantile lies between those of its
    components. The number of halvings is fixed: no wait for an accelerator's convergence test.
    """
    with torch.no_grad():
        answers = mean + y.unsqueeze(2) * log_scale.exp()
        low, high = answers.amin(2), answers.amax(2)
        for _ in range(64 if y.dtype == torch.float64 else 36):
            x = 0.5 * (low + high)
            too_low = mixture_logit(x, log_weight, mean, log_scale)[0] < y
            low, high = torch.where(too_low, x, low), torch.where(too_low, high, x)
        x = 0.5 * (low + high)
    # x solves f(x, mixture) = y, so dx = (dy - df) / f'(x): the implicit function's gradient.
    f, log_slope = mixture_logit(x, log_weight, mean, log_scale)
    error = y - f
    x = x + (error - error.detach()) * torch.exp(-log_slope.detach())
    return x, mixture_logit(x, log_weight, mean, log_scale)[1]
