"""Run one job of the 2-D suite: a job in, a dictionary of plain numbers out."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..data import TOYS, Toy
from ..distributions import LOG_2PI
from ..flow import Flow
from ..gap import expected_iw_bound
from ..nets import count_parameters
from .many import ManyFit, fit_many, negative_elbo, negative_iw_bound
from .record import multiply_adds, provenance
from .toy_jobs import Job
from .toy_measure import REACH, measure, points, rows_of
from .toy_models import Model

TRAIN, VALID, TEST, NOISE = 1, 2, 3, 4  # seeds of the data streams and of the measuring noise
TRIAL_SEED = 100  # of the tuning's weights: the final seeds are fresh


def run_job(job: Job) -> dict:
    """Train and measure; JSON-ready. Uses one thread, so that the result is the same anywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.process_time()
    try:
        run_on = provenance()
        found = {"cell": _cell, "joint": _joint, "parts": _parts}[job.kind](job)
    finally:
        torch.set_num_threads(threads)
    return {
        "job": job.name,
        "group": job.group,
        "spec": asdict(job),
        **found,
        "cpu_seconds": round(time.process_time() - began, 2),
        "run_on": run_on,
    }


def _cell(job: Job) -> dict:
    """Tune, train fresh seeds, measure each on the same points."""
    model, lr, trials = _tune(job) if job.tuning else (job.model, job.lr, [])
    flows, fit = train(job, model, lr)
    toy = TOYS[job.toy]
    at = points(toy, job.test, TEST)
    rows = [
        measure(f, toy, at, by_quadrature=model.integrable, k=job.k, seed=NOISE) for f in flows
    ]
    out = _describe(flows, fit, toy, model, lr) | {"trials": trials, "seeds": list(job.seeds)}
    out |= rows_of(rows)
    if job.keep:
        best = int(np.nanargmin(out["nll"]))
        out["weights"] = {"seed": job.seeds[best], "float32": pack(flows[best])}
    return out


def train(
    job: Job,
    model: Model,
    lr: float | Sequence[float],
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    flows: list[Flow] | None = None,
) -> tuple[list[Flow], ManyFit]:
    """Flows of a job's model, one for each seed, after its training; the same data for all jobs."""
    toy, stream = TOYS[job.toy], torch.Generator().manual_seed(TRAIN)
    flows = flows or [model.build(s) for s in (seeds or job.seeds)]
    loss = negative_elbo if job.train_k == 1 else negative_iw_bound(job.train_k)
    fit = fit_many(
        flows,
        lambda n: toy.sample(n, stream),
        steps=steps or job.steps,
        batch=job.batch,
        lr=lr,
        seed=TRAIN,
        loss=loss,
    )
    return flows, fit


def _tune(job: Job) -> tuple[Model, float, list[dict]]:
    """The grid's best entry by validation NLL; every entry is returned too."""
    toy, grid = TOYS[job.toy], job.tuning
    at = points(toy, 1024 if toy.dims > 1 else 200, VALID)
    pairs = list(product(grid.rates, grid.last_gains))
    trials, best = [], (math.inf, job.model, grid.rates[0])
    for hidden in grid.hidden:
        models = [replace(job.model, hidden=hidden, last_gain=gain) for _, gain in pairs]
        flows = [m.build(TRIAL_SEED) for m in models]
        rates = [rate for rate, _ in pairs]
        _, fit = train(job, job.model, rates, steps=grid.steps, flows=flows)
        for flow, model, rate, failed in zip(flows, models, rates, fit.failed, strict=True):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(NOISE)
                flow.validate = False
                log_p = flow.log_prob(at.x) if flow.exact else flow.iw_bound(at.x, 64).value
            nll = -at.mean(log_p)
            trials.append(
                {
                    "lr": rate,
                    "last_gain": model.last_gain,
                    "hidden": hidden,
                    "width": model.width,
                    "nll": _finite(nll),
                    "failed": failed,
                }
            )
            if nll < best[0]:
                best = nll, model, rate
    return best[1], best[2], trials


