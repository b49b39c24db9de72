"""A small trained flow of the digits: drawn from, redrawn in part, interpolated, sorted by the gap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import traitlets
from torch import Tensor

from .. import plots
from ..bounds import Z95, LogWeights
from ..flow import Flow
from ..integrate import run_on
from .base import Explorer, source
from .draws import normals, uniforms
from .export import export_flow, import_flow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS, LEVELS = 64, 17
SAMPLES, FRESH, WAY = 24, 6, 9  # images in the pictures
RUNS, K = 16, 32  # runs of K importance samples behind each gap


@dataclass(frozen=True)
class Measured:
    """What RUNS runs of K importance samples say about digits, each with its standard error.

    Attributes:
        gap, gap_se: mean of L_K - L_1 over the runs, (B,), nats: at least a part of the gap.
        nll: mean of -L_K, (B,), nats: at most this is -log P(x).
        bits, bits_se: the same in bits/dim, (B,).
    """

    gap: Tensor
    gap_se: Tensor
    nll: Tensor
    bits: Tensor
    bits_se: Tensor

    @classmethod
    def from_log_weights(cls, log_w: Tensor) -> Measured:
        """Of log-weights (B, RUNS, K)."""
        batch, runs, k = log_w.shape
        found = LogWeights().add(log_w.permute(2, 0, 1).reshape(k, -1)).bound()
        value, elbo = found.value.view(batch, runs), found.elbo.view(batch, runs)
        gap, nat = value - elbo, PIXELS * math.log(2)
        error = lambda v: v.std(1) / math.sqrt(runs)  # noqa: E731
        nll = -value.mean(1)
        return cls(gap.mean(1), error(gap), nll, nll / nat, error(value) / nat)


def between(start: Tensor, end: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Latents on the way from `start` to `end`: the straight line, and with the norm kept.

        line = (1 - alpha) start + alpha end
        kept = line / |line| ((1 - alpha) |start| + alpha |end|)

    Args:
        start, end: latents (..., D).
        alpha: shares of the way, of a shape that multiplies (..., D).
    """
    line = (1 - alpha) * start + alpha * end
    norm = (1 - alpha) * start.norm(dim=-1, keepdim=True) + alpha * end.norm(dim=-1, keepdim=True)
    return line, line * norm / line.norm(dim=-1, keepdim=True)


