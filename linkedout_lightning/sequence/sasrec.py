"""SASRec as MicroLens builds it: post-norm blocks, causal, read from the right end.

Kang and McAuley, *Self-Attentive Sequential Recommendation*, ICDM 2018; the block, the missing
biases of the attention and the initialisation are those of MicroLens' published code.

``B`` batch, ``M`` sequence length, ``P`` real positions, ``H`` item dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.sequence.packing import Packing

_NORM_EPS = 1e-6  # as in MicroLens' code; torch's default is 1e-5


class SASRec(nn.Module):
    """Causal self-attention over a user's items.

    ``torch.nn.TransformerEncoder`` is avoided on purpose: in ``eval()`` it takes a fused path
    that treats fully masked rows differently from training. Here both modes run the same code.
    Positions are counted from the right end, where left-padded sequences are aligned, so trimming
    padding changes nothing.

    Args:
        dim: Size of item vectors and states, ``H``.
        max_len: Longest input, ``M``.
        blocks: Transformer blocks.
        heads: Attention heads; must divide ``dim``.
        dropout: On the input, the attention weights and both residual branches.
        dense: Compute padded positions too, which makes the module traceable.

    Example:
        >>> model = SASRec(8, max_len=4)
        >>> x, mask = torch.randn(2, 3, 8), torch.tensor([[False, True, True], [True] * 3])
        >>> model(x, mask).shape, model.last_state(x, mask).shape
        (torch.Size([2, 3, 8]), torch.Size([2, 8]))
    """

    def __init__(
        self,
        dim: int,
        *,
        max_len: int,
        blocks: int = 2,
        heads: int = 2,
        dropout: float = 0.1,
        dense: bool = False,
    ) -> None:
        super().__init__()
        if dim < 1 or max_len < 1 or blocks < 1:
            raise ConfigError(
                f"`dim`, `max_len` and `blocks` must be positive, got {dim}, {max_len}, {blocks}"
            )
        if heads < 1 or dim % heads:
            raise ConfigError(f"`heads` must divide `dim` = {dim}, got {heads}")
        self.dim, self.max_len, self.dense = dim, max_len, dense
        self.positions = nn.Parameter(torch.empty(max_len, dim))
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout) for _ in range(blocks))
        nn.init.xavier_normal_(self.positions)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States at every position.

        Args:
            x: ``(B, M, H)`` item vectors, left-padded.
            mask: ``(B, M)`` bool, true at items.

        Returns:
            ``(B, M, H)``, zero at padding.

        Raises:
            DataError: The sequences are longer than ``max_len``.
        """
        packing, rows = self._embed(x, mask)
        for block in self.blocks:
            rows = block(rows, packing)
        return packing.unpack(rows) * mask[..., None]

    def last_state(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, H)``: the state of the last position, at about two thirds of the cost of all.

        The last block answers a single query a user; its keys and values still see every item.
        """
        packing, rows = self._embed(x, mask)
        for block in self.blocks[:-1]:
            rows = block(rows, packing)
        last: Tensor = self.blocks[-1](rows, packing, last_only=True)
        return last * mask[:, -1:]

    def _embed(self, x: Tensor, mask: Tensor) -> tuple[Packing, Tensor]:
        length = x.shape[1]
        if length > self.max_len:
            raise DataError(
                f"sequences of {length} items exceed max_len={self.max_len}; "
                "cut them to their last items, or build the model with a larger max_len"
            )
        packing = Packing(mask, dense=self.dense)
        rows = packing.pack(x + self.positions[self.max_len - length :])  # (P, H)
        return packing, self.dropout(self.norm(rows))


class _Block(nn.Module):
    """``LN(x + Attention(x))`` then ``LN(x + FFN(x))``, on packed rows."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dim, self.heads, self.p = dim, heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.attention_norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.expand = nn.Linear(dim, 4 * dim)
        self.shrink = nn.Linear(4 * dim, dim)
        self.output_norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        for weight in (*self.qkv.weight.chunk(3), self.out.weight):
            nn.init.xavier_normal_(weight)
        for layer in (self.expand, self.shrink):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, rows: Tensor, packing: Packing, last_only: bool = False) -> Tensor:
        if last_only:
            q_weight, kv_weight = self.qkv.weight[: self.dim], self.qkv.weight[self.dim :]
            key, value = packing.unpack(F.linear(rows, kv_weight)).chunk(2, -1)  # (B, M, H) each
            rows = packing.unpack(rows)[:, -1]  # (B, H)
            query = F.linear(rows, q_weight)[:, None]  # (B, 1, H)
            attended = self._attend(query, key, value, _last_mask(packing.mask)).squeeze(1)
        else:
            query, key, value = packing.unpack(self.qkv(rows)).chunk(3, -1)  # (B, M, H) each
            attended = packing.pack(self._attend(query, key, value, _causal_mask(packing.mask)))
        rows = self.attention_norm(rows + self.dropout(self.out(attended)))
        hidden: Tensor = self.shrink(F.relu(self.expand(rows)))
        output: Tensor = self.output_norm(rows + self.dropout(hidden))
        return output

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        query, key, value = (
            t.view(*t.shape[:2], self.heads, self.dim // self.heads).transpose(1, 2)
            for t in (query, key, value)
        )  # (B, heads, Q or M, H / heads)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, dropout_p=self.p if self.training else 0.0
        )
        return attended.transpose(1, 2).flatten(-2)


def _causal_mask(mask: Tensor) -> Tensor:
    """``(B, 1, M, M)`` bool. Every query sees itself: a row without a key would be NaN."""
    length = mask.shape[1]
    order = torch.ones(length, length, dtype=torch.bool, device=mask.device)
    return (order.tril() & mask[:, None, None, :]) | torch.eye(
        length, dtype=torch.bool, device=mask.device
    )


def _last_mask(mask: Tensor) -> Tensor:
    """``(B, 1, 1, M)`` bool: the last row of :func:`_causal_mask`."""
    itself = torch.zeros(mask.shape[1], dtype=torch.bool, device=mask.device)
    itself[-1] = True
    return (mask | itself)[:, None, None, :]
