"""Image models as lists of layers, and the papers' configurations by name.

Every list starts at integers 0 .. levels - 1 of shape (B, C, H, W). `latent_shape` gives the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .augment import Augment, Slice
from .coupling import AffineCoupling
from .dequantize import uniform_dequantize, variational_dequantize
from .distributions import GaussianNet, StandardNormal
from .image_plans import conditional_flow, couplings_on, mixture_step, planned  # noqa: F401
from .imagenets import ConvNet, GatedBlock, GatedConv, WideResidualNet
from .linear import ActNorm, InvertibleLinear
from .mixlogistic import MixLogisticCoupling
from .pointwise import Logit, Scale, Sigmoid
from .shape import Checkerboard, Squeeze
from .transform import Inverse, On, Transform, checked_count

FLOWPP_PLAN = (*["checkerboard"] * 4, "squeeze", *["channel"] * 2, *["checkerboard"] * 3)
VFLOW_PLAN = (
    *["checkerboard"] * 2, *["channel"] * 2, "squeeze", *["checkerboard"] * 2, *["channel"] * 3
)  # fmt: skip

# Released configurations, and a family of a million parameters (within 1 %) at 3, 4, 6 channels:
# same plan, depth and dequantiser; what the posterior and the extra channels cost, width pays.
_PAPER = dict(filters=96, blocks=10, components=32, dropout=0.2, pixel_norm=True)
_MINI = dict(
    blocks=3, components=4, heads=2, context=8,
    dequant_blocks=1, dequant_filters=16, posterior_blocks=1, plan=FLOWPP_PLAN,
)  # fmt: skip
IMAGE_CONFIGS: Mapping[str, dict] = {
    "flowpp_cifar10": dict(_PAPER, extra=0, plan=FLOWPP_PLAN),
    "vflow_cifar10": dict(_PAPER, extra=3, plan=VFLOW_PLAN, posterior_blocks=3, squash=True),
    "vflow_mini_0": dict(_MINI, extra=0, filters=28),
    "vflow_mini_1": dict(_MINI, extra=1, filters=24, posterior_filters=24),
    "vflow_mini_3": dict(_MINI, extra=3, filters=22, posterior_filters=16),
}


def latent_shape(
    shape: tuple[int, int, int], *, extra: int = 0, plan: Sequence[str] = FLOWPP_PLAN
) -> tuple[int, int, int]:
    """Shape of the base of `vflow_image`: each squeeze halves height and width."""
    c, h, w = shape
    n = list(plan).count("squeeze")
    return (c + extra) * 4**n, h // 2**n, w // 2**n


def _check_image(recipe: str, shape: Sequence[int], **counts: int) -> None:
    """Refuse a shape other than (C, H, W) and numbers below 1."""
    if not isinstance(shape, Sequence) or len(shape) != 3:
        raise ValueError(f"{recipe}: shape is {shape!r}, expected (channels, height, width)")
    for name, value in {**dict(zip("CHW", shape, strict=True)), **counts}.items():
        checked_count(value, f"{recipe}: {name}")


def vflow_image(
    shape: tuple[int, int, int] = (3, 32, 32),
    *,
    extra: int = 0,
    levels: int = 256,
    plan: Sequence[str] = FLOWPP_PLAN,
    filters: int = 96,
    blocks: int = 10,
    components: int = 32,
    heads: int = 4,
    dropout: float = 0.0,
    dequant_blocks: int = 2,
    dequant_filters: int | None = None,
    posterior_blocks: int = 3,
    posterior_filters: int | None = None,
    context: int = 32,
    pixel_norm: bool = False,
    squash: bool = False,
    validate: bool = True,
) -> list[Transform]:
    """VFlow on images: dequantise, add channels z ~ q(z | x), then Flow++'s couplings on (x, z).

    Without extra channels it is Flow++ (`flowpp`).

    Args:
        shape: (C, H, W) of the integers.
        extra: D_Z channels of augmentation noise.
        levels: how many values an integer may take.
        plan: the couplings of the joint, see `planned`.
        filters, blocks, components, heads, dropout: of the joint's conditioners.
        dequant_blocks, dequant_filters: depth and width of the dequantiser's conditioners,
            0 blocks for uniform noise; width None is `filters`.
        posterior_blocks, posterior_filters: the same of the posterior's; 0 for q(z | x) = N(0, I).
        context: width of the features that dequantiser and posterior take from x.
        pixel_norm: an `ActNorm` scale for each position, as released, or one for each channel.
        squash: end the posterior with a sigmoid, as released. z then lives in (0, 1), which the
            joint does not know: the bound stays a bound, but E[w] is a little below p(x).
        validate: see `Carry`.

    Base: `StandardNormal(*latent_shape(shape, extra=extra, plan=plan))`. Ho et al. 2019, Flow++;
    Chen et al. 2020, VFlow, and their released CIFAR-10 scripts.
    """
    _check_image("vflow_image", shape, filters=filters, blocks=blocks, components=components)
    checked_count(extra, "vflow_image: extra", least=0)
    c, *size = shape
    size = tuple(size)
    step = dict(components=components, heads=heads, dropout=dropout, pixel_norm=pixel_norm)
    q = dict(size=size, context=context, **step)
    if dequant_blocks:
        net = dict(blocks=dequant_blocks, filters=dequant_filters or filters)
        noise = conditional_flow(c, c, levels=levels, **net, **q)
        layers = variational_dequantize(levels, *shape, layers=noise, validate=validate)
    else:
        layers = uniform_dequantize(levels, *shape, validate=validate)
    layers += _to_line()
    if extra:
        layers.append(Augment(StandardNormal(extra, *size), keep=c))
        if posterior_blocks:
            net = dict(blocks=posterior_blocks, filters=posterior_filters or filters)
            layers += conditional_flow(c, extra, **net, **q)
        if squash:
            layers.append(On(slice(c, c + extra), Sigmoid(validate=False)))
    return [*layers, *planned(c + extra, size, plan, blocks=blocks, filters=filters, **step)]


def compile_parts(model: nn.Module, **options: object) -> nn.Module:
    """Compile the repeated parts of an image model in place, and return it.

    Blocks of one shape share one compiled graph, so there is much less to compile than in the
    whole model (12 graphs for `vflow_mini`). State dictionaries stay as they are.

    Args:
        model: a `Flow` or a chain of image layers.
        options: for `torch.compile`, such as mode or backend.
    """
    for part in model.modules():
        if isinstance(part, (GatedBlock, GatedConv)):
            part.compile(dynamic=False, **options)
        elif isinstance(part, MixLogisticCoupling):
            part.move = torch.compile(part.move, dynamic=False, **options)
    return model


def flowpp(shape: tuple[int, int, int] = (3, 32, 32), **options: object) -> list[Transform]:
    """Flow++: `vflow_image` without extra channels. Ho et al. 2019."""
    return vflow_image(shape, extra=0, **options)


def vflow_mini(
    extra: int, shape: tuple[int, int, int] = (3, 32, 32), **options: object
) -> list[Transform]:
    """The equal-budget family: about a million parameters with 0, 1 or 3 extra channels.

    Args:
        extra: 0, 1 or 3.
        options: replace any setting of `IMAGE_CONFIGS["vflow_mini_<extra>"]`.
    """
    if f"vflow_mini_{extra}" not in IMAGE_CONFIGS:
        raise ValueError(f"vflow_mini: extra is {extra!r}, expected 0, 1 or 3 channels")
    return vflow_image(shape, **{**IMAGE_CONFIGS[f"vflow_mini_{extra}"], **options})


def _pixels(levels: int, shape: Sequence[int], validate: bool) -> list[Transform]:
    """Uniform dequantisation and the logit, for the recipes whose subject is another one."""
    return [
        *uniform_dequantize(levels, *shape, validate=validate),
        *_to_line(),
    ]


def _to_line() -> list[Transform]:
    """[0, 1) to [.05, .95] to the whole line, as Flow++ and VFlow do."""
    return [Scale(0.9, shift=0.05), Logit(validate=False)]


def affine_image(
    writes: slice, reads: slice, net: type[nn.Module], **options: object
) -> AffineCoupling:
    """An affine coupling with a convolutional network that fits its blocks."""
    width = 2 * (writes.stop - writes.start)
    conditioner = net(reads.stop - reads.start, width, **options)
    return AffineCoupling(conditioner, writes=writes, reads=reads, clamp=2.0)


def _factor_out(channels: int) -> Slice:
    """Half of the channels leave, described by a Gaussian that sees the rest."""
    keep = channels // 2
    net = ConvNet(keep, 2 * (channels - keep), filters=32, last_gain=0.0)
    return Slice(GaussianNet(net), keep=keep)


def glow(
    shape: tuple[int, int, int],
    *,
    extra: int = 0,
    scales: int = 2,
    steps: int = 4,
    filters: int = 64,
    levels: int = 256,
    validate: bool = True,
) -> list[Transform]:
    """Glow: squeeze, `steps` times (norm, 1x1 convolution, coupling), half factored out.

    With `extra` channels z it is VFlow with Glow's joint and the simplest learned q: z | x is
    Gaussian, with mean and scale from one network, so z = m(x) + s(x) e.

    Base: `StandardNormal` of shape ((C + extra) 2^(scales + 1), H / 2^scales, W / 2^scales). Kingma
    and Dhariwal 2018; uniform noise as there, the logit as in Real NVP. Chen et al. 2020, VFlow.
    """
    _check_image("glow", shape, scales=scales, steps=steps, filters=filters)
    checked_count(extra, "glow: extra", least=0)
    layers, (c, h, w) = _pixels(levels, shape, validate), shape
    channels = c + extra
    if extra:
        layers.append(Augment(StandardNormal(extra, h, w), keep=c))
        layers.append(affine_image(slice(c, channels), slice(0, c), ConvNet, filters=filters))
    for scale in range(scales):
        layers.append(Squeeze())
        channels *= 4
        a, b = slice(0, channels // 2), slice(channels // 2, channels)
        for _ in range(steps):
            layers += [ActNorm(channels), InvertibleLinear(channels)]
            layers.append(affine_image(b, a, ConvNet, filters=filters))
        if scale < scales - 1:
            layers.append(_factor_out(channels))
            channels //= 2
    return layers


def realnvp_image(
    shape: tuple[int, int, int],
    *,
    scales: int = 2,
    filters: int = 64,
    blocks: int = 2,
    levels: int = 256,
    validate: bool = True,
) -> list[Transform]:
    """Multi-scale Real NVP: checkerboard couplings, squeeze, channel couplings, factor out.

    Three couplings of each kind at each scale, four checkerboard ones at the last.
    Base: `StandardNormal` of shape (C 2^(scales - 1), H / 2^(scales - 1), W / 2^(scales - 1)).
    Dinh et al. 2017, section 3.6.
    """
    _check_image("realnvp_image", shape, scales=scales, filters=filters, blocks=blocks)
    layers, channels = _pixels(levels, shape, validate), shape[0]
    net = dict(filters=filters, blocks=blocks)

    def turns(width: int, count: int) -> list[Transform]:
        a, b = slice(0, width // 2), slice(width // 2, width)
        out: list[Transform] = []
        for i in range(count):
            reads, writes = (a, b) if i % 2 == 0 else (b, a)
            out += [ActNorm(width), affine_image(writes, reads, WideResidualNet, **net)]
        return out

    for scale in range(scales):
        last, board = scale == scales - 1, Checkerboard()
        layers += [board, *turns(2 * channels, 4 if last else 3), Inverse(board)]
        if not last:
            channels *= 4
            layers += [Squeeze(), *turns(channels, 3), _factor_out(channels)]
            channels //= 2
    return layers


def anf_image(
    shape: tuple[int, int, int],
    *,
    extra: int,
    steps: int = 2,
    filters: int = 64,
    blocks: int = 2,
    levels: int = 256,
    validate: bool = True,
) -> list[Transform]:
    """ANF on images: squeeze, append `extra` noise channels, then encode and decode `steps` times.

    Base: `StandardNormal(4 C + extra, H / 2, W / 2)`. Huang et al. 2020; networks are ours.
    """
    _check_image("anf_image", shape, extra=extra, steps=steps, filters=filters, blocks=blocks)
    c, h, w = shape
    x, e = slice(0, 4 * c), slice(4 * c, 4 * c + extra)
    layers = [*_pixels(levels, shape, validate), Squeeze(), ActNorm(4 * c)]
    layers.append(Augment(StandardNormal(extra, h // 2, w // 2), keep=4 * c))
    net = dict(filters=filters, blocks=blocks)
    for _ in range(steps):
        layers.append(affine_image(e, x, WideResidualNet, **net))
        layers.append(Inverse(affine_image(x, e, WideResidualNet, **net)))
    return layers
