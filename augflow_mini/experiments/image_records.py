"""Runs of the image experiments -> sealed records: means over seeds, curves, the probe, weights."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import load_tensors, to_bytes
from ..flow import Flow
from .image_models import build
from .image_results import KIND
from .record import LIMIT, RECORDS, load_record, load_weights, summary, write_record

FOLDER = RECORDS / "images"
SAME = ("setup", "parameters", "train_sha256", "mode", "amp")  # what the seeds of a record share


def collect(
    runs: str | os.PathLike, names: Sequence[str], folder: str | os.PathLike | None = None,
    *, add: bool = False, weights: bool = True,
) -> list[Path]:  # fmt: skip
    """Write one record for each experiment, over all seeds found, with the first one's weights.

    The figures are those of the run, in float32; the weights are rounded to half precision.

    Args:
        runs: folder that `train` wrote.
        names: experiments; each needs at least one finished run.
        folder: where; the library's `records/images` by default.
        add: keep the seeds and the weights of the record that is there, add the seeds it lacks.
        weights: with the model, where a record may be so large; else it is of figures alone, and
            the weights stay in `runs`.

    Raises:
        ValueError: no finished run of a name, seeds with different settings or data, or weights
            beyond half precision.
    """
    runs, folder, paths = Path(runs), Path(folder or FOLDER), []
    for name in names:
        files = sorted(runs.glob(f"{name}-s*.json"), key=lambda p: int(p.stem.rsplit("-s", 1)[1]))
        if not files:
            raise ValueError(f"{runs} holds no finished run of {name!r}; run `train {name}` first")
        results = [json.loads(f.read_text()) for f in files]
        old = load_record(name, folder=folder) if add else {}
        if add:
            kept = _results(old)
            seeds = [r["seed"] for r in kept]
            results = kept + [r for r in results if r["seed"] not in seeds]
        for key in SAME:
            if any(r[key] != results[0][key] for r in results):
                raise ValueError(
                    f"{name}: its runs in {runs} differ in {key!r}, so they cannot be averaged; "
                    "keep those of one setting"
                )
        state = None
        if "weights" in old:
            state = load_weights(name, folder=folder)
        elif weights and not add:
            state = load_tensors(files[0].with_suffix(".pt"), kind=KIND)["state"]
        if state is not None:
            # Half precision: every install carries the records, and samples need no more.
            state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
            if not all(v.isfinite().all() for v in state.values()):
                raise ValueError(f"{name}: a weight does not fit half precision; train it again")
            if len(to_bytes({"state": state})) > LIMIT - 1024:
                state = None
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(write_record(name, _content(results), weights=state, folder=folder))
    return paths


def _content(results: list[dict]) -> dict:
    keys = [k for k in ("elbo", "bound", "elbo_se", "bound_se", "ess", "var_log_weight")
            if k in results[0]["valid"]]  # fmt: skip
    content = {
        **{key: results[0][key] for key in SAME},
        "train_images": results[0]["train_images"],
        "seeds": [r["seed"] for r in results],
        "metrics": {k: summary([r["valid"][k] for r in results]) for k in keys},
        "images": {k: results[0]["valid"].get(f"{k}_images") for k in ("elbo", "bound")},
        "k": results[0]["valid"].get("k", 1),
        "curves": [r["curve"] for r in results],
        "skipped_steps": [r["skipped"] for r in results],
        "seconds": summary([r["seconds"] for r in results]),
        "step_ms": summary([r["step_ms"] for r in results]),
        "peak_mib": results[0]["peak_mib"],
        "weights_of_seed": results[0]["seed"],
        "run_on": [r["provenance"] for r in results],
    }
    if "probe" in results[0]:
        content["probe"] = [r["probe"] for r in results]
    return content


def _results(record: dict) -> list[dict]:
    """The runs that a record was made of, in the part that it keeps: undoes `_content`."""
    out = []
    for i, seed in enumerate(record["seeds"]):
        valid = {key: values["each"][i] for key, values in record["metrics"].items()}
        valid |= {f"{key}_images": n for key, n in record["images"].items() if n is not None}
        run = {
            **{key: record[key] for key in (*SAME, "train_images", "peak_mib")},
            "seed": seed, "valid": valid | {"k": record["k"]}, "curve": record["curves"][i],
            "skipped": record["skipped_steps"][i], "seconds": record["seconds"]["each"][i],
            "step_ms": record["step_ms"]["each"][i], "provenance": record["run_on"][i],
        }  # fmt: skip
        out.append(run | ({"probe": record["probe"][i]} if "probe" in record else {}))
    return out


def load_images_record(name: str) -> dict:
    """The sealed record of an image experiment.

    Raises:
        ValueError: there is no such record, or it was changed after it was written.
    """
    return load_record(name, folder=FOLDER)


def load_images_model(name: str) -> Flow:
    """The recorded model of an image experiment (first seed, averaged weights), on the CPU.

    Raises:
        ValueError: there is no such record, or its files were changed.
    """
    setup = load_images_record(name)["setup"]
    flow = build(setup["model"], tuple(setup["shape"]), **setup["options"])
    flow.load_state_dict(load_weights(name, folder=FOLDER))  # copied into float32
    return flow.eval()


@torch.no_grad()
def sampled(names: Sequence[str], n: int, *, seed: int = 0) -> np.ndarray:
    """n samples of each recorded model as one picture, a model a row: (rows * H, n * W, C), uint8.

    Args:
        names: experiments whose images have one shape.
        n: samples of each.
        seed: of the base noise; the caller's generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows = torch.stack([load_images_model(name).sample(n) for name in names])
    # (row, n, C, H, W) -> (row, H, n, W, C): images of a row side by side
    return rows.byte().permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()


