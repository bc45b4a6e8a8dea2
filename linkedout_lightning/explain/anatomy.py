"""What an encoder makes of each item on the way to its vector: tokens, experts, weights, parts.

Letters: N items, L layers, S slots, R whitened rank, H item vector size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from linkedout_lightning.encoders import LinkedOutItemEncoder
from linkedout_lightning.encoders.id_fusion import AddIDs, ConcatIDs, GateIDs
from linkedout_lightning.fusion.fusers import Fused


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """An encoder's items, taken apart. Row i is item index i + 1: there is no padding row.

    Attributes:
        vectors: ``(N, H)``, what the recommender sees.
        layers: Names of the L axis; empty for an encoder without layers.
        tokens: ``(L, N, R)``, whitened, the mean over an item's valid slots.
        experts: ``(L, N, H)``, each layer's expert.
        weights: ``(N, L)``, the gate; None where the fuser has none.
        content: ``(N, H)``, the fused layers before an ID joins.
        ids: ``(N, H)``, the ID vector that joins.
        parts: ``content`` and ``ids`` as they stand in ``vectors``: the two add up to it, but for a
            constant.
    """

    vectors: Tensor
    layers: tuple[int, ...] = ()
    tokens: Tensor | None = None
    experts: Tensor | None = None
    weights: Tensor | None = None
    content: Tensor | None = None
    ids: Tensor | None = None
    parts: tuple[Tensor, Tensor] | None = None


@torch.no_grad()
def dissect(encoder: nn.Module) -> Anatomy:
    """Encode the whole catalogue and keep what passes between the encoder's parts.

    Args:
        encoder: An item encoder, in evaluation mode.

    Example:
        >>> encoder = LinkedOutItemEncoder.from_features(torch.randn(9, 3, 2, 8), dim=4, rank=8)
        >>> anatomy = dissect(encoder.eval())
        >>> anatomy.experts.shape, anatomy.weights.shape, anatomy.vectors.shape
        (torch.Size([3, 9, 4]), torch.Size([9, 3]), torch.Size([9, 4]))
    """
    if not isinstance(encoder, LinkedOutItemEncoder):
        return Anatomy(vectors=_rows(encoder.all_items()))  # type: ignore[operator]
    tokens: list[Tensor] = []
    experts: list[Tensor] = []
    fused: list[Fused] = []
    joined: list[tuple[Tensor, Tensor]] = []

    def at_compressor(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        tokens.append(_over_slots(*inputs))

    def at_fuser(_: nn.Module, inputs: tuple[Tensor], output: Fused) -> None:
        experts.append(inputs[0])
        fused.append(output)

    def at_ids(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        joined.append(inputs)

    with _hooks() as hooks:
        hooks.append(encoder.compressor.register_forward_pre_hook(at_compressor))
        hooks.append(encoder.fuser.register_forward_hook(at_fuser))
        if encoder.id_fusion is not None:
            hooks.append(encoder.id_fusion.register_forward_pre_hook(at_ids))
        vectors = _rows(encoder.all_items())
    content = torch.cat([part.vectors for part in fused]) * encoder.scale
    weights = [part.weights for part in fused if part.weights is not None]
    ids = joined[0][1] if joined else None
    whole = len(weights) == len(fused)
    return Anatomy(
        vectors=vectors,
        layers=encoder.layers,
        tokens=torch.cat(tokens, dim=1).cpu(),
        experts=torch.cat(experts, dim=1).cpu() if whole else None,
        weights=torch.cat(weights).cpu() if whole else None,
        content=content.cpu(),
        ids=None if ids is None else ids.cpu(),
        parts=None if ids is None else _parts(encoder.id_fusion, content, ids),
    )


def _parts(fusion: nn.Module | None, content: Tensor, ids: Tensor) -> tuple[Tensor, Tensor] | None:
    """What content and ID each bring to the item vector, before the output's norm."""
    if isinstance(fusion, AddIDs):
        return content.cpu(), ids.cpu()
    if isinstance(fusion, ConcatIDs):
        of_content, of_ids = fusion.linear.weight.chunk(2, dim=1)
        return (content @ of_content.T).cpu(), (ids @ of_ids.T).cpu()
    if isinstance(fusion, GateIDs):
        gate = torch.sigmoid(fusion.linear(torch.cat([content, ids], dim=-1)))
        return ((1 - gate) * content).cpu(), (gate * ids).cpu()
    return None


def _over_slots(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """``(L, n, S, R)`` to ``(L, n, R)``; masked slots are zero already."""
    if mask is None:
        return tokens.mean(2)
    return tokens.sum(2) / mask.sum(1).clamp(min=1).to(tokens.dtype)[:, None]


def _rows(table: Tensor) -> Tensor:
    return table[1:].detach().cpu()


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    placed: list[Any] = []
    try:
        yield placed
    finally:
        for hook in placed:
            hook.remove()
