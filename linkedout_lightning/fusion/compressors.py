r"""Layer Token Compressor Experts: the S tokens of a layer become one vector.

Each layer has weights of its own; all layers are computed in one batched product. Letters: L
layers, B items, S slots, R whitened rank, K queries, H item vector size. Every compressor maps
``tokens (L, B, S, R)`` and ``mask (B, S)`` (or None: every slot is valid) to ``(L, B, H)``.

What stands in a masked slot has no influence as long as it is finite. An item without any valid
slot gets a learned vector of its layer, made of the biases, the same in training and evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.fusion.stacked import StackedLinear, StackedMLP

COMPRESSORS = ("latent", "mlp", "mean")


class TokenProjection(nn.Module):
    r"""Whitened tokens to width H: :math:`y_{l,s} = \mathrm{LN}(W_l z_{l,s} + t_{l,s})`.

    The LayerNorm has no scale and shift of its own: a linear map follows in every compressor.
    """

    def __init__(self, *, layers: int, slots: int, features: int, dim: int) -> None:
        super().__init__()
        self.linear = StackedLinear(layers, features, dim, bias=False)
        self.slot = nn.Parameter(torch.randn(layers, slots, dim) * 0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(L, B, S, R)`` to ``(L, B, S, H)``."""
        layers, batch, slots, _ = tokens.shape
        y = self.linear(tokens.flatten(1, 2))
        # Sizes and no -1: there may be no item at all.
        y = y.view(layers, batch, slots, y.shape[-1]) + self.slot.unsqueeze(1)
        return nn.functional.layer_norm(y, y.shape[-1:])


class LatentCompressor(nn.Module):
    r"""``K`` learned queries attend over the valid tokens, an MLP mixes what they found.

    :math:`c_{l,k} = \sum_s \mathrm{softmax}_s(q_{l,k}^T y_{l,s}/\sqrt H)\, y_{l,s}`,
    :math:`e_l = \frac1K\sum_k c_{l,k} + \mathrm{MLP}_l([c_{l,1}; …; c_{l,K}])`. Key and value
    projections would change nothing: a learned query takes in the one, the MLP's first map the
    other. The linear path beside the MLP keeps ``e_l`` as isotropic as the tokens are (SpecTran,
    arXiv 2601.21986, finds that plain adapters collapse).

    Args:
        layers: L.
        slots: S.
        features: R.
        dim: H.
        queries: K.
        hidden: Width of the MLP, by default H.
        dropout: Dropout in the MLP.

    Example:
        >>> expert = LatentCompressor(layers=3, slots=2, features=16, dim=8)
        >>> expert(torch.randn(3, 5, 2, 16), torch.ones(5, 2, dtype=torch.bool)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        features: int,
        dim: int,
        queries: int = 2,
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if queries < 1:
            raise ConfigError(f"`queries` is {queries}; give at least 1")
        self.project = TokenProjection(layers=layers, slots=slots, features=features, dim=dim)
        self.query = nn.Parameter(torch.randn(layers, dim, queries))
        self.mlp = StackedMLP(layers, queries * dim, hidden or dim, dim, dropout=dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(L, B, S, R)`` to ``(L, B, H)``; see the module's text."""
        y = self.project(tokens)  # (L, B, S, H)
        layers, batch, slots, dim = y.shape
        scores = torch.bmm(y.flatten(1, 2), self.query / math.sqrt(dim))
        scores = scores.view(layers, batch, slots, scores.shape[-1])
        if mask is None:
            weights = scores.softmax(2)
        else:
            valid = mask[None, :, :, None]
            # The lowest finite number and not -inf: a fully masked row would become NaN, and the
            # product with `valid` then makes its pooled vectors exactly zero.
            lowest = torch.finfo(scores.dtype).min
            weights = scores.masked_fill(~valid, lowest).softmax(2) * valid
        pooled = weights.transpose(2, 3) @ y  # (L, B, K, H)
        mixed: Tensor = self.mlp(pooled.flatten(2))
        e: Tensor = pooled.mean(2) + mixed
        return e


