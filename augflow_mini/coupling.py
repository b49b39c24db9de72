"""Coupling layers: a block is moved by a network that sees only the other features.

*Conditioning is reading*: what a coupling reads and no layer writes is a condition.
So a conditional flow q(e | x) needs no class of its own; it is couplings that read x and write e.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .fused import METHODS, Step
from .nets import MLP
from .transform import Transform, check_width, checked_block, sum_event

Blocks = slice | Sequence[slice] | None


class Coupling(Transform):
    """What additive, affine and other couplings share: which features are read and written.

    Args:
        net: maps the read features (B, R, ...) to the parameters (B, P W, ...).
        writes: slice of dimension 1, of width W, that is transformed.
        reads: slice or several slices, of total width R, that the network sees; None means every
            feature outside `writes`.

    Raises:
        ValueError: a block is malformed, `reads` overlaps `writes`, the input is too narrow, or
            the network returned another width than P W.
    """

    per_feature: int  # P: parameters for each written feature

    def __init__(self, net: nn.Module, *, writes: slice, reads: Blocks = None) -> None:
        super().__init__()
        self.net = net
        self.writes = checked_block(writes, f"{type(self).__name__}: writes")
        if reads is not None:
            blocks = [reads] if isinstance(reads, slice) else list(reads)
            reads = [checked_block(b, f"{type(self).__name__}: reads") for b in blocks]
            for b in reads:
                if b.start < self.writes.stop and self.writes.start < b.stop:
                    raise ValueError(
                        f"{type(self).__name__} reads {b.start}:{b.stop} and writes "
                        f"{self.writes.start}:{self.writes.stop}; the blocks must not overlap, or "
                        "the inverse could not know what the network saw"
                    )
        self.reads = reads
        self.cut = self._cut()

    def _cut(self) -> tuple[int, int] | None:
        """(k, D) where all features before k move all the others, or the other way round."""
        own = type(self)
        if any(
            getattr(own, n) is not getattr(Coupling, n) for n in ("forward", "inverse", "params")
        ):
            return None  # a subclass with a way of its own must be asked, not passed by
        if self.reads is None or len(self.reads) != 1:
            return None
        first, second = sorted([self.writes, self.reads[0]], key=lambda block: block.start)
        joined = first.start == 0 and first.stop == second.start
        return (first.stop, second.stop) if joined else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(x, self.move)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(z, self.move_back)

    def _run(self, x: Tensor, move: Callable) -> tuple[Tensor, Tensor]:
        check_width(x, self.writes, self)
        start, stop = self.writes.start, self.writes.stop
        # One split and one cat are one autograd node each; a slice for every use would cost many.
        before, part, after = x.split([start, stop - start, x.shape[1] - stop], dim=1)
        part, contrib = move(part, self.params(x))
        return torch.cat([b for b in (before, part, after) if b.shape[1]], dim=1), contrib

    def params(self, x: Tensor) -> Tensor:
        """The network's output for the read features of x: (B, P W, ...)."""
        if self.reads is None:
            return self._params([x[:, : self.writes.start], x[:, self.writes.stop :]])
        for block in self.reads:
            check_width(x, block, self)
        return self._params([x[:, block] for block in self.reads])

    def _params(self, seen: Sequence[Tensor]) -> Tensor:
        seen = [s for s in seen if s.shape[1]] or seen[:1]
        return self.ask(seen[0] if len(seen) == 1 else torch.cat(seen, dim=1))

    def ask(self, seen: Tensor) -> Tensor:
        """The network's output for the features that it sees: (B, R, ...) -> (B, P W, ...)."""
        out = self.net(seen)
        width = self.per_feature * (self.writes.stop - self.writes.start)
        expected = (seen.shape[0], width, *seen.shape[2:])
        if out.shape != expected:  # (B, W, 1, 1) would broadcast, and its log-det count one place
            raise ValueError(
                f"{type(self).__name__}: the network returned shape {tuple(out.shape)}, expected "
                f"{expected}: {self.per_feature} features for each written one, at every position"
            )
        # under autocast only the network runs in half precision
        return out if out.dtype == seen.dtype else out.to(seen.dtype)

    def step(self, back: bool, widths: tuple[int, int]) -> tuple[Step, list[Tensor]] | None:
        """This layer for `fused.run`, with its weights; None if it has a way of its own."""
        own, clamp = type(self), getattr(self, "clamp", None)
        if PLAIN.get(own) != [getattr(own, name, None) for name in METHODS]:
            return None
        if not METHODS.isdisjoint(self.__dict__) or isinstance(clamp, Tensor):
            return None
        net = self._modules["net"]  # at a tenth of the time of self.net
        found = net.plain() if type(net) is MLP else None
        if found is None:
            return None
        weights, activations = found
        written = 0 if self.writes.start == 0 else 1
        fits = widths[1 - written], self.per_feature * widths[written]
        if (weights[0].shape[1], weights[-2].shape[0]) != fits:
            return None  # the usual way says what does not fit
        return Step(written, own is AffineCoupling, back, clamp, activations), weights

    @abstractmethod
    def move(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """The written block moved by `params`, and its contribution (B,)."""

    @abstractmethod
    def move_back(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `move`."""

    def extra_repr(self) -> str:
        show = lambda b: f"{b.start}:{b.stop}"  # noqa: E731
        reads = "the rest" if self.reads is None else ", ".join(map(show, self.reads))
        return f"reads {reads}; writes {show(self.writes)}"


class AdditiveCoupling(Coupling):
    """Additive coupling: the `writes` block is shifted by a network that sees only `reads`.

    forward   z[writes] = x[writes] + m,   m = net(x[reads])
    inverse   x[writes] = z[writes] - m
    contrib   0: the Jacobian is triangular with ones on its diagonal

    Args: as `Coupling`; net maps (B, R, ...) to m of shape (B, W, ...).

    Dinh et al. 2015, NICE, section 3.2.
    """

    per_feature = 1

    def move(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return x + params, x.new_zeros(x.shape[0])

    def move_back(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return z - params, z.new_zeros(z.shape[0])


class AffineCoupling(Coupling):
    """Affine coupling: the `writes` block is scaled and shifted by a network that sees `reads`.

    forward   z[writes] = x[writes] * exp(log_s) + m,   (log_s, m) = net(x[reads])
    inverse   x[writes] = (z[writes] - m) * exp(-log_s)
    contrib   sum of log_s over the writes block

    Args: as `Coupling`, and
        net: maps (B, R, ...) to (B, 2 W, ...), log_s first.
        clamp: None, or a bound: log_s becomes clamp * tanh(log_s / clamp), so that no scale leaves
            exp(-clamp) .. exp(clamp).

    Dinh et al. 2017, Real NVP, section 3.2; with x and e as blocks, the encoding and decoding
    transformations of Huang et al. 2020, Augmented Normalizing Flows.
    """

    per_feature = 2

    def __init__(
        self,
        net: nn.Module,
        *,
        writes: slice,
        reads: Blocks = None,
        clamp: float | None = None,
    ) -> None:
        super().__init__(net, writes=writes, reads=reads)
        if clamp is not None and not clamp > 0:
            raise ValueError(
                f"AffineCoupling: clamp is {clamp}, expected a positive number or None"
            )
        self.clamp = clamp

    def move(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_s, m = self._log_s_and_m(params)
        return torch.addcmul(m, x, log_s.exp()), sum_event(log_s)

    def move_back(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_s, m = self._log_s_and_m(params)
        log_s = -log_s
        return (z - m) * log_s.exp(), sum_event(log_s)

    def _log_s_and_m(self, params: Tensor) -> tuple[Tensor, Tensor]:
        log_s, m = params.chunk(2, dim=1)  # (B, W, ...) each
        if self.clamp is not None:  # bounds the amplification: early training stays stable
            log_s = self.clamp * torch.tanh(log_s / self.clamp)
        return log_s, m


# As these are written here; `step` sees if one was replaced.
PLAIN = {c: [getattr(c, n, None) for n in METHODS] for c in (AdditiveCoupling, AffineCoupling)}
