"""Faults that break the claims of "Back to vanilla flows"; the form is that of `gap.py` here."""

from __future__ import annotations

from planted import forgotten_log_q, log_det_sign, posterior_slope_sign

NOTEBOOK = "07_vanilla_flows.ipynb"


FAULTS = {
    "log-det sign": (["vanilla-1", "vanilla-11"], log_det_sign, None),
    "forgotten log q": (["vanilla-1", "vanilla-2"], forgotten_log_q, None),
    "reads z for x": (
        ["vanilla-3"],
        None,
        ("large[0].weight[:, :1] = small", "large[0].weight[:, 1:] = small"),
    ),
    "new noise without its q": (["vanilla-4"], None, ("        - log_q(z_more).sum(1),\n", ",\n")),
    "bits for nats": (
        ["vanilla-5"],
        None,
        (
            "-torch.tensor(nll) - torch.tensor(gap)",
            "-torch.tensor(nll) / 0.69 - torch.tensor(gap)",
        ),
    ),
    "encoder's log-det forgotten": (["vanilla-6"], None, ("- 1) - log_a + log_d", "- 1) + log_d")),
    "reads the data, not the noise": (
        ["vanilla-7"],
        None,
        ("torch.tanh(t * nodes)", "torch.tanh(t * grid[:, None] + 0 * nodes)"),
    ),
    "bits divided by D_X + D_E": (
        ["vanilla-8"],
        None,
        ('augmented": min(', 'augmented": 64 / 80 * min('),
    ),
    "posterior slope": (["vanilla-9"], posterior_slope_sign, None),
    "no 1/K": (["vanilla-10"], None, (" - math.log(200_000)", "")),
}
