"""Nearest neighbours by cosine, what two lists share, and whether neighbours are of one kind.

Letters: P items of the pool, Q queries, k neighbours, d size of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CELLS = 1 << 24
"""Cosines held at once."""


def nearest(vectors: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The items whose vectors point most nearly the same way, the query itself left out.

    Args:
        vectors: ``(P, d)``.
        queries: ``(Q,)`` int64 rows of it.
        k: From 1 to P - 1.

    Returns:
        ``(Q, k)`` int64 rows, nearest first, and their cosines.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [-1.0, 0.0]])
        >>> nearest(vectors, torch.tensor([0]), 2)[0]
        tensor([[2, 1]])
    """
    unit = torch.nn.functional.normalize(vectors.float(), dim=-1)
    rows, cosines = [], []
    step = max(1, _CELLS // len(unit))
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        cosine = unit[some] @ unit.T  # (q, P)
        cosine.scatter_(1, some.unsqueeze(1), -torch.inf)
        best = cosine.topk(k, dim=1)
        rows.append(best.indices)
        cosines.append(best.values)
    return torch.cat(rows), torch.cat(cosines)


def overlap(one: Tensor, other: Tensor) -> float:
    """Mean share of a list of k neighbours that stands in the other list too.

    Args:
        one: ``(Q, k)``, each row without repeats.
        other: ``(Q, k)`` for the same queries.

    Example:
        >>> overlap(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2, 9], [3, 4]]))
        0.75
    """
    shared = (one.unsqueeze(2) == other.unsqueeze(1)).any(2)
    return float(shared.double().mean())


def same_kind(lists: Tensor, queries: Tensor, kinds: Tensor) -> dict[str, float] | None:
    """Share of neighbours of the query's own category, among those that have one.

    Args:
        lists: ``(Q, k)`` rows of the pool.
        queries: ``(Q,)`` rows of the pool.
        kinds: ``(P,)`` int64, -1 for no category.

    Returns:
        ``share`` (mean over queries that have a category) with its standard error ``error``, and
        ``chance``, that share for items drawn at random; None where nothing can be counted.

    Example:
        >>> kinds = torch.tensor([0, 0, 1, 1])
        >>> same_kind(torch.tensor([[1, 2]]), torch.tensor([0]), kinds)["share"]
        0.5
    """
    mine, theirs = kinds[queries], kinds[lists]
    counted = theirs >= 0
    usable = (mine >= 0) & counted.any(1)
    if int(usable.sum()) < 1 or int((kinds >= 0).sum()) < 2:
        return None
    hits = ((theirs == mine.unsqueeze(1)) & counted).sum(1).double()
    shares = (hits / counted.sum(1).clamp(min=1))[usable]
    sizes = torch.bincount(kinds[kinds >= 0])
    chance = (sizes[mine[usable]] - 1).double().mean() / (sizes.sum() - 1)
    error = float(shares.std() / len(shares) ** 0.5) if len(shares) > 1 else 0.0
    return {"share": float(shares.mean()), "error": error, "chance": float(chance)}