class PairCompressor(nn.Module):
    r"""An old and a new group of tokens compared: :math:`\mathrm{MLP}([o; n; |o-n|; o\odot n])`.

    ``o`` and ``n`` are the means of the groups' valid projected tokens (zero for a group that has
    none). As in :class:`LatentCompressor` a linear path, the mean of the groups that are there,
    runs beside the MLP. In the paper's reading *old* are the prefill tokens of a layer and *new*
    the generated ones.

    Args:
        layers: L.
        slots: S.
        features: R.
        dim: H.
        old: Slot indices of the old group.
        new: Slot indices of the new group.
        hidden: Width of the MLP, by default H.
        dropout: Dropout in the MLP.

    Raises:
        ConfigError: A group is empty, overlaps the other, or names a slot that is not there.
    """

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        features: int,
        dim: int,
        old: Sequence[int],
        new: Sequence[int],
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        legal = set(range(slots))
        if not old or not new or set(old) & set(new) or not {*old, *new} <= legal:
            raise ConfigError(
                f"the groups of the compressor 'mlp' are old={list(old)} and new={list(new)}; give "
                f"two non-empty groups of different slots from 0 to {slots - 1}, or take the "
                "compressor 'latent' or 'mean'"
            )
        self.old, self.new = tuple(old), tuple(new)
        self.project = TokenProjection(layers=layers, slots=slots, features=features, dim=dim)
        self.mlp = StackedMLP(layers, 4 * dim, hidden or dim, dim, dropout=dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(L, B, S, R)`` to ``(L, B, H)``; see the module's text."""
        y = self.project(tokens)  # (L, B, S, H)
        member = y.new_zeros(2, y.shape[2])
        member[0, list(self.old)] = 1
        member[1, list(self.new)] = 1
        member = member if mask is None else member * mask.unsqueeze(1)  # (2, S) or (B, 2, S)
        count = member.sum(-1, keepdim=True)
        groups = (member / count.clamp(min=1)) @ y  # (L, B, 2, H)
        old, new = groups.unbind(2)
        mixed: Tensor = self.mlp(torch.cat([old, new, (old - new).abs(), old * new], dim=-1))
        present = (count > 0).sum(-2).clamp(min=1)  # (1,) or (B, 1)
        e: Tensor = groups.sum(2) / present + mixed
        return e


class MeanCompressor(nn.Module):
    r"""The plain adapter :math:`e_l = W_l\,\mathrm{mean}_s z_{l,s} + b_l`.

    Args:
        layers: L.
        features: R.
        dim: H.
        dropout: Dropout of the result.
    """

    def __init__(self, *, layers: int, features: int, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = StackedLinear(layers, features, dim)
        self.dropout = dropout

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(L, B, S, R)`` to ``(L, B, H)``; see the module's text."""
        if mask is None:
            pooled = tokens.mean(2)
        else:
            weights = mask / mask.sum(-1, keepdim=True).clamp(min=1)  # (B, S)
            pooled = (tokens * weights.to(tokens.dtype).unsqueeze(-1)).sum(2)
        e: Tensor = self.linear(pooled)
        return nn.functional.dropout(e, self.dropout, self.training) if self.dropout else e


def build_compressor(
    name: str,
    *,
    layers: int,
    slots: int,
    features: int,
    dim: int,
    queries: int = 2,
    old: Sequence[int] = (),
    new: Sequence[int] = (),
    hidden: int | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """The compressor of that name; arguments that it has no use for are ignored.

    Args:
        name: ``latent``, ``mlp`` or ``mean``.
        layers: L.
        slots: S.
        features: R.
        dim: H.
        queries: K, for ``latent``.
        old: Slot indices of the old group, for ``mlp``.
        new: Slot indices of the new group, for ``mlp``.
        hidden: Width of the MLP, by default H.
        dropout: Dropout inside the experts.

    Raises:
        ConfigError: An unknown name, or an argument that the compressor refuses.
    """
    if name == "latent":
        return LatentCompressor(
            layers=layers, slots=slots, features=features, dim=dim,
            queries=queries, hidden=hidden, dropout=dropout,
        )  # fmt: skip
    if name == "mlp":
        return PairCompressor(
            layers=layers, slots=slots, features=features, dim=dim,
            old=old, new=new, hidden=hidden, dropout=dropout,
        )  # fmt: skip
    if name == "mean":
        return MeanCompressor(layers=layers, features=features, dim=dim, dropout=dropout)
    raise ConfigError(f"`compressor` is {name!r}; give one of {', '.join(COMPRESSORS)}")
