"""New items on their way into a ranker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError, NonFiniteError
from linkedout_lightning.serving.answers import check_histories
from linkedout_lightning.serving.items import Items
from linkedout_lightning.serving.newcomers import NewItemEncoder, NewItems
from linkedout_lightning.serving.table import VectorTable


def checked_ids(item_ids: Sequence[str]) -> list[str]:
    """Ids to add or remove, as a list.

    Raises:
        DataError: One is no text, empty or there twice.
    """
    check_histories([item_ids])
    ids = list(item_ids)
    if len(set(ids)) < len(ids) or "" in ids:
        raise DataError(
            f"{len(ids)} ids, {len(set(ids))} different ones; give each once, none empty"
        )
    return ids


def made_of(
    newcomers: NewItemEncoder | None,
    *,
    dim: int,
    vectors: Tensor | None,
    features: Tensor | None,
    mask: Tensor | None,
) -> NewItems:
    """Vectors of new items.

    Args:
        newcomers: What encodes features; None for models of ids.
        dim: H.
        vectors: ``(n, H)``, or
        features: ``(n, L, S, D)``.
        mask: ``(n, S)`` bool beside features.

    Raises:
        ConfigError: Neither or both are given, or nothing encodes features.
        DataError: A wrong shape.
        NonFiniteError: NaN or infinity.
    """
    if (vectors is None) == (features is None):
        raise ConfigError("give `vectors`, or `features` for the bundle to make vectors of")
    if vectors is None:
        assert features is not None
        if newcomers is None:
            raise ConfigError(
                "the bundle's model knows items by their ids alone and cannot encode new ones from "
                "features; give `vectors`, or export a model that reads features"
            )
        return newcomers.encode(features, mask)
    vectors = torch.as_tensor(vectors, dtype=torch.float32)
    if vectors.dim() != 2 or vectors.shape[1] != dim:
        raise DataError(f"`vectors` have shape {tuple(vectors.shape)}; expected (n, {dim})")
    if not bool(torch.isfinite(vectors).all()):
        raise NonFiniteError("`vectors` hold NaN or infinity")
    return NewItems(vectors, vectors)


def as_items(
    ids: list[str], made: NewItems, columns: Mapping[str, Sequence[str | None]], *, like: Items
) -> Items:
    """New items as a snapshot and a bundle hold them.

    Args:
        ids: ``n`` ids.
        made: Their vectors.
        columns: Texts by name, ``n`` each.
        like: Items whose dtype and extras they are to have.

    Raises:
        DataError: Vectors or columns of another length.
    """
    if len(made.vectors) != len(ids):
        raise DataError(f"{len(ids)} ids and {len(made.vectors)} rows; give one row an id")
    for name, column in columns.items():
        sound = not isinstance(column, str) and len(column) == len(ids)
        if not sound or not all(v is None or isinstance(v, str) for v in column):
            raise DataError(f"`columns` has {name!r} as {column!r}; give {len(ids)} texts")
    vectors = VectorTable.of(made.vectors, like.vectors.dtype)
    same = made.candidates is made.vectors and like.vectors is like.candidates
    return Items(
        ids,
        vectors,
        vectors if same else VectorTable.of(made.candidates, like.vectors.dtype),
        None,
        made.gates if like.gates is not None else None,
        made.experts if like.experts is not None else None,
        columns={name: list(column) for name, column in columns.items()},
    )
