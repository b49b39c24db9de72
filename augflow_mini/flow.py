"""A model is a list of layers and a base. Where the list draws noise, its numbers are bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from .bounds import ImportanceBound, LogWeights, Sandwich, sandwich
from .distributions import Fixed
from .transform import Chain, Transform, checked_count, may_look


@dataclass(frozen=True)
class Latents:
    """Everything `Flow.encode` found: nothing is lost on the way, so `decode` undoes it exactly.

    Attributes:
        z: the innermost latent, under the base.
        dropped: for each layer what it sliced off, or None.
    """

    z: Tensor
    dropped: tuple[Tensor | None, ...]


class Flow(nn.Module):
    """p(x) given by layers from data to noise and a base: log p(x) = log base(z) + sum of contrib.

    Where a layer draws noise on the way (augmentation, dequantisation) the right-hand side is
    one draw of the log-weight, log w = log p(x, e) - log q(e | x), with E[w] = p(x); its mean is the
    ELBO. Then `log_prob` raises and `elbo`, `iw_bound` and `sandwich` speak.

    Args:
        layers: `Transform`s in data -> noise order; a recipe's list, or your own.
        base: law of the innermost latent, `StandardNormal(D)` as a rule.
        validate: look for NaN and infinite numbers in the data; False spares an accelerator the wait
            for the answer, in a training loop over data that was checked when it was loaded.
    """

    def __init__(self, layers: Sequence[Transform], base: Fixed, *, validate: bool = True) -> None:
        super().__init__()
        self.validate = validate
        self.chain = Chain(layers)
        self.base = base

    # ---- likelihood -------------------------------------------------------------------------

    @property
    def exact(self) -> bool:
        """True where `log_weight` is log p(x) itself: no layer draws noise on the way forward."""
        return not self.chain.stochastic_forward

    def log_weight(self, x: Tensor) -> Tensor:
        """One draw of log w = log p(x, e) - log q(e | x) for each row of x: (B,), nats.

        Raises:
            ValueError: x is no floating tensor of the model's dtype with at least 2 dimensions, or
                holds NaN or infinite numbers.
        """
        self._check(x)
        z, contrib = self.chain(x)
        return self.base.log_prob(z) + contrib

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (B,), nats; only where the chain is exact.

        Raises:
            ValueError: a layer draws noise, so only bounds are available.
        """
        if not self.exact:
            noisy = next(layer for layer in self.chain if layer.stochastic_forward)
            raise ValueError(
                f"log p(x) is not available: {type(noisy).__name__} draws noise. Use elbo(x), "
                "or iw_bound(x, k) for a tighter bound"
            )
        return self.log_weight(x)

    def elbo(self, x: Tensor, *, draws: int = 1) -> Tensor:
        """Mean of `draws` log-weights for each row, an unbiased estimate of E_q[log w]: (B,).

        For ANF this is L_A(x), the AMLE objective plus H(e), as one sample of -log q(e) whose mean
        is H(e) (Huang et al. 2020); for VFlow its variational bound (Chen et al. 2020).
        """
        return self.iw_bound(x, draws).elbo if draws != 1 else self.log_weight(x)

    def iw_bound(self, x: Tensor, k: int, *, rows: int = 16_384) -> ImportanceBound:
        """L_K(x) = log (1/K) sum_k w_k with effective sample size and variance of log w.

        Streamed: at most about `rows` rows pass through the layers at a time, so under
        `torch.no_grad()` memory does not grow with K.

        Args:
            x: data (B, ...).
            k: number of importance samples K.
            rows: rows to evaluate at once.

        Raises:
            ValueError: k < 1 or rows < 1.
        """
        k = checked_count(k, "iw_bound: k", of=" sample")
        rows = checked_count(rows, "iw_bound: rows")
        self._check(x)
        parts = [self._stream(part, k, rows) for part in x.split(rows)]
        if len(parts) == 1:
            return parts[0]
        joined = {
            name: torch.cat([getattr(p, name) for p in parts])
            for name in ("value", "elbo", "ess", "var_log_weight")
        }
        return ImportanceBound(**joined, k=k)

    def _stream(self, x: Tensor, k: int, rows: int) -> ImportanceBound:
        total = LogWeights()
        for log_w in self._log_weights(x, k, rows):
            total.add(log_w)
        return total.bound()

    def _log_weights(self, x: Tensor, k: int, rows: int = 16_384) -> Iterator[Tensor]:
        """k draws of log w for each row of x, in parts (n, B) of about `rows` numbers."""
        batch, done = x.shape[0], 0
        per_chunk = max(1, rows // max(batch, 1))
        while done < k:
            n = min(per_chunk, k - done)
            many = x.repeat(n, *[1] * (x.dim() - 1))  # (n B, ...)
            yield self.log_weight(many).view(n, batch)
            done += n

    def sandwich(self, n: int, *, draws: int = 1) -> Sandwich:
        """Mean ELBO and mean EUBO on n samples of the model, with standard errors.

        The sample's own latents are exact posterior draws, so its own log-weight is an unbiased
        EUBO; `draws` fresh ones for the same x give the ELBO and, together, a two-sided interval
        of log p(x) and of the gap. Never a bound on data. Holds n * draws numbers.

        Raises:
            ValueError: n < 2 or draws < 1.
        """
        n = checked_count(n, "sandwich: n", least=2, of=" samples, for standard errors")
        draws = checked_count(draws, "sandwich: draws")
        with torch.no_grad():
            z, base_log_prob = self._draw_base(n)
            x, minus_contrib = self.chain.inverse(z)
            self._check(x)
            parts = [torch.cat([*self._log_weights(r, draws)]) for r in x.split(16_384)]
        return sandwich(base_log_prob - minus_contrib, torch.cat(parts, dim=1))

    # ---- samples and codes ------------------------------------------------------------------

    def sample(self, n: int) -> Tensor:
        """n samples of p(x): base noise through the inverse, augmentation dropped. (n, ...).

        Gradients reach the parameters where every law is reparameterised; wrap the call in
        `torch.no_grad()` otherwise.

        Raises:
            ValueError: n < 1.
        """
        return self.chain.inverse(self._draw_base(checked_count(n, "sample: n"))[0])[0]

    def encode(self, x: Tensor) -> Latents:
        """The latents of x, the sliced ones included. Augmentation noise is drawn anew each time."""
        self._check(x)
        z, dropped = self.chain.record(x)
        return Latents(z, tuple(dropped))

    def decode(self, latents: Latents) -> Tensor:
        """The x whose `encode` gave these latents."""
        return self.chain.replay(latents.z, latents.dropped)

    def _draw_base(self, n: int) -> tuple[Tensor, Tensor]:
        like = _first_parameter(self)
        like = torch.empty(0) if like is None else like
        return self.base.draw(torch.empty(n, 0, dtype=like.dtype, device=like.device))

    def _check(self, x: Tensor) -> None:
        like = _first_parameter(self)
        if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point():
            what = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"Flow got {what}, expected a floating-point tensor (B, D) or (B, C, H, W); convert "
                "with torch.as_tensor(x, dtype=torch.float32) and keep the batch dimension"
            )
        if like is not None and x.dtype != like.dtype:
            raise ValueError(
                f"Flow got {x.dtype}, its parameters are {like.dtype}; convert the data with "
                f"x.to({like.dtype}) or the model with flow.to({x.dtype})"
            )
        if may_look(self.validate) and not isfinite(x.sum().item()) and not x.isfinite().all():
            bad = (~x.isfinite()).flatten(1).any(1).nonzero().flatten()
            raise ValueError(
                f"Flow got NaN or infinite numbers in {len(bad)} of {x.shape[0]} rows, the first is "
                f"row {int(bad[0])}; clean the data before training or evaluation"
            )


def _first_parameter(module: nn.Module) -> nn.Parameter | None:
    """next(module.parameters()), at a tenth of its time: it is asked for before every pass."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        found = None if child is None else _first_parameter(child)
        if found is not None:
            return found
    return None
