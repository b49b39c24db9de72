"""Coupling plans: the runs of couplings that Flow++ and VFlow are built of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from .imagenets import ContextNet, GatedAttentionNet
from .linear import ActNorm, InvertibleLinear
from .mixlogistic import MixLogisticCoupling
from .shape import Append, Checkerboard, Squeeze
from .transform import Inverse, On, Transform


def mixture_step(
    writes: slice,
    reads: Sequence[slice],
    *,
    size: tuple[int, int],
    components: int,
    context: int = 0,
    **net: object,
) -> MixLogisticCoupling:
    """A mixture coupling with Flow++'s conditioner; the last `context` reads are context."""
    moved = writes.stop - writes.start
    seen = sum(b.stop - b.start for b in reads) - context
    outputs = moved * (2 + 3 * components)
    conditioner = GatedAttentionNet(seen, outputs, size=size, context=context, **net)
    return MixLogisticCoupling(conditioner, writes=writes, reads=reads, components=components)


def couplings_on(
    start: int,
    width: int,
    *,
    size: tuple[int, int],
    count: int,
    context: slice | None = None,
    pixel_norm: bool = False,
    **step: object,
) -> list[Transform]:
    """`count` times: norm and 1x1 convolution of each half of a block, then a coupling.

    Args:
        start, width: the block of dimension 1; its first and second half are written by turns.
        size: (H, W).
        context: features that every coupling reads besides.
        pixel_norm: an `ActNorm` scale for each position.
        step: options of `mixture_step`.
    """
    middle, stop = start + width // 2, start + width
    a, b = slice(start, middle), slice(middle, stop)
    layers: list[Transform] = []
    for i in range(count):
        reads, writes = (a, b) if i % 2 == 0 else (b, a)
        layers += [
            On(slice(start, stop), ActNorm(width, *(size if pixel_norm else ()))),
            *[On(half, InvertibleLinear(half.stop - half.start, noise=0.01)) for half in (a, b)],
            mixture_step(
                writes,
                [reads] if context is None else [reads, context],
                size=size,
                context=0 if context is None else context.stop - context.start,
                **step,
            ),
        ]
    return layers


def conditional_flow(
    given: int,
    width: int,
    *,
    size: tuple[int, int],
    context: int = 32,
    context_blocks: int = 3,
    levels: int | None = None,
    count: int = 4,
    **step: object,
) -> list[Transform]:
    """q(e | x) on images: checkerboard couplings that read the first channels and move the rest.

    A context network looks at x once; its features are appended, read and dropped again. The given
    channels leave as they came.

    Args:
        given, width: channels of x and of e.
        size: (H, W).
        context, context_blocks: width and depth of the context network.
        levels: x holds integers 0 .. levels - 1; None for numbers of moderate size.
        count: how many couplings.
        step: options of `couplings_on`.
    """
    half = (size[0], size[1] // 2)
    board = Checkerboard([given, width], columns=True)
    net = ContextNet(
        2 * given,
        filters=context,
        blocks=context_blocks,
        levels=levels,
        dropout=step.get("dropout", 0.0),
    )
    reader = Append(net, reads=slice(0, 2 * given), width=context)
    stop = 2 * (given + width)
    layers = couplings_on(
        2 * given, 2 * width, size=half, count=count, context=slice(stop, stop + context), **step
    )
    return [board, reader, *layers, Inverse(reader), Inverse(board)]


def planned(
    channels: int, size: tuple[int, int], plan: Sequence[str], **step: object
) -> Iterator[Transform]:
    """The layers of a coupling plan: "checkerboard", "channel" and "squeeze" in any order."""
    for kind, run in groupby(plan):
        count = len(list(run))
        if kind == "squeeze":
            for _ in range(count):
                yield Squeeze()
                channels, size = 4 * channels, (size[0] // 2, size[1] // 2)
        elif kind == "channel":
            yield from couplings_on(0, channels, size=size, count=count, **step)
        elif kind == "checkerboard":
            board = Checkerboard(columns=True)
            half = (size[0], size[1] // 2)
            yield board
            yield from couplings_on(0, 2 * channels, size=half, count=count, **step)
            yield Inverse(board)
        else:
            raise ValueError(
                f"plan: {kind!r} is unknown, expected 'checkerboard', 'channel' or 'squeeze'"
            )
