"""The training loop: exact resume, safe files, errors that name what happened, and learning."""

import math
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from augflow_mini import ActNorm, Flow, StandardNormal, anf, realnvp, uniform_dequantize
from augflow_mini.checkpoint import load_tensors, to_bytes, write_atomic
from augflow_mini.train import ema_weights, fit, negative_elbo, set_weights
from augflow_mini.trainer import KIND, Order, schedule

ROOT = Path(__file__).resolve().parent.parent
STEPS = 60
DATA = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * 2 + 1
OPTIONS = {
    "steps": STEPS,
    "batch": 64,
    "lr": 3e-3,
    "seed": 3,
    "valid": DATA[:100],
    "keep_best": True,
    "ema": 0.95,
    "warmup": 5,
    "decay": "cosine",
    "every": 7,
    "device": "cpu",
    "progress": False,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(seed=0, *, hidden=(16,)):
    """An augmented flow with every kind of state: noise, ActNorm, buffers."""
    torch.manual_seed(seed)
    layers = [ActNorm(2), *anf(2, 1, steps=2, hidden=hidden, activation=nn.Tanh)]
    return Flow(layers, StandardNormal(3))


def killed_at(call, error=KeyboardInterrupt):
    """The default loss, until it raises at its n-th call (the first is the initialisation)."""
    calls = 0

    def negative_elbo_(flow, x):
        nonlocal calls
        calls += 1
        if calls == call:
            raise error("killed")
        return negative_elbo(flow, x)

    negative_elbo_.__name__ = "negative_elbo"
    return negative_elbo_


def everything(flow, done):
    """All that must be equal, bit for bit."""
    tensors = {f"flow.{k}": v for k, v in flow.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in done.ema.items()}
    tensors |= {f"best.{k}": v for k, v in done.best.items()}
    return tensors, (done.step, done.loss, done.valid, done.clipped, done.skipped, done.best_step)


def assert_same(a, b):
    assert a[1] == b[1]
    assert a[0].keys() == b[0].keys()
    for name, value in a[0].items():
        assert torch.equal(value, b[0][name]), f"{name} differs"


@pytest.fixture(scope="module")
def uninterrupted():
    flow = model()
    return everything(flow, fit(flow, DATA, **OPTIONS))


# ---- resume ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call", np.random.default_rng(20).integers(12, STEPS, 3).tolist())
def test_an_interrupted_fit_ends_as_an_uninterrupted_one(call, tmp_path, uninterrupted):
    path = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError, match="killed"):
        fit(model(), DATA, loss=killed_at(call, RuntimeError), checkpoint=path, **OPTIONS)
    flow = model(seed=99)  # other initial weights: all comes from the file
    torch.manual_seed(1234)
    done = fit(flow, DATA, checkpoint=path, **OPTIONS)
    assert_same(everything(flow, done), uninterrupted)


CHILD = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, {tests!r})
    import test_train as t

    def deadly(flow, x, calls=[0]):
        calls[0] += 1
        if calls[0] == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        return t.negative_elbo(flow, x)

    deadly.__name__ = "negative_elbo"
    t.fit(t.model(), t.DATA, loss=deadly, checkpoint={path!r}, **t.OPTIONS)
