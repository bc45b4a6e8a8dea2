"""Sets of vectors that an item has one of each: raw, whitened, an expert's, fused, ID, final.

Letters: N items, L layers, S slots, D LLM hidden size, Q queries, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.encoders.sources import FeatureStoreLike
from linkedout_lightning.explain.anatomy import Anatomy
from linkedout_lightning.explain.groups import Groups
from linkedout_lightning.explain.neighbours import nearest, same_kind
from linkedout_lightning.explain.vectors import describe
from linkedout_lightning.inspection.statistics import pooled

_CHUNK = 2048
KIND_LABELS = {"content": "fused", "id": "ID part", "item": "item vector"}


@dataclass(frozen=True)
class Space:
    """A set of vectors.

    Attributes:
        key: Unique among an encoder's spaces, such as ``expert/8``.
        label: For people.
        vectors: ``(N, d)``.
        of_ids: Whether only items with an ID of their own have one.
    """

    key: str
    label: str
    vectors: Tensor
    of_ids: bool = False


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Which items are compared with which.

    Attributes:
        pool: ``(P,)`` int64 catalogue positions, the items that may be neighbours.
        drawn: ``(Q,)`` positions in the pool whose lists are compared.
        shown: Positions in the pool whose lists are shown.
        kinds: ``(P,)`` int64 category of each, -1 for none.
        k: Length of the lists.
    """

    pool: Tensor
    drawn: Tensor
    shown: Tensor
    kinds: Tensor
    k: int


@dataclass(frozen=True)
class Examined:
    """What remains of a space when its vectors are gone.

    Attributes:
        space: Key and label; its vectors are empty.
        figures: From :func:`~linkedout_lightning.explain.vectors.describe`.
        lists: ``(Q, k)`` positions in the pool, of the drawn items.
        shown: Likewise of the shown ones, with their cosines.
        same_kind: Share of neighbours of the same category.
    """

    space: Space
    figures: dict[str, Any]
    lists: Tensor
    shown: tuple[Tensor, Tensor]
    same_kind: dict[str, float] | None


def frozen_spaces(
    store: FeatureStoreLike, item_ids: Sequence[str], layers: Sequence[int], present: Tensor
) -> Iterator[Space]:
    """The raw features of each layer, the mean over an item's valid slots.

    Args:
        store: The features.
        item_ids: The catalogue.
        layers: Names of the layers, each once.
        present: ``(N,)`` bool, items that the store has; the others get zeros.
    """
    rows = present.nonzero()[:, 0]
    pieces: list[Tensor] = []
    for start in range(0, len(rows), _CHUNK):
        ids = [item_ids[row] for row in rows[start : start + _CHUNK].tolist()]
        features, mask = store.get(ids)
        pieces.append(pooled(features, mask).to(features.dtype))
    whole = torch.cat(pieces)  # (n, L, D) in the store's own type
    stored = list(store.spec.layers)
    for layer in layers:
        vectors = torch.zeros(len(item_ids), whole.shape[-1])
        vectors[rows] = whole[:, stored.index(layer)].float()
        yield Space(f"raw/{layer}", f"layer {layer}, raw", vectors)


def whitened_spaces(anatomy: Anatomy) -> Iterator[Space]:
    """The same after whitening."""
    if anatomy.tokens is not None and _distinct(anatomy.layers):
        for layer, tokens in zip(anatomy.layers, anatomy.tokens, strict=True):
            yield Space(f"white/{layer}", f"layer {layer}, whitened", tokens)


def trained_spaces(anatomy: Anatomy) -> Iterator[Space]:
    """What training made: experts by layer, the fused vector, the ID that joins, the result."""
    if anatomy.experts is not None and _distinct(anatomy.layers) and len(anatomy.layers) > 1:
        for layer, expert in zip(anatomy.layers, anatomy.experts, strict=True):
            yield Space(f"expert/{layer}", f"layer {layer}, expert", expert)
    if anatomy.content is not None:
        yield Space("content", KIND_LABELS["content"], anatomy.content)
    if anatomy.ids is not None:
        yield Space("id", KIND_LABELS["id"], anatomy.ids, of_ids=True)
    if anatomy.content is None:
        yield Space("item", KIND_LABELS["item"], anatomy.vectors, of_ids=True)
    elif anatomy.ids is not None:
        yield Space("item", KIND_LABELS["item"], anatomy.vectors)


def examine(space: Space, groups: Groups, sample: Sample, valid: Tensor, warm: Tensor) -> Examined:
    """Figures and neighbours of a space.

    Args:
        space: The vectors.
        groups: Groups for the norms.
        sample: Which items are compared.
        valid: ``(N,)`` bool, items that have features.
        warm: ``(N,)`` bool, items that training saw.
    """
    queries = torch.cat([sample.drawn, sample.shown])
    lists, cosines = nearest(space.vectors[sample.pool], queries, sample.k)
    drawn = len(sample.drawn)
    figures = describe(space.vectors, groups.members, warm if space.of_ids else valid)
    if space.of_ids:
        # What an item without an ID shows instead is of interest by its length.
        figures["norms"] = describe(space.vectors, groups.members, valid)["norms"]
    return Examined(
        Space(space.key, space.label, space.vectors[:0], space.of_ids),
        figures,
        lists[:drawn],
        (lists[drawn:], cosines[drawn:]),
        same_kind(lists[:drawn], sample.drawn, sample.kinds),
    )


def mean_figures(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same figures, each the mean over seeds.

    Example:
        >>> mean_figures([{"a": 1.0, "b": [2.0, None]}, {"a": 3.0, "b": [4.0, None]}])
        {'a': 2.0, 'b': [3.0, None]}
    """

    def mean(values: Sequence[Any]) -> Any:
        if isinstance(values[0], (list, tuple)):
            return [mean(column) for column in zip(*values, strict=True)]
        if any(value is None for value in values):
            return None
        return values[0] if len(set(values)) == 1 else sum(values) / len(values)

    return {name: mean([one[name] for one in figures]) for name in figures[0]}


def _distinct(layers: Sequence[int]) -> bool:
    return len(set(layers)) == len(layers)
