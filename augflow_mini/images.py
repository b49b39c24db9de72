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
import io
import lzma
import os
import tarfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoint import write_atomic

VALID = 5000  # the last 5,000 training images are for validation, in the official order

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
       "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")  # fmt: skip

SHA256 = {
    "mnist": dict(zip(IDX, (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"), strict=True)),
    "fashion-mnist": dict(zip(IDX, (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"), strict=True)),
    "cifar10": {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
}  # fmt: skip

FOLDERS = {
    "mnist": ("mnist", "MNIST/raw"),
    "fashion-mnist": ("fashion-mnist", "FashionMNIST/raw"),
    "cifar10": ("cifar10", "cifar-10-batches-bin"),
}

MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
}
CIFAR_PARQUET = (  # pinned; PNG inside, in an order of its own
    "https://huggingface.co/datasets/uoft-cs/cifar10/resolve/"
    "0b2714987fa478483af9968de7c934580d0bb9a2/plain_text/"
)
CIFAR_ORIGINAL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_BATCH = 10_000
CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue plane

TIMEOUT, TRIES, PAUSE = 30.0, 3, 1.0  # seconds a host may be silent; attempts; first wait


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
    files = _files(name, list(IDX), download, progress)
    images, labels, test, test_labels = (_idx_tensor(files[f]) for f in IDX)
    return _images(name, images[:, None], labels.long(), test[:, None], test_labels.long())


def _idx_tensor(raw: bytes) -> Tensor:
    """The idx format: two zero bytes, a type (8: uint8), the number of sizes, sizes, data."""
    sizes = np.frombuffer(raw, ">i4", count=raw[3], offset=4).tolist()
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(sizes))
    return torch.from_numpy(data.reshape(sizes).copy())


def _cifar_tensors(raw: bytes) -> tuple[Tensor, Tensor]:
    records = torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(-1, CIFAR_RECORD).copy())
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()


# ---- where the files come from --------------------------------------------------------------


def _files(dataset: str, names: list[str], download: bool, progress: bool) -> dict[str, bytes]:
    """The official files by name, each of them checked."""
    cache = Path(os.environ.get("AUGFLOW_CACHE") or Path.home() / ".cache" / "augflow") / dataset
    found = {n: raw for n in names if (raw := _from_cache(cache / n, SHA256[dataset][n]))}
    fresh = {n: raw for n in names if n not in found and (raw := _from_folder(dataset, n))}
    missing = [n for n in names if n not in found and n not in fresh]
    if missing and not download:
        raise FileNotFoundError(
            f"{dataset}: {', '.join(missing)} not found in {cache} or in $AUGFLOW_DATA "
            f"({os.environ.get('AUGFLOW_DATA', 'not set')}), and download=False; set "
            f"AUGFLOW_DATA to a folder that holds {FOLDERS[dataset][0]}/, or allow the download"
        )
    if missing:
        fetch = _download_cifar if dataset == "cifar10" else _download_idx
        fresh |= fetch(dataset, missing, progress)
    for name, raw in fresh.items():
        try:
            write_atomic(cache / name, raw)
        except OSError as error:  # read-only or full: the data is good all the same
            warnings.warn(f"{dataset}: not cached ({error})", stacklevel=4)
            break
    return found | fresh


def _is_official(raw: bytes, expected: str) -> bool:
    return hashlib.sha256(raw).hexdigest() == expected


def _from_cache(path: Path, expected: str) -> bytes | None:
    if not path.exists():
        return None
    raw = path.read_bytes()
    if _is_official(raw, expected):
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
    for folder in FOLDERS[dataset]:
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
            if not _is_official(raw, SHA256[dataset][name]):
                raise ValueError(
                    f"{path} is not the published {name}: SHA-256 "
                    f"{hashlib.sha256(raw).hexdigest()}, expected {SHA256[dataset][name]}; "
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
    n, rest = divmod(len(raw), CIFAR_RECORD)
    if rest or not n:
        raise ValueError(f"{len(raw)} bytes, expected a multiple of {CIFAR_RECORD}")
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


# ---- mirrors --------------------------------------------------------------------------------


class _Failed(Exception):
    """One source did not give the data; the message says why."""


def _fetch(url: str, *, progress: bool) -> bytes:
    """The bytes at a URL; tried `TRIES` times, with a growing wait, unless the host says no."""
    from tqdm import tqdm  # here, so that importing the library stays light

    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "augflow_mini"})
            with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
                size = int(reply.headers.get("Content-Length") or 0)
                body = io.BytesIO()
                with tqdm(total=size or None, unit="B", unit_scale=True, disable=not progress,
                          desc=url.rsplit("/", 1)[-1]) as bar:  # fmt: skip
                    while chunk := reply.read(1 << 16):
                        bar.update(body.write(chunk))
                if size and body.tell() < size:
                    raise ConnectionError(
                        f"the connection ended after {body.tell()} of {size} bytes"
                    )
                return body.getvalue()
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code in (401, 403, 404, 410):  # a plain no: asking again will not help
                break
        except (OSError, HTTPException) as error:  # time-outs and name errors are OSErrors
            reason = str(error) or type(error).__name__
    raise _Failed(f"{url}: {reason}")


def _first_good(
    dataset: str, sources: Iterable[Callable[[], dict[str, bytes]]]
) -> dict[str, bytes]:
    """What the first source gives whose every file is the published one."""
    reasons = []
    for source in sources:
        try:
            files = source()
        except _Failed as error:
            reasons.append(str(error))
            continue
        wrong = [n for n, raw in files.items() if not _is_official(raw, SHA256[dataset][n])]
        if not wrong:
            return files
        reasons.append(f"{', '.join(wrong)}: came, but its SHA-256 is not the published one")
    raise FileNotFoundError(
        f"{dataset} could not be had:\n  "
        + "\n  ".join(reasons)
        + "\nTry again later, or download "
        f"it yourself and set AUGFLOW_DATA to a folder that holds {FOLDERS[dataset][0]}/"
    )


def _download_idx(dataset: str, names: list[str], progress: bool) -> dict[str, bytes]:
    def from_mirror(mirror: str, name: str) -> dict[str, bytes]:
        packed = _fetch(f"{mirror}{name}.gz", progress=progress)
        try:
            return {name: gzip.decompress(packed)}
        except (OSError, EOFError) as error:
            raise _Failed(f"{mirror}{name}.gz: not a whole gzip file ({error})") from error

    files: dict[str, bytes] = {}
    for name in names:
        sources = [lambda m=m, n=name: from_mirror(m, n) for m in MIRRORS[dataset]]
        files |= _first_good(dataset, sources)
    return files


def _download_cifar(dataset: str, names: list[str], progress: bool) -> dict[str, bytes]:
    def parquet() -> dict[str, bytes]:
        parts = {"test" if n.startswith("test") else "train" for n in names}
        files: dict[str, bytes] = {}
        for part in sorted(parts):
            blob = _fetch(f"{CIFAR_PARQUET}{part}-00000-of-00001.parquet", progress=progress)
            files |= _official_batches(_parquet_records(blob))
        return {n: files.get(n, b"") for n in names}

    def original() -> dict[str, bytes]:
        warnings.warn(
            "CIFAR-10: the Parquet copy was no use, so its original host is asked; it has been "
            "slow (170 MB may take 40 to 60 minutes)",
            stacklevel=2,
        )
        blob = _fetch(CIFAR_ORIGINAL, progress=progress)
        try:
            with tarfile.open(
                fileobj=io.BytesIO(blob)
            ) as archive:  # read in memory, never unpacked
                return {n: archive.extractfile(f"cifar-10-batches-bin/{n}").read() for n in names}
        except (tarfile.TarError, KeyError, EOFError, OSError) as error:
            raise _Failed(f"{CIFAR_ORIGINAL}: not the expected archive ({error})") from error

    return _first_good(dataset, (parquet, original))


def _parquet_records(blob: bytes) -> np.ndarray:
    """Labels and planar pixels, (N, 3073) uint8, from a Parquet file of PNG images."""
    try:
        import pyarrow.parquet
        from PIL import Image
    except ImportError as error:
        raise _Failed(
            f"the Parquet copy of CIFAR-10 needs pyarrow and Pillow ({error})"
        ) from error
    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(blob)).to_pylist()
        records = np.empty((len(rows), CIFAR_RECORD), np.uint8)
        for record, row in zip(records, rows, strict=True):
            record[0] = row["label"]
            pixels = np.asarray(Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB"))
            record[1:] = pixels.transpose(2, 0, 1).reshape(-1)
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise _Failed(f"the Parquet copy of CIFAR-10 cannot be read ({error})") from error
    return records


def _official_batches(records: np.ndarray) -> dict[str, bytes]:
    """Official files found in a run of records, whatever the order of the batches.

    The copy keeps the order within a batch; which batch a block is, its SHA-256 tells.
    """
    names = {sha: name for name, sha in SHA256["cifar10"].items()}
    files = {}
    for start in range(0, len(records), CIFAR_BATCH):
        raw = records[start : start + CIFAR_BATCH].tobytes()
        name = names.get(hashlib.sha256(raw).hexdigest())
        if name is None:
            raise _Failed(
                f"the Parquet copy of CIFAR-10: images {start} to {start + CIFAR_BATCH - 1} "
                "are no official batch (other pixels, labels or order)"
            )
        files[name] = raw
    return files
