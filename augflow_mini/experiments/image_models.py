"""The image experiments' models by name."""

from __future__ import annotations

from collections.abc import Callable

from ..augment import Augment
from ..distributions import StandardNormal
from ..flow import Flow
from ..image_recipes import (
    FLOWPP_PLAN,
    IMAGE_CONFIGS,
    _pixels,
    affine_image,
    anf_image,
    glow,
    latent_shape,
    vflow_image,
    vflow_mini,
)  # fmt: skip
from ..imagenets import WideResidualNet
from ..linear import ActNorm
from ..shape import Squeeze
from ..transform import Inverse, Transform

Shape = tuple[int, int, int]


def build(name: str, shape: Shape, **options: object) -> Flow:
    """The flow of a named recipe for integer images of this shape.

    Raises:
        ValueError: the name is not known.
    """
    if name not in MODELS:
        raise ValueError(f"build: model is {name!r}, expected one of {', '.join(MODELS)}")
    layers, latent = MODELS[name](shape, **options)
    # The loaders have checked every byte, so no layer looks at the numbers again: no GPU waits.
    return Flow(layers, StandardNormal(*latent), validate=False)


def _vflow_mini(shape: Shape, *, extra: int, **options: object) -> tuple[list[Transform], Shape]:
    plan = options.get("plan", IMAGE_CONFIGS[f"vflow_mini_{extra}"].get("plan", FLOWPP_PLAN))
    return vflow_mini(extra, shape, validate=False, **options), latent_shape(
        shape, extra=extra, plan=plan
    )


def _vflow(shape: Shape, *, extra: int, **options: object) -> tuple[list[Transform], Shape]:
    plan = options.get("plan", FLOWPP_PLAN)
    layers = vflow_image(shape, extra=extra, validate=False, **options)
    return layers, latent_shape(shape, extra=extra, plan=plan)


def _paper(shape: Shape, *, config: str) -> tuple[list[Transform], Shape]:
    return _vflow(shape, **IMAGE_CONFIGS[config])


def _glow(
    shape: Shape, *, extra: int = 0, scales: int = 2, **options: object
) -> tuple[list[Transform], Shape]:
    c, h, w = shape
    layers = glow(shape, extra=extra, scales=scales, validate=False, **options)
    return layers, ((c + extra) * 2 ** (scales + 1), h >> scales, w >> scales)


def _anf(shape: Shape, *, extra: int, **options: object) -> tuple[list[Transform], Shape]:
    c, h, w = shape
    return anf_image(shape, extra=extra, validate=False, **options), (
        4 * c + extra,
        h // 2,
        w // 2,
    )


def _hierarchical_anf(
    shape: Shape, *, extra: int, filters: int = 64, blocks: int = 2, levels: int = 256
) -> tuple[list[Transform], Shape]:
    """Two blocks of noise: encode e1 from x and e2 from e1, then decode x and e1."""
    c, h, w = shape
    x, e1, e2 = (
        slice(0, 4 * c),
        slice(4 * c, 4 * c + extra),
        slice(4 * c + extra, 4 * c + 2 * extra),
    )
    net = dict(filters=filters, blocks=blocks)
    layers = [
        *_pixels(levels, shape, False), Squeeze(), ActNorm(4 * c),
        Augment(StandardNormal(2 * extra, h // 2, w // 2), keep=4 * c),
        affine_image(e1, x, WideResidualNet, **net),
        affine_image(e2, e1, WideResidualNet, **net),
        Inverse(affine_image(x, e1, WideResidualNet, **net)),
        Inverse(affine_image(e1, e2, WideResidualNet, **net)),
    ]  # fmt: skip
    return layers, (4 * c + 2 * extra, h // 2, w // 2)


MODELS: dict[str, Callable[..., tuple[list[Transform], Shape]]] = {
    "vflow_mini": _vflow_mini,
    "vflow": _vflow,
    "paper": _paper,
    "glow": _glow,
    "anf": _anf,
    "hierarchical_anf": _hierarchical_anf,
}
