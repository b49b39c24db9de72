"""Faults that break the claims of "VAE is a one-step flow"; the form is that of `gap.py` here."""

from __future__ import annotations

from planted import forgotten_log_q, log_det_sign, sum_for_mean_of_weights

from augflow_mini import coupling, tables
from augflow_mini.distributions import BernoulliNet, GaussianNet

NOTEBOOK = "08_vae.ipynb"


def scale_inverted(mp):
    """A coupling divides where it should multiply and multiplies where it should divide."""
    original = coupling.AffineCoupling._log_s_and_m

    def inverted(self, params):
        log_s, m = original(self, params)
        return -log_s, m

    mp.setattr(coupling.AffineCoupling, "_log_s_and_m", inverted)


def decoder_without_its_scale(mp):
    """A Gaussian law that forgets the log-scales in its density."""
    original = GaussianNet.log_prob
    mp.setattr(
        GaussianNet,
        "log_prob",
        lambda self, v, given: original(self, v, given) + self._params(given)[0].sum(1),
    )


def bits_averaged(mp):
    """The Bernoulli law takes the mean over the bits, as a loss function does by default."""
    original = BernoulliNet.log_prob
    mp.setattr(
        BernoulliNet, "log_prob", lambda self, v, given: original(self, v, given) / v.shape[1]
    )


def ledger_forgets_log_q(mp):
    original = tables.ledger

    def forgets(*args, **options):
        column = original(*args, **options)
        return column | {"total": column["total"] - column["- log q"]}

    mp.setattr(tables, "ledger", forgets)


FAULTS = {
    "log-det sign": (["vae-1", "vae-2", "vae-3", "vae-7", "vae-9"], log_det_sign, None),
    "scale inverted": (["vae-2", "vae-4", "vae-5"], scale_inverted, None),
    "forgotten log q": (["vae-3"], forgotten_log_q, None),
    "no 1/K": (["vae-3"], sum_for_mean_of_weights, None),
    "one step for two": (
        ["vae-6", "vae-8"],
        None,
        ('2: load_model("e2-anf-2")', '2: load_model("e2-anf-1")'),
    ),
    "two steps for one": (
        ["vae-7"],
        None,
        ('1: load_model("e2-anf-1")', '1: load_model("e2-anf-2")'),
    ),
    "a model that did not collapse": (
        ["vae-12"],
        None,
        ('load_model("e2-collapsed")', 'load_model("e2-anf-1")'),
    ),
    "decoder without its scale": (["vae-9"], decoder_without_its_scale, None),
    "bits averaged": (["vae-10", "vae-11"], bits_averaged, None),
    "ledger without log q": (["vae-13"], ledger_forgets_log_q, None),
}
