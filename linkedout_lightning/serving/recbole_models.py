"""RecBole's SASRec and GRU4Rec without RecBole, for bundles that serve what it trained.

The modules have RecBole's parameter names, so that its weights load, and this package's surface:
left-padded item vectors in, states out. RecBole pads on the right and counts positions from the
first item; so do these, by the mask.

``B`` batch, ``M`` sequence length, ``H`` item dim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linkedout_lightning.errors import ConfigError

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class RecBoleSASRec(nn.Module):
    """RecBole's SASRec after its item table.

    Args:
        dim: H.
        max_len: Longest input.
        n_layers: Transformer layers.
        n_heads: Attention heads.
        inner_size: Width of the feed-forward layers.
        hidden_act: Their activation: gelu, relu, swish, tanh or sigmoid.
        layer_norm_eps: Of every layer normalisation.

    Raises:
        ConfigError: An unknown activation.
    """

    def __init__(
        self,
        dim: int,
        *,
        max_len: int,
        n_layers: int,
        n_heads: int,
        inner_size: int,
        hidden_act: str,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        if hidden_act not in _ACTIVATIONS:
            raise ConfigError(
                f"`hidden_act` is {hidden_act!r}; give one of {', '.join(_ACTIVATIONS)}"
            )
        self.max_len = max_len
        self.position_embedding = nn.Embedding(max_len, dim)
        self.trm_encoder = nn.Module()
        self.trm_encoder.layer = nn.ModuleList(
            _Layer(dim, n_heads, inner_size, hidden_act, layer_norm_eps) for _ in range(n_layers)
        )
        self.LayerNorm = nn.LayerNorm(dim, eps=layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, M, H)`` left-padded and ``(B, M)`` bool to states ``(B, M, H)``."""
        positions = (mask.long().cumsum(1) - 1).clamp(0, self.max_len - 1)
        hidden: Tensor = self.LayerNorm(x + self.position_embedding(positions))
        length = x.shape[1]
        order = torch.ones(length, length, dtype=torch.bool, device=x.device)
        # A padded query sees itself alone: a row without a key would be NaN.
        allowed = (order.tril() & mask[:, None, None, :]) | torch.eye(
            length, dtype=torch.bool, device=x.device
        )
        for layer in self.trm_encoder.layer:  # type: ignore[union-attr]
            hidden = layer(hidden, allowed)
        return hidden * mask[..., None]


class _Layer(nn.Module):
    def __init__(self, dim: int, heads: int, inner: int, activation: str, eps: float) -> None:
        super().__init__()
        self.multi_head_attention = _Attention(dim, heads, eps)
        self.feed_forward = _FeedForward(dim, inner, activation, eps)

    def forward(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        attended: Tensor = self.feed_forward(self.multi_head_attention(hidden, allowed))
        return attended


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.dense = nn.Linear(dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)

    def forward(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        query, key, value = (
            part(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )  # (B, heads, M, H / heads)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        joined = self.dense(attended.transpose(1, 2).flatten(-2))
        normed: Tensor = self.LayerNorm(joined + hidden)
        return normed


class _FeedForward(nn.Module):
    def __init__(self, dim: int, inner: int, activation: str, eps: float) -> None:
        super().__init__()
        self.dense_1, self.dense_2 = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(
            self.dense_2(self.activation(self.dense_1(hidden))) + hidden
        )
        return normed


class RecBoleGRU4Rec(nn.Module):
    """RecBole's GRU4Rec after its item table.

    Args:
        dim: H.
        hidden_size: Of the recurrent state.
        num_layers: Recurrent layers.
    """

    def __init__(self, dim: int, *, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.gru_layers = nn.GRU(dim, hidden_size, num_layers, bias=False, batch_first=True)
        self.dense = nn.Linear(hidden_size, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, M, H)`` left-padded and ``(B, M)`` bool to states ``(B, M, H)``."""
        # Without biases a zero input on a zero state stays zero, so that padding leaves no trace.
        states, _ = self.gru_layers(x * mask[..., None])
        projected: Tensor = self.dense(states)
        return projected * mask[..., None]
