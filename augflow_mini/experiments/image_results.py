"""What a trained image model is worth, and the files that say so."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from .. import __version__
from ..bounds import bits_per_dim
from ..checkpoint import check_state, load_tensors, tensor_sha256, to_bytes, write_atomic
from ..flow import Flow
from ..trainer import Fit, rank, world
from .image_models import build
from .image_probe import reuse
from .image_setups import Setup, prepare

KIND = "augflow_mini.images.1"


@torch.no_grad()
def evaluate(
    flow: Flow, data: Tensor, *, k: int, rows: int, seed: int = 0, chunk: int = 128
) -> dict[str, float]:
    """Bits/dim by the ELBO on all of `data` and by the importance bound on its first rows.

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
            if i % world() == rank():
                torch.manual_seed(1_000_003 * seed + i)
                x = part.float().to(device)
                sums[0] += _moments(bits_per_dim(flow.elbo(x), x))
        for i, part in enumerate(data[:rows].split(8)):
            if k > 1 and i % world() == rank():
                torch.manual_seed(1_000_003 * seed + 500_009 + i)
                x = part.float().to(device)
                bound = flow.iw_bound(x, k, rows=8 * chunk)
                sums[1] += _moments(bits_per_dim(bound.value, x))
                extra += torch.tensor(
                    [len(x), bound.ess.sum().item(), bound.var_log_weight.sum().item()],
                    dtype=torch.float64,
                )
    flow.train(training)
    if world() > 1:
        sums, extra = sums.to(device), extra.to(device)
        dist.all_reduce(sums)
        dist.all_reduce(extra)
    out = {}
    for label, (n, total, squares) in zip(("elbo", "bound"), sums.tolist(), strict=True):
        if n > 1:
            variance = (squares - total * total / n) / (n - 1)
            out |= {
                label: total / n,
                f"{label}_se": math.sqrt(max(variance, 0) / n),
                f"{label}_images": int(n),
            }
    if k > 1:
        out |= {
            "k": k,
            "ess": (extra[1] / extra[0]).item(),
            "var_log_weight": (extra[2] / extra[0]).item(),
        }
    return out


def _moments(t: Tensor) -> Tensor:
    t = t.double().cpu()
    return torch.stack([torch.tensor(float(len(t)), dtype=t.dtype), t.sum(), t.square().sum()])


def probe(flow: Flow, setup: Setup, train: Tensor, valid: Tensor, *, seed: int) -> dict:
    """The reuse probe on the trained model, and on the same model before training."""
    device = next(flow.parameters()).device
    few, fewer = setup.probe_images
    x, x_test = train[:few].to(device), valid[:fewer].to(device)
    options = {"steps": setup.probe_steps, "batch": min(128, few // 4)}
    with torch.compiler.set_stance("force_eager"):
        trained = reuse(flow, x, x_test, **options)
        untrained = reuse(prepare(setup, train, seed=seed, device=device), x, x_test, **options)
    return {"trained": trained, "untrained": untrained, "images": (few, fewer)}


# ---- files ----------------------------------------------------------------------------------


def save(stem: Path, result: dict, weights: dict[str, Tensor], done: Fit, dims: float) -> None:
    """Write the weights, the curve and last the result, which names the weights by their hash."""
    content = to_bytes(
        {"kind": KIND, "name": result["name"], "seed": result["seed"], "state": weights}
    )
    write_atomic(stem.with_name(stem.name + ".pt"), content)
    result["weights_sha256"] = tensor_sha256(
        torch.cat([t.float().flatten() for t in weights.values()])
    )
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


def finished(stem: Path, setup: Setup, mode: str, amp: str | None) -> dict | None:
    """The result of this very run where it was finished before, else None."""
    path = stem.with_name(stem.name + ".json")
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    asked = json.loads(json.dumps({"setup": asdict(setup), "mode": mode, "amp": amp}))
    return result if all(result.get(key) == value for key, value in asked.items()) else None


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
        "device": done.device, "processes": world(), "torch": torch.__version__,
        "augflow_mini": __version__, "python": platform.python_version(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }  # fmt: skip


def say(text: str) -> None:
    """Print at once, from the first process only."""
    if rank() == 0:
        print(text, flush=True)


def show(result: dict) -> None:
    """One line for one result."""
    v = result["valid"]
    bound = f", bound (K={v['k']}) {v['bound']:.4f} +- {v['bound_se']:.4f}" if "bound" in v else ""
    say(
        f"{result['name']} seed {result['seed']}: {result['parameters']:,} parameters, "
        f"elbo {v['elbo']:.4f} +- {v['elbo_se']:.4f}{bound} bits/dim, {result['step_ms']:.1f} ms "
        f"a step, {result['seconds']:.0f} s on {result['provenance']['device']}, "
        f"skipped {result['skipped']}"
    )
