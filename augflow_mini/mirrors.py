"""Where the official files of the image sets can be had, and what their SHA-256 must be."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterable
from http.client import HTTPException

import numpy as np

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


def is_official(dataset: str, name: str, raw: bytes) -> bool:
    """Whether these bytes are the published file."""
    return hashlib.sha256(raw).hexdigest() == SHA256[dataset][name]


class Failed(Exception):
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
    raise Failed(f"{url}: {reason}")


def _first_good(
    dataset: str, sources: Iterable[Callable[[], dict[str, bytes]]]
) -> dict[str, bytes]:
    """What the first source gives whose every file is the published one."""
    reasons = []
    for source in sources:
        try:
            files = source()
        except Failed as error:
            reasons.append(str(error))
            continue
        wrong = [n for n, raw in files.items() if not is_official(dataset, n, raw)]
        if not wrong:
            return files
        reasons.append(f"{', '.join(wrong)}: came, but its SHA-256 is not the published one")
    raise FileNotFoundError(
        f"{dataset} could not be had:\n  "
        + "\n  ".join(reasons)
        + "\nTry again later, or download "
        f"it yourself and set AUGFLOW_DATA to a folder that holds {FOLDERS[dataset][0]}/"
    )


def download_idx(dataset: str, names: list[str], progress: bool) -> dict[str, bytes]:
    """Files of MNIST or Fashion-MNIST by name, from the first mirror that has them right."""

    def from_mirror(mirror: str, name: str) -> dict[str, bytes]:
        packed = _fetch(f"{mirror}{name}.gz", progress=progress)
        try:
            return {name: gzip.decompress(packed)}
        except (OSError, EOFError) as error:
            raise Failed(f"{mirror}{name}.gz: not a whole gzip file ({error})") from error

    files: dict[str, bytes] = {}
    for name in names:
        sources = [lambda m=m, n=name: from_mirror(m, n) for m in MIRRORS[dataset]]
        files |= _first_good(dataset, sources)
    return files


def download_cifar(dataset: str, names: list[str], progress: bool) -> dict[str, bytes]:
    """Batches of CIFAR-10 by name, from the Parquet copy or their original host."""

    def parquet() -> dict[str, bytes]:
        parts = {"test" if n.startswith("test") else "train" for n in names}
        files: dict[str, bytes] = {}
        for part in sorted(parts):
            blob = _fetch(f"{CIFAR_PARQUET}{part}-00000-of-00001.parquet", progress=progress)
            files |= official_batches(_parquet_records(blob))
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
            raise Failed(f"{CIFAR_ORIGINAL}: not the expected archive ({error})") from error

    return _first_good(dataset, (parquet, original))


def _parquet_records(blob: bytes) -> np.ndarray:
    """Labels and planar pixels, (N, 3073) uint8, from a Parquet file of PNG images."""
    try:
        import pyarrow.parquet
        from PIL import Image
    except ImportError as error:
        raise Failed(f"the Parquet copy of CIFAR-10 needs pyarrow and Pillow ({error})") from error
    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(blob)).to_pylist()
        records = np.empty((len(rows), CIFAR_RECORD), np.uint8)
        for record, row in zip(records, rows, strict=True):
            record[0] = row["label"]
            pixels = np.asarray(Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB"))
            record[1:] = pixels.transpose(2, 0, 1).reshape(-1)
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise Failed(f"the Parquet copy of CIFAR-10 cannot be read ({error})") from error
    return records


def official_batches(records: np.ndarray) -> dict[str, bytes]:
    """Official files found in a run of records, whatever the order of the batches.

    The copy keeps the order within a batch; which batch a block is, its SHA-256 tells.
    """
    names = {sha: name for name, sha in SHA256["cifar10"].items()}
    files = {}
    for start in range(0, len(records), CIFAR_BATCH):
        raw = records[start : start + CIFAR_BATCH].tobytes()
        name = names.get(hashlib.sha256(raw).hexdigest())
        if name is None:
            raise Failed(
                f"the Parquet copy of CIFAR-10: images {start} to {start + CIFAR_BATCH - 1} "
                "are no official batch (other pixels, labels or order)"
            )
        files[name] = raw
    return files