"""


def test_three_times_kill_9_ends_as_an_uninterrupted_fit(tmp_path, uninterrupted):
    path, steps = str(tmp_path / "run.ckpt"), []
    for call in (17, 20, 24):
        code = CHILD.format(tests=str(ROOT / "tests"), call=call, path=path)
        ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT)
        assert ended.returncode == -signal.SIGKILL
        steps.append(len(load_tensors(path, kind=KIND)["fit"]["loss"]))
    assert steps[0] < steps[1] < steps[2] < STEPS, "each start must go on from the one before"
    flow = model()
    assert_same(everything(flow, fit(flow, DATA, checkpoint=path, **OPTIONS)), uninterrupted)


def test_ctrl_c_saves_says_how_to_go_on_and_goes_on_exactly(tmp_path, uninterrupted):
    def interrupting(flow, x, calls=[0]):  # noqa: B006
        calls[0] += 1
        if calls[0] == 27:
            signal.raise_signal(signal.SIGINT)
        return negative_elbo(flow, x)

    interrupting.__name__ = "negative_elbo"
    path, before = tmp_path / "run.ckpt", signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step \d+ of 60 and saved in .*go on"):
        fit(model(), DATA, loss=interrupting, checkpoint=path, **OPTIONS)
    assert signal.getsignal(signal.SIGINT) is before
    step = len(load_tensors(path, kind=KIND)["fit"]["loss"])
    assert step % OPTIONS["every"], "saved where it stopped, not at the last regular checkpoint"
    flow = model(seed=5)
    assert_same(everything(flow, fit(flow, DATA, checkpoint=path, **OPTIONS)), uninterrupted)


def test_ctrl_c_without_checkpoint_says_that_nothing_is_saved():
    def interrupting(flow, x):
        if torch.is_grad_enabled():  # a step, not the initialisation
            signal.raise_signal(signal.SIGINT)
        return negative_elbo(flow, x)

    with pytest.raises(KeyboardInterrupt, match="nothing is saved"):
        fit(model(), DATA, loss=interrupting, **OPTIONS)


def test_a_finished_run_is_read_back_and_a_longer_one_goes_on(tmp_path):
    path, options = tmp_path / "run.ckpt", dict(OPTIONS, decay=None)
    whole = model()
    expected = everything(whole, fit(whole, DATA, **options))
    for seed, steps in enumerate((1, 20, STEPS, STEPS)):  # only the first starts from its seed
        flow = model(seed)
        done = fit(flow, DATA, **dict(options, steps=steps), checkpoint=path)
    got = everything(flow, done)
    for name in expected[0]:  # the validation times differ, so best and valid may
        if not name.startswith("best."):
            assert torch.equal(expected[0][name], got[0][name]), name
    assert done.loss == expected[1][1]


def test_resume_false_starts_afresh(tmp_path):
    path = tmp_path / "run.ckpt"
    fit(model(), DATA, **dict(OPTIONS, seed=9), checkpoint=path)
    done = fit(model(), DATA, checkpoint=path, resume=False, **OPTIONS)
    assert load_tensors(path, kind=KIND)["run"]["seed"] == 3
    assert done.step == STEPS


# ---- bad checkpoints ------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.ckpt"
    fit(model(), DATA, **dict(OPTIONS, steps=5), checkpoint=path)
    return path


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(saved, keep):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match="cannot be read.*truncated, damaged or foreign"):
        fit(model(), DATA, **dict(OPTIONS, steps=5), checkpoint=saved)


def test_a_foreign_checkpoint_is_refused(saved):
    saved.write_text("step,loss\n1,2\n")
    with pytest.raises(ValueError, match="cannot be read"):
        fit(model(), DATA, **dict(OPTIONS, steps=5), checkpoint=saved)
    saved.write_bytes(to_bytes({"weights": torch.zeros(3)}))
    with pytest.raises(ValueError, match="is of kind None, expected 'augflow_mini.fit.1'"):
        fit(model(), DATA, **dict(OPTIONS, steps=5), checkpoint=saved)


class Evil:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_a_checkpoint_that_would_run_code_is_refused_and_the_code_is_not_run(saved, how):
    marker = saved.parent / "executed"
    content = {"kind": KIND, "run": Evil(marker)}
    saved.write_bytes(to_bytes(content) if how == "torch.save" else pickle.dumps(content))
    with pytest.raises(ValueError, match="code in it was not run"):
        fit(model(), DATA, **dict(OPTIONS, steps=5), checkpoint=saved)
    assert not marker.exists()
    if how == "pickle":
        pickle.loads(saved.read_bytes())
        assert marker.exists(), "the file must be dangerous, or the test shows nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "another run: seed is 3, expected 4"),
        ({"lr": 1e-3}, "lr is 0.003, expected 0.001"),
        ({"steps": 9}, "steps is 5, expected 9"),  # cosine: another length is another schedule
        ({"batch": 32, "clip": None}, "batch is 64, expected 32, clip is 1.0, expected None"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(saved, change, message):
    with pytest.raises(ValueError, match=message):
        fit(model(), DATA, checkpoint=saved, **{**OPTIONS, "steps": 5, **change})


def test_a_checkpoint_of_other_data_or_another_model_is_refused(saved):
    options = dict(OPTIONS, steps=5)
    with pytest.raises(ValueError, match="data is '.*', expected '"):
        fit(model(), DATA + 1, checkpoint=saved, **options)
    flow = model(hidden=(17,))
    before = {k: v.clone() for k, v in flow.named_parameters()}
    with pytest.raises(ValueError, match=r"does not fit this model: .* came as \(16, 2\)"):
        fit(flow, DATA, checkpoint=saved, **options)
    assert all(torch.equal(v, before[k]) for k, v in flow.named_parameters()), "model was touched"


# ---- writing --------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_earlier_checkpoint_intact(saved):
    before = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # a disk that fills up
    try:
        with pytest.raises(OSError, match=r"could not write .*the earlier file is intact"):
            fit(model(), DATA, checkpoint=saved, resume=False, **OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name], "a part of a file stayed behind"


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not write .*nothing was written"):
        write_atomic(tmp_path / "file" / "run.ckpt", b"x")  # a file where a folder should be


# ---- numbers that are not finite ------------------------------------------------------------


def test_a_non_finite_loss_stops_names_step_and_batch_and_keeps_the_checkpoint(tmp_path):
    def failing(flow, x, calls=[0]):  # noqa: B006
        calls[0] += 1
        return negative_elbo(flow, x) * (math.nan if calls[0] == 14 else 1.0)

    path, options = tmp_path / "run.ckpt", dict(OPTIONS, valid=None, keep_best=False)
    rows = ", ".join(map(str, Order(len(DATA), 64, 3).rows(12)[:8].tolist()))
    with pytest.raises(FloatingPointError) as error:
        fit(model(), DATA, loss=failing, checkpoint=path, **options)
    message = str(error.value)
    assert "the loss is nan at step 12" in message  # call 1 initialises, call 2 is step 0
    assert f"training rows {rows}" in message
    assert f"last good checkpoint is kept in {path}" in message
    saved = load_tensors(path, kind=KIND)
    assert saved["fit"]["step"] == 7
    assert all(v.isfinite().all() for v in saved["model"].values())


def bad_gradient(when):
    """A finite loss whose gradient is not finite at some calls."""

    def loss(flow, x, calls=[0]):  # noqa: B006
        calls[0] += 1
        value = negative_elbo(flow, x)
        if when(calls[0]):
            value = value + (0.0 * next(flow.parameters())).abs().sqrt().sum()
        return value

    return loss


def test_a_step_with_a_bad_gradient_is_skipped_and_counted():
    options = dict(OPTIONS, valid=None, keep_best=False)
    flow = model()
    done = fit(flow, DATA, loss=bad_gradient(lambda n: n in (10, 11, 30)), **options)
    assert (done.skipped, done.step) == (3, STEPS)
    assert all(p.isfinite().all() for p in flow.parameters())


def test_bad_gradients_without_end_stop_the_run():
    options = dict(OPTIONS, valid=None, keep_best=False)
    with pytest.raises(FloatingPointError, match="not finite for 50 steps in a row"):
        fit(model(), DATA, loss=bad_gradient(lambda n: n > 5), **options)


def test_bad_data_is_refused_with_its_row():
    bad = DATA.clone()
    bad[[17, 40]] = math.nan
    with pytest.raises(ValueError, match="train holds NaN .* 2 of 500 rows, the first is row 17"):
        fit(model(), bad, **OPTIONS)
    with pytest.raises(ValueError, match="valid is"):
        fit(model(), DATA, **dict(OPTIONS, valid=torch.zeros(3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch": 2.5}, "batch is 2.5"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"decay": "linear"}, "decay is 'linear'"),
        ({"amp": "fp8"}, "amp is 'fp8'"),
        ({"every": 0}, "every is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"shards": 3}, "3 shards"),
        ({"valid": None}, "keep_best=True"),
    ],
)
def test_bad_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fit(model(), DATA, **{**OPTIONS, **change})


# ---- what it does with the weights ----------------------------------------------------------


def test_a_known_gaussian_is_learned_to_within_a_twentieth_nat():
    a = torch.tensor([[1.5, 0.0], [-1.0, 0.4]])
    x = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1)) @ a.T + 2
    entropy = 1 + math.log(2 * math.pi) + math.log(1.5 * 0.4)
    torch.manual_seed(0)
    flow = Flow([ActNorm(2), *realnvp(2, couplings=4, hidden=(16,))], StandardNormal(2))
    done = fit(flow, x[:15_000], steps=400, batch=256, lr=5e-3, seed=0, ema=0.99, progress=False)
    with ema_weights(flow, done.ema), torch.no_grad():
        nll = -flow.eval().log_prob(x[15_000:]).mean().item()
    assert abs(nll - entropy) < 0.05


def test_ema_weights_are_the_average_and_go_away_again():
    path, options = [], dict(OPTIONS, valid=None, keep_best=False, steps=6)

    def watching(flow, x):
        path.append([p.detach().clone() for p in flow.parameters()])
        return negative_elbo(flow, x)

    flow = model()
    done = fit(flow, DATA, loss=watching, **options)
    path.append([p.detach().clone() for p in flow.parameters()])
    expected = path[1]  # call 0 initialises ActNorm
    for step, now in enumerate(path[2:]):
        memory = min(0.95, (1 + step) / (10 + step))
        expected = [memory * e + (1 - memory) * n for e, n in zip(expected, now, strict=True)]
    for value, by_hand in zip(done.ema.values(), expected, strict=True):
        torch.testing.assert_close(value, by_hand)
    own = [p.detach().clone() for p in flow.parameters()]
    with pytest.raises(RuntimeError, match="inside"), ema_weights(flow, done.ema):
        assert all(torch.equal(p, done.ema[n]) for n, p in flow.named_parameters())
        raise RuntimeError("inside")
    assert all(torch.equal(p, o) for p, o in zip(flow.parameters(), own, strict=True))
    with pytest.raises(ValueError, match="1 unknown, as nonsense"):
        set_weights(flow, {"nonsense": torch.zeros(1)})


def test_the_best_weights_are_those_of_the_lowest_validation_loss():
    losses = iter([3.0, 1.0, 2.0, 4.0])

    def loss(flow, x):
        value = negative_elbo(flow, x)
        return value if flow.training else torch.tensor(next(losses))

    options = dict(OPTIONS, steps=20, every=5, ema=None, batch=100)
    snapshots = {}

    def watching(flow, x):
        if not flow.training:
            snapshots[len(snapshots)] = [p.detach().clone() for p in flow.parameters()]
        return loss(flow, x)

    done = fit(model(), DATA, loss=watching, **options)
    assert [v for _, v in done.valid] == [3.0, 1.0, 2.0, 4.0]
    assert done.best_step == 10
    for best, then in zip(done.best.values(), snapshots[1], strict=True):
        assert torch.equal(best, then)


def test_validation_uses_the_same_noise_each_time():
    def loss(flow, x):
        return negative_elbo(flow, x) if flow.training else torch.rand(())

    done = fit(model(), DATA, loss=loss, **dict(OPTIONS, steps=20, every=5))
    assert len({v for _, v in done.valid}) == 1


def test_shards_split_the_batch_and_add_up_to_it():
    seen = []

    def watching(flow, x):
        seen.append(x.detach().clone())
        return -flow.log_prob(x).mean()  # exact: no noise, so shards must not matter at all

    options = {"steps": 3, "batch": 64, "lr": 1e-3, "seed": 0, "progress": False}
    weights = []
    for shards in (1, 4):
        torch.manual_seed(0)
        flow = Flow([ActNorm(2), *realnvp(2, couplings=2, hidden=(8,))], StandardNormal(2))
        weights.append((flow, fit(flow, DATA, loss=watching, shards=shards, **options).loss))
    batch, parts = seen[1], torch.cat(seen[5:9])  # step 0 of each, after its initialisation
    assert [len(p) for p in seen[5:9]] == [16] * 4
    assert torch.equal(batch.sort(0).values, parts.sort(0).values)
    assert weights[0][1] == pytest.approx(weights[1][1], rel=1e-5)
    for a, b in zip(weights[0][0].parameters(), weights[1][0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_step_size_grows_then_falls_to_zero():
    options = {"warmup": 4, "steps": 24, "decay": "cosine"}
    got = [schedule(t, options) for t in range(25)]
    assert got[:4] == [0.25, 0.5, 0.75, 1.0]
    assert got[4] == 1.0
    assert got[14] == pytest.approx(0.5)
    assert got[24] == pytest.approx(0.0)
    assert schedule(20, dict(options, decay=None)) == 1.0


def test_every_epoch_sees_every_row_once_in_another_order():
    order = Order(10, 4, seed=1)
    rows = torch.cat([order.rows(t) for t in range(5)])
    assert rows[:10].sort().values.tolist() == rows[10:].sort().values.tolist() == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    assert torch.equal(Order(10, 4, seed=1).rows(3), order.rows(3)), "a function of (seed, step)"
    assert not torch.equal(Order(10, 4, seed=2).rows(3), order.rows(3))
    assert len(Order(3, 8, seed=0).rows(1)) == 8  # a batch larger than the data


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    flow = model(0)
    torch.manual_seed(7)
    fit(flow, DATA, **dict(OPTIONS, steps=3))
    assert torch.equal(torch.rand(3), expected)


def test_seed_decides_order_and_noise():
    options = dict(OPTIONS, steps=5)
    a, b, c = (fit(model(), DATA, **dict(options, seed=s)).loss for s in (1, 1, 2))
    assert a == b
    assert a != c


def test_clipping_bounds_the_gradient_and_is_counted():
    norms = {}
    for clip in (1e-3, None):
        flow = model()
        done = fit(flow, DATA, **dict(OPTIONS, steps=3, clip=clip))
        grads = torch.cat([p.grad.flatten() for p in flow.parameters()])
        norms[clip] = (grads.norm().item(), done.clipped)
    assert norms[1e-3][0] <= 1e-3 * 1.001
    assert norms[1e-3][1] == 3
    assert norms[None][0] > 0.1
    assert norms[None][1] == 0


def test_integers_half_precision_and_channels_last_are_taken():
    whole = torch.randint(17, (64, 4), dtype=torch.uint8)
    flow = Flow([*uniform_dequantize(17, 4), ActNorm(4)], StandardNormal(4))
    done = fit(flow, whole, steps=3, batch=32, lr=1e-3, seed=0, amp="bf16", progress=False)
    assert all(map(math.isfinite, done.loss))
    assert next(flow.parameters()).dtype == torch.float32


def test_progress_bar_names_its_unit(capfd):
    fit(model(), DATA, **dict(OPTIONS, steps=3, progress=True))
    assert "nats" in capfd.readouterr().err
    whole = torch.randint(17, (64, 4), generator=torch.Generator().manual_seed(0)).float()
    flow = Flow([*uniform_dequantize(17, 4), ActNorm(4)], StandardNormal(4))
    fit(flow, whole, steps=3, batch=32, lr=1e-3, seed=0)
    assert "bits/dim" in capfd.readouterr().err


# ---- several processes ----------------------------------------------------------------------

PROCESS = """
    import sys
    import torch, torch.distributed as dist
    torch.set_num_threads(1)
    sys.path.insert(0, {tests!r})
    import test_train as t

    dist.init_process_group("gloo", init_method="file://{store}", rank={rank}, world_size=2)
    done = t.fit(t.model(), t.DATA, shards=2, checkpoint={path!r}, **t.OPTIONS)
    dist.destroy_process_group()
"""


def test_two_processes_learn_what_one_does(tmp_path):
    path = str(tmp_path / "two.ckpt")
    codes = [
        textwrap.dedent(
            PROCESS.format(tests=str(ROOT / "tests"), store=tmp_path / "s", rank=r, path=path)
        )
        for r in (0, 1)
    ]
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for code in codes]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    one = fit(model(), DATA, shards=2, **OPTIONS)
    two = load_tensors(path, kind=KIND)["fit"]
    assert two["step"] == STEPS
    torch.testing.assert_close(two["loss"], torch.tensor(one.loss).double(), rtol=1e-4, atol=1e-4)
    other = fit(model(), DATA, shards=1, **OPTIONS)  # other noise: the comparison can fail
    assert (torch.tensor(other.loss) - torch.tensor(one.loss)).abs().max() > 1e-2
