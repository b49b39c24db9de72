"""scikit-learn's digits, 8 x 8, 17 levels: models of about 80 k parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..bounds import bits_per_dim
from ..data import digits, histogram_bits
from ..dequantize import uniform_dequantize, variational_dequantize
from ..distributions import StandardNormal
from ..flow import Flow
from ..image_recipes import affine_image, glow
from ..imagenets import ConvNet
from ..linear import ActNorm
from ..pointwise import Logit, Scale
from ..recipes import affine_mlp, anf, hierarchical_anf, realnvp, vflow
from ..shape import Permute
from ..transform import On, Transform
from .runner import Experiment, Metrics

PIXELS = 64


def build(config: dict, *, validate: bool = True) -> Flow:
    """Dequantise, stretch to the line, normalise; then the named flow.

    Args:
        config: 'model' holds the flow's name and sizes; 'dequantiser' and 'posterior' in it count
            the couplings that learn the rounding noise and q (0: uniform noise; default q: one).
        validate: let the layers look at the numbers.
    """
    model = config["model"]
    net = {"hidden": model["hidden"], "activation": nn.Tanh, "last_gain": model["last_gain"]}
    small = dict(net, hidden=model["hidden"][:1])
    noise, margin, learned = model.get("noise", 0), model["margin"], model.get("dequantiser", 0)
    if model["flow"] == "glow":  # pixels stay where they are: (B, 1, 8, 8)
        return _glow(model, validate)
    pixels = slice(0, PIXELS)
    if learned:
        law = conditional(pixels, slice(PIXELS, 2 * PIXELS), couplings=learned, **small)
        law = _on_unit_scale(pixels, law)
        rounding = variational_dequantize(17, PIXELS, layers=law, validate=validate)
    else:
        rounding = uniform_dequantize(17, PIXELS, validate=validate)
    front: list[Transform] = [
        *rounding,
        Scale(1 - 2 * margin, shift=margin),  # keeps the logit of the outermost levels finite
        Logit(validate=validate),
        ActNorm(PIXELS),
    ]
    if model["flow"] == "realnvp":
        body = [Permute(_checkerboard(0)), *realnvp(PIXELS, couplings=model["couplings"], **net)]
    elif model["flow"] == "anf":
        body = anf(PIXELS, noise, steps=model["steps"], **net)
    elif model["flow"] == "hierarchical":
        body = hierarchical_anf(PIXELS, [noise // 2] * 2, steps=model["steps"], **net)
    elif model["flow"] == "vflow":
        z = slice(PIXELS, PIXELS + noise)
        joint = realnvp(PIXELS + noise, couplings=model["couplings"], **net)
        q = conditional(pixels, z, couplings=model.get("posterior", 1), **small)
        order = Permute(_checkerboard(noise))
        body = vflow(PIXELS, noise, posterior=q, joint=[order, *joint])
    else:
        raise ValueError(
            f"digits: flow is {model['flow']!r}, expected realnvp, glow, anf, hierarchical or vflow"
        )
    return Flow([*front, *body], StandardNormal(PIXELS + noise))


def _glow(model: dict, validate: bool) -> Flow:
    """One scale of Glow with its own rounding; the learned one is a convolutional Gaussian."""
    filters = model["hidden"][0]
    options = dict(scales=1, steps=model["steps"], filters=filters, levels=17, validate=validate)
    layers = glow((1, 8, 8), **options)
    if model.get("dequantiser"):
        pixels, u = slice(0, 1), slice(1, 2)
        law = _on_unit_scale(pixels, [affine_image(u, pixels, ConvNet, filters=filters)])
        layers[:2] = variational_dequantize(17, 1, 8, 8, layers=law, validate=validate)
    return Flow(layers, StandardNormal(4, 4, 4), validate=validate)


def _on_unit_scale(pixels: slice, law: list[Transform]) -> list[Transform]:
    """The law reads levels / 16; halving and doubling are exact, so integers stay integers."""
    return [On(pixels, Scale(1 / 16)), *law, On(pixels, Scale(16.0))]


def conditional(reads: slice, writes: slice, *, couplings: int, **net: object) -> list[Transform]:
    """A flow on one block of features given another; one coupling is a Gaussian with diagonal scale.

    Two or more move the halves of `writes` in turn; each reads the other half, too.
    """
    if couplings < 2:
        return [affine_mlp(writes, reads, **net) for _ in range(couplings)]
    middle = (writes.start + writes.stop) // 2
    a, b = slice(writes.start, middle), slice(middle, writes.stop)
    halves = [(a, b), (b, a)]
    return [affine_mlp(w, [reads, r], **net) for w, r in (halves * couplings)[:couplings]]


def _checkerboard(noise: int) -> list[int]:
    """An order whose halves are the two colours of a checkerboard, each with half of the noise."""
    colour = [(i // 8 + i % 8) % 2 for i in range(PIXELS)]
    halves = [[i for i in range(PIXELS) if colour[i] == c] for c in (0, 1)]
    extra = list(range(PIXELS, PIXELS + noise))
    return halves[0] + extra[: noise // 2] + halves[1] + extra[noise // 2 :]


def data(config: dict) -> tuple[Tensor, Tensor]:
    """Training and validation images."""
    found = digits()
    return found.train, found.valid


def measure(flow: Flow, config: dict) -> Metrics:
    """Bits/dim on test and validation split, by L_K over dequantisation and augmentation noise."""
    found, k = digits(), config["k"]
    like = next(flow.parameters())
    torch.manual_seed(0)
    test, valid = found.test.to(like), found.valid.to(like)
    bound = flow.iw_bound(test, k)
    bits = bits_per_dim(bound.value, test)
    return {
        "bits": bits.mean().item(),
        "bits_se": (bits.std() / len(bits) ** 0.5).item(),
        "bits_elbo": bits_per_dim(bound.elbo, test).mean().item(),
        "gap_at_least": (bound.value - bound.elbo).mean().item(),
        "valid_bits": bits_per_dim(flow.iw_bound(valid, k).value, valid).mean().item(),
        "histogram_bits": histogram_bits(found.train, found.test, found.levels),
    }


def _experiment(
    name: str, about: str, model: dict, *, steps: int, seconds: float, lr: float = 1e-3
) -> Experiment:
    fit = {
        "steps": steps,
        "batch": 128,
        "lr": lr,
        "ema": 0.998,
        "warmup": 50,
        "decay": "cosine",
        "every": 250,
        "keep_best": True,
    }
    config = {"model": {"margin": 0.003, "last_gain": 0.1, **model}, "fit": fit, "k": 256}
    allowed = {"bits": 0.03}
    return Experiment(name, about, config, (0, 1, 2), build, data, measure, allowed, seconds)


EXPERIMENTS = [
    _experiment(
        "digits-realnvp",
        "Digits, RealNVP without augmentation, uniform dequantisation",
        {"flow": "realnvp", "couplings": 8, "hidden": [64, 64]},
        steps=1500,
        seconds=30,
    ),
    _experiment(
        "digits-anf",
        "Digits, ANF with N = 2, D_E = 16, uniform dequantisation",
        {"flow": "anf", "steps": 2, "noise": 16, "hidden": [96, 96]},
        steps=3000,
        seconds=40,
    ),
    _experiment(
        "digits-vflow",
        "Digits, VFlow with D_Z = 16 and a Gaussian q, uniform dequantisation",
        {"flow": "vflow", "couplings": 8, "noise": 16, "hidden": [56, 56]},
        steps=1500,
        seconds=30,
    ),
    _experiment(
        "digits-page",
        "Digits, ANF small enough for a page: N = 2, D_E = 6, 12 hidden units",
        {"flow": "anf", "steps": 2, "noise": 6, "hidden": [12]},
        steps=3000,
        seconds=30,
        lr=2e-3,
    ),
]
