"""The image experiments by name: data, model, steps; and their data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import images
from ..flow import Flow
from ..imagenets import data_init
from .image_models import build


@dataclass(frozen=True)
class Setup:
    """One experiment but for its seed.

    Attributes:
        data: 'cifar10', 'mnist', 'fashion-mnist', or 'made' (gradients computed here, for proofs).
        model, options: a name of `image_models.MODELS` and the options of that recipe.
        shape: (C, H, W); larger images are cropped to their middle.
        pool: first average the pixels over squares of so many, and round to integers.
        steps, batch, lr, warmup, ema, clip: of `fit`; the step size falls to 0 as a cosine.
        batches: which CIFAR-10 training batches.
        k, rows: importance samples, and test images they are drawn for.
        probe: measure the reuse probe at the end.
        probe_images, probe_steps: images it learns from and is tested on; its training steps.
    """

    data: str
    model: str
    options: dict = field(default_factory=dict)
    shape: tuple[int, int, int] = (3, 32, 32)
    steps: int = 10_000
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 500
    ema: float = 0.999
    clip: float = 1.0
    batches: tuple[int, ...] = (1, 2, 3, 4, 5)
    k: int = 64
    rows: int = 256
    probe: bool = False
    pool: int = 1
    probe_images: tuple[int, int] = (1024, 512)
    probe_steps: int = 200


def setups() -> dict[str, Setup]:
    """Every experiment by name."""
    out = {}
    for extra, channels in ((0, 3), (1, 4), (3, 6)):
        mini = Setup("cifar10", "vflow_mini", {"extra": extra}, probe=True)
        out[f"cifar10-{channels}ch"] = mini
        tiny = dict(extra=extra, filters=8, blocks=1, components=2, context=8, dequant_blocks=1,
                    posterior_blocks=1)  # fmt: skip
        out[f"tiny-{channels}ch"] = Setup(
            "made",
            "vflow_mini",
            tiny,
            (3, 8, 8),
            steps=20,
            batch=16,
            warmup=5,
            k=4,
            rows=16,
            probe=True,
            probe_images=(128, 64),
            probe_steps=30,
        )
        # What a CPU can do in minutes: a fair comparison (384,854, 389,370 and 381,840
        # parameters), with uniform dequantisation, so that the posterior is all that is added.
        small = dict(
            extra=extra, filters={0: 26, 1: 22, 3: 16}[extra], blocks=1, dequant_blocks=0,
            posterior_blocks=1, posterior_filters={0: None, 1: 8, 3: 12}[extra],
        )  # fmt: skip
        out[f"small-{channels}ch"] = Setup(
            "cifar10",
            "vflow_mini",
            small,
            (3, 8, 8),
            pool=4,
            steps=1500,
            batch=64,
            lr=2e-3,
            warmup=150,
            ema=0.99,
            probe=True,
            probe_steps=100,
        )
        if not extra:  # what the noise is learned with, width pays (384,400 parameters)
            learned = dict(small, filters=24, dequant_blocks=1, dequant_filters=10)
            out["small-3ch-variational"] = replace(out["small-3ch"], options=learned, probe=False)
        if extra != 1:  # two explanations to test: longer training, and width beside the budget
            out[f"small-{channels}ch-long"] = replace(
                out[f"small-{channels}ch"], steps=4500, probe=False
            )
        if extra == 3:  # the width of 3 channels, on top of the budget (648,910 parameters)
            same_width = dict(small, filters=26)
            out["wide-6ch"] = replace(out["small-6ch"], options=same_width, probe=False)
        wide = dict(
            extra=extra, filters={0: 56, 1: 51, 3: 49}[extra], blocks=4, heads=1, context=16,
            dequant_filters=32, dequant_blocks=2, posterior_filters=32, posterior_blocks=2,
        )  # fmt: skip
        out[f"cifar10-{channels}ch-4M"] = Setup(
            "cifar10", "vflow_mini", wide, steps=200_000, probe=True
        )
    for name, config in (("flowpp", "flowpp_cifar10"), ("vflow", "vflow_cifar10")):
        out[f"cifar10-{name}-paper"] = Setup(
            "cifar10",
            "paper",
            {"config": config},
            steps=2_000_000,
            batch=64,
            lr=1.2e-3,
            warmup=2000,
            k=4096,
        )
    flow = dict(blocks=2, components=4, heads=2, context=8, dequant_blocks=1, dequant_filters=16)
    for name, model, options in (  # about 310,000 parameters each
        ("vae", "anf", dict(extra=4, steps=1, filters=64)),  # one step of ANF is a VAE
        ("anf-2", "anf", dict(extra=4, steps=2, filters=45)),
        ("anf-4", "anf", dict(extra=4, steps=4, filters=31)),
        ("hanf", "hierarchical_anf", dict(extra=4, filters=45)),
        ("glow", "glow", dict(steps=8, filters=103)),
        ("flowpp", "vflow", dict(flow, extra=0, filters=18)),
        (
            "vflow",
            "vflow",
            dict(flow, extra=1, filters=12, posterior_blocks=1, posterior_filters=16),
        ),
    ):
        out[f"mnist-{name}"] = Setup("mnist", model, options, (1, 28, 28), steps=6000, k=128)
    # For a CPU: minutes on one core; about 80,000 and 270,000 parameters.
    short = dict(steps=800, batch=32, lr=2e-3, warmup=80, ema=0.99)
    for name, model, options in (
        ("vae", "anf", dict(extra=4, steps=1, filters=32)),
        ("anf-2", "anf", dict(extra=4, steps=2, filters=22)),
        ("hanf", "hierarchical_anf", dict(extra=4, filters=22)),
        ("glow", "glow", dict(steps=4, filters=65)),
        ("vflow", "glow", dict(steps=4, filters=43, extra=1)),
    ):
        out[f"mnist-cpu-{name}"] = Setup("mnist", model, options, (1, 28, 28), **short)
    for channels, filters in ((3, 96), (6, 55)):
        options = dict(steps=4, filters=filters, extra=channels - 3)
        out[f"cifar10-cpu-{channels}ch"] = Setup(
            "cifar10", "glow", options, **{**short, "steps": 300}
        )
    return out


def load(setup: Setup, *, test: bool = False) -> tuple[Tensor, Tensor]:
    """Training and validation images (or training and test images), uint8."""
    if setup.data == "made":
        made = made_images(640, setup.shape)
        return made[:512], made[512:]
    if setup.data == "cifar10":
        data = images.cifar10(batches=setup.batches, test=test, progress=False)
    else:
        data = {"mnist": images.mnist, "fashion-mnist": images.fashion_mnist}[setup.data](
            progress=False
        )
    held_out = data.test if test else data.valid
    return tuple(_crop(_pool(x, setup.pool), setup.shape) for x in (data.train, held_out))


def _pool(x: Tensor, size: int) -> Tensor:
    if size == 1:
        return x
    parts = (F.avg_pool2d(part.float(), size).round() for part in x.split(4096))
    return torch.cat([part.to(torch.uint8) for part in parts])


def _crop(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    top, left = (x.shape[2] - shape[1]) // 2, (x.shape[3] - shape[2]) // 2
    return x[:, :, top : top + shape[1], left : left + shape[2]].contiguous()


def made_images(n: int, shape: tuple[int, int, int], *, seed: int = 0) -> Tensor:
    """Colour gradients with a little noise: images computed here, for tests and proofs."""
    g = torch.Generator().manual_seed(seed)
    c, h, w = shape
    corner = torch.rand(n, c, 2, 2, generator=g)
    smooth = torch.nn.functional.interpolate(
        corner, size=(h, w), mode="bilinear", align_corners=True
    )
    return (255 * smooth + 4 * torch.rand(n, c, h, w, generator=g)).clamp(0, 255).to(torch.uint8)


def prepare(setup: Setup, train: Tensor, *, seed: int, device: torch.device) -> Flow:
    """The model on its device, initialised on the first images; a function of setup and seed."""
    torch.manual_seed(seed)
    flow = build(setup.model, setup.shape, **setup.options).to(device)
    data_init(flow.chain, train[:256].float().to(device))
    return flow
