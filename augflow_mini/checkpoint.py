"""Files that a run leaves behind: written whole or not at all, read without executing code."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path

import torch
from torch import Tensor


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all: a temporary file, then one rename.

    Raises:
        OSError: the disk is full or the folder is not writable; an earlier file is left as it was.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives 0o600: others may want to read a result
        os.replace(temporary, path)
    except BaseException as error:  # also Ctrl-C: no half-written file may stay behind
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            kept = "the earlier file is intact" if path.exists() else "nothing was written"
            raise OSError(
                error.errno,
                f"could not write {path} ({error.strerror}); {kept}. Free some space, or choose "
                "another place",
            ) from error
        raise


def to_bytes(content: object) -> bytes:
    """What `torch.save` would put into a file."""
    buffer = io.BytesIO()  # in memory first: a full disk is then an OSError, not a C++ error
    torch.save(content, buffer)
    return buffer.getvalue()


def load_tensors(
    path: str | os.PathLike, *, kind: str, device: str | torch.device = "cpu"
) -> dict:
    """Read a dictionary saved as `to_bytes({"kind": kind, ...})`; code in the file is never run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or damaged, holds more than plain tensors and containers,
            or is of another kind.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        with zipfile.ZipFile(path) as archive:  # torch reads past a flipped bit, check sums do not
            if part := archive.testzip():
                raise ValueError(f"the check sum of its part {part} is wrong")
    except FileNotFoundError:
        raise
    except Exception as error:  # pickle, zip, C++: they have no common class
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be read: {reason}. Expected plain "
            f"tensors of kind '{kind}'; the file is truncated, damaged or foreign (code in it was "
            "not run). Delete it or name another"
        ) from error
    found = content.get("kind") if isinstance(content, dict) else type(content).__name__
    if found != kind:
        raise ValueError(
            f"{path} is of kind {found!r}, expected {kind!r}; it was written for something else. "
            "Delete it or name another"
        )
    return content


def check_state(came: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """Raise ValueError unless two dictionaries have the same names, shapes and dtypes."""
    describe = lambda t: f"{tuple(t.shape)} {t.dtype}".replace("torch.", "")  # noqa: E731
    missing, extra = sorted(expected.keys() - came.keys()), sorted(came.keys() - expected.keys())
    wrong = [
        f"{name} came as {describe(came[name])}, expected {describe(expected[name])}"
        for name in expected
        if name in came and describe(came[name]) != describe(expected[name])
    ]
    if missing or extra or wrong:
        wrong = wrong[:1]
        wrong += [f"{len(missing)} missing, as {missing[0]}"] if missing else []
        wrong += [f"{len(extra)} unknown, as {extra[0]}"] if extra else []
        raise ValueError(
            f"{what} does not fit this model: {'; '.join(wrong)} "
            f"({len(came)} tensors came, {len(expected)} expected). Build the model with the same "
            "recipe and options, or use another file"
        )


def sha256(content: bytes | str | os.PathLike) -> str:
    """SHA-256 of bytes, or of the file at a path."""
    data = content if isinstance(content, bytes) else Path(content).read_bytes()
    return hashlib.sha256(data).hexdigest()


def tensor_sha256(t: Tensor) -> str:
    """SHA-256 of a tensor's numbers in memory order (the shape does not enter)."""
    return hashlib.sha256(t.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
