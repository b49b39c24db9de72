"""Faults that break the claims of "Experiments on images"; the form is that of `gap.py` here."""

from __future__ import annotations

from augflow_mini import bounds, dequantize, experiments, image_recipes
from augflow_mini.augment import Slice
from augflow_mini.experiments import image_setups

NOTEBOOK = "12_experiments_images.ipynb"


def levels_forgotten(mp):
    """Carry contributes nothing: a density of y in the unit cube passes for one of integers."""
    mp.setattr(dequantize.Carry, "_contrib", lambda self, x: x.new_zeros(len(x)))


def noise_counted_as_data(mp):
    """Bits per dimension divided by twice the dimensions, as if 3 noise channels were data."""
    original = bounds.bits_per_dim
    mp.setattr(bounds, "bits_per_dim", lambda nats, x: original(nats, x) / 2)


def wider_six(mp):
    """The six-channel model does not pay for its posterior."""
    original = image_setups.setups

    def setups():
        out = original()
        out["small-6ch"].options["filters"] = 18
        return out

    mp.setattr(image_setups, "setups", setups)


def shallow_posterior(mp):
    """A released configuration copied with one block too few."""
    configs = dict(image_recipes.IMAGE_CONFIGS)
    configs["vflow_cifar10"] = dict(configs["vflow_cifar10"], posterior_blocks=2)
    mp.setattr(image_recipes, "IMAGE_CONFIGS", configs)


def posterior_draw_without_log_q(mp):
    """On the way from noise to image what is dropped contributes nothing: the EUBO lacks log q."""
    original = Slice.forward
    mp.setattr(Slice, "forward", lambda self, x: (lambda z, c: (z, 0 * c))(*original(self, x)))


def _suite_changed(change):
    """The digits suite's record with other numbers than were measured."""

    def plant(mp):
        original = experiments.load_record

        def load(name):
            record = original(name)
            if name == "digits-suite":
                change(record)
            return record

        mp.setattr(experiments, "load_record", load)

    return plant


def _half_the_pixels(record):
    for cell in record["cells"].values():
        each = cell["metrics"]["bits"]["each"]
        cell["metrics"]["bits"]["each"] = [2 * b for b in each]


def _divided_by_all(record):
    """Bits per number that the flow transforms, noise included."""
    for cell in record["cells"].values():
        share = 64 / (64 + cell["spec"]["model"].get("noise", 0))
        each = cell["metrics"]["bits"]["each"]
        cell["metrics"]["bits"]["each"] = [share * b for b in each]


def _sides_swapped(record):
    for pairs in ("against_realnvp", "against_uniform"):
        for d in record[pairs].values():
            d["low"], d["high"] = -d["high"], -d["low"]


FAULTS = {
    "digits divided by half the pixels": (["digits-1"], _suite_changed(_half_the_pixels), None),
    "differences taken the other way": (
        ["digits-2", "digits-3"],
        _suite_changed(_sides_swapped),
        None,
    ),
    "digits divided by D_X + D_E": (["digits-4"], _suite_changed(_divided_by_all), None),
    "y not replaced": (
        ["digits-5"],
        None,
        ("torch.cat([0 * y, z], 1)", "torch.cat([y, z], 1)"),
    ),
    "a straight line between latents": (
        ["digits-6"],
        None,
        ("return h * line(u.norm(), v.norm(), t) / h.norm()", "return h"),
    ),
    "levels forgotten": (["images-1"], levels_forgotten, None),
    "divided by D_X + D_Z": (["images-1", "images-4"], noise_counted_as_data, None),
    "six channels do not pay": (["images-2"], wider_six, None),
    "one block too few": (["images-3"], shallow_posterior, None),
    "models swapped": (["images-5"], None, ("for c in (3, 4, 6)", "for c in (4, 3, 6)")),
    "the control for the model": (
        ["images-6"],
        None,
        ('late(3, "trained")', 'late(3, "untrained")'),
    ),
    "log-likelihood for bits": (
        ["images-10", "images-11", "images-12", "images-17"],
        None,
        ('n: torch.tensor(r["metrics"]', 'n: -torch.tensor(r["metrics"]'),
    ),
    "the short runs for the long ones": (
        ["images-14"],
        None,
        ("times the steps\": (longer[3], longer[6])", "times the steps\": (record[3], record[6])"),
    ),
    "the narrow model for the wide one": (
        ["images-15"],
        None,
        ('records.load_images_record("wide-6ch")', "record[6]"),
    ),
    "the codec of another data set": (
        ["images-13"],
        None,
        ("codecs-mnist-1x28x28\")[\"bits\"]", "codecs-cifar10-3x32x32\")[\"bits\"]"),
    ),
    "six channels for learned noise": (["images-16"], None, ("small-3ch-variational", "small-6ch")),
    "compared across sizes": (
        ["images-7"],
        None,
        ("codecs-cifar10-3x8x8", "codecs-cifar10-3x32x32"),
    ),
    "standard error for the bound": (
        ["images-9"],
        None,
        (
            'r["metrics"]["bound"]["mean"]\n            for',
            'r["metrics"]["bound_se"]["mean"]\n            for',
        ),
    ),
    "EUBO without log q": (["images-8"], posterior_draw_without_log_q, None),
}
