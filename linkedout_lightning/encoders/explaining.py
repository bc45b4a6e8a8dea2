"""What each layer adds to an item's vector, for people to look at.

Letters: n items, L layers, S slots, D LLM hidden size, H item vector size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from linkedout_lightning.encoders.linkedout import LinkedOutItemEncoder
from linkedout_lightning.encoders.sources import StoreSpecLike


class Explained(NamedTuple):
    """Items layer by layer.

    Attributes:
        gates: ``(n, L)`` share of each layer, rows sum to 1; None for fusers without such shares.
        experts: ``(n, L, H)`` the item as each layer's expert alone sees it; None where all layers
            are one vector from the start.
    """

    gates: Tensor | None
    experts: Tensor | None


def feature_spec(encoder: LinkedOutItemEncoder) -> StoreSpecLike:
    """The specification of the features that an encoder reads."""
    return encoder._table.source.spec


@torch.no_grad()
def explain(encoder: LinkedOutItemEncoder) -> Explained:
    """All items of the catalogue, ``n`` = N, in its order and without padding."""
    frozen, parts = encoder._table.tokens(encoder.whitening), []
    for start in range(1, encoder.num_items + 1, encoder.chunk_items):
        stop = min(start + encoder.chunk_items, encoder.num_items + 1)
        tokens, mask = frozen.span(start, stop, encoder.scale.device, encoder.scale.dtype)
        parts.append(_explained(encoder, tokens, mask))
    return _joined(parts)


@torch.no_grad()
def explain_features(
    encoder: LinkedOutItemEncoder, features: Tensor, mask: Tensor | None = None
) -> Explained:
    """Items by their features, as ``encode_features`` takes them.

    Args:
        encoder: The encoder, with the statistics of a training.
        features: ``(n, L, S, D)`` with all the layers of the store.
        mask: ``(n, S)`` bool; None: every slot is valid.
    """
    features = encoder._table.source.select(features)
    if mask is None:
        mask = torch.ones(len(features), len(encoder.slots), dtype=torch.bool)
    return _explained(encoder, encoder.whitening(features, mask), mask)


def _explained(encoder: LinkedOutItemEncoder, tokens: Tensor, mask: Tensor | None) -> Explained:
    experts = encoder.compressor(tokens, mask)  # (L, n, H)
    if len(experts) != len(encoder.layers):
        return Explained(None, None)
    return Explained(encoder.fuser(experts).weights, experts.transpose(0, 1))


def _joined(parts: list[Explained]) -> Explained:
    gates = [part.gates for part in parts if part.gates is not None]
    experts = [part.experts for part in parts if part.experts is not None]
    return Explained(torch.cat(gates) if gates else None, torch.cat(experts) if experts else None)