def norm_corrected(u: Tensor, v: Tensor, t: float) -> Tensor:
    """A point between two draws of a Gaussian, on the shell where such draws lie.

    With h(a, b, t) = (1 - t) a + t b: h(||u||, ||v||, t) h(u, v, t) / ||h(u, v, t)||. The straight
    line passes near 0, where a Gaussian of many dimensions has no draws. Huang et al. 2020, app. A.

    Args:
        u, v: (D,...) of one shape, not opposite to each other.
        t: from 0 (u) to 1 (v).
    """
    line = torch.lerp(u, v, t)
    return line * (torch.lerp(u.norm(), v.norm(), t) / line.norm())


@torch.no_grad()
def interpolated(name: str, n: int, *, pairs: int = 3, seed: int = 0) -> np.ndarray:
    """Images along n steps from one base noise to another, a pair a row: (pairs H, n W, C), uint8.

    All other noise of the model (what it sliced off) is the same along a row.
    """
    flow, rows = load_images_model(name), []
    with torch.random.fork_rng(devices=[]):
        for row in range(pairs):
            torch.manual_seed(seed + row)
            u, v = flow.base.draw(torch.empty(2, 0))[0]
            images = []
            for t in torch.linspace(0, 1, n).tolist():
                torch.manual_seed(seed + row)
                images.append(flow.chain.inverse(norm_corrected(u, v, t)[None])[0][0])
            rows.append(torch.stack(images))
    return torch.stack(rows).byte().permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()


def measured(record: dict, key: str) -> str:
    """ELBO or bound of a record: mean over the seeds, and standard error over the images."""
    return f"{record['metrics'][key]['mean']:.3f} ± {record['metrics'][key + '_se']['mean']:.3f}"


def table(labels: dict[str, str]) -> dict[str, dict[str, str]]:
    """For each record, by its label: what it is, what it reached, and what that took.

    Args:
        labels: record -> label.
    """
    out = {}
    for name, label in labels.items():
        r = load_images_record(name)
        seen = r["setup"]["steps"] * r["setup"]["batch"] / r["train_images"]
        out[label] = {
            "parameters": f"{r['parameters']:,}",
            "ELBO, bits/dim": measured(r, "elbo"),
            "bound": measured(r, "bound"),
            "K": f"{r['k']}",
            "seeds": f"{len(r['seeds'])}",
            "epochs": f"{seen:.2f}",
            "trained on": f"{r['run_on'][0]['device'].upper()}, {r['seconds']['mean'] / 60:.0f} min",
        }
    return out


def codec_bits(images: Tensor) -> dict[str, float]:
    """Bits per dimension of lossless PNG and WebP, each image a file, and all images one mosaic.

    Args:
        images: (n, C, H, W) uint8, C = 1 or 3, n a square.

    Raises:
        ValueError: another type or shape.
    """
    from PIL import Image

    side = math.isqrt(len(images))
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"codec_bits: got {images.dtype} of shape {tuple(images.shape)}, expected uint8 "
            "(n, 1 or 3, H, W)"
        )
    if side * side != len(images):
        raise ValueError(f"codec_bits: {len(images)} images make no square; take {side * side}")

    def size(image: Tensor, kind: str) -> int:
        array = image.permute(1, 2, 0).contiguous().numpy()
        file = io.BytesIO()
        options = {"png": {"optimize": True}, "webp": {"lossless": True, "quality": 100}}[kind]
        Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(
            file, kind.upper(), **options
        )
        return len(file.getvalue())

    n, c, h, w = images.shape
    mosaic = images.view(side, side, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, side * h, side * w)
    bits = 8 / images.numel()
    return {
        **{kind: bits * sum(size(image, kind) for image in images) for kind in ("png", "webp")},
        **{f"{kind} of the mosaic": bits * size(mosaic, kind) for kind in ("png", "webp")},
    }