class DigitsExplorer(Explorer):
    """A flow of 8 x 8 digits: its samples, what each latent holds, the way between two, the gaps.

    The latent is (y, z): y of the size of the image, z of the size of the augmentation noise. From
    all of it x comes back exactly; with y or z drawn anew one sees what the other one held.

    Args:
        flow: a flow of 64 pixels with 17 levels that `export_flow` can write, with uniform
            dequantisation and augmentation noise.
        images: ten digits, (10, 64), integers 0 .. 16.
        traits: initial values of the traits below.

    Traits:
        start, end: the two digits, places in `images`.
        alpha: how far from start to end.
        seed: of all noise: samples, encodings, what is drawn anew, importance samples.
        spec, images: the flow and the digits as the page reads them.

    Raises:
        ValueError: images or a flow of other sizes.
    """

    _esm = source(
        "arrays.js", "layers.js", "flow.js", "pointwise.js", "draws.js",
        "base.js", "plot.js", "digits_model.js", "digits_draw.js", "digits.js",
    )  # fmt: skip
    _css = source("base.css", "digits.css")
    alt = (
        "Small grey digits: samples of a model; one digit with a part of its latents drawn anew; the "
        "way from one digit to another; ten digits sorted by their gap, with error bars."
    )
    controls = ("start", "end", "alpha", "seed")

    start = traitlets.Int(3, min=0, max=9).tag(sync=True, label="from digit", step=1)
    end = traitlets.Int(8, min=0, max=9).tag(sync=True, label="to digit", step=1)
    alpha = traitlets.Float(0.5, min=0.0, max=1.0).tag(sync=True, label="share α", step=0.05)
    seed = traitlets.Int(1, min=1, max=20).tag(sync=True, label="noise, seed", step=1)
    spec = traitlets.Dict().tag(sync=True)
    images = traitlets.List().tag(sync=True)

    def __init__(self, flow: Flow, images: Tensor, **traits: Any) -> None:
        spec = export_flow(flow)
        self.noise = math.prod(flow.base.shape) - PIXELS
        if spec["features"] != PIXELS or self.noise < 1 or images.shape != (10, PIXELS):
            raise ValueError(
                f"DigitsExplorer got a flow of {spec['features']} pixels with a latent of "
                f"{tuple(flow.base.shape)} and images {tuple(images.shape)}, expected {PIXELS} "
                f"pixels with augmentation noise and images (10, {PIXELS})"
            )
        whole = images.round().clamp(0, LEVELS - 1)
        if not torch.equal(whole, images.to(whole)):
            raise ValueError(f"DigitsExplorer: images are not integers 0 .. {LEVELS - 1}")
        self._flow = import_flow(spec).double()
        self._images = whole.double()
        super().__init__(**{"spec": spec, "images": whole.int().tolist(), **traits})

    @classmethod
    def from_records(cls, **traits: Any) -> DigitsExplorer:
        """With the recorded model `digits-page` and the first test digit of each class."""
        from ..data import digits
        from ..experiments import load_model

        found = digits()
        labels = found.labels["test"].tolist()
        first = [labels.index(digit) for digit in range(10)]
        return cls(load_model("digits-page"), found.test[first], **traits)

    # ---- what the page shows, by torch ----------------------------------------------------------

    def samples(self) -> Tensor:
        """Draws of the model, (24, 64)."""
        return self.decode(self._normals(0, PIXELS + self.noise, SAMPLES))

    def codes(self) -> Tensor:
        """One latent (y, z) of each digit, (10, D_X + D_E), with its own dequantisation and noise."""
        return self._run(self._images, 1)[1]

    def redrawn(self) -> dict[str, Tensor]:
        """The digit `start` from parts of its latent, images (B, 64).

        `all`: from all of it. `middle`: y = 0. `z kept`: y drawn anew. `y kept`: z drawn anew.
        """
        y, z = self.codes()[self.start].split([PIXELS, self.noise])
        fresh_y, fresh_z = self._normals(3, PIXELS, FRESH), self._normals(4, self.noise, FRESH)
        z_kept = torch.cat([fresh_y, z.expand(FRESH, -1)], 1)
        y_kept = torch.cat([y.expand(FRESH, -1), fresh_z], 1)
        whole, middle = torch.cat([y, z])[None], torch.cat([0 * y, z])[None]
        parts = {"all": whole, "middle": middle, "z kept": z_kept, "y kept": y_kept}
        return {name: self.decode(v) for name, v in parts.items()}

    def way(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Latents from `start` to `end` at the shares alpha (B,), straight and norm kept, (B, D)."""
        codes = self.codes()
        return between(codes[self.start], codes[self.end], alpha[:, None])

    def log_weights(self, digit: int) -> Tensor:
        """Log-weights of one digit, (RUNS, K), nats."""
        many = self._images[digit].expand(RUNS * K, -1)
        return self._run(many, 5 + 2 * digit)[0].view(RUNS, K)

    def measured(self) -> Measured:
        """Gap and bits of all ten digits."""
        return Measured.from_log_weights(torch.stack([self.log_weights(i) for i in range(10)]))

    def decode(self, latent: Tensor) -> Tensor:
        """Images (B, 64) of latents (B, D_X + D_E); the noise in them is dropped."""
        with torch.no_grad():
            return self._flow.chain.inverse(latent)[0]

    def compute(self) -> dict[str, float]:
        found = Measured.from_log_weights(self.log_weights(self.start)[None])
        redrawn, here = self.redrawn(), self._images[self.start]
        line, kept = self.way(torch.tensor([self.alpha], dtype=torch.float64))
        off = {
            name: ((images - here) ** 2).mean().sqrt().item() for name, images in redrawn.items()
        }
        return {
            "gap": found.gap.item(), "gap_se": found.gap_se.item(), "nll": found.nll.item(),
            "bits": found.bits.item(), "bits_se": found.bits_se.item(),
            "z_kept": off["z kept"], "y_kept": off["y kept"],
            "differ": (redrawn["all"] != here).sum().item(),
            "norm_line": line.norm().item(), "norm_kept": kept.norm().item(),
        }  # fmt: skip

    def _normals(self, what: int, features: int, rows: int) -> Tensor:
        """(rows, features), drawn feature by feature as the page stores them."""
        return normals(1000 * what + self.seed, features * rows).view(features, rows).T

    def _run(self, x: Tensor, what: int) -> tuple[Tensor, Tensor]:
        """log w and the latent of each row, its noise from the seeds of `what` and the next."""
        u = uniforms(1000 * what + self.seed, PIXELS * len(x)).view(PIXELS, len(x)).T
        noise = torch.cat([u, self._normals(what + 1, self.noise, len(x))], 1)
        with torch.no_grad():
            joint, log_q, _, latent = run_on(self._flow, x, noise)
        return joint - log_q, latent

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        found, redrawn = self.measured(), self.redrawn()
        line, kept = self.way(torch.linspace(0, 1, WAY, dtype=torch.float64))
        order = found.gap.argsort()
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        strips, bars = figure.subfigures(2, 1, height_ratios=(3, 2))
        rows = {
            "samples": self.samples()[:WAY],
            "z kept, y drawn anew": redrawn["z kept"],
            "y kept, z drawn anew": redrawn["y kept"],
            "straight line": self.decode(line),
            "norm kept": self.decode(kept),
        }
        grid = strips.subplots(len(rows), WAY)
        for (name, images), axes in zip(rows.items(), grid, strict=True):
            axes[0].set_title(name, fontsize=8, loc="left")
            for ax in axes:
                ax.set_axis_off()
            for ax, image in zip(axes, images, strict=False):
                ax.imshow(image.view(8, 8).numpy(), cmap="gray_r", vmin=0, vmax=LEVELS - 1)
        left, right = bars.subplots(1, 2)
        places, names = range(10), [str(i) for i in order.tolist()]
        gap, gap_se, bits, bits_se = (
            v[order].numpy() for v in (found.gap, found.gap_se, found.bits, found.bits_se)
        )
        left.bar(places, gap, yerr=Z95 * gap_se, color=plots.PURPLE)
        left.set(xticks=places, xticklabels=names, ylabel="gap, at least, nats")
        right.errorbar(places, bits, Z95 * bits_se, fmt="o", color=plots.BLUE)
        right.set(xticks=places, xticklabels=names, ylabel="bits/dim, at most")
        return figure
