"""NextItNet as MicroLens builds it: causal dilated convolutions in residual blocks.

Yuan et al., *A Simple Convolutional Generative Network for Next Item Recommendation*, WSDM 2019
(arXiv 1808.05163), with the residual block of its figure 3 (b); dilations 1 and 4, kernel 3 and
no map after the last block are those of MicroLens.

``B`` batch, ``M`` sequence length, ``P`` real positions, ``H`` item dim, ``K`` kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.sequence.packing import Packing

_NORM_EPS = 1e-8  # as in the authors' code; torch's default is 1e-5


class NextItNet(nn.Module):
    """A convolutional network over a user's items.

    A block of dilation d convolves at d and at 2d, so the dilations 1 and 4 give a stack of 1, 2,
    4, 8, which sees 31 items; a state sees no item after its own. What stands before the first
    item is zero in every layer, however far a sequence is padded: in the published code the biases
    make something of padding, and a state depends on how long the longest of the batch is.

    Args:
        dim: Size of item vectors and of the states given back, ``H``.
        blocks: How often the dilations are gone through; each time a residual block a dilation.
        dilations: Dilation of each residual block's first convolution.
        kernel: Items that a convolution joins, ``K``.
        dropout: On the input, as in :class:`~linkedout_lightning.sequence.GRU4Rec`.
        dense: Compute padded positions too, which makes the module traceable.

    Example:
        >>> x, mask = torch.randn(2, 3, 8), torch.tensor([[False, True, True], [True] * 3])
        >>> NextItNet(8)(x, mask).shape
        torch.Size([2, 3, 8])
    """

    def __init__(
        self,
        dim: int,
        *,
        blocks: int = 2,
        dilations: Sequence[int] = (1, 4),
        kernel: int = 3,
        dropout: float = 0.1,
        dense: bool = False,
    ) -> None:
        super().__init__()
        if dim < 1 or blocks < 1 or kernel < 1:
            raise ConfigError(
                f"`dim`, `blocks` and `kernel` must be positive, got {dim}, {blocks}, {kernel}"
            )
        if not dilations or min(dilations) < 1:
            raise ConfigError(f"`dilations` is {list(dilations)}; give one or more from 1")
        self.dim, self.dense = dim, dense
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            _Block(dim, kernel, dilation) for _ in range(blocks) for dilation in dilations
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States at every position.

        Args:
            x: ``(B, M, H)`` item vectors, left-padded.
            mask: ``(B, M)`` bool, true at items.

        Returns:
            ``(B, M, H)``, zero at padding.
        """
        packing = Packing(mask, dense=self.dense)
        rows = packing.pack(self.dropout(x))  # (P, H)
        for block in self.blocks:
            rows = block(rows, packing)
        return packing.unpack(rows) * mask[..., None]


class _Block(nn.Module):
    """``x + ReLU(LN(conv(ReLU(LN(conv(x))))))``, on packed rows."""

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.first = _CausalConv(dim, kernel, dilation)
        self.first_norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.second = _CausalConv(dim, kernel, 2 * dilation)
        self.second_norm = nn.LayerNorm(dim, eps=_NORM_EPS)

    def forward(self, rows: Tensor, packing: Packing) -> Tensor:
        inner = F.relu(self.first_norm(self.first(rows, packing)))
        added = F.relu(self.second_norm(self.second(inner, packing)))
        return rows + added


class _CausalConv(nn.Module):
    """A dilated convolution as one product over each real position and those before it.

    Sequences here are short and half padding: a product over packed rows skips the padding, and
    the lags that reach before every sequence's start are left out of it.
    """

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.dim, self.kernel, self.dilation = dim, kernel, dilation
        bound = (kernel * dim) ** -0.5  # torch's own start of a convolution
        # Columns k * H to (k + 1) * H belong to the item k * dilation positions before.
        self.weight = nn.Parameter(torch.empty(dim, kernel * dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))

    def forward(self, rows: Tensor, packing: Packing) -> Tensor:
        padded = packing.unpack(rows) * packing.mask[..., None]  # (B, M, H), zero at padding
        length = padded.shape[1]
        lags = range(0, min(self.kernel * self.dilation, max(length, 1)), self.dilation)
        earlier = [F.pad(padded, (0, 0, lag, 0))[:, :length] for lag in lags]
        inputs = packing.pack(torch.cat(earlier, dim=-1))  # (P, lags * H)
        return F.linear(inputs, self.weight[:, : inputs.shape[1]], self.bias)
