"""Models as lists of layers. Print them, edit them, put them together; `Flow` takes any list."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .augment import Augment, Slice
from .coupling import AffineCoupling
from .distributions import GaussianNet, StandardNormal
from .linear import InvertibleLinear
from .nets import MLP
from .transform import Inverse, Transform, checked_count

NET_OPTIONS = ("activation", "clamp", "hidden", "last_gain")


def _checked(recipe: str, net: dict[str, object], **least: tuple[int, int]) -> None:
    """Refuse unknown options of `affine_mlp`, and numbers (name=(value, least)) that are too small."""
    unknown = sorted(net.keys() - set(NET_OPTIONS))
    if unknown:
        raise TypeError(
            f"{recipe}: unknown option {unknown[0]!r}, expected one of {', '.join(NET_OPTIONS)}; "
            "they are those of affine_mlp"
        )
    for name, (value, floor) in least.items():
        checked_count(value, f"{recipe}: {name}", least=floor)


def affine_mlp(
    writes: slice,
    reads: slice | Sequence[slice],
    *,
    hidden: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.ReLU,
    last_gain: float = 1.0,
    clamp: float | None = None,
) -> AffineCoupling:
    """An affine coupling with a multilayer perceptron that fits its blocks."""
    blocks = [reads] if isinstance(reads, slice) else reads
    seen = sum(b.stop - (b.start or 0) for b in blocks)
    moved = writes.stop - (writes.start or 0)
    net = MLP(seen, 2 * moved, hidden=hidden, activation=activation, last_gain=last_gain)
    return AffineCoupling(net, writes=writes, reads=reads, clamp=clamp)


def realnvp(
    features: int, *, couplings: int, linear: bool = False, **net: object
) -> list[Transform]:
    """Affine couplings that move the two halves of the features in turn.

    Args:
        features: D >= 2.
        couplings: how many.
        linear: put an `InvertibleLinear` before every second coupling, so that halves mix.
        net: options of `affine_mlp`.

    Base: `StandardNormal(features)`. Dinh et al. 2017, Real NVP.
    """
    _checked("realnvp", net, features=(features, 1), couplings=(couplings, 1))
    if features < 2:
        raise ValueError(
            f"realnvp: {features} feature cannot be split into two blocks; a coupling flow needs "
            "at least 2. Augment the data first (see anf) or use a 1-D flow"
        )
    a, b = slice(0, features // 2), slice(features // 2, features)
    layers: list[Transform] = []
    for i in range(couplings):
        if linear and i % 2 == 0:
            layers.append(InvertibleLinear(features))
        writes, reads = (b, a) if i % 2 == 0 else (a, b)
        layers.append(affine_mlp(writes, reads, **net))
    return layers


def anf(features: int, noise: int, *, steps: int, **net: object) -> list[Transform]:
    """N-step augmented normalizing flow: augment, then encode and decode N times.

        (x, e) -> (x, z = m_enc(x) + s_enc(x) e) -> (y = (x - m_dec(z)) / s_dec(z), z)

    The decoder is an `Inverse`, so its network returns the mean and log-scale of x given z, as in
    any VAE; with steps=1 the model is the Gaussian VAE.

    Args:
        features: D_X.  noise: D_E.  steps: N.
        net: options of `affine_mlp`.

    Base: `StandardNormal(features + noise)`. Huang et al. 2020, section 3.
    """
    _checked("anf", net, features=(features, 1), noise=(noise, 1), steps=(steps, 1))
    x, e = slice(0, features), slice(features, features + noise)
    layers: list[Transform] = [Augment(StandardNormal(noise), keep=features)]
    for _ in range(steps):
        layers += [affine_mlp(e, x, **net), Inverse(affine_mlp(x, e, **net))]
    return layers


def vae(features: int, latent: int, **net: object) -> list[Transform]:
    """Gaussian variational autoencoder: one step of `anf`. Kingma & Welling 2014."""
    _checked("vae", net)
    return anf(features, latent, steps=1, **net)


def hierarchical_anf(
    features: int, widths: Sequence[int], *, steps: int = 1, **net: object
) -> list[Transform]:
    """Hierarchical ANF: L noise blocks, encoded bottom-up, decoded top-down, N times.

        z_l = m_l + s_l e_l, (m_l, s_l) of (x, z_1 .. z_{l-1}),          l = 1 .. L
        y_0 = (x - m_0) / s_0, (m_0, s_0) of (z_1 .. z_L)
        y_l = (z_l - m_l) / s_l, (m_l, s_l) of (z_{l+1} .. z_L),         l = 1 .. L-1

    One step is an L-layer hierarchical VAE with bottom-up inference; L = 1 is `anf`.

    Args:
        features: D_X.
        widths: D_E of each level, nearest to the data first; L of them.
        steps: N.
        net: options of `affine_mlp`.

    Base: `StandardNormal(features + sum(widths))`. Huang et al. 2020, hierarchical ANF.
    """
    _checked("hierarchical_anf", net, features=(features, 1), steps=(steps, 1))
    for i, width in enumerate(widths):
        checked_count(width, f"hierarchical_anf: widths[{i}]")
    if not widths:
        raise ValueError(f"hierarchical_anf: widths {widths}, expected one positive width a level")
    ends = [features]
    for width in widths:
        ends.append(ends[-1] + width)
    x, *e = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    layers: list[Transform] = [Augment(StandardNormal(sum(widths)), keep=features)]
    for _ in range(steps):
        layers += [affine_mlp(e[i], [x, *e[:i]], **net) for i in range(len(e))]
        layers.append(Inverse(affine_mlp(x, e, **net)))
        layers += [Inverse(affine_mlp(e[i], e[i + 1 :], **net)) for i in range(len(e) - 1)]
    return layers


def cif(
    features: int, noise: int, *, steps: int, couplings: int = 0, **net: object
) -> list[Transform]:
    """Continuously indexed flow: augment, move x by what u says, slice u off again; `steps` times.

        u ~ q(u | x);   z = x * exp(log_s(u)) + m(u);   u weighed by p(u | z)

    Unlike ANF nothing of u is kept: only z goes on, so each step draws fresh noise.

    Args:
        features: D_X.  noise: width of u.  steps: how many.
        couplings: `realnvp` couplings before each step; 0 for one-dimensional data.
        net: options of `affine_mlp` and, for q and p, of `MLP`.

    Base: `StandardNormal(features)`. Cornish et al. 2020; as a chain, Nielsen et al. 2020.
    """
    _checked(
        "cif", net, features=(features, 1), noise=(noise, 1), steps=(steps, 1),
        couplings=(couplings, 0),
    )  # fmt: skip
    x, u = slice(0, features), slice(features, features + noise)
    options = {k: v for k, v in net.items() if k != "clamp"}
    law = lambda: GaussianNet(MLP(features, 2 * noise, **options))  # noqa: E731
    layers: list[Transform] = []
    for _ in range(steps):
        layers += realnvp(features, couplings=couplings, **net) if couplings else []
        layers += [Augment(law(), keep=features), affine_mlp(x, u, **net)]
        layers.append(Slice(law(), keep=features))
    return layers


def vflow(
    features: int,
    noise: int,
    *,
    posterior: Sequence[Transform] = (),
    joint: Sequence[Transform],
) -> list[Transform]:
    """VFlow: augment, turn the noise into z ~ q(z | x), then any flow on (x, z).

    Args:
        features: D_X.  noise: D_Z.
        posterior: layers that read x and write z; none gives q(z | x) = N(0, I), which is ANF.
        joint: a flow on the D_X + D_Z features, for example `realnvp(features + noise, ...)`.

    Base: `StandardNormal(features + noise)`. Chen et al. 2020, section 3.
    """
    return [Augment(StandardNormal(noise), keep=features), *posterior, *joint]
