"""Checks for readers' own layers and models. Each raises AssertionError when one is broken."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .flow import Flow
from .transform import Inverse, Transform


def randomise(module: nn.Module, *, seed: int, scale: float = 0.5) -> nn.Module:
    """Replace every parameter by noise, so that no check runs at the identity; returns module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.copy_(scale * noise / max(1.0, p[0].numel() ** 0.5 if p.dim() > 1 else 1.0))
    return module


def check_transform(layer: Transform, x: Tensor, *, atol: float = 1e-8) -> None:
    """Raise AssertionError unless `layer` keeps the promises of a `Transform` on the batch `x`.

    Checked, in float64: input untouched; finite; dtype kept; one contribution for each row; round
    trip both ways; the inverse contributes minus the forward contribution; the contribution is
    log |det| of autograd's Jacobian; rows independent and B = 1 works; gradients reach every
    parameter and agree with differences; `state_dict` carries everything; `repr` works; float32
    stays float32.

    A layer that draws noise in one direction is compared with its noise fixed (same seed); its
    Jacobian is not square and is left to `check_normalised`.

    Args:
        layer: the layer, its parameters randomised (`randomise`), not at the identity.
        x: (B, ...) with B >= 2, float64, in the layer's domain.
        atol: absolute tolerance of the round trip and the Jacobian.

    Raises:
        ValueError: the layer cannot be checked in this way; says what to do.
    """
    _check_checkable(layer, x)
    if layer.stochastic_inverse and not layer.stochastic_forward:  # Slice: check its mirror image
        layer, x = Inverse(layer), _seeded(layer, x)[0].detach()
    before = x.clone()
    z, contrib = _seeded(layer, x)
    assert torch.equal(x, before), "forward changed its input"
    assert contrib.shape == x.shape[:1], (
        f"contribution has shape {tuple(contrib.shape)}, expected {tuple(x.shape[:1])}"
    )
    assert z.dtype == contrib.dtype == x.dtype, "dtype changed"
    assert z.isfinite().all() and contrib.isfinite().all(), "non-finite output"

    z_before = z.detach().clone()
    x_back, contrib_back = layer.inverse(z)
    assert torch.equal(z, z_before), "inverse changed its input"
    assert x_back.dtype == contrib_back.dtype == x.dtype, "dtype changed in the inverse"
    assert contrib_back.shape == x.shape[:1], "inverse contribution is not one for each row"
    assert torch.allclose(x_back, x, rtol=0, atol=atol), "inverse(forward(x)) is not x"
    assert torch.allclose(contrib_back, -contrib, rtol=0, atol=atol), (
        "inverse does not contribute minus what forward does"
    )
    if not layer.stochastic_forward:
        again = layer(x_back)[0]
        assert torch.allclose(again, z, rtol=0, atol=atol), "forward(inverse(z)) is not z"
        _check_jacobian(layer, x, z, contrib, atol)
        _check_rows(layer, x, z, contrib, atol)
    _check_gradients(layer, x)
    _check_state(layer, x, z, contrib)
    repr(layer)
    single = copy.deepcopy(layer).float()
    z32, c32 = _seeded(single, x.float())
    x32, back32 = single.inverse(z32)
    kinds = {t.dtype for t in (z32, c32, x32, back32)}
    assert kinds == {torch.float32}, "float32 does not stay float32"


def _check_checkable(layer: Transform, x: Tensor) -> None:
    name = type(layer).__name__
    if not isinstance(layer, Transform):
        raise ValueError(f"check_transform got a {name}, expected a Transform: subclass it")
    if not isinstance(x, Tensor) or x.dtype != torch.float64 or x.dim() < 2 or len(x) < 2:
        what = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"check_transform got x as {what}, expected float64 of shape (B, ...) with 2 rows or "
            "more; x.double() converts"
        )
    states = [*layer.parameters(), *layer.buffers()]
    single = {t.dtype for t in states if t.is_floating_point()} - {torch.float64}
    if single:
        raise ValueError(
            f"check_transform: {name} holds {', '.join(sorted(map(str, single)))}, expected float64, "
            "where rounding does not hide a mistake; call it with layer.double()"
        )
    if layer.stochastic_forward and layer.stochastic_inverse:
        raise ValueError(
            f"check_transform: {name} draws noise in both directions, so nothing comes back as it "
            "was; check its parts one by one, and the whole with check_normalised(Flow([...], base))"
        )


