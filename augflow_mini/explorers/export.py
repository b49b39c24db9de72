"""Flows as JSON: what the explorers in the page compute with, and the way back."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..augment import Slice
from ..coupling import AdditiveCoupling, AffineCoupling
from ..dequantize import Carry
from ..distributions import StandardNormal, StandardUniform
from ..flow import Flow
from ..linear import ActNorm, InvertibleLinear
from ..nets import MLP
from ..pointwise import Scale, Sigmoid
from ..shape import Permute
from ..transform import Inverse, Transform

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
LAWS = (StandardNormal, StandardUniform)  # of the noise; the base is N(0, I)
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def export_flow(flow: Flow, *, dtype: str | None = None) -> dict[str, Any]:
    """A flow on (B, D) data as a dict of numbers, lists and base64 text, fit for JSON.

    Args:
        flow: affine, additive, `InvertibleLinear`, `ActNorm`, `Permute`, `Augment`, `Slice`,
            `Carry`, `Scale` and `Sigmoid` layers and their `Inverse`; networks are tanh or ReLU
            `MLP`s or `nn.Linear`; the base is `StandardNormal`, noise that or `StandardUniform`.
        dtype: "float32", "float64", or None for the flow's own.

    Returns:
        {"features": D_X, "dtype": dtype, "layers": [...]}; `import_flow` builds the flow again.

    Raises:
        ValueError: a layer, network or law that the explorers' engine does not have.
    """
    first = next(flow.parameters(), torch.empty(0))
    dtype = dtype or str(first.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"export_flow: dtype {dtype!r}, expected one of {sorted(DTYPES)}")
    width, layers = _width(flow.base), []
    for layer in reversed(list(flow.chain)):  # only the base says how wide the flow is
        layers.append(_export_layer(layer, width, dtype))
        width = _width_before(layer, width)
    return {"features": width, "dtype": dtype, "layers": layers[::-1]}


def import_flow(spec: dict[str, Any]) -> Flow:
    """The flow that `export_flow` wrote, in its dtype.

    Raises:
        ValueError: a layer kind or a dtype that `export_flow` does not write.
    """
    if spec.get("dtype") not in DTYPES:
        got = spec.get("dtype")
        raise ValueError(f"import_flow: dtype {got!r}, expected one of {sorted(DTYPES)}")
    layers, width = [], spec["features"]
    for s in spec["layers"]:
        layers.append(_import_layer(s, spec["dtype"]))
        width = _width_after(s, width)
    return Flow(layers, StandardNormal(width)).to(DTYPES[spec["dtype"]])


# ---- one layer --------------------------------------------------------------------------------


def _export_layer(layer: Transform, width: int, dtype: str) -> dict[str, Any]:
    """`width` is the number of features on the noise side of the layer."""
    if isinstance(layer, Inverse):
        before = _width_before(layer, width)
        return {"kind": "inverse", "layer": _export_layer(layer.layer, before, dtype)}
    if isinstance(layer, Slice):
        spec = {"kind": "slice", "keep": layer.keep, "drop": _width(layer.law, *LAWS)}
        return spec | ({"law": "uniform"} if isinstance(layer.law, StandardUniform) else {})
    if isinstance(layer, AffineCoupling | AdditiveCoupling):
        w = layer.writes
        reads = layer.reads or [slice(0, w.start), slice(w.stop, width)]
        return {
            "kind": "affine" if isinstance(layer, AffineCoupling) else "additive",
            "writes": [w.start, w.stop],
            "reads": [[r.start, r.stop] for r in reads if r.stop > r.start],
            "clamp": getattr(layer, "clamp", None),
            "net": _export_mlp(layer.net, dtype),
        }
    if isinstance(layer, InvertibleLinear):
        p, sign = layer.p.flatten().tolist(), layer.sign.tolist()
        weights = _pack([layer.lu], dtype)
        return {"kind": "linear", "features": width, "p": p, "sign": sign, "weights": weights}
    if isinstance(layer, ActNorm):
        ready = bool(layer.initialised) and not layer.positions
        _need(ready, "ActNorm (expected one for (B, D) data that has seen a batch)", layer)
        weights = _pack([layer.log_s, layer.shift], dtype)
        return {"kind": "actnorm", "features": width, "weights": weights}
    if isinstance(layer, Permute):
        return {"kind": "permute", "order": layer.order.tolist()}
    if isinstance(layer, Carry):
        return {"kind": "carry", "levels": layer.levels}
    if isinstance(layer, Scale):
        return {"kind": "scale", "scale": layer.scale, "shift": layer.shift}
    if isinstance(layer, Sigmoid):
        return {"kind": "sigmoid"}
    raise ValueError(
        f"export_flow: the page has no layer {type(layer).__name__}; see export_flow's docstring"
    )


def _import_layer(spec: dict[str, Any], dtype: str) -> Transform:
    kind = spec["kind"]
    if kind == "inverse":
        return Inverse(_import_layer(spec["layer"], dtype))
    if kind == "slice":
        law = StandardUniform if spec.get("law") == "uniform" else StandardNormal
        return Slice(law(spec["drop"]), keep=spec["keep"])
    if kind in ("affine", "additive"):
        net = _import_mlp(spec["net"], dtype)
        blocks = {"writes": slice(*spec["writes"]), "reads": [slice(*r) for r in spec["reads"]]}
        if kind == "additive":
            return AdditiveCoupling(net, **blocks)
        return AffineCoupling(net, **blocks, clamp=spec["clamp"])
    if kind == "linear":
        layer = InvertibleLinear(spec["features"]).to(DTYPES[dtype])
        layer.p.copy_(torch.tensor(spec["p"]).view_as(layer.p))
        layer.sign.copy_(torch.tensor(spec["sign"]))
        _unpack(spec["weights"], dtype, [layer.lu])
        return layer
    if kind == "actnorm":
        layer = ActNorm(spec["features"]).to(DTYPES[dtype])
        _unpack(spec["weights"], dtype, [layer.log_s, layer.shift])
        layer.initialised.fill_(True)
        return layer
    if kind == "permute":
        return Permute(spec["order"])
    if kind == "carry":
        return Carry(spec["levels"])
    if kind == "scale":
        return Scale(spec["scale"], shift=spec["shift"])
    if kind == "sigmoid":
        return Sigmoid()
    raise ValueError(f"import_flow: unknown layer {kind!r}")


def _export_mlp(net: nn.Module, dtype: str) -> dict[str, Any]:
    modules = list(net.layers) if isinstance(net, MLP) and net.inputs else []
    if isinstance(net, nn.Linear):
        modules = [net]
    maps, between = modules[::2], {type(m) for m in modules[1::2]}
    names = [name for name, kind in ACTIVATIONS.items() if between <= {kind}]
    ok = bool(maps) and bool(names)
    _need(ok, "network (expected an MLP with tanh or ReLU, or nn.Linear)", net)
    widths = [maps[0].in_features, *(m.out_features for m in maps)]
    weights = _pack([p for m in maps for p in (m.weight, m.bias)], dtype)
    return {"widths": widths, "activation": names[0], "weights": weights}


def _import_mlp(spec: dict[str, Any], dtype: str) -> MLP:
    first, *hidden, last = spec["widths"]
    net = MLP(first, last, hidden=hidden, activation=ACTIVATIONS[spec["activation"]])
    net = net.to(DTYPES[dtype])
    _unpack(spec["weights"], dtype, list(net.parameters()))
    return net


# ---- widths and weights -----------------------------------------------------------------------


def _width(law: nn.Module, *laws: type[nn.Module]) -> int:
    laws = laws or (StandardNormal,)
    names = " or ".join(kind.__name__ for kind in laws)
    _need(isinstance(law, laws) and len(law.shape) == 1, f"law (expected {names})", law)
    return law.shape[0]


def _width_before(layer: Transform, after: int) -> int:
    if isinstance(layer, Slice):
        return layer.keep + _width(layer.law, *LAWS)
    if isinstance(layer, Carry):
        return 2 * after
    if isinstance(layer, Inverse) and isinstance(layer.layer, Slice):
        return layer.layer.keep
    if isinstance(layer, Inverse) and isinstance(layer.layer, Carry):
        return after // 2
    return after


def _width_after(spec: dict[str, Any], before: int) -> int:
    """The same in the other direction, read from what was written."""
    inner = spec["layer"] if spec["kind"] == "inverse" else spec
    back = inner is not spec
    if inner["kind"] == "slice":
        return inner["keep"] + inner["drop"] if back else inner["keep"]
    if inner["kind"] == "carry":
        return 2 * before if back else before // 2
    return before


def _pack(tensors: Sequence[Tensor], dtype: str) -> str:
    flat = torch.cat([t.detach().cpu().flatten() for t in tensors]).to(DTYPES[dtype]).numpy()
    return base64.b64encode(flat.astype(flat.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def _unpack(text: str, dtype: str, into: Sequence[Tensor]) -> None:
    flat = np.frombuffer(base64.b64decode(text), np.dtype(dtype).newbyteorder("<"))
    expected = sum(t.numel() for t in into)
    if len(flat) != expected:
        raise ValueError(
            f"import_flow: {len(flat)} weights, expected {expected}; is it an older export?"
        )
    flat = torch.from_numpy(flat.astype(dtype))
    with torch.no_grad():
        for t, part in zip(into, flat.split([t.numel() for t in into]), strict=True):
            t.copy_(part.view_as(t))


def _need(ok: bool | int, what: str, got: nn.Module) -> None:
    if not ok:
        raise ValueError(f"export_flow: the page has no such {what}; got {got}")
