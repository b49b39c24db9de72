"""Image data: every source gives the same checked bytes, and nothing else ever gets through."""

import gzip
import hashlib
import io
import lzma
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from augflow_mini import images, mirrors

N = 6  # images in each made CIFAR-10 batch


def sha(raw):
    return hashlib.sha256(raw).hexdigest()


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return head + array.tobytes()


def pack(raw):
    """Packed form of a CIFAR-10 batch, written from the format's description, pixel by pixel."""
    records = np.frombuffer(raw, np.uint8).reshape(-1, 3073)
    red, green, blue = records[:, 1:].reshape(-1, 3, 32, 32).astype(int).transpose(1, 0, 2, 3)

    def wrap(p):
        return (p + 128) % 256 - 128

    out = [records[:, 0].tobytes()]
    for plane in (green, wrap(red - green), wrap(blue - green)):
        rest = np.empty(plane.shape, int)
        for i in range(32):
            for j in range(32):
                left = plane[:, i, j - 1] if j else 0 * plane[:, 0, 0]
                above = plane[:, i - 1, j] if i else 0 * plane[:, 0, 0]
                corner = plane[:, i - 1, j - 1] if i and j else 0 * plane[:, 0, 0]
                guess = np.median([left, above, left + above - corner], axis=0).astype(int)
                rest[:, i, j] = plane[:, i, j] - guess
        out.append((rest % 256).astype(np.uint8).tobytes())
    return lzma.compress(b"".join(out))


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Small made data sets in place of the real ones; no cache, no folder, no network."""
    rng = np.random.default_rng(0)
    cifar = {}
    for name in mirrors.SHA256["cifar10"]:
        records = rng.integers(0, 256, (N, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        cifar[name] = records.tobytes()
    mnist = {}
    for name in mirrors.IDX:
        shape = (12, 28, 28) if "images" in name else (12,)
        mnist[name] = idx(rng.integers(0, 10, shape, dtype=np.uint8))
    files = {"cifar10": cifar, "mnist": mnist, "fashion-mnist": mnist}
    sums = {d: {n: sha(raw) for n, raw in group.items()} for d, group in files.items()}
    monkeypatch.setattr(mirrors, "SHA256", sums)
    monkeypatch.setattr(mirrors, "CIFAR_BATCH", N)
    monkeypatch.setattr(images, "VALID", 4)
    monkeypatch.setattr(mirrors, "PAUSE", 0.01)
    monkeypatch.setattr(mirrors, "MIRRORS", {"mnist": (), "fashion-mnist": ()})
    monkeypatch.setenv("AUGFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AUGFLOW_DATA", raising=False)
    return files


@pytest.fixture
def host():
    """A web server on loopback: `pages[path]` is a list of replies, one taken at each request."""
    pages, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            replies = pages.get(self.path, [404])
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
            if isinstance(reply, float):  # silence for so many seconds
                time.sleep(reply)
                return
            if isinstance(reply, int):
                self.send_error(reply)
                return
            body, size = reply if isinstance(reply, tuple) else (reply, len(reply))
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.pages, server.asked = pages, asked
    server.url = f"http://127.0.0.1:{server.server_port}/"
    yield server
    server.shutdown()
    server.server_close()


def folder(root, made, dataset, form):
    """Write a made data set as a reader might have it."""
    where = {"cifar10": "cifar10", "torchvision": "cifar-10-batches-bin"}.get(form, dataset)
    if form == "torchvision" and dataset == "mnist":
        where = "MNIST/raw"
    target = root / where
    target.mkdir(parents=True, exist_ok=True)
    for name, raw in made[dataset].items():
        if form == "xz":
            (target / name.replace(".bin", ".xz")).write_bytes(pack(raw))
        elif form == "gz":
            (target / (name + ".gz")).write_bytes(gzip.compress(raw))
        else:
            (target / name).write_bytes(raw)
    return root


# ---- the parts ------------------------------------------------------------------------------


def test_packed_batch_gives_the_official_bytes(made):
    raw = made["cifar10"]["data_batch_1.bin"]
    smooth = np.frombuffer(raw, np.uint8).reshape(-1, 3073).copy()
    smooth[:, 1:] = np.cumsum(smooth[:, 1:] % 3, 1)  # smooth planes use every branch of the median
    assert images._unpack(pack(raw)) == raw
    assert images._unpack(pack(smooth.tobytes())) == smooth.tobytes()


def test_parts_have_the_promised_shapes_and_order(made, monkeypatch, tmp_path):
    monkeypatch.setenv("AUGFLOW_DATA", str(folder(tmp_path, made, "cifar10", "bin")))
    data = images.cifar10(download=False)
    assert (
        data.train.shape == (5 * N - 4, 3, 32, 32) and data.train.dtype.is_floating_point is False
    )
    assert len(data.valid) == len(data.valid_labels) == 4 and len(data.test) == N
    first = np.frombuffer(made["cifar10"]["data_batch_1.bin"], np.uint8)
    last = np.frombuffer(made["cifar10"]["data_batch_5.bin"], np.uint8)[-3073:]
    assert (data.train[0].flatten().numpy() == first[1:3073]).all()
    assert data.train_labels[0] == first[0]
    assert (data.valid[-1].flatten().numpy() == last[1:]).all() and data.valid_labels[-1] == last[
        0
    ]


def test_a_few_batches_alone(made, monkeypatch, tmp_path):
    monkeypatch.setenv("AUGFLOW_DATA", str(folder(tmp_path, made, "cifar10", "bin")))
    for name in ("data_batch_3.bin", "test_batch.bin"):
        (tmp_path / "cifar10" / name).unlink()
    data = images.cifar10(batches=(1, 2), test=False, download=False)
    assert (
        len(data.train) == 2 * N - 4 and len(data.valid) == 4 and data.test.shape == (0, 3, 32, 32)
    )
    with pytest.raises(FileNotFoundError, match="test_batch.bin"):
        images.cifar10(batches=(1, 2), download=False)
    with pytest.raises(ValueError, match="expected some of 1, 2, 3, 4, 5"):
        images.cifar10(batches=(0,))


@pytest.mark.parametrize(
    ("dataset", "form"),
    [("cifar10", "bin"), ("cifar10", "gz"), ("cifar10", "xz"), ("cifar10", "torchvision"),
     ("mnist", "raw"), ("mnist", "gz"), ("mnist", "torchvision"), ("fashion-mnist", "gz")],
)  # fmt: skip
def test_every_form_of_the_folder_then_the_cache(made, monkeypatch, tmp_path, dataset, form):
    load = {"cifar10": images.cifar10, "mnist": images.mnist}.get(dataset, images.fashion_mnist)
    monkeypatch.setenv("AUGFLOW_DATA", str(folder(tmp_path / "data", made, dataset, form)))
    once = load(download=False)
    monkeypatch.delenv("AUGFLOW_DATA")
    again = load(download=False)  # from the cache
    assert (once.train == again.train).all() and (once.test_labels == again.test_labels).all()
    if dataset == "mnist":
        raw = made["mnist"]["train-images-idx3-ubyte"]
        assert (
            once.train.shape == (8, 1, 28, 28) and once.train[0].numpy().tobytes() == raw[16:800]
        )


# ---- broken and tampered data ---------------------------------------------------------------


@pytest.mark.parametrize("fault", ["flip", "truncate", "swap"])
@pytest.mark.parametrize("form", ["bin", "gz", "xz"])
def test_doctored_file_in_the_folder_is_an_error(made, monkeypatch, tmp_path, form, fault):
    root = folder(tmp_path, made, "cifar10", form)
    path = sorted((root / "cifar10").iterdir())[1]
    blob = bytearray(path.read_bytes())
    if fault == "swap":  # a good file under a wrong name
        blob = min((root / "cifar10").iterdir()).read_bytes()
    elif fault == "flip":
        blob[len(blob) // 2] ^= 1
    else:
        del blob[-100:]
    path.write_bytes(bytes(blob))
    monkeypatch.setenv("AUGFLOW_DATA", str(root))
    with pytest.raises(ValueError, match="unset AUGFLOW_DATA") as error:
        images.cifar10(download=False)
    assert path.name in str(error.value)


def test_damaged_cache_is_replaced_never_used(made, monkeypatch, tmp_path):
    monkeypatch.setenv("AUGFLOW_DATA", str(folder(tmp_path / "data", made, "mnist", "gz")))
    good = images.mnist(download=False)
    path = tmp_path / "cache" / "mnist" / mirrors.IDX[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01\x02")
    with pytest.warns(UserWarning, match="damaged"):
        again = images.mnist(download=False)
    assert (again.train == good.train).all() and sha(path.read_bytes()) == mirrors.SHA256["mnist"][
        mirrors.IDX[0]
    ]
    monkeypatch.delenv("AUGFLOW_DATA")
    path.write_bytes(b"broken")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(FileNotFoundError, match="AUGFLOW_DATA"),
    ):
        images.mnist(download=False)


def test_no_data_at_all_says_what_to_do(made):
    with pytest.raises(
        FileNotFoundError, match="set AUGFLOW_DATA to a folder that holds cifar10/"
    ):
        images.cifar10(download=False)


def test_cache_that_cannot_be_written_does_not_stop_the_data(made, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("AUGFLOW_DATA", str(folder(tmp_path / "data", made, "mnist", "raw")))
    with pytest.warns(UserWarning, match="not cached"):
        assert len(images.mnist(download=False).train) == 8


# ---- mirrors --------------------------------------------------------------------------------


def serve_mnist(host, made, monkeypatch):
    monkeypatch.setattr(mirrors, "MIRRORS", {"mnist": (host.url + "a/", host.url + "b/")})
    for mirror in "ab":
        for name, raw in made["mnist"].items():
            host.pages[f"/{mirror}/{name}.gz"] = [gzip.compress(raw)]


def test_download_comes_from_the_first_mirror_and_is_cached(made, host, monkeypatch):
    serve_mnist(host, made, monkeypatch)
    assert len(images.mnist(progress=False).train) == 8
    assert [p[:3] for p in host.asked] == ["/a/"] * 4
    assert len(images.mnist(progress=False).train) == 8 and len(host.asked) == 4


def test_a_busy_host_is_asked_again(made, host, monkeypatch):
    serve_mnist(host, made, monkeypatch)
    page = f"/a/{mirrors.IDX[0]}.gz"
    host.pages[page] = [503, *host.pages[page]]
    images.mnist(progress=False)
    assert host.asked.count(page) == 2 and not any(p.startswith("/b/") for p in host.asked)


def test_a_silent_host_times_out_and_the_next_one_serves(made, host, monkeypatch):
    serve_mnist(host, made, monkeypatch)
    monkeypatch.setattr(mirrors, "TIMEOUT", 0.2)
    monkeypatch.setattr(mirrors, "TRIES", 2)
    host.pages[f"/a/{mirrors.IDX[0]}.gz"] = [1.0]
    began = time.monotonic()
    images.mnist(progress=False)
    assert time.monotonic() - began < 5 and f"/b/{mirrors.IDX[0]}.gz" in host.asked


def test_a_host_that_says_no_is_not_asked_twice(made, host, monkeypatch):
    serve_mnist(host, made, monkeypatch)
    page = f"/a/{mirrors.IDX[0]}.gz"
    host.pages[page] = [404]
    images.mnist(progress=False)
    assert host.asked.count(page) == 1


def test_a_connection_cut_short_is_tried_again(made, host, monkeypatch):
    serve_mnist(host, made, monkeypatch)
    page = f"/a/{mirrors.IDX[0]}.gz"
    whole = host.pages[page][0]
    host.pages[page] = [(whole[:50], len(whole)), whole]
    assert len(images.mnist(progress=False).train) == 8 and host.asked.count(page) == 2


def test_tampered_downloads_never_get_through(made, host, monkeypatch, tmp_path):
    serve_mnist(host, made, monkeypatch)
    name = mirrors.IDX[0]
    evil = bytearray(made["mnist"][name])
    evil[20] ^= 1
    host.pages[f"/a/{name}.gz"] = [gzip.compress(bytes(evil))]
    assert images.mnist(progress=False).train[0].numpy().tobytes() == made["mnist"][name][16:800]
    (tmp_path / "cache" / "mnist" / name).unlink()
    host.pages[f"/b/{name}.gz"] = [b"<html>sorry</html>"]
    with pytest.raises(FileNotFoundError, match="not the published one") as error:
        images.mnist(progress=False)
    assert "not a whole gzip file" in str(error.value) and "set AUGFLOW_DATA" in str(error.value)
    assert not (tmp_path / "cache" / "mnist" / name).exists()


def archive(made, doctored=None):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, raw in made["cifar10"].items():
            raw = doctored if doctored and name == "test_batch.bin" else raw
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


def test_cifar10_falls_back_to_its_original_host(made, host, monkeypatch):
    monkeypatch.setattr(mirrors, "CIFAR_PARQUET", host.url)
    monkeypatch.setattr(mirrors, "CIFAR_ORIGINAL", host.url + "c.tar.gz")
    host.pages["/c.tar.gz"] = [archive(made)]
    with pytest.warns(UserWarning, match="40 to 60 minutes"):
        data = images.cifar10(progress=False)
    assert len(data.train) == 5 * N - 4


def test_cifar10_doctored_archive_is_refused(made, host, monkeypatch):
    monkeypatch.setattr(mirrors, "CIFAR_PARQUET", host.url)
    monkeypatch.setattr(mirrors, "CIFAR_ORIGINAL", host.url + "c.tar.gz")
    host.pages["/c.tar.gz"] = [archive(made, doctored=made["cifar10"]["data_batch_1.bin"])]
    with (
        pytest.warns(UserWarning),
        pytest.raises(FileNotFoundError, match="test_batch.bin: came, but"),
    ):
        images.cifar10(progress=False)


def records(raw):
    return np.frombuffer(raw, np.uint8).reshape(-1, 3073)


def test_batches_are_recognised_in_any_order(made):
    order = [f"data_batch_{i}.bin" for i in (4, 3, 2, 5, 1)]
    found = mirrors.official_batches(np.concatenate([records(made["cifar10"][n]) for n in order]))
    assert found == {n: made["cifar10"][n] for n in order}


def test_records_that_are_no_official_batch_are_refused(made):
    mixed = records(made["cifar10"]["data_batch_1.bin"])[::-1]
    with pytest.raises(mirrors.Failed, match="no official batch"):
        mirrors.official_batches(mixed)


def test_cifar10_from_parquet(made, host, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet  # noqa: F401  (makes pa.parquet)
    from PIL import Image

    def parquet(names):
        rows = []
        for record in np.concatenate([records(made["cifar10"][n]) for n in names]):
            png = io.BytesIO()
            Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0)).save(png, "PNG")
            rows.append({"img": {"bytes": png.getvalue(), "path": None}, "label": int(record[0])})
        out = io.BytesIO()
        pa.parquet.write_table(pa.Table.from_pylist(rows), out)
        return out.getvalue()

    monkeypatch.setattr(mirrors, "CIFAR_PARQUET", host.url)
    train = parquet([f"data_batch_{i}.bin" for i in (4, 3, 2, 5, 1)])
    host.pages["/train-00000-of-00001.parquet"] = [train]
    host.pages["/test-00000-of-00001.parquet"] = [parquet(["test_batch.bin"])]
    data = images.cifar10(progress=False)
    first = np.frombuffer(made["cifar10"]["data_batch_1.bin"], np.uint8)
    assert (data.train[0].flatten().numpy() == first[1:3073]).all() and len(data.test) == N
