"""K importance samples: the bound, the weights behind it, and a bound from above."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import traitlets
from torch import Tensor

from .. import plots
from ..bounds import LogWeights
from ..distributions import LOG_2PI
from ..gap import ScalarANF
from ..integrate import log_joint, quadrature
from .base import Explorer, source
from .draws import normals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOUBLINGS, REPEATS, OWN = 10, 40, 200  # largest log2 K; runs of it; samples of the model


class KSamplesExplorer(Explorer):
    """L_K against K on the scalar linear-Gaussian flow, where log p(x) is a formula.

        log w(e) = log p(x, e) - log q(e),   e ~ q = N(0, 1),   p(e | x) = N(m, tau^2)

    The weights have finite variance exactly where tau^2 < 2. Draws come from the seed, so that
    `compute` repeats the page's own draws through the layers of the flow.

    Traits:
        x: the example.
        a: scale of the encoder; below sqrt(v / 2) = 0.3386 the variance is infinite.
        log2_k: K = 2^log2_k samples.
        seed: of all draws.
        b, c, d: slope of the encoder, slope and scale of the decoder, set from Python only.
    """

    _esm = source("arrays.js", "closed_form.js", "draws.js", "base.js", "plot.js", "k_samples.js")
    _css = source("base.css")
    alt = (
        "The bound of K samples rising towards log p(x), with its spread over repeats; the "
        "weights behind it as histograms; bounds from below and above on the model's own samples."
    )
    controls = ("x", "a", "log2_k", "seed")

    x = traitlets.Float(1.0, min=-3.0, max=3.0).tag(sync=True, label="example x", step=0.05)
    a = traitlets.Float(0.7, min=0.2, max=1.2).tag(sync=True, label="encoder scale a", step=0.01)
    log2_k = traitlets.Int(4, min=0, max=DOUBLINGS).tag(sync=True, label="samples, log2 K", step=1)
    seed = traitlets.Int(1, min=0, max=99).tag(sync=True, label="seed of the draws", step=1)
    b = traitlets.Float(0.3, min=-3.0, max=3.0).tag(sync=True)
    c = traitlets.Float(1.1, min=-3.0, max=3.0).tag(sync=True)
    d = traitlets.Float(0.6, min=0.05, max=3.0).tag(sync=True)

    @property
    def k(self) -> int:
        """K = 2^log2_k."""
        return 2**self.log2_k

    def model(self) -> ScalarANF:
        """The model of the present state."""
        return ScalarANF(self.a, self.b, self.c, self.d)

    def log_weights(self) -> Tensor:
        """The runs behind the picture, (1024, 40): each column is one run of K = 1, 2, ..."""
        e = normals(self.seed, REPEATS << DOUBLINGS).view(REPEATS, -1).T
        return self._weigh(torch.full_like(e, self.x), e)

    def compute(self) -> dict[str, float]:
        model, x = self.model(), torch.tensor([[self.x]], dtype=torch.float64)
        runs = LogWeights().add(self.log_weights()[: self.k]).bound()
        exact = quadrature(model.flow(), x)  # through the layers, not through the formulas
        log_prob = exact.log_p.item()
        gap_k = model.iw_gap(x, self.k).item()
        return {
            "log_prob": log_prob, "elbo": exact.elbo.item(), "gap": exact.gap.item(),
            "bound": runs.value[0].item(), "ess": runs.ess[0].item(),
            "mean": runs.value.mean().item(), "sd": runs.value.std().item(),
            "expected": log_prob - gap_k, "gap_k": gap_k, "infinite": model.tau2 >= 2,
            **self._sandwich(),
        }  # fmt: skip

    def _weigh(self, x: Tensor, e: Tensor) -> Tensor:
        """log w for x and e of one shape, through the layers of the flow."""
        joint = log_joint(self.model().flow(), x.reshape(-1, 1), e.reshape(-1, 1)).detach()
        return joint.view(e.shape) + 0.5 * (e * e + LOG_2PI)

    def _sandwich(self) -> dict[str, float]:
        """Means over the model's own samples, whose noise is an exact posterior draw.

        Below: K fresh draws. Above: the sample's own noise and K - 1 fresh draws.
        """
        flow, n = self.model().flow(), normals(self.seed + 1000, OWN * (2 + (1 << DOUBLINGS)))
        v = n[: 2 * OWN].view(2, OWN).T  # (y, z)
        for layer in reversed(list(flow.chain)[1:]):
            v = layer.inverse(v)[0].detach()
        x, own, fresh = v[:, 0], v[:, 1], n[2 * OWN :].view(OWN, -1).T[: self.k]
        below = self._weigh(x.expand_as(fresh), fresh)
        above = torch.cat([self._weigh(x, own)[None], below[:-1]])
        truth = self.model().log_prob(x)
        lower, upper = (LogWeights().add(w).bound().value for w in (below, above))
        return {
            "lower": lower.mean().item(), "truth": truth.mean().item(),
            "upper": upper.mean().item(),
            "lower_se": ((lower - truth).std() / math.sqrt(OWN)).item(),
            "upper_se": ((upper - truth).std() / math.sqrt(OWN)).item(),
        }  # fmt: skip

    def picture(self) -> Figure:
        from matplotlib.figure import Figure

        x = torch.tensor(self.x, dtype=torch.float64)
        log_r = self.log_weights() - self.model().log_prob(x)
        counts = [2**j for j in range(DOUBLINGS + 1)]
        runs = torch.stack([LogWeights().add(log_r[:k]).bound().value for k in counts])
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        low, high = (runs.quantile(p, dim=1) for p in (0.1, 0.9))
        left.fill_between(counts, low, high, color=plots.ORANGE, alpha=0.3, label="8 of 10 runs")
        left.plot(counts, runs[:, 0], "o-", ms=3, color=plots.ORANGE, label="one run")
        left.axhline(0.0, color=plots.BLUE, label="log p(x)")
        left.set(xscale="log", xlabel="samples K", ylabel="L_K - log p(x), nats")
        left.legend()
        bins, shown = torch.linspace(-10, 6, 33), log_r[:, 0].clamp(-10, 6)
        right.hist(shown, bins, weights=torch.full_like(shown, 1 / len(shown)),
                   color=plots.ORANGE, alpha=0.5, label="share of the draws")  # fmt: skip
        right.hist(shown, bins, weights=torch.softmax(log_r[:, 0], 0), histtype="step",
                   color=plots.BLUE, label="share of their weight")  # fmt: skip
        right.set(xlabel="log w - log p(x), 1024 draws")
        right.legend()
        return figure
