"""Records: what an experiment was, what came out, where it ran; sealed against edits.

A record is one JSON file, and its weights, where it has any, one file of plain tensors beside it.
Those that the chapters read come with the library, in `augflow_mini/records`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..checkpoint import load_tensors, sha256, to_bytes, write_atomic
from ..flow import Flow
from ..linear import InvertibleLinear

RECORDS = Path(__file__).parent.parent / "records"
WEIGHTS = "augflow_mini.weights.1"
LIMIT = 1024**2  # bytes a file: the records travel with every install


def write_record(
    name: str,
    content: dict,
    *,
    weights: dict[str, Tensor] | None = None,
    folder: str | os.PathLike = RECORDS,
) -> Path:
    """Seal `content` and write it as `name`.json, the weights as `name`.pt; returns the first.

    Args:
        name: letters, digits, '-' and '_'.
        content: what JSON can hold; no NaN. 'weights' and 'seal' are added here.
        weights: a state dict, kept as it is.
        folder: where; the library's own records by default.

    Raises:
        ValueError: a bad name, NaN in the content, or a file over the limit of 1 MB.
        OSError: the folder cannot be written.
    """
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise ValueError(f"write_record: name is {name!r}, expected letters, digits, '-' and '_'")
    folder, content = Path(folder), dict(content, name=name)
    if weights is not None:
        state = {k: v.detach().cpu().clone() for k, v in weights.items()}
        blob = to_bytes({"kind": WEIGHTS, "name": name, "state": state})
        _check_size(f"{name}.pt", blob)
        content["weights"] = {"file": f"{name}.pt", "sha256": sha256(blob), "bytes": len(blob)}
    try:
        content["seal"] = seal(content)
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(
            f"write_record: {name} holds NaN or an infinite number, which no JSON can; leave the "
            "entry out and say why"
        ) from error
    _check_size(f"{name}.json", text.encode())
    if weights is not None:
        write_atomic(folder / f"{name}.pt", blob)
    write_atomic(folder / f"{name}.json", text.encode())
    return folder / f"{name}.json"


def load_record(name: str, *, folder: str | os.PathLike = RECORDS) -> dict:
    """The record `name`, its seal checked.

    Raises:
        ValueError: there is no such record, it is no JSON, or it was changed after it was written.
    """
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in Path(folder).glob("*.json"))) or "none"
        raise ValueError(f"there is no record {name!r} in {folder}; there are: {known}")
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # brackets nested too deep
        raise ValueError(
            f"record {path} is no JSON ({error}); restore the file, or run the experiment again"
        ) from error
    if not isinstance(content, dict) or content.get("seal") != seal(content):
        raise ValueError(
            f"record {path} was changed after it was written: content and seal do not match "
            "(numbers come from runs only); restore the file, or run the experiment again"
        )
    return content


def load_weights(name: str, *, folder: str | os.PathLike = RECORDS) -> dict[str, Tensor]:
    """The state dict of record `name`, its hash checked; no code is run.

    Raises:
        ValueError: the record has no weights, or the file is not the one that was recorded.
    """
    entry = load_record(name, folder=folder).get("weights")
    if entry is None:
        raise ValueError(f"record {name!r} has no weights; run the experiment to get them")
    path = Path(folder) / entry["file"]
    if not path.exists() or sha256(path) != entry["sha256"]:
        raise ValueError(
            f"{path} is missing or is not the file that record {name!r} was made with; restore "
            "it, or run the experiment again"
        )
    return load_tensors(path, kind=WEIGHTS)["state"]


def seal(content: dict) -> str:
    """SHA-256 over everything in a record but its seal."""
    rest = {k: v for k, v in content.items() if k != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def summary(each: Sequence[float]) -> dict:
    """Mean, standard deviation (of a sample; None for one seed) and the single values."""
    sd = statistics.stdev(each) if len(each) > 1 else None
    return {"mean": statistics.fmean(each), "sd": sd, "each": list(each)}


def provenance(device: str = "cpu") -> dict:
    """Where and with what a run was made."""
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "augflow_mini": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def multiply_adds(flow: Flow, x: Tensor) -> int:
    """Multiply-adds of the networks and matrices in log p(x, e), for one example.

    Args:
        flow: initialised (`ActNorm`).
        x: a few examples.
    """
    total = 0

    def count(layer: nn.Module, args: tuple, out: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += out.numel() * layer.in_features
        elif isinstance(layer, nn.Conv2d):
            total += out.numel() * layer.weight[0].numel()
        else:
            total += out[0].numel() * layer.features

    kinds = (nn.Linear, nn.Conv2d, InvertibleLinear)
    hooks = [m.register_forward_hook(count) for m in flow.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            flow.log_weight(x)
    finally:
        for hook in hooks:
            hook.remove()
    return math.ceil(total / len(x))


def _check_size(file: str, blob: bytes) -> None:
    if len(blob) > LIMIT:
        raise ValueError(
            f"write_record: {file} would have {len(blob)} bytes, the limit is {LIMIT}; keep fewer "
            "curves or a smaller model"
        )
