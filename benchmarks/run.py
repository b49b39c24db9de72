"""Time our flows against other libraries, and memory against K.

    python -m benchmarks.run --out benchmarks/results.json          all parts
    python -m benchmarks.run --only flow2d --rounds 20 --threads 1  one part

Every model takes its turn in every round (interleaved), so that a busy machine slows all alike;
the tables give medians and ratios to ours. All models use the same fused Adam. "floor" is the
networks alone, without the book-keeping of a flow. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from augflow_mini import Flow, StandardNormal, __version__, anf, count_parameters, fused, realnvp
from benchmarks import images, peers

LIBRARIES = ("normflows", "nflows", "zuko", "FrEIA")


def installed() -> list[str]:
    return [name for name in LIBRARIES if importlib.util.find_spec(name)]


def interleaved(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict]:
    """Median milliseconds of each task; every task runs once in every round.

    On one thread the processor's time is compared, which other programs on the machine hardly
    touch; on several threads the clock's.
    """
    wall: dict[str, list[float]] = {name: [] for name in tasks}
    cpu: dict[str, list[float]] = {name: [] for name in tasks}
    for r in range(rounds + 3):
        for name, task in tasks.items():
            start = time.perf_counter(), time.process_time()
            task()
            if r >= 3:  # the first rounds warm up
                wall[name].append(1e3 * (time.perf_counter() - start[0]))
                cpu[name].append(1e3 * (time.process_time() - start[1]))
    compared = cpu if torch.get_num_threads() == 1 else wall
    ours = compared["ours"]
    return {
        name: {
            "cpu_ms": statistics.median(cpu[name]),
            "wall_ms": statistics.median(wall[name]),
            "times_ours": statistics.median(compared[name]) / statistics.median(ours),
            "least_times_ours": min(compared[name]) / min(ours),
        }
        for name in tasks
    }


def training(model: nn.Module, x: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        loss = -model.log_prob(x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def densities(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return torch.no_grad()(lambda: model.log_prob(x))


def samples(model: nn.Module, n: int) -> Callable[[], object]:
    return torch.no_grad()(lambda: model.sample(n))


class ByModules(nn.Module):
    """Our flow without `fused`: every layer and network is called, autograd differentiates."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def _call(self, method: Callable, argument: object) -> Tensor:
        possible, fused.possible = fused.possible, lambda x: False
        try:
            return method(argument)
        finally:
            fused.possible = possible

    def log_prob(self, x: Tensor) -> Tensor:
        return self._call(self.flow.log_prob, x)

    def sample(self, n: int) -> Tensor:
        return self._call(self.flow.sample, n)


class BareMlps(nn.Module):
    """The eight networks on one column, summed."""

    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def log_prob(self, x: Tensor) -> Tensor:
        total = 0.0
        for net in self.nets:
            total = total + net.layers(x[:, :1]).sum(1)
        return total

    def sample(self, n: int) -> Tensor:
        return self.log_prob(torch.randn(n, 2))


def flow2d(rounds: int) -> dict:
    """RealNVP on the plane: 8 couplings, networks of 2 x 64 ReLU."""
    out = {}
    for batch in (256, 1024):
        torch.manual_seed(0)
        flow = Flow(realnvp(2, couplings=8), StandardNormal(2))
        nets = [layer.net for layer in flow.chain]
        models = {"ours": flow, "ours, by modules": ByModules(copy.deepcopy(flow))}
        models["floor"] = BareMlps([*nets])
        models |= {name: peers.REALNVP[name](nets) for name in installed()}
        x = torch.randn(batch, 2)
        out[str(batch)] = {
            "log_prob": interleaved({k: densities(m, x) for k, m in models.items()}, rounds),
            "sample": interleaved({k: samples(m, batch) for k, m in models.items()}, rounds),
            "train": interleaved({k: training(m, x) for k, m in models.items()}, rounds),
        }
    return out


def glow(rounds: int) -> dict:
    """Glow-like, 3 x 32 x 32, hidden width 64, batch 32."""
    torch.manual_seed(0)
    x = torch.randn(32, *images.SHAPE)
    names = [k for k in images.GLOW if k not in LIBRARIES or k in installed()]
    models = {name: images.GLOW[name](64) for name in names}
    for model in models.values():
        model.log_prob(x)  # norms initialise themselves
    tasks = {name: training(model, x) for name, model in models.items()}
    tasks["ours, channels last"] = training(
        models["ours"], x.contiguous(memory_format=torch.channels_last)
    )
    return {
        "train": interleaved(tasks, rounds),
        "parameters": {name: count_parameters(model) for name, model in models.items()},
    }


