"""The 2-D suite as a list of small jobs, the most important first. `toys` runs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .toy_models import Model

RATES = (3e-3, 1e-2, 2e-2)
LAST_GAINS = (0.01, 1.0)


@dataclass(frozen=True)
class Tuning:
    """Grid of step sizes, initialisation scales and shapes; validation NLL chooses.

    Attributes:
        rates: step sizes.
        last_gains: initial scale of the networks' last layers.
        hidden: hidden layers of the networks; their width follows from the number of parameters.
        steps: of each trial.
    """

    rates: tuple[float, ...] = RATES
    last_gains: tuple[float, ...] = LAST_GAINS
    hidden: tuple[int, ...] = (1, 2)
    steps: int = 500


QUICK = Tuning(hidden=(2,), steps=300)


@dataclass(frozen=True)
class Job:
    """One row of the results: one model on one toy, S seeds together in one process.

    Attributes:
        name, group: unique name; what it belongs to.
        toy: key of `TOYS`.
        model: what to build; its gains, `hidden` and `lr` are replaced by the tuning's choice.
        kind: 'cell' trains and measures; 'joint' refits q on a fixed joint; 'parts' takes a gap
            apart.
        tuning: grid, or None for `lr` as it stands.
        seeds: of the initial weights; the same data go to the same seed of every job.
        test: points for the likelihood (in 1-D, nodes of a grid).
        k: importance samples of the measurement where D_E > 1.
        train_k: importance samples of the training loss.
        keep: save the weights of the seed with the lowest NLL.
    """

    name: str
    group: str
    toy: str
    model: Model
    kind: str = "cell"
    tuning: Tuning | None = None
    lr: float = 1e-2
    steps: int = 2000
    batch: int = 256
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    test: int = 2048
    k: int = 256
    train_k: int = 1
    keep: bool = False

    @property
    def estimate(self) -> float:
        """CPU seconds, about; the runner corrects it by what finished jobs took."""
        m = self.model
        couplings = m.depth * {"anf": 2, "cif": 5}.get(m.recipe, 1) + (
            6 if m.posterior == "flow" else 0
        )
        heavy = 2.6 if m.coupling == "mixlogistic" else 1.0

        def train(members: int, steps: int) -> float:
            rows = self.train_k * self.batch / 256
            per = 0.9 + members * rows * (0.03 + 4e-5 * m.parameters / max(couplings, 1))
            return 1e-3 * steps * couplings * per * heavy

        t = self.tuning
        trials = (
            0.0 if t is None else len(t.hidden) * train(len(t.rates) * len(t.last_gains), t.steps)
        )
        nodes = 1 if not m.noise else 300 if m.noise == 1 else self.k
        rows = self.test * nodes * len(self.seeds)
        measuring = rows * 1e-6 * (1 + m.parameters * 1e-4) * heavy
        return 2 + trials + train(len(self.seeds), self.steps) + measuring


def suite() -> list[Job]:
    """All jobs, the most important first; names are unique."""
    jobs = [
        *_floor("core"),
        *_two_modes(),
        *_fixed_joint(),
        *_eight(),
        *_factorial(depths=(8,)),
        *_parts(),
        *_factorial(depths=(4,)),
        *_ablations(),
        *_grid(),
        *_others(),
        *_floor("more"),
        *_factorial(depths=(16,)),
    ]
    names = [j.name for j in jobs]
    assert len(set(names)) == len(names), "two jobs have one name"
    return jobs


def _floor(part: str) -> Iterator[Job]:
    """Additive couplings on the checkerboard: what a constant Jacobian cannot do."""
    core = [(0, 12, 36), (1, 12, 36), (2, 16, 36), (0, 16, 36), (0, 16, 71), (1, 16, 36)]
    more = [
        (0, 6, 36),
        (0, 24, 36),
        (0, 12, 71),
        (2, 12, 36),
        (1, 12, 12),
        (0, 12, 12),
        (3, 15, 36),
    ]
    for noise, depth, thousands in core if part == "core" else more:
        model = Model("cycle", 2, noise, depth, thousands * 1000, "additive", last_gain=1.0)
        yield Job(
            f"floor/e{noise}-c{depth}-{thousands}k",
            "floor",
            "checkerboard",
            model,
            steps=3000,
            test=4096,
            k=512,
            keep=(noise, depth, thousands) in core[:3],
        )


def _two_modes() -> Iterator[Job]:
    """The mixture E2 in 1-D: steps of ANF, and a monotone flow without augmentation."""
    for n in (3, 5, 2, 1):
        model = Model("anf", 1, 1, n, 6000)
        yield Job(
            f"two_modes/anf-n{n}",
            "two_modes",
            "two_modes",
            model,
            tuning=QUICK,
            steps=3000,
            test=600,
            keep=True,
        )
    for kind, depth in (("affine", 1), ("mixlogistic", 1), ("mixlogistic", 2)):
        model = Model("cycle", 1, 0, depth, 6000, kind)
        yield Job(
            f"two_modes/{kind}-1d-c{depth}",
            "two_modes",
            "two_modes",
            model,
            tuning=QUICK,
            steps=2000,
            test=600,
            keep=kind == "mixlogistic" and depth == 1,
        )


def _fixed_joint() -> Iterator[Job]:
    """Decoder alone as the joint, only q refitted: N(0, I), Gaussian, flow."""
    for posterior in ("noise", "gaussian", "flow"):
        model = Model("anf", 1, 2, 1, 5000, posterior=posterior)
        yield Job(
            f"joint/{posterior}", "joint", "three_modes", model, kind="joint", lr=8e-3, steps=3000
        )


def _eight() -> Iterator[Job]:
    """Eight Gaussians, affine, about 6 k parameters: with and without one noise feature."""
    for depth in (8, 12):
        for noise in (0, 1):
            model = Model("cycle", 2, noise, depth, 6000)
            yield Job(
                f"eight/cycle-e{noise}-c{depth}",
                "eight",
                "eight_gaussians",
                model,
                tuning=Tuning(),
                steps=4000,
                seeds=tuple(range(1, 11)),
                test=4096,
            )
    for n in (2, 4):
        model = Model("anf", 2, 1, n, 6000)
        yield Job(
            f"eight/anf-e1-n{n}",
            "eight",
            "eight_gaussians",
            model,
            tuning=Tuning(),
            steps=4000,
            seeds=tuple(range(1, 11)),
            test=4096,
        )


def _factorial(depths: tuple[int, ...]) -> Iterator[Job]:
    """Couplings x D_E x depth at about 6 k parameters, one tuning grid for every cell."""
    for depth in depths:
        for toy, dims in (("checkerboard", 2), ("two_modes", 1), ("eight_gaussians", 2)):
            for kind in ("additive", "affine", "mixlogistic"):
                for noise in (0, 1, 2):
                    model = Model("cycle", dims, noise, depth, 6000, kind)
                    yield Job(
                        f"factorial/{toy}-{kind}-e{noise}-c{depth}",
                        "factorial",
                        toy,
                        model,
                        tuning=Tuning(),
                        steps=2000,
                        test=600 if dims == 1 else 2048,
                    )


def _parts() -> Iterator[Job]:
    """A VAE and an ANF taken apart: model error, gap, estimator bias, optimisation, test noise."""
    for n in (1, 3):
        yield Job(
            f"parts/anf-n{n}",
            "parts",
            "two_modes",
            Model("anf", 1, 1, n, 6000, last_gain=1.0),
            kind="parts",
            steps=2000,
            test=600,
        )


def _ablations() -> Iterator[Job]:
    base = Job("", "ablation", "eight_gaussians", Model("anf", 2, 1, 4, 6000), lr=3e-3)
    for hidden in (0.6, 1.4):
        for last in (0.01, 1.0):
            model = replace(base.model, hidden_gain=hidden, last_gain=last)
            yield replace(base, name=f"ablation/gain-hidden{hidden}-last{last}", model=model)
    for scale in (1.0, 0.1, 0.01, 0.001):
        model = replace(base.model, recipe="cycle", depth=8, noise_scale=scale)
        yield replace(base, name=f"ablation/padding-{scale}", model=model)
    for n in (1, 3):
        for k in (1, 8):
            model = Model("anf", 1, 1, n, 6000)
            yield Job(
                f"ablation/train-k{k}-n{n}",
                "ablation",
                "two_modes",
                model,
                train_k=k,
                lr=5e-3,
                test=600,
            )
    for toy in ("eight_gaussians", "checkerboard"):
        for recipe, noise in (("cycle", 0), ("unmixed", 1), ("unmixed", 2)):
            model = Model(recipe, 2, noise, 8, 6000)
            yield Job(f"ablation/cost-{toy}-{recipe}-e{noise}", "ablation", toy, model)

    for toy, dims in (("two_modes", 1), ("eight_gaussians", 2), ("checkerboard", 2)):
        yield Job(
            f"ablation/cif-{toy}",
            "ablation",
            toy,
            Model("cif", dims, 1, 3, 6000),
            tuning=QUICK,
            test=600 if dims == 1 else 2048,
        )


def _grid() -> Iterator[Job]:
    """D_E x N."""
    for toy, dims in (("two_modes", 1), ("eight_gaussians", 2)):
        for n in (1, 2, 3, 5):
            for noise in (1, 2, 4, 8):
                yield Job(
                    f"grid/{toy}-e{noise}-n{n}",
                    "grid",
                    toy,
                    Model("anf", dims, noise, n, 6000),
                    tuning=QUICK,
                    test=600 if dims == 1 else 2048,
                )
            if dims > 1:
                yield Job(
                    f"grid/{toy}-e0-n{n}",
                    "grid",
                    toy,
                    Model("cycle", dims, 0, 2 * n, 6000),
                    tuning=QUICK,
                )


def _others() -> Iterator[Job]:
    """RealNVP, VAE, ANF and VFlow with a flow q elsewhere."""
    for toy, dims in (
        ("two_moons", 2),
        ("rings", 2),
        ("pinwheel", 2),
        ("spirals", 2),
        ("three_modes", 1),
    ):
        models = {
            "realnvp": Model("cycle", dims, 0, 8, 6000),
            "vae": Model("anf", dims, 2, 1, 6000),
            "anf": Model("anf", dims, 1, 3, 6000),
            "vflow": Model("cycle", dims, 2, 8, 6000, posterior="flow"),
        }
        for name, model in models.items():
            yield Job(
                f"other/{toy}-{name}",
                "other",
                toy,
                model,
                tuning=QUICK,
                test=600 if dims == 1 else 2048,
            )
