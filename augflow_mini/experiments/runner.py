"""An experiment is a configuration and its seeds: run, resume, compare, check its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..flow import Flow
from ..nets import count_parameters
from ..train import Fit, ema_weights, fit
from .record import (
    RECORDS,
    load_record,
    load_weights,
    multiply_adds,
    provenance,
    summary,
    write_record,
)

Metrics = dict[str, float]


@dataclass(frozen=True)
class Experiment:
    """A named configuration, trained once for each seed.

    Attributes:
        name: of the experiment, its record and its weights.
        about: one sentence.
        config: everything that decides the numbers but the seed; 'fit' holds `fit`'s arguments,
            'trace' (optional) the steps at which the raw weights are measured, too.
        seeds: each sets the initial weights, the order of the data and the noise.
        build: config -> Flow.
        data: config -> (training data, validation data or None).
        measure: (flow, config) -> metrics; the same numbers for the same weights.
        tolerance: how far a metric's mean may be from the record when run again elsewhere.
        seconds: one seed on one CPU thread, roughly.
        device: where to run; None is automatic.
    """

    name: str
    about: str
    config: dict
    seeds: tuple[int, ...]
    build: Callable[[dict], Flow]
    data: Callable[[dict], tuple[Tensor, Tensor | None]]
    measure: Callable[[Flow, dict], Metrics]
    tolerance: Metrics
    seconds: float
    device: str | None = "cpu"

    def flow(self, state: dict[str, Tensor]) -> Flow:
        """The model with recorded weights, in eval mode."""
        flow = self.build(self.config)
        flow.load_state_dict(state)
        return flow.eval()


def run_seed(experiment: Experiment, seed: int, out: Path, *, progress: bool = True) -> dict:
    """Train and measure one seed; a finished one is read back, an interrupted one goes on.

    Args:
        out: folder for `<name>-<seed>.ckpt` while it runs, `<name>-<seed>.json` and `.pt` after.
    """
    name, config = f"{experiment.name}-{seed}", experiment.config
    if (out / f"{name}.json").exists():
        done = load_record(name, folder=out)
        if done["config"] == config:
            return done
    began, checkpoint = time.perf_counter(), out / f"{name}.ckpt"
    train, valid = experiment.data(config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = experiment.build(config)
    options = dict(config["fit"])
    trace = _trace_so_far(name, config, out)
    seen = {row["step"] for row in trace}
    milestones = [s for s in config.get("trace", ()) if s not in seen]
    for steps in (*milestones, options.pop("steps")):
        done = fit(
            flow,
            train,
            valid=valid,
            seed=seed,
            steps=steps,
            **options,
            checkpoint=checkpoint,
            device=experiment.device,
            progress=progress,
        )
        if steps in milestones:
            trace.append({"step": steps, **measured(experiment, flow)})
            write_record(f"{name}-trace", {"config": config, "rows": trace}, folder=out)
    with ema_weights(flow, chosen_weights(done)):
        metrics = measured(experiment, flow)
        weights = {k: v.clone() for k, v in flow.state_dict().items()}
    content = {
        "config": config,
        "seed": seed,
        "metrics": metrics,
        "trace": trace,
        "parameters": count_parameters(flow),
        "multiply_adds": multiply_adds(flow, train[:2].to(next(flow.parameters()))),
        "steps": done.step,
        "clipped": done.clipped,
        "skipped": done.skipped,
        "chosen_step": done.best_step if done.best is not None else done.step,
        "train_seconds": round(done.seconds, 2),
        "seconds": round(time.perf_counter() - began, 2),
        "run_on": provenance(done.device),
    }
    write_record(name, content, weights=weights, folder=out)
    for part in (checkpoint, out / f"{name}-trace.json"):  # only now: the result is safe
        part.unlink(missing_ok=True)
    return load_record(name, folder=out)


def _trace_so_far(name: str, config: dict, out: Path) -> list[dict]:
    """What an interrupted run of this configuration has measured on its way."""
    if not (out / f"{name}-trace.json").exists():
        return []
    saved = load_record(f"{name}-trace", folder=out)
    return saved["rows"] if saved["config"] == config else []


def chosen_weights(done: Fit) -> dict[str, Tensor]:
    """The weights of the lowest validation loss, else the averaged ones, else the flow's own."""
    return done.best if done.best is not None else (done.ema or {})


def measured(experiment: Experiment, flow: Flow) -> Metrics:
    """The metrics of the flow as it is; the flow's mode and all random states stay."""
    training = flow.training
    try:
        with torch.random.fork_rng(), torch.no_grad():
            return experiment.measure(flow.eval(), experiment.config)
    finally:
        flow.train(training)


def run(
    experiment: Experiment, out: Path, *, record: Path | None = None, progress: bool = True
) -> dict:
    """Run every seed that is not done yet and put them together into one record in `out`.

    Args:
        out: folder of the single runs and of the result.
        record: a folder to write the record and the first seed's weights to, as well.
    """
    seeds = [run_seed(experiment, s, out, progress=progress) for s in experiment.seeds]
    first = seeds[0]
    content = {
        "about": experiment.about,
        "config": experiment.config,
        "seeds": list(experiment.seeds),
        "weights_of_seed": experiment.seeds[0],
        "tolerance": experiment.tolerance,
        "metrics": {k: summary([s["metrics"][k] for s in seeds]) for k in first["metrics"]},
        **{k: first[k] for k in ("parameters", "multiply_adds", "steps", "run_on")},
        **{
            k: [s[k] for s in seeds]
            for k in ("train_seconds", "seconds", "clipped", "skipped", "chosen_step", "trace")
        },
    }
    if not any(content["trace"]):
        del content["trace"]
    weights = load_weights(f"{experiment.name}-{experiment.seeds[0]}", folder=out)
    for folder in {out, record or out}:
        write_record(experiment.name, content, weights=weights, folder=folder)
    return load_record(experiment.name, folder=out)


def compare(came: dict, recorded: dict, tolerance: Metrics) -> list[str]:
    """Where a second run differs from the record beyond the tolerance; empty where it agrees."""
    wrong = []
    for name, allowed in tolerance.items():
        new, old = came["metrics"][name]["mean"], recorded["metrics"][name]["mean"]
        if not abs(new - old) <= allowed:
            wrong.append(f"{name}: {new:.5f} came, {old:.5f} is recorded, allowed {allowed:g}")
    return wrong


def check(experiment: Experiment, *, folder: Path = RECORDS, atol: float = 1e-4) -> list[str]:
    """What is wrong with an experiment's record; empty where all is well.

    Seal, configuration, weights and parameter count are compared, and the recorded weights are
    measured again: the first seed's metrics must come out within `atol`.
    """
    try:
        recorded = load_record(experiment.name, folder=folder)
        if recorded["config"] != experiment.config or recorded["seeds"] != list(experiment.seeds):
            return [
                "it was made with another configuration or other seeds: run the experiment again"
            ]
        flow = experiment.flow(load_weights(experiment.name, folder=folder))
    except (ValueError, RuntimeError) as error:  # RuntimeError: load_state_dict, wrong shapes
        return [str(error)]
    wrong = []
    if count_parameters(flow) != recorded["parameters"]:
        wrong.append(f"{count_parameters(flow)} parameters, {recorded['parameters']} are recorded")
    again = measured(experiment, flow)
    for name, values in recorded["metrics"].items():
        if not abs(again[name] - values["each"][0]) <= atol:
            wrong.append(
                f"{name}: the weights give {again[name]:.6f}, {values['each'][0]:.6f} is recorded"
            )
    return wrong