def _describe(flows: list[Flow], fit: ManyFit, toy: Toy, model: Model, lr: float) -> dict:
    return {
        "entropy": toy.entropy,
        "gaussian": toy.gaussian,
        "lr": lr,
        "width": model.width,
        "chosen": asdict(model),
        "parameters": count_parameters(flows[0]),
        "multiply_adds": multiply_adds(flows[0], points(toy, 8, TEST).x),
        "failed": fit.failed,
        "curve": fit.curve,
        "train_cpu_seconds": round(fit.cpu_seconds, 2),
    }


# ---- a fixed joint, only q refitted ---------------------------------------------------------


def _joint(job: Job) -> dict:
    """Train VAEs, drop their encoders, keep the decoders as p(z) p(x | z), fit q alone.

    Twice as many VAEs as seeds are trained, from large initial weights. Some collapse: their
    decoder ignores z and leaves nothing to infer. The first that did not are taken, and
    `collapsed` counts.
    """
    toy, model = TOYS[job.toy], job.model
    at = points(toy, 200, TEST)
    seeds = range(1, 2 * len(job.seeds) + 1)
    teachers, _ = train(job, replace(model, posterior="noise", last_gain=2.0), job.lr, seeds=seeds)
    used = [
        -at.mean(decoder_log_prob(list(t.chain)[-1], at.x)) < toy.gaussian - 0.3 for t in teachers
    ]
    teachers = [t for t, u in zip(teachers, used, strict=True) if u][: len(job.seeds)]
    flows = []
    for seed, teacher in zip(job.seeds, teachers, strict=False):
        augment, *posterior = list(model.build(seed).chain)[:-2]  # the last two encode and decode
        decoder = list(teacher.chain)[-1].requires_grad_(False)
        flows.append(Flow([augment, *posterior, decoder], teacher.base))
    fit = ManyFit(failed=[False] * len(flows))
    if model.posterior != "noise":
        _, fit = train(job, model, job.lr, flows=flows)
    rows = []
    for flow in flows:
        log_p = decoder_log_prob(list(flow.chain)[-1], at.x)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(NOISE)
            iw = flow.iw_bound(at.x, 4000)
        se = (at.weight**2 * iw.var_log_weight.double() / 4000).sum().sqrt().item()
        rows.append(
            {
                "nll": -at.mean(log_p),
                "elbo": at.mean(iw.elbo),
                "elbo_se": se,
                "gap": at.mean(log_p - iw.elbo),
                "bound": at.mean(iw.value),
            }
        )
    return {
        "posterior": model.posterior,
        "k": 4000,
        "seeds": list(job.seeds)[: len(flows)],
        "collapsed": used.count(False),
        "failed": fit.failed,
        "parameters": sum(p.numel() for p in flows[0].parameters() if p.requires_grad),
        "train_cpu_seconds": round(fit.cpu_seconds, 2),
        **rows_of(rows),
    }


def decoder_log_prob(decoder: torch.nn.Module, x: Tensor, nodes: int = 401) -> Tensor:
    """log of the integral of N(z; 0, I) p(x | z) over z in R^2, trapezoid rule; x is (B, 1)."""
    net = decoder.layer  # Inverse(AffineCoupling): x given z has mean m and log-scale log_s
    line = torch.linspace(-6.5, 6.5, nodes)
    z = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    with torch.no_grad():
        at_zero = torch.cat([torch.zeros(len(z), 1), z], 1)
        log_s, mean = (t.double()[:, 0] for t in net._log_s_and_m(net.params(at_zero)))
    prior = -0.5 * (z.double() ** 2).sum(1) - LOG_2PI + 2 * math.log(13 / (nodes - 1))
    out = []
    for part in x.double()[:, 0].split(16):
        standard = (part[:, None] - mean) * torch.exp(-log_s)
        out.append(torch.logsumexp(prior - 0.5 * (standard**2 + LOG_2PI) - log_s, 1))
    return torch.cat(out)


# ---- a model taken apart --------------------------------------------------------------------


