"""Tests of the tests: layers with one fault each, and why the checker rejects each of them.

The sound layer is z = (x + shift) * exp(log_s) with a log-scale for each feature, or one that a
network reads off the first feature; each mutant changes one line of it.
"""

import pytest
import torch
from torch import nn

from augflow_mini import (
    MLP,
    Inverse,
    Transform,
    check_transform,
    randomise,
)

F64 = torch.float64


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


class Sound(Transform):
    """Scale and shift each feature; every mutant below overrides a piece of it."""

    def __init__(self):
        super().__init__()
        self.log_s = nn.Parameter(torch.zeros(3))
        self.shift = nn.Parameter(torch.zeros(3))

    def contrib(self, x):
        return self.log_s.sum().expand(x.shape[0])

    def forward(self, x):
        return (x + self.shift) * self.log_s.exp(), self.contrib(x)

    def inverse(self, z):
        return z * torch.exp(-self.log_s) - self.shift, -self.contrib(z)


class SoundCoupling(Transform):
    """The first feature scales the others."""

    def __init__(self):
        super().__init__()
        self.net = MLP(1, 2, hidden=(8,), activation=nn.Tanh)

    def forward(self, x):
        log_s = self.net(x[:, :1])
        return torch.cat([x[:, :1], x[:, 1:] * log_s.exp()], 1), log_s.sum(1)

    def inverse(self, z):
        log_s = self.net(z[:, :1])
        return torch.cat([z[:, :1], z[:, 1:] * torch.exp(-log_s)], 1), -log_s.sum(1)


class SignFlipped(Sound):
    def contrib(self, x):
        return -super().contrib(x)


class SignFlippedForward(Sound):
    def forward(self, x):
        z, contrib = super().forward(x)
        return z, -contrib


class SignNotTurnedInInverse(Sound):
    def inverse(self, z):
        x, contrib = super().inverse(z)
        return x, -contrib


class Doubled(Sound):
    def contrib(self, x):
        return 2 * super().contrib(x)


class DoubledForward(Sound):
    def forward(self, x):
        z, contrib = super().forward(x)
        return z, 2 * contrib


class DoubledInverse(Sound):
    def inverse(self, z):
        x, contrib = super().inverse(z)
        return x, 2 * contrib


class ZeroOnInverse(Sound):
    def inverse(self, z):
        x, contrib = super().inverse(z)
        return x, torch.zeros_like(contrib)


class ZeroBothWays(Sound):
    def contrib(self, x):
        return x.new_zeros(x.shape[0])


class MeanForSum(Sound):
    def contrib(self, x):
        return self.log_s.mean().expand(x.shape[0])


class ForgotPositions(Sound):
    """On images every position counts."""

    def forward(self, x):
        z, contrib = super().forward(x.transpose(1, -1))
        return z.transpose(1, -1), contrib

    def inverse(self, z):
        x, contrib = super().inverse(z.transpose(1, -1))
        return x.transpose(1, -1), contrib


class ScalarContribution(Sound):
    def contrib(self, x):
        return self.log_s.sum()


class ColumnContribution(Sound):
    def contrib(self, x):
        return self.log_s.sum().expand(x.shape[0], 1)


class ContributionForEachFeature(Sound):
    def contrib(self, x):
        return self.log_s.expand(x.shape[0], 3)


class ColumnOnInverse(Sound):
    def inverse(self, z):
        x, contrib = super().inverse(z)
        return x, contrib[:, None]


class Float32Contribution(Sound):
    def contrib(self, x):
        return super().contrib(x).float()


class Float32Inverse(Sound):
    def inverse(self, z):
        x, contrib = super().inverse(z)
        return x.float(), contrib


class Float32Inside(Sound):
    """Computes in float32 and hides it."""

    def forward(self, x):
        return super().forward(x)[0].float().to(x.dtype), self.contrib(x)


class Float64Accumulator(Sound):
    def contrib(self, x):
        return super().contrib(x) + torch.zeros(x.shape[0], dtype=F64)


class Float64AccumulatorInInverse(Sound):
    def inverse(self, z):
        x, contrib = super().inverse(z)
        return x, contrib.double()


class CentredByTheBatch(Sound):
    """Invertible as a map of batches, and no function of a row."""

    def forward(self, x):
        z, contrib = super().forward(x)
        return z + z.mean(0), contrib + 3 * torch.tensor(2.0, dtype=x.dtype).log()

    def inverse(self, z):
        x, contrib = super().inverse(z - z.mean(0) / 2)
        return x, contrib - 3 * torch.tensor(2.0, dtype=z.dtype).log()


class ContributionOfTheWholeBatch(SoundCoupling):
    def forward(self, x):
        z, contrib = super().forward(x)
        return z, contrib.mean().expand(x.shape[0])

    def inverse(self, z):
        x, contrib = super().inverse(z)
        return x, contrib.mean().expand(z.shape[0])


class FollowsThePosition(Sound):
    def forward(self, x):
        z, contrib = super().forward(x)
        return z + torch.arange(len(x), dtype=x.dtype)[:, None], contrib

    def inverse(self, z):
        return super().inverse(z - torch.arange(len(z), dtype=z.dtype)[:, None])


class TiltedContribution(Sound):
    def contrib(self, x):
        return super().contrib(x) + 1e-3 * torch.arange(len(x), dtype=x.dtype)


class SlightlyWrongInverse(Sound):
    def inverse(self, z):
        x, contrib = super().inverse(z)
        return x * (1 + 1e-6), contrib


