"""A stack of linear maps, one a layer, applied in one batched matrix product."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """``x[l] @ weight[l] + bias[l]`` for all layers at once.

    Args:
        layers: L.
        inputs: Width of the input.
        outputs: Width of the output.
        bias: Whether to add one.
        gain: Standard deviation of an output for inputs of unit variance, at the start.

    Example:
        >>> StackedLinear(3, 8, 4)(torch.zeros(3, 10, 8)).shape
        torch.Size([3, 10, 4])
    """

    def __init__(
        self, layers: int, inputs: int, outputs: int, *, bias: bool = True, gain: float = 1.0
    ) -> None:
        super().__init__()
        std = gain / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(layers, inputs, outputs) * std)
        # Not zero: an item without any token is encoded from biases alone, and the LayerNorm of a
        # zero vector would multiply its gradient by 1/sqrt(eps).
        self.bias = nn.Parameter(torch.randn(layers, outputs) * 0.1) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """``(L, B, inputs)`` to ``(L, B, outputs)``."""
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class StackedMLP(nn.Module):
    """Linear, GELU, dropout, linear, for each layer with its own weights.

    Args:
        layers: L.
        inputs: Width of the input.
        hidden: Width between the two maps.
        outputs: Width of the output.
        dropout: Share of hidden units dropped in training.
    """

    def __init__(
        self, layers: int, inputs: int, hidden: int, outputs: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.inner = StackedLinear(layers, inputs, hidden)
        # A GELU's mean is not zero, and neither is |o - n|: what comes out has a part that is the
        # same for all items. Small at first, it leaves the linear path beside it isotropic.
        self.outer = StackedLinear(layers, hidden, outputs, gain=0.25)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """``(L, B, inputs)`` to ``(L, B, outputs)``."""
        x = nn.functional.gelu(self.inner(x))
        if self.dropout:
            x = nn.functional.dropout(x, self.dropout, self.training)
        y: Tensor = self.outer(x)
        return y
