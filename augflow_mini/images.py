"""MNIST, Fashion-MNIST and CIFAR-10 as uint8 tensors, every byte checked before use.

Each set is a few official files in their uncompressed form (idx, or CIFAR-10's .bin). Wherever a
file comes from, its SHA-256 must be the published one. Places, in this order:

1. the cache: `$AUGFLOW_CACHE`, or `~/.cache/augflow`;
2. the folder `$AUGFLOW_DATA`: `mnist/`, `fashion-mnist/`, `cifar10/` (or torchvision's names) with
   the files as they are, as `.gz`, or CIFAR-10 packed as `.xz` (see `_unpack`);
3. public mirrors.

The pixels are not part of this project. MNIST: LeCun & Cortes. Fashion-MNIST: Xiao et al. 2017,
MIT licence. CIFAR-10: Krizhevsky 2009, no licence stated.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import mirrors
from .checkpoint import write_atomic

VALID = 5000  # the last 5,000 training images are for validation, in the official order


@dataclass(frozen=True)
class Images:
    """A data set: pixels (N, C, H, W) uint8 and labels (N,) int64.

    `valid` is the last 5,000 training images, which `train` does not hold.
    """

    name: str
    train: Tensor
    train_labels: Tensor
    valid: Tensor
    valid_labels: Tensor
    test: Tensor
    test_labels: Tensor


def mnist(*, download: bool = True, progress: bool = True) -> Images:
    """MNIST: 55,000 + 5,000 + 10,000 digits, (1, 28, 28).

    Args:
        download: False looks only at the cache and at `$AUGFLOW_DATA`.
        progress: show a bar while downloading.

    Raises:
        FileNotFoundError: a file is nowhere to be had; says what was tried.
        ValueError: a file in `$AUGFLOW_DATA` is damaged or not the published one.
    """
    return _idx_set("mnist", download, progress)


def fashion_mnist(*, download: bool = True, progress: bool = True) -> Images:
    """Fashion-MNIST: 55,000 + 5,000 + 10,000 pieces of clothing, (1, 28, 28). As `mnist`."""
    return _idx_set("fashion-mnist", download, progress)


def cifar10(
    *,
    batches: Sequence[int] = (1, 2, 3, 4, 5),
    test: bool = True,
    download: bool = True,
    progress: bool = True,
) -> Images:
    """CIFAR-10: 45,000 + 5,000 + 10,000 colour images, (3, 32, 32). As `mnist`.

    Args:
        batches: which of the five official training batches to read, where fewer are enough; the
            last 5,000 images of those are for validation.
        test: read the test batch, too.
    """
    if not set(batches) <= {1, 2, 3, 4, 5} or not (batches or test):
        raise ValueError(f"cifar10: batches is {tuple(batches)}, expected some of 1, 2, 3, 4, 5")
    names = [f"data_batch_{i}.bin" for i in sorted(set(batches))] + ["test_batch.bin"] * test
    files = _files("cifar10", names, download, progress)
    train = [_cifar_tensors(files[n]) for n in names if n.startswith("data")]
    last = _cifar_tensors(files["test_batch.bin"] if test else b"")
    images, labels = (
        torch.cat(column) for column in zip(*train or [_cifar_tensors(b"")], strict=True)
    )
    return _images("cifar10", images, labels, *last)


def _images(
    name: str, images: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor
) -> Images:
    cut = max(0, len(images) - VALID)
    return Images(name, images[:cut], labels[:cut], images[cut:], labels[cut:], test, test_labels)


def _idx_set(name: str, download: bool, progress: bool) -> Images:
    files = _files(name, list(mirrors.IDX), download, progress)
    images, labels, test, test_labels = (_idx_tensor(files[f]) for f in mirrors.IDX)
    return _images(name, images[:, None], labels.long(), test[:, None], test_labels.long())


def _idx_tensor(raw: bytes) -> Tensor:
    """The idx format: two zero bytes, a type (8: uint8), the number of sizes, sizes, data."""
    sizes = np.frombuffer(raw, ">i4", count=raw[3], offset=4).tolist()
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(sizes))
    return torch.from_numpy(data.reshape(sizes).copy())


def _cifar_tensors(raw: bytes) -> tuple[Tensor, Tensor]:
    records = torch.from_numpy(
        np.frombuffer(raw, np.uint8).reshape(-1, mirrors.CIFAR_RECORD).copy()
    )
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()


# ---- where the files come from --------------------------------------------------------------


def _files(dataset: str, names: list[str], download: bool, progress: bool) -> dict[str, bytes]:
    """The official files by name, each of them checked."""
    cache = Path(os.environ.get("AUGFLOW_CACHE") or Path.home() / ".cache" / "augflow") / dataset
    found = {n: raw for n in names if (raw := _from_cache(cache, n))}
    fresh = {n: raw for n in names if n not in found and (raw := _from_folder(dataset, n))}
    missing = [n for n in names if n not in found and n not in fresh]
    if missing and not download:
        raise FileNotFoundError(
            f"{dataset}: {', '.join(missing)} not found in {cache} or in $AUGFLOW_DATA "
            f"({os.environ.get('AUGFLOW_DATA', 'not set')}), and download=False; set "
            f"AUGFLOW_DATA to a folder that holds {mirrors.FOLDERS[dataset][0]}/, or allow the "
            "download"
        )
    if missing:
        fetch = mirrors.download_cifar if dataset == "cifar10" else mirrors.download_idx
        fresh |= fetch(dataset, missing, progress)
    for name, raw in fresh.items():
        try:
            write_atomic(cache / name, raw)
        except OSError as error:  # read-only or full: the data is good all the same
            warnings.warn(f"{dataset}: not cached ({error})", stacklevel=4)
            break
    return found | fresh


def _from_cache(folder: Path, name: str) -> bytes | None:
    path = folder / name
    if not path.exists():
        return None
    raw = path.read_bytes()
    if mirrors.is_official(folder.name, name, raw):
        return raw
    warnings.warn(
        f"{path} is damaged (its SHA-256 is not the published one); it is replaced", stacklevel=5
    )
    path.unlink()
    return None


def _from_folder(dataset: str, name: str) -> bytes | None:
    """A file of `$AUGFLOW_DATA` in its official form, or None where there is none.

    The folder was named by the user, so a damaged file in it is an error, not a reason to go on.
    """
    root = os.environ.get("AUGFLOW_DATA")
    if not root:
        return None
    forms = [(name, bytes), (name + ".gz", gzip.decompress)]
    if dataset == "cifar10":
        forms.append((name.removesuffix(".bin") + ".xz", _unpack))
    for folder in mirrors.FOLDERS[dataset]:
        for form, to_official in forms:
            path = Path(root) / folder / form
            if not path.exists():
                continue
            try:
                raw = to_official(path.read_bytes())
            except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
                raise ValueError(
                    f"{path} cannot be read ({error}); replace it or unset AUGFLOW_DATA"
                ) from error
            if not mirrors.is_official(dataset, name, raw):
                raise ValueError(
                    f"{path} is not the published {name}: SHA-256 "
                    f"{hashlib.sha256(raw).hexdigest()}, expected {mirrors.SHA256[dataset][name]}; "
                    "replace it or unset AUGFLOW_DATA"
                )
            return raw
    return None


def _unpack(blob: bytes) -> bytes:
    """A CIFAR-10 batch from its packed form (half the size of a PNG archive) to the official one.

    Packed: the labels, then three planes (G, R-G, B-G), each as the differences from the median of
    left, above, and left + above - corner: the predictor of JPEG-LS. All modulo 256, then xz.
    """
    raw = np.frombuffer(lzma.decompress(blob), np.uint8)
    n, rest = divmod(len(raw), mirrors.CIFAR_RECORD)
    if rest or not n:
        raise ValueError(f"{len(raw)} bytes, expected a multiple of {mirrors.CIFAR_RECORD}")
    labels = raw[:n]
    differences = (
        raw[n:].reshape(3, n, 32, 32).transpose(0, 2, 3, 1)
    )  # images last: one row a step
    planes = []
    for difference, kind in zip(differences, (np.uint8, np.int8, np.int8), strict=True):
        seen = np.zeros((33, 33, n), np.int16)  # a border of zeros above and to the left
        for i in range(32):
            for j in range(32):
                corner, above, left = seen[i, j], seen[i, j + 1], seen[i + 1, j]
                guess = np.clip(
                    left + above - corner, np.minimum(left, above), np.maximum(left, above)
                )
                seen[i + 1, j + 1] = (difference[i, j] + guess).astype(kind)
        planes.append(seen[1:, 1:].transpose(2, 0, 1).astype(np.uint8).reshape(n, -1))
    green, red, blue = planes
    return np.concatenate([labels[:, None], red + green, green, blue + green], 1).tobytes()