def _seeded(layer: Transform, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return layer(x)


def _check_jacobian(layer: Transform, x: Tensor, z: Tensor, contrib: Tensor, atol: float) -> None:
    if z[0].numel() != x[0].numel():  # Carry takes in a discrete part: no square Jacobian
        return
    flat = lambda row: layer(row.unsqueeze(0))[0].reshape(-1)  # noqa: E731
    jacobian = torch.stack(
        [
            torch.autograd.functional.jacobian(flat, row).reshape(z[0].numel(), x[0].numel())
            for row in x
        ]
    )
    log_det = torch.linalg.slogdet(jacobian).logabsdet
    worst = (contrib - log_det).abs().max().item()
    assert worst <= atol, f"contribution differs from autograd's log|det| by {worst:.3g}"


def _check_rows(layer: Transform, x: Tensor, z: Tensor, contrib: Tensor, atol: float) -> None:
    z_flip, c_flip = layer(x.flip(0))
    assert torch.allclose(z_flip.flip(0), z, rtol=0, atol=atol), (
        "rows of the batch are not independent"
    )
    assert torch.allclose(c_flip.flip(0), contrib, rtol=0, atol=atol), (
        "contributions follow the position in the batch"
    )
    z_one, c_one = layer(x[:1])
    assert torch.allclose(z_one, z[:1], rtol=0, atol=atol), "a batch of one gives another result"
    assert torch.allclose(c_one, contrib[:1], rtol=0, atol=atol), (
        "a batch of one contributes otherwise"
    )
    x_one, back_one = layer.inverse(z[-1:])  # not the row that forward saw last
    same = torch.allclose(x_one, x[-1:], rtol=0, atol=atol)
    same = same and torch.allclose(back_one, -contrib[-1:], rtol=0, atol=atol)
    assert same, "inverse is not a function of its own row alone"


def _check_gradients(layer: Transform, x: Tensor) -> None:
    parameters = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    if not parameters:
        return
    z, contrib = _seeded(layer, x)
    weights = torch.linspace(0.5, 1.5, z.numel(), dtype=z.dtype).reshape(z.shape)
    total = (z * z * weights).sum() + contrib.sum()  # uneven: no gradient cancels by symmetry
    grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    for name, g in zip(parameters, grads, strict=True):
        assert g is not None and g.isfinite().all() and g.abs().max() > 0, (
            f"no gradient reaches {name}"
        )
    _check_differences(layer, lambda t: _seeded(t, x), list(parameters.values()))
    if not layer.stochastic_inverse:
        latent = z.detach()
        _check_differences(layer, lambda t: t.inverse(latent), list(parameters.values()))


def _check_differences(layer: Transform, run: Callable, parameters: list[Tensor]) -> None:
    """Along one direction, the gradients of values and contributions are those of differences."""
    generator = torch.Generator().manual_seed(0)
    way = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    length = torch.stack([v.norm() for v in way]).norm()
    way = [v / length for v in way]

    @torch.no_grad()
    def moved(step: float) -> Tensor:
        other = copy.deepcopy(layer)
        for p, v in zip((p for p in other.parameters() if p.requires_grad), way, strict=True):
            p.add_(step * v)
        return torch.stack([t.sum() for t in run(other)])

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    for what, t, expected in zip(
        ("values", "contributions"), run(layer), slope.tolist(), strict=True
    ):
        total = t.sum()
        grads = [None] * len(way)
        if total.requires_grad:
            grads = torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True)
        parts = [(g * v).sum().item() for g, v in zip(grads, way, strict=True) if g is not None]
        assert abs(sum(parts) - expected) <= 1e-4 * (1 + abs(expected)), (
            f"the gradient of the {what} is {sum(parts):.6g} along a direction in which they "
            f"change by {expected:.6g}"
        )


def _check_state(layer: Transform, x: Tensor, z: Tensor, contrib: Tensor) -> None:
    for module in layer.modules():
        loose = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        assert not loose, f"state_dict does not carry {', '.join(loose)}: make it a buffer"
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for t in [*other.parameters(), *other.buffers()]:
            t.zero_() if t.dtype != torch.bool else t.fill_(False)
    other.load_state_dict(state)
    z2, c2 = _seeded(other, x)
    assert torch.equal(z2, z) and torch.equal(c2, contrib), "state_dict does not carry everything"


def check_normalised(
    flow: Flow, grid: Tensor, volume: float, *, k: int = 1, atol: float = 1e-3
) -> float:
    """Raise AssertionError unless the density sums to one on a grid; returns the sum.

    The test that sees a wrong sign in `Augment`, `Slice` or `Carry`.

    Args:
        flow: a model of (B, D) data.
        grid: points (N, D) that cover the model's mass; for discrete data every value.
        volume: of one grid cell; 1 for discrete data.
        k: importance samples for each point, where the flow is not exact.
        atol: how far from 1 the sum may be.
    """
    with torch.no_grad():
        log_p = flow.log_prob(grid) if flow.exact else flow.iw_bound(grid, k).value
    total = (log_p.exp().sum() * volume).item()
    assert abs(total - 1) <= atol, f"the density sums to {total:.6g}, expected 1 within {atol:g}"
    return total


__all__ = ["check_normalised", "check_transform", "randomise"]
