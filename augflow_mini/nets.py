"""Conditioner networks: ordinary networks that live inside couplings, free to be of any width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fused import BACK, IN_PLACE, watched
from .transform import checked_count


class MLP(nn.Module):
    """Fully connected network (B, inputs) -> (B, outputs).

    Args:
        inputs, outputs: widths; inputs may be 0 (then the output is a learned constant).
        hidden: widths of the hidden layers.
        activation: makes one activation module.
        last_gain: scale of the last layer's initial weights; 0 starts the coupling as the identity,
            1 keeps torch's initialisation. A zero start can sit on a plateau and ignore e.

    Raises:
        ValueError: a width is no whole number, or too small; the input's width is not `inputs`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        last_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.inputs = inputs = checked_count(inputs, "MLP: inputs", least=0)
        outputs = checked_count(outputs, "MLP: outputs")
        hidden = [checked_count(width, "MLP: a hidden width") for width in hidden]
        widths = [max(inputs, 1), *hidden]  # a constant 1 stands in for no inputs
        body: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            body += [nn.Linear(a, b), activation()]
        last = nn.Linear(widths[-1], outputs)
        with torch.no_grad():
            last.weight.mul_(last_gain)
            last.bias.mul_(last_gain)
        self.layers = nn.Sequential(*body, last)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.inputs:
            raise ValueError(
                f"MLP got an input of shape {tuple(x.shape)}, expected (B, {self.inputs}); check "
                "the coupling's reads= or build the network with that many inputs"
            )
        return run(self.layers, x if self.inputs else x.new_ones(x.shape[0], 1))

    def plain(self) -> tuple[list[Tensor], list[type]] | None:
        """Weights and activations, where all that happens here is products and these by turns."""
        layers = self._modules["layers"]
        if (
            type(self) is not MLP
            or MLP.forward is not FORWARD
            or "forward" in self.__dict__
            or self._compiled_call_impl is not None
            or watched(self)
            or watched(layers)
            or not self.inputs
            or len(layers._modules) % 2 == 0
        ):
            return None
        weights, activations = [], []
        for i, layer in enumerate(layers._modules.values()):
            if watched(layer):
                return None
            if i % 2:
                activations.append(type(layer))
                if type(layer) not in BACK:
                    return None
            elif is_product(layer):
                weights += [layer._parameters["weight"], layer._parameters["bias"]]
            else:
                return None
        return weights, activations


FORWARD = MLP.forward
PRODUCT = {"weight", "bias"}


def is_product(layer: nn.Module) -> bool:
    """Whether the layer is `F.linear` with its two parameters: not pruned, replicated or such."""
    return type(layer) is nn.Linear and layer._parameters.keys() == PRODUCT


def run(layers: nn.Sequential, h: Tensor) -> Tensor:
    """layers(h), but the plainest layers are written out: to call a module costs a small product.

    An activation right after such a product overwrites it: its gradient needs the result alone.
    """
    fresh = False
    for layer in layers._modules.values():
        heard = watched(layer)
        if not heard and is_product(layer):
            h, fresh = F.linear(h, layer._parameters["weight"], layer._parameters["bias"]), True
            continue
        kind = None if heard else type(layer)
        h = IN_PLACE[kind](h) if fresh and kind in IN_PLACE else layer(h)
        fresh = False
    return h


def count_parameters(module: nn.Module) -> int:
    """How many trainable numbers a module holds."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