def inductor(rounds: int) -> dict | None:
    """The 2-D RealNVP through torch.compile, and what compiling costs; None without a compiler."""
    if not shutil.which("g++"):
        return None
    torch._inductor.config.compile_threads = 1  # so that all of its time is this process's
    out: dict = {}
    with tempfile.TemporaryDirectory() as cache:  # cold: nothing compiled before is found
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for batch in (256,):
            torch.manual_seed(0)
            torch._dynamo.reset()
            flow, x = Flow(realnvp(2, couplings=8), StandardNormal(2)), torch.randn(batch, 2)
            compiled = images.NllModel(flow, torch.compile(flow.log_prob, dynamic=False))
            models = {"ours": flow, "inductor": compiled}
            before = _processor(), time.perf_counter()
            steps = {k: training(m, x) for k, m in models.items()}
            steps["inductor"]()
            seconds = _processor() - before[0], time.perf_counter() - before[1]
            out[str(batch)] = {
                "compile_cpu_s": seconds[0],
                "compile_wall_s": seconds[1],
                "train": interleaved(steps, rounds),
                "log_prob": interleaved({k: densities(m, x) for k, m in models.items()}, rounds),
            }
    return out


def _processor() -> float:
    """Seconds of processor that this process and its finished children took."""
    return sum(os.times()[:4])


def importance(k: int) -> dict:
    """Time and extra memory of L_K at batch 16, in this (fresh) process. Linux only."""
    torch.manual_seed(0)
    flow = Flow(anf(2, 2, steps=4), StandardNormal(4))
    x = torch.randn(16, 2)
    with torch.no_grad():
        flow.iw_bound(x, 64)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, start = _memory("VmRSS"), time.process_time()
        bound = flow.iw_bound(x, k)
        seconds = time.process_time() - start
    extra = _memory("VmHWM") - before
    return {"k": k, "cpu_s": seconds, "extra_MiB": extra, "mean": bound.value.mean().item()}


def _memory(field: str) -> float:
    """A field of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def importance_curve(threads: int) -> list[dict]:
    """Each K in a process of its own: the peak of one must not hide that of the next."""
    rows = []
    for k in (100, 1_000, 10_000, 100_000):
        command = [
            sys.executable,
            "-m",
            "benchmarks.run",
            "--k",
            str(k),
            "--threads",
            str(threads),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
    return rows


def show(title: str, table: dict[str, dict]) -> None:
    print(f"\n{title}")
    for name, row in sorted(table.items(), key=lambda item: item[1]["times_ours"]):
        print(
            f"  {name:20s} {row['cpu_ms']:8.2f} ms of processor, "
            f"{row['wall_ms']:8.2f} ms by the clock,  x{row['times_ours']:.2f} of ours "
            f"(least x{row['least_times_ours']:.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--only", choices=["flow2d", "glow", "inductor", "importance"])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--add", action="store_true", help="keep the other parts of --out")
    parser.add_argument("--k", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.k:
        print(json.dumps(importance(args.k)))
        return
    versions = {name: importlib.metadata.version(name) for name in installed()}
    missing = sorted(set(LIBRARIES) - set(versions))
    if missing:
        print(f"not installed, left out: {', '.join(missing)} (see benchmarks/README.md)")
    result: dict = {
        "device": platform.processor() or platform.machine(),
        "threads": args.threads,
        "rounds": args.rounds,
        "versions": {"augflow_mini": __version__, "torch": torch.__version__, **versions},
        "left_out": missing,
    }
    if args.only in (None, "flow2d"):
        result["flow2d"] = flow2d(args.rounds)
        for batch, tables in result["flow2d"].items():
            for what, table in tables.items():
                show(f"2-D RealNVP, {what}, batch {batch}", table)
    if args.only in (None, "glow"):
        result["glow"] = glow(max(3, args.rounds // 6))
        show("Glow-like 3x32x32, training step, batch 32", result["glow"]["train"])
    if args.only in (None, "inductor"):
        result["inductor"] = inductor(args.rounds)
        for batch, part in (result["inductor"] or {}).items():
            print(f"\ncompiled in {part['compile_cpu_s']:.0f} s of processor")
            for what in ("train", "log_prob"):
                show(f"2-D RealNVP through inductor, {what}, batch {batch}", part[what])
    if args.only in (None, "importance"):
        result["importance"] = importance_curve(args.threads)
        for row in result["importance"]:
            print(
                f"K = {row['k']:7d}: {row['cpu_s']:7.2f} s of processor, "
                f"{row['extra_MiB']:6.1f} MiB extra"
            )
    if args.out:
        if args.add:
            result = json.loads(args.out.read_text()) | result
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
