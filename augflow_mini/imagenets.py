"""Conditioner networks for images: gated convolutions with self-attention, wide residual networks.

Inside, tensors are (B, H, W, C): a 1x1 convolution is then a `Linear`, layer norm acts on the last
dimension, and the 3x3 convolutions see the channels-last layout that accelerators prefer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def concat_elu(x: Tensor) -> Tensor:
    """elu of (x, -x): twice the channels, and a gradient on both sides of 0."""
    return F.elu(torch.cat([x, -x], dim=-1))


class Pixelwise(nn.Linear):
    """A 1x1 convolution on (B, H, W, C), initialised so that unit inputs give deviation `gain`."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = 1.0) -> None:
        super().__init__(inputs, outputs)
        self.gain = gain
        nn.init.normal_(self.weight, std=gain / inputs**0.5)
        nn.init.zeros_(self.bias)


class Conv(nn.Conv2d):
    """A 3x3 convolution on (B, H, W, C), initialised as `Pixelwise`."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = 1.0) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.gain = gain
        nn.init.normal_(self.weight, std=gain / (9 * inputs) ** 0.5)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GatedConv(nn.Module):
    """x + a * sigmoid(b), (a, b) = two convolutions of concat_elu(x).

    Args:
        filters: width F.
        context: width of a second input that is added after the first convolution, or 0.
        wide: make the second convolution 3x3 too, not 1x1.
        dropout: probability of dropping a feature between the two.
    """

    def __init__(
        self, filters: int, *, context: int = 0, wide: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.first = Conv(2 * filters, filters)
        self.from_context = Pixelwise(2 * context, filters) if context else None
        self.second = (Conv if wide else Pixelwise)(2 * filters, 2 * filters, gain=0.1)
        self.dropout = dropout

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(concat_elu(x))
        if self.from_context is not None:
            h = h + self.from_context(concat_elu(context))
        h = F.dropout(concat_elu(h), self.dropout, self.training)
        return x + F.glu(self.second(h), dim=-1)


class GatedAttention(nn.Module):
    """x + a * sigmoid(b), (a, b) = multi-head self-attention over the positions of x."""

    def __init__(self, filters: int, *, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        if filters % heads:
            raise ValueError(
                f"GatedAttention: {filters} filters cannot be shared by {heads} heads; choose a "
                f"multiple of {heads}"
            )
        self.heads, self.dropout = heads, dropout
        self.query_key_value = Pixelwise(filters, 3 * filters)
        self.out = Pixelwise(filters, 2 * filters, gain=0.1)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        h = self.query_key_value(x + position)  # (B, H, W, 3 F)
        h = h.flatten(1, 2).unflatten(2, (3, self.heads, -1))  # (B, T, 3, heads, F / heads)
        seen = F.scaled_dot_product_attention(
            *h.permute(2, 0, 3, 1, 4)
        )  # (B, heads, T, F / heads)
        seen = seen.transpose(1, 2).reshape(x.shape)
        return x + F.glu(self.out(F.dropout(seen, self.dropout, self.training)), dim=-1)


class GatedBlock(nn.Module):
    """One block of Flow++'s conditioner: gated convolution, norm, gated attention, norm."""

    def __init__(self, filters: int, *, heads: int, context: int, dropout: float) -> None:
        super().__init__()
        self.conv = GatedConv(filters, context=context, dropout=dropout)
        self.norm1 = nn.LayerNorm(filters)
        self.attention = GatedAttention(filters, heads=heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(filters)

    def forward(self, x: Tensor, position: Tensor, context: Tensor | None) -> Tensor:
        x = self.norm1(self.conv(x, context))
        return self.norm2(self.attention(x, position))


class GatedAttentionNet(nn.Module):
    """Flow++'s conditioner (B, inputs + context, H, W) -> (B, outputs, H, W).

    Args:
        inputs, outputs: channels.
        size: (H, W); each position has a learned embedding.
        filters: width F, a multiple of `heads`.
        blocks: how many `GatedBlock`s.
        context: the last `context` input channels are shown to each block anew.
        last_gain: deviation of the outputs at the start; 0 starts the coupling at its simplest.

    Ho et al. 2019, Flow++, section 3.3.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: tuple[int, int],
        filters: int = 96,
        blocks: int = 10,
        heads: int = 4,
        context: int = 0,
        dropout: float = 0.0,
        last_gain: float = 0.1,
    ) -> None:
        super().__init__()
        self.inputs, self.context = inputs, context
        self.position = nn.Parameter(0.01 * torch.randn(*size, filters))
        self.first = Conv(inputs, filters)
        self.blocks = nn.ModuleList(
            GatedBlock(filters, heads=heads, context=context, dropout=dropout)
            for _ in range(blocks)
        )
        self.last = Conv(filters, outputs, gain=last_gain)

    def forward(self, x: Tensor) -> Tensor:
        h = x.permute(0, 2, 3, 1)
        context = None
        if self.context:
            h, context = h.split([self.inputs, self.context], dim=-1)
        h = self.first(h)
        for block in self.blocks:
            h = block(h, self.position, context)
        return self.last(h).permute(0, 3, 1, 2)


class ContextNet(nn.Module):
    """Features of an image for the couplings of q: (B, inputs, H, W) -> (B, filters, H, W).

    Args:
        levels: the input holds integers 0 .. levels - 1, to be scaled to [-1/2, 1/2); None for
            inputs of moderate size.
    """

    def __init__(
        self,
        inputs: int,
        *,
        filters: int = 32,
        blocks: int = 3,
        levels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.levels = levels
        self.first = Conv(inputs, filters)
        self.blocks = nn.Sequential(
            *[GatedConv(filters, wide=True, dropout=dropout) for _ in range(blocks)]
        )

    def forward(self, x: Tensor) -> Tensor:
        h = x.permute(0, 2, 3, 1)
        if self.levels is not None:
            h = h / self.levels - 0.5
        return self.blocks(self.first(h)).permute(0, 3, 1, 2)


class WideResidualNet(nn.Module):
    """Pre-activation residual network (B, inputs, H, W) -> (B, outputs, H, W).

    Args:
        filters: width of the blocks.  blocks: how many, two 3x3 convolutions each.
        last_gain: deviation of the outputs at the start.

    Zagoruyko & Komodakis 2016, Wide Residual Networks; with layer norm, so that rows of a batch
    stay independent.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        filters: int = 64,
        blocks: int = 2,
        last_gain: float = 0.1,
    ) -> None:
        super().__init__()
        self.first = Conv(inputs, filters)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(filters), nn.ReLU(), Conv(filters, filters, gain=2**0.5),
                nn.LayerNorm(filters), nn.ReLU(), Conv(filters, filters, gain=0.1),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.norm = nn.LayerNorm(filters)
        self.last = Conv(filters, outputs, gain=last_gain)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.permute(0, 2, 3, 1))
        for block in self.blocks:
            h = h + block(h)
        return self.last(F.relu(self.norm(h))).permute(0, 3, 1, 2)


