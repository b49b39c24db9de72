"""Image experiments by name: each is one command, stops in time, goes on by itself, leaves a record.

    python -m augflow_mini.experiments.images list
    python -m augflow_mini.experiments.images train cifar10-3ch cifar10-4ch cifar10-6ch --seeds 0
    torchrun --nproc-per-node 2 -m augflow_mini.experiments.images train cifar10-6ch-4M
    python -m augflow_mini.experiments.images timing cifar10-6ch

Several runs in one `train` are processes of their own, side by side on the device. Under `torchrun`
one run is shared by all processes. A run leaves in `--out`: its checkpoint (`.ckpt`), the curve
(`.csv`), the result (`.json`) and the averaged weights (`.pt`).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from .. import __version__, images
from ..bounds import bits_per_dim
from ..checkpoint import check_state, load_tensors, tensor_sha256, to_bytes, write_atomic
from ..flow import Flow
from ..imagenets import data_init
from ..nets import count_parameters
from ..train import Fit, ema_weights, fit, negative_elbo
from .image_models import build
from .image_speed import MODES, fast_loss, measure

KIND = "augflow_mini.images.1"


@dataclass(frozen=True)
class Setup:
    """One experiment but for its seed.

    Attributes:
        data: 'cifar10', 'mnist', 'fashion-mnist', or 'made' (gradients computed here, for proofs).
        model, options: a name of `image_models.MODELS` and the options of that recipe.
        shape: (C, H, W); larger images are cropped to their middle.
        steps, batch, lr, warmup, ema, clip: of `fit`; the step size falls to 0 as a cosine.
        batches: which CIFAR-10 training batches.
        k, rows: importance samples, and test images they are drawn for.
        probe: measure the reuse probe at the end.
    """

    data: str
    model: str
    options: dict = field(default_factory=dict)
    shape: tuple[int, int, int] = (3, 32, 32)
    steps: int = 10_000
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 500
    ema: float = 0.999
    clip: float = 1.0
    batches: tuple[int, ...] = (1, 2, 3, 4, 5)
    k: int = 64
    rows: int = 256
    probe: bool = False


def setups() -> dict[str, Setup]:
    """Every experiment by name."""
    out = {}
    for extra, channels in ((0, 3), (1, 4), (3, 6)):
        mini = Setup("cifar10", "vflow_mini", {"extra": extra}, probe=True)
        out[f"cifar10-{channels}ch"] = mini
        tiny = dict(extra=extra, filters=8, blocks=1, components=2, context=8, dequant_blocks=1,
                    posterior_blocks=1)  # fmt: skip
        out[f"tiny-{channels}ch"] = Setup(
            "made", "vflow_mini", tiny, (3, 8, 8), steps=20, batch=16, warmup=5, k=4, rows=16, probe=True
        )
        wide = dict(extra=extra, filters={0: 56, 1: 51, 3: 49}[extra], blocks=4, heads=1, context=16,
                    dequant_filters=32, dequant_blocks=2, posterior_filters=32, posterior_blocks=2)  # fmt: skip
        out[f"cifar10-{channels}ch-4M"] = Setup("cifar10", "vflow_mini", wide, steps=200_000, probe=True)
    for name, config in (("flowpp", "flowpp_cifar10"), ("vflow", "vflow_cifar10")):
        out[f"cifar10-{name}-paper"] = Setup(
            "cifar10", "paper", {"config": config}, steps=2_000_000, batch=64, lr=1.2e-3, warmup=2000, k=4096
        )
    flow = dict(blocks=2, components=4, heads=2, context=8, dequant_blocks=1, dequant_filters=16)
    for name, model, options in (  # about 310,000 parameters each
        ("vae", "anf", dict(extra=4, steps=1, filters=64)),  # one step of ANF is a VAE
        ("anf-2", "anf", dict(extra=4, steps=2, filters=45)),
        ("anf-4", "anf", dict(extra=4, steps=4, filters=31)),
        ("hanf", "hierarchical_anf", dict(extra=4, filters=45)),
        ("glow", "glow", dict(steps=8, filters=103)),
        ("flowpp", "vflow", dict(flow, extra=0, filters=18)),
        ("vflow", "vflow", dict(flow, extra=1, filters=12, posterior_blocks=1, posterior_filters=16)),
    ):
        out[f"mnist-{name}"] = Setup("mnist", model, options, (1, 28, 28), steps=6000, k=128)
    return out


# ---- one run --------------------------------------------------------------------------------


def load(setup: Setup, *, test: bool = False) -> tuple[Tensor, Tensor]:
    """Training and validation images (or training and test images), uint8."""
    if setup.data == "made":
        made = made_images(640, setup.shape)
        return made[:512], made[512:]
    if setup.data == "cifar10":
        data = images.cifar10(batches=setup.batches, test=test, progress=False)
    else:
        data = {"mnist": images.mnist, "fashion-mnist": images.fashion_mnist}[setup.data](progress=False)
    return _crop(data.train, setup.shape), _crop(data.test if test else data.valid, setup.shape)


def _crop(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    top, left = (x.shape[2] - shape[1]) // 2, (x.shape[3] - shape[2]) // 2
    return x[:, :, top : top + shape[1], left : left + shape[2]].contiguous()


def made_images(n: int, shape: tuple[int, int, int], *, seed: int = 0) -> Tensor:
    """Colour gradients with a little noise: images computed here, for tests and proofs."""
    g = torch.Generator().manual_seed(seed)
    c, h, w = shape
    corner = torch.rand(n, c, 2, 2, generator=g)
    smooth = torch.nn.functional.interpolate(corner, size=(h, w), mode="bilinear", align_corners=True)
    return (255 * smooth + 4 * torch.rand(n, c, h, w, generator=g)).clamp(0, 255).to(torch.uint8)


def prepare(setup: Setup, train: Tensor, *, seed: int, device: torch.device) -> Flow:
    """The model on its device, initialised on the first images; a function of setup and seed."""
    torch.manual_seed(seed)
    flow = build(setup.model, setup.shape, **setup.options).to(device)
    data_init(flow.chain, train[:256].float().to(device))
    return flow


def run(
    name: str, setup: Setup, *, seed: int, out: Path, mode: str = "eager", amp: str | None = None,
    budget: float | None = None, every: int | None = None, shards: int | None = None,
    device: str | None = None, progress: bool = True,
) -> dict | None:  # fmt: skip
    """Train, evaluate and record one run; None where the budget ended before the steps did.

    Args:
        mode: one of `MODES`; the graph modes need a GPU and one process.
        budget: seconds after which training stops at the next step, saved to go on.
        every: steps between checkpoints and validations; a twentieth of the run unless told.
    """
    began = time.perf_counter()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    stem = f"{name}-s{seed}"
    out.mkdir(parents=True, exist_ok=True)
    train, valid = load(setup)
    flow = prepare(setup, train, seed=seed, device=device)
    x = train[: setup.batch].float().to(device)
    if device.type == "cuda":
        flow.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
        torch.cuda.reset_peak_memory_stats()
        torch.backends.cudnn.allow_tf32 = False  # what is not under autocast stays exact
    loss = fast_loss(flow, x, mode=mode, amp=amp)
    checkpoint = out / f"{stem}.ckpt"
    options = dict(
        steps=setup.steps, batch=setup.batch, lr=setup.lr, warmup=setup.warmup, ema=setup.ema,
        clip=setup.clip, decay="cosine", seed=seed, loss=loss, amp=amp, shards=shards,
    )  # fmt: skip
    try:
        with _stop_after(None if budget is None else budget - (time.perf_counter() - began)):
            done = fit(
                flow, train, valid=valid[:2048], channels_last=device.type == "cuda", device=device,
                checkpoint=checkpoint, every=every or max(1, setup.steps // 20), progress=progress,
                **options,
            )  # fmt: skip
    except KeyboardInterrupt as stopped:
        say(f"{stem}: {stopped}")
        return None
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    result = {
        "kind": KIND, "name": name, "seed": seed, "setup": asdict(setup),
        "train_images": len(train), "train_sha256": tensor_sha256(train),
        "parameters": count_parameters(flow), "mode": mode, "amp": amp,
        "seconds": done.seconds, "step_ms": 1000 * done.seconds / setup.steps, "peak_mib": peak,
        "clipped": done.clipped, "skipped": done.skipped, "provenance": provenance(done),
    }  # fmt: skip
    dims = train[0].numel() * math.log(2)
    result["curve"] = [(step, nats / dims) for step, nats in done.valid]
    with ema_weights(flow, done.ema or {}):
        result["valid"] = evaluate(flow, valid, k=setup.k, rows=setup.rows, seed=seed)
        if setup.probe and _rank() == 0:
            result["probe"] = probe(flow, setup, train, valid, seed=seed)
        weights = {n: t.detach().cpu().contiguous() for n, t in flow.state_dict().items()}
    if _rank() == 0:
        save(out / stem, result, weights, done, dims)
        show(result)
    return result


@torch.no_grad()
def evaluate(
    flow: Flow, data: Tensor, *, k: int, rows: int, seed: int = 0, chunk: int = 128
) -> dict[str, float]:
    """Bits/dim by the ELBO on all of `data` and by the importance bound on its first rows, float32.

    Every chunk has a noise stream of its own, so the numbers do not depend on how many processes
    share the work.
    """
    device = next(flow.parameters()).device
    training = flow.training
    flow.eval()
    sums = torch.zeros(2, 3, dtype=torch.float64)  # ELBO, L_K: count, sum, sum of squares
    extra = torch.zeros(3, dtype=torch.float64)  # count, effective sample size, variance of log w
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.compiler.set_stance("force_eager"):
        for i, part in enumerate(data.split(chunk)):
            if i % _world() == _rank():
                torch.manual_seed(1_000_003 * seed + i)
                x = part.float().to(device)
                sums[0] += _moments(bits_per_dim(flow.elbo(x), x))
        for i, part in enumerate(data[:rows].split(8)):
            if k > 1 and i % _world() == _rank():
                torch.manual_seed(1_000_003 * seed + 500_009 + i)
                x = part.float().to(device)
                bound = flow.iw_bound(x, k, rows=8 * chunk)
                sums[1] += _moments(bits_per_dim(bound.value, x))
                extra += torch.tensor(
                    [len(x), bound.ess.sum().item(), bound.var_log_weight.sum().item()],
                    dtype=torch.float64,
                )
    flow.train(training)
    if _world() > 1:
        sums, extra = sums.to(device), extra.to(device)
        dist.all_reduce(sums)
        dist.all_reduce(extra)
    out = {}
    for label, (n, total, squares) in zip(("elbo", "bound"), sums.tolist(), strict=True):
        if n > 1:
            variance = (squares - total * total / n) / (n - 1)
            out |= {label: total / n, f"{label}_se": math.sqrt(max(variance, 0) / n), f"{label}_images": int(n)}
    if k > 1:
        out |= {"k": k, "ess": (extra[1] / extra[0]).item(), "var_log_weight": (extra[2] / extra[0]).item()}
    return out


def _moments(t: Tensor) -> Tensor:
    t = t.double().cpu()
    return torch.stack([torch.tensor(float(len(t)), dtype=t.dtype), t.sum(), t.square().sum()])


def probe(flow: Flow, setup: Setup, train: Tensor, valid: Tensor, *, seed: int) -> dict:
    """The reuse probe on the trained model, and on the same model before training."""
    from .image_probe import reuse

    device = next(flow.parameters()).device
    few, fewer = (1024, 512) if device.type == "cuda" else (128, 64)
    x, x_test = train[:few].to(device), valid[:fewer].to(device)
    options = {} if device.type == "cuda" else {"steps": 30, "batch": 32}
    with torch.compiler.set_stance("force_eager"):
        trained = reuse(flow, x, x_test, **options)
        untrained = reuse(prepare(setup, train, seed=seed, device=device), x, x_test, **options)
    return {"trained": trained, "untrained": untrained, "images": (few, fewer)}


# ---- files ----------------------------------------------------------------------------------


def save(stem: Path, result: dict, weights: dict[str, Tensor], done: Fit, dims: float) -> None:
    """Write the weights, the curve and last the result, which names the weights by their hash."""
    content = to_bytes({"kind": KIND, "name": result["name"], "seed": result["seed"], "state": weights})
    write_atomic(stem.with_name(stem.name + ".pt"), content)
    result["weights_sha256"] = tensor_sha256(torch.cat([t.float().flatten() for t in weights.values()]))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["step", "train_bits_per_dim", "valid_bits_per_dim"])
    valid = dict(done.valid)
    mean = None
    for step, nats in enumerate(done.loss, 1):
        mean = nats if mean is None else 0.98 * mean + 0.02 * nats
        if step in valid or step % max(1, len(done.loss) // 500) == 0:
            shown = f"{valid[step] / dims:.5f}" if step in valid else ""
            writer.writerow([step, f"{mean / dims:.5f}", shown])
    write_atomic(stem.with_name(stem.name + ".csv"), text.getvalue().encode())
    write_atomic(stem.with_name(stem.name + ".json"), json.dumps(result, indent=1).encode())


def load_model(stem: Path) -> tuple[Flow, dict]:
    """A recorded model with its averaged weights, on the CPU, and its result."""
    result = json.loads(stem.with_name(stem.name + ".json").read_text())
    saved = load_tensors(stem.with_name(stem.name + ".pt"), kind=KIND)
    setup = Setup(**result["setup"])
    flow = build(setup.model, tuple(setup.shape), **setup.options)
    state = {n: t.float() if t.is_floating_point() else t for n, t in saved["state"].items()}
    check_state(state, flow.state_dict(), str(stem))
    flow.load_state_dict(state)
    return flow.eval(), result


def provenance(done: Fit) -> dict:
    """What is needed to judge a number: device, versions, time."""
    return {
        "device": done.device, "processes": _world(), "torch": torch.__version__,
        "augflow_mini": __version__, "python": platform.python_version(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }  # fmt: skip


def say(text: str) -> None:
    """Print at once, from the first process only."""
    if _rank() == 0:
        print(text, flush=True)


def show(result: dict) -> None:
    """One line for one result."""
    v = result["valid"]
    bound = f", bound (K={v['k']}) {v['bound']:.4f} +- {v['bound_se']:.4f}" if "bound" in v else ""
    say(
        f"{result['name']} seed {result['seed']}: {result['parameters']:,} parameters, "
        f"elbo {v['elbo']:.4f} +- {v['elbo_se']:.4f}{bound} bits/dim, {result['step_ms']:.1f} ms a step, "
        f"{result['seconds']:.0f} s on {result['provenance']['device']}, skipped {result['skipped']}"
    )


@contextlib.contextmanager
def _stop_after(seconds: float | None) -> Iterator[None]:
    """Send this process the Ctrl-C of `fit` after so many seconds: the step is finished and saved."""
    if seconds is None:
        yield
        return
    previous = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


# ---- command line ---------------------------------------------------------------------------


CHANGES = ("steps", "batch", "lr", "warmup", "k", "rows", "batches", "probe")  # fields of Setup
PER_RUN = ("steps", "batch", "lr", "warmup", "k", "rows", "batches", "mode", "amp", "every", "shards", "device", "out")


def side_by_side(chosen: dict[str, Setup], args: argparse.Namespace) -> bool:
    """Start one process for each run and wait for all; True if every one finished its steps."""
    began = time.perf_counter()
    for data in {(s.data, s.batches): s for s in chosen.values()}.values():
        load(data)  # once, so that the processes find it in the cache
    options = []
    for key in PER_RUN:
        if (value := getattr(args, key)) is not None:
            options += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    if args.probe is False:
        options.append("--no-probe")
    if args.budget_seconds is not None:
        options += ["--budget-seconds", str(args.budget_seconds - (time.perf_counter() - began))]
    args.out.mkdir(parents=True, exist_ok=True)
    share = max(1, (os.cpu_count() or 1) // (len(chosen) * len(args.seeds)))
    environment = {"OMP_NUM_THREADS": str(share), **os.environ}  # more threads than cores stand still
    started = {}
    for name in chosen:
        for seed in args.seeds:
            log = args.out / f"{name}-s{seed}.log"
            command = [sys.executable, "-m", __spec__.name, "train", name, "--seeds", str(seed), "--quiet"]
            with log.open("w") as file:
                process = subprocess.Popen([*command, *options], stdout=file, stderr=subprocess.STDOUT, env=environment)
            started[log] = process
    for log, process in started.items():
        code = process.wait()
        lines = log.read_text().strip().split("\n")
        say(lines[-1] if code in (0, 3) else "\n".join([f"{log.stem}: exit {code}", *lines[-12:]]))
    return not any(process.returncode for process in started.values())


def main() -> int:
    """Exit 0 when every run finished, 3 when one stopped at its budget."""
    known = setups()
    parser = argparse.ArgumentParser(prog="augflow_mini.experiments.images", description=__doc__)
    parser.add_argument("what", choices=["list", "train", "timing"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/images"))
    parser.add_argument("--steps", type=int, help="other than the named experiment's")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--k", type=int, help="importance samples; 1 for none")
    parser.add_argument("--rows", type=int, help="images for the importance bound")
    parser.add_argument("--probe", action=argparse.BooleanOptionalAction)
    parser.add_argument("--batches", type=int, nargs="+", help="CIFAR-10 training batches to use")
    parser.add_argument("--mode", choices=MODES, default="eager")
    parser.add_argument("--modes", choices=MODES, nargs="+", default=MODES, help="for timing")
    parser.add_argument("--amp", choices=["bf16", "fp16"])
    parser.add_argument("--budget-seconds", type=float)
    parser.add_argument("--every", type=int)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--device")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    unknown = [n for n in args.names if n not in known]
    if unknown or (args.what != "list" and not args.names):
        parser.error(f"unknown or no experiment {unknown}; known: {', '.join(known)}")
    changed = {
        key: value
        for key, value in vars(args).items()
        if key in CHANGES and value is not None
    }
    chosen = {n: replace(known[n], **changed) for n in args.names}
    if args.what == "list":
        for name, setup in known.items():
            say(f"{name}: {setup.model} {setup.options} on {setup.data}, {setup.steps} steps of {setup.batch}")
        return 0
    if args.what == "timing":
        return timing(chosen, args)
    began = time.perf_counter()
    runs = [(name, seed) for name in chosen for seed in args.seeds]
    if len(runs) > 1 and "RANK" not in os.environ:
        return 0 if side_by_side(chosen, args) else 3
    if "RANK" in os.environ and not dist.is_initialized():
        gpu = torch.cuda.is_available() and args.device != "cpu"
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if gpu else "gloo")
    finished = True
    for name, seed in runs:
        left = None
        if args.budget_seconds is not None:
            left = args.budget_seconds - (time.perf_counter() - began)
        result = run(
            name, chosen[name], seed=seed, out=args.out, mode=args.mode, amp=args.amp, budget=left,
            every=args.every, shards=args.shards, device=args.device, progress=not args.quiet,
        )  # fmt: skip
        finished = finished and result is not None
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0 if finished else 3


def timing(chosen: dict[str, Setup], args: argparse.Namespace) -> int:
    """Step times in every mode, beside the floor; written to `timing.json`."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = []
    tried = [(m, "bf16", False, True) for m in args.modes if device.type == "cuda" or "graph" not in m]
    if "eager" in args.modes:  # what an untuned program does
        tried.insert(0, ("eager", None, True, False))
    for name, setup in chosen.items():
        train = load(setup)[0][: max(256, setup.batch)]

        def make(setup: Setup = setup, train: Tensor = train) -> tuple[Flow, Tensor]:
            flow = prepare(setup, train, seed=0, device=device)
            return flow, train[: setup.batch].to(device)

        for mode, amp, tf32, last in tried:
            try:
                row = measure(make, mode=mode, amp=amp, tf32=tf32, channels_last=last)
            except Exception as error:  # noqa: BLE001  a mode that fails is a result too
                row = {"mode": mode, "amp": amp, "error": f"{type(error).__name__}: {error}"[:500]}
            rows.append({"name": name, **row})
            say(json.dumps(rows[-1]))
            args.out.mkdir(parents=True, exist_ok=True)
            write_atomic(args.out / "timing.json", json.dumps(rows, indent=1).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