class SeesWhatItWrites(SoundCoupling):
    """The network reads the second feature, which it changes."""

    def forward(self, x):
        log_s = self.net(x[:, 1:2])
        return torch.cat([x[:, :1], x[:, 1:] * log_s.exp()], 1), log_s.sum(1)


class HiddenNoise(Sound):
    def forward(self, x):
        z, contrib = super().forward(x)
        return z + 0.01 * torch.randn_like(z), contrib


class RemembersForward(SoundCoupling):
    """The inverse answers with what forward saw last."""

    def forward(self, x):
        z, contrib = super().forward(x)
        object.__setattr__(self, "seen", [contrib])
        return z, contrib

    def inverse(self, z):
        x, contrib = super().inverse(z)
        seen = self.seen[0]
        return x, -seen[: len(z)] if len(seen) >= len(z) else contrib


class ChangesItsInput(Sound):
    def forward(self, x):
        contrib = self.contrib(x)
        return x.add_(self.shift.detach()) * self.log_s.exp(), contrib


class ChangesItsInputInInverse(Sound):
    def inverse(self, z):
        contrib = self.contrib(z)
        with torch.no_grad():
            return z.mul_(torch.exp(-self.log_s)) - self.shift, -contrib


class StateInAnAttribute(Sound):
    def __init__(self):
        super().__init__()
        self.extra = torch.ones(3, dtype=F64)

    def forward(self, x):
        z, contrib = super().forward(x)
        return z + self.extra, contrib

    def inverse(self, z):
        return super().inverse(z - self.extra)


class StateInATransientBuffer(Sound):
    def __init__(self):
        super().__init__()
        self.register_buffer("extra", torch.ones(3), persistent=False)

    def forward(self, x):
        z, contrib = super().forward(x)
        return z + self.extra, contrib

    def inverse(self, z):
        return super().inverse(z - self.extra)


class DeadParameter(Sound):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(3))


class DetachedParameter(Sound):
    def forward(self, x):
        return (x + self.shift.detach()) * self.log_s.exp(), self.contrib(x)


class DetachedContribution(Sound):
    """Right in value: only training would notice."""

    def contrib(self, x):
        return super().contrib(x).detach()


class DetachedScale(SoundCoupling):
    def forward(self, x):
        log_s = self.net(x[:, :1])
        return torch.cat([x[:, :1], x[:, 1:] * log_s.detach().exp()], 1), log_s.sum(1)


class NotFinite(Sound):
    def contrib(self, x):
        return super().contrib(x) + (x[:, 0] * 0).log()


class NoRepr(Sound):
    def extra_repr(self):
        raise AssertionError("extra_repr is broken")


ROUND_TRIP = r"inverse\(forward\(x\)\) is not x"
SIGN_LAW = "inverse does not contribute minus"
JACOBIAN = r"contribution differs from autograd's log\|det\|"
MUTANTS = {
    SignFlipped: JACOBIAN,
    SignFlippedForward: SIGN_LAW,
    SignNotTurnedInInverse: SIGN_LAW,
    Doubled: JACOBIAN,
    DoubledForward: SIGN_LAW,
    DoubledInverse: SIGN_LAW,
    ZeroOnInverse: SIGN_LAW,
    ZeroBothWays: JACOBIAN,
    MeanForSum: JACOBIAN,
    ScalarContribution: r"contribution has shape \(\), expected \(5,\)",
    ColumnContribution: r"contribution has shape \(5, 1\), expected \(5,\)",
    ContributionForEachFeature: r"contribution has shape \(5, 3\), expected \(5,\)",
    ColumnOnInverse: "inverse contribution is not one for each row",
    Float32Contribution: "dtype changed",
    Float32Inverse: "dtype changed in the inverse",
    Float32Inside: ROUND_TRIP,
    Float64Accumulator: "float32 does not stay float32",
    Float64AccumulatorInInverse: "float32 does not stay float32",
    CentredByTheBatch: "a batch of one gives another result",
    ContributionOfTheWholeBatch: JACOBIAN,
    FollowsThePosition: "rows of the batch are not independent",
    TiltedContribution: JACOBIAN,
    SlightlyWrongInverse: ROUND_TRIP,
    SeesWhatItWrites: ROUND_TRIP,
    HiddenNoise: ROUND_TRIP,
    RemembersForward: "not a function of its own row",
    ChangesItsInput: "forward changed its input",
    ChangesItsInputInInverse: "inverse changed its input",
    StateInAnAttribute: "state_dict does not carry extra",
    StateInATransientBuffer: "state_dict does not carry everything",
    DeadParameter: "no gradient reaches unused",
    DetachedParameter: "no gradient reaches shift",
    DetachedContribution: "gradient of the contributions",
    DetachedScale: "gradient of the values",
    NotFinite: "non-finite output",
    NoRepr: "extra_repr is broken",
}


def checked(layer, *shape):
    x = torch.randn(*(shape or (5, 3)), dtype=F64)
    check_transform(randomise(layer.double(), seed=0), x)


@pytest.mark.parametrize("sound", [Sound, SoundCoupling])
def test_the_sound_layers_pass(sound):
    checked(sound())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_the_checker_rejects_the_mutant_and_says_why(mutant):
    with pytest.raises(AssertionError, match=MUTANTS[mutant]):
        checked(mutant())


@pytest.mark.parametrize(
    "mutant", [m for m in MUTANTS if m is not RemembersForward], ids=lambda m: m.__name__
)
def test_the_mutant_is_found_behind_an_inverse_too(mutant):
    with pytest.raises(AssertionError):
        checked(Inverse(mutant()))


def test_positions_are_counted_on_images():
    with pytest.raises(AssertionError, match=JACOBIAN):
        checked(ForgotPositions(), 3, 3, 2, 2)