class ConvNet(nn.Module):
    """Glow's conditioner: 3x3, 1x1 and 3x3 convolutions (B, inputs, H, W) -> (B, outputs, H, W).

    Kingma & Dhariwal 2018, Glow, section 5.
    """

    def __init__(
        self, inputs: int, outputs: int, *, filters: int = 64, last_gain: float = 0.0
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv(inputs, filters, gain=2**0.5), nn.ReLU(),
            Pixelwise(filters, filters, gain=2**0.5), nn.ReLU(),
            Conv(filters, outputs, gain=last_gain),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@torch.no_grad()
def data_init(model: nn.Module, x: Tensor) -> None:
    """Scale every convolution so that on x its outputs have mean 0 and deviation `gain`.

    One forward pass of `model` in training mode; `ActNorm`s initialise themselves on the way.
    Flow++ and VFlow start so (after Salimans & Kingma 2016, Weight Normalization, section 3).

    Args:
        model: called as `model(x)`; for a `Flow` give its `chain`.
        x: a batch of data, the larger the better.
    """

    def rescale(layer: Pixelwise | Conv, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        flat = out.float().flatten(0, -2)
        scale = layer.gain / (flat.std(0) + 1e-6)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)).to(layer.weight.dtype))
        layer.bias.sub_(flat.mean(0).to(layer.bias.dtype)).mul_(scale.to(layer.bias.dtype))
        return ((out.float() - flat.mean(0)) * scale).to(out.dtype)

    hooks = [
        layer.register_forward_hook(rescale)
        for layer in model.modules()
        if isinstance(layer, (Pixelwise, Conv)) and layer.gain > 0
    ]
    training = model.training
    try:
        model.train()(x)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
