"""Linear layers: per-feature normalisation and a full invertible matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transform import Transform, checked_count


def _places(x: Tensor) -> int:
    """Positions that share one feature vector: 1 for (B, D), H W for (B, C, H, W)."""
    return x.shape[2:].numel()


def _check_features(x: Tensor, features: int, layer: nn.Module) -> None:
    if x.dim() < 2 or x.shape[1] != features:
        raise ValueError(
            f"{type(layer).__name__}({features}) got an input of shape {tuple(x.shape)}, expected "
            f"{features} features in dimension 1"
        )


class ActNorm(Transform):
    """Scale and shift each feature; the first training batch sets them to mean 0, deviation 1.

    One scale for each channel (Glow), or one for each channel and position (Flow++'s "Norm").

    forward   z = (x + shift) * exp(log_s)
    inverse   x = z * exp(-log_s) - shift
    contrib   (positions) * sum of log_s

    Args:
        features: width of dimension 1.
        positions: none, or (H, W) for a scale of its own at each position.

    Raises:
        RuntimeError: used before any training batch has initialised it.
        ValueError: wrong width.

    Kingma & Dhariwal 2018, Glow, section 3.1.
    """

    def __init__(self, features: int, *positions: int) -> None:
        super().__init__()
        features = checked_count(features, "ActNorm: features")
        self.features, self.positions = features, positions
        self.log_s = nn.Parameter(torch.zeros(features, *positions))
        self.shift = nn.Parameter(torch.zeros(features, *positions))
        # A buffer, so that state_dict carries it; `_ready` only spares reading it at each call.
        self.register_buffer("initialised", torch.tensor(False))
        self._ready = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._check(x)
        if not self._is_ready():
            if not self.training:
                raise RuntimeError(self._not_ready("forward in eval mode"))
            self._initialise(x)
        log_s, shift = self._shaped(x)
        return (x + shift) * log_s.exp(), self._contrib(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self._check(z)
        if not self._is_ready():
            raise RuntimeError(self._not_ready("inverse"))
        log_s, shift = self._shaped(z)
        return z * torch.exp(-log_s) - shift, -self._contrib(z)

    def _contrib(self, x: Tensor) -> Tensor:
        shared = 1 if self.positions else _places(x)
        return (self.log_s.sum() * shared).expand(x.shape[0])

    def _check(self, x: Tensor) -> None:
        _check_features(x, self.features, self)
        if self.positions and self.positions != x.shape[2:]:
            raise ValueError(
                f"ActNorm({self.extra_repr()}) got an input of shape {tuple(x.shape)}, expected "
                f"positions {self.positions}; without positions it takes images of any size"
            )

    def _shaped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, self.features) + (self.positions or (1,) * (x.dim() - 2))
        return self.log_s.view(shape), self.shift.view(shape)

    def _is_ready(self) -> bool:
        if not self._ready:
            self._ready = bool(self.initialised)
        return self._ready

    def _not_ready(self, what: str) -> str:
        return (
            f"ActNorm({self.features}): {what} before initialisation; its scale and shift "
            "come from the first batch: call the flow once on data in train() mode, or load a "
            "state_dict"
        )

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        # (features, B * positions), or (features, *positions, B) with a scale for each position
        flat = x.movedim(0, -1) if self.positions else x.transpose(0, 1).flatten(1)
        if flat.shape[-1] < 2:
            raise ValueError(
                f"ActNorm({self.features}): the first batch has shape {tuple(x.shape)}, which "
                "gives one value for each feature; initialise it with at least 2 examples"
            )
        self.shift.copy_(-flat.mean(-1))
        self.log_s.copy_(-flat.std(-1).clamp_min(1e-6).log())  # a constant feature keeps finite
        self.initialised.fill_(True)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = False  # read the loaded flag again

    def extra_repr(self) -> str:
        return ", ".join(map(str, (self.features, *self.positions)))


class InvertibleLinear(Transform):
    """Multiply the features by a full matrix W = P L U; on images, a 1x1 convolution.

    forward   z = W x at every position
    inverse   x = W^{-1} z, by two triangular solves
    contrib   (positions) * sum log |diag U|

    Args:
        features: width D of dimension 1.
        noise: W starts as a random rotation (None), or as the identity plus `noise` times N(0, 1).

    Raises:
        ValueError: wrong width.

    Kingma & Dhariwal 2018, Glow, section 3.2, with its LU decomposition.
    """

    def __init__(self, features: int, *, noise: float | None = None) -> None:
        super().__init__()
        self.features = features = checked_count(features, "InvertibleLinear: features")
        start = torch.randn(features, features, dtype=torch.float64)
        if noise is None:
            start = torch.linalg.qr(start)[0]
        else:
            start = torch.eye(features, dtype=torch.float64) + noise * start
        p, lower, upper = torch.linalg.lu(start)
        diag = upper.diagonal()
        dtype = torch.get_default_dtype()
        self.register_buffer("p", p.to(dtype))
        self.register_buffer("sign", diag.sign().to(dtype))
        # One matrix holds L below its diagonal, U above it and log |diag U| on it: D^2 numbers.
        packed = lower.tril(-1) + upper.triu(1) + torch.diag(diag.abs().log())
        self.lu = nn.Parameter(packed.to(dtype))

    @property
    def lower(self) -> Tensor:
        """L without its diagonal of ones."""
        return self.lu.tril(-1)

    @property
    def upper(self) -> Tensor:
        """U without its diagonal."""
        return self.lu.triu(1)

    @property
    def log_diag(self) -> Tensor:
        """log |diag U|."""
        return self.lu.diagonal()

    def weight(self) -> Tensor:
        """W: (D, D)."""
        lower, upper = self._triangles()
        return self.p @ lower @ upper

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _check_features(x, self.features, self)
        with torch.autocast(x.device.type, enabled=False):  # rounding x would lose the data
            return self._apply_matrix(self.weight(), x), self._contrib(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        _check_features(z, self.features, self)
        with torch.autocast(z.device.type, enabled=False):
            lower, upper = self._triangles()
            columns = z.transpose(0, 1).flatten(1)  # (D, B * positions)
            half = torch.linalg.solve_triangular(
                lower, self.p.T @ columns, upper=False, unitriangular=True
            )
            x = torch.linalg.solve_triangular(upper, half, upper=True)
        return x.unflatten(1, (z.shape[0], *z.shape[2:])).transpose(0, 1), -self._contrib(z)

    def _triangles(self) -> tuple[Tensor, Tensor]:
        eye = torch.eye(self.features, dtype=self.lu.dtype, device=self.lu.device)
        return self.lower + eye, self.upper + torch.diag(self.sign * self.log_diag.exp())

    @staticmethod
    def _apply_matrix(w: Tensor, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return x @ w.T
        if x.dim() == 4 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous():
            return F.linear(x.movedim(1, -1), w).movedim(-1, 1)  # channels last stay last
        # A product for each image: three times as fast on a processor as a 1x1 convolution.
        return torch.bmm(w.expand(x.shape[0], -1, -1), x.flatten(2)).view(x.shape)

    def _contrib(self, x: Tensor) -> Tensor:
        return (self.log_diag.sum() * _places(x)).expand(x.shape[0])

    def extra_repr(self) -> str:
        return str(self.features)