def _parts(job: Job, ks: Sequence[int] = (1, 8, 64), test: int = 2000) -> dict:
    """-L_K on a test sample = entropy + model error + estimator bias (the gap, for K = 1) + noise.

    `rest` is the same difference with the sample's own entropy taken off both sides.
    """
    toy = TOYS[job.toy]
    flows, fit = train(job, job.model, job.lr)
    at = points(toy, job.test, TEST)
    sample = toy.sample(test, TEST)
    truth = -toy.log_prob(sample.double())  # the same sample's luck, whatever the model
    e = torch.linspace(-REACH, REACH, 1025)
    log_q = (-0.5 * (e * e + LOG_2PI)).double()
    mass = log_q.exp() * (2 * REACH / 1024)
    rows = []
    for flow in flows:
        joint = _log_joint_on(flow, at.x, e)
        log_w = joint - log_q
        log_p = torch.logsumexp(log_w + mass.log(), 1)
        used = at.weight > 1e-7
        bias = {k: _mean_bias(log_w[used], log_p[used], mass, at.weight[used], k) for k in ks}
        row = {
            "nll": -at.mean(log_p),
            "model_error": -at.mean(log_p) - toy.entropy,
            "gap": at.mean(log_p - log_w @ mass),
        }
        row["var_log_q_form"] = at.mean(((log_w - (log_w @ mass)[:, None]) ** 2) @ mass)
        row["var_entropy_form"] = at.mean(((joint - (joint @ mass)[:, None]) ** 2) @ mass)
        for k in ks:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(NOISE + k)
                value = -flow.iw_bound(sample, k).value.double()
            predicted = toy.entropy + row["model_error"] + bias[k]
            row |= {
                f"bias_{k}": bias[k],
                f"measured_{k}": value.mean().item(),
                f"measured_se_{k}": value.std().item() / math.sqrt(test),
                f"noise_{k}": value.mean().item() - predicted,
                f"rest_{k}": (value - truth).mean().item() - predicted + toy.entropy,
                f"rest_se_{k}": (value - truth).std().item() / math.sqrt(test),
            }
        rows.append(row)
    found = rows_of(rows)
    total = np.array(found["model_error"]) + np.array(found["gap"])
    found["optimisation"] = (total - total.min()).tolist()  # above the best of these seeds
    return _describe(flows, fit, toy, job.model, job.lr) | {"seeds": list(job.seeds), **found}


def _log_joint_on(flow: Flow, x: Tensor, e: Tensor) -> Tensor:
    """log p(x, e) at every pair: (B, N), float64."""
    joint = Flow(list(flow.chain)[1:], flow.base).double()
    with torch.no_grad():
        many = torch.cat([x.repeat_interleave(len(e), 0), e.repeat(len(x))[:, None]], 1)
        parts = [joint.log_prob(part) for part in many.double().split(16_384)]
    joint.float()  # the layers are shared with the flow
    return torch.cat(parts).view(len(x), len(e))


def _mean_bias(log_w: Tensor, log_p: Tensor, mass: Tensor, weight: Tensor, k: int) -> float:
    """E_x[log p(x) - E L_K(x)].

    For K > 1, weights e^-60 times below the largest count as that: some draw is always above it.
    """
    if k == 1:
        return (weight * (log_p - log_w @ mass)).sum().item()
    log_w = torch.maximum(log_w, log_w.max(1, keepdim=True).values - 60)
    return (weight * (log_p - expected_iw_bound(log_w, mass, k))).sum().item()


# ---- weights as text ------------------------------------------------------------------------


def pack(flow: Flow) -> str:
    """The numbers of a flow's state_dict, float32, in its order, as base64."""
    state = torch.cat([t.float().reshape(-1) for t in flow.state_dict().values()])
    return base64.b64encode(state.numpy().astype("<f4").tobytes()).decode()


def unpack(text: str, build: Callable[[], Flow]) -> Flow:
    """A flow with the numbers that `pack` wrote."""
    flow = build()
    numbers = torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").copy())
    state = flow.state_dict()
    parts = numbers.split([t.numel() for t in state.values()])
    flow.load_state_dict(
        {n: p.view(t.shape).to(t) for (n, t), p in zip(state.items(), parts, strict=True)}
    )
    return flow.eval()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
