"""The explorers' noise, number for number as in draws.js: torch can recompute what a page shows."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

WEYL = np.uint32(0x9E3779B9)


def _scramble(h: np.ndarray) -> np.ndarray:
    """Spread every bit over all others: the last step of Appleby's MurmurHash3."""
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def uniforms(seed: int, n: int) -> Tensor:
    """n numbers in (0, 1), float64, a function of seed and place alone."""
    start = _scramble(np.array([seed % 2**32], dtype=np.uint32) + WEYL)  # arithmetic mod 2^32
    h = _scramble(start + np.arange(n, dtype=np.uint32) * WEYL)
    return torch.from_numpy((h.astype(np.float64) + 0.5) / 2**32)


def normals(seed: int, n: int) -> Tensor:
    """n standard normal numbers, float64, by Box and Muller."""
    u = uniforms(seed, n + n % 2).view(-1, 2)
    radius, turn = torch.sqrt(-2 * u[:, 0].log()), 2 * math.pi * u[:, 1]
    return torch.stack([radius * turn.cos(), radius * turn.sin()], dim=1).flatten()[:n]
