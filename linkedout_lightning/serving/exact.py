"""The best items by dot product, exactly, in one pass over the catalogue.

Scores are made for a chunk of the catalogue at a time, so that they are still in the cache when
the best of them are picked, and never stand in memory for all items; after the first chunk, most
chunks hold nothing better than what was found, which one look at their maximum shows. What remains
is reading the vectors: the floor of an exact search is their bytes over the memory's bandwidth.

``B`` queries, ``n`` items, ``H`` item dim.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from linkedout_lightning.serving.table import VectorTable

_CELLS = 1 << 19
_SMALLEST = 1 << 12
# Numbers made float32 at a time: 4 MiB stay in the cache.
_CONVERTED = 1 << 20


class Index(Protocol):
    """Finds the best items; the exact search and faiss' are the two that there are."""

    @property
    def kind(self) -> str:
        """Its name, as :meth:`Ranker.load` takes it."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that it holds beside the items' own vectors."""
        ...

    def search(self, queries: Tensor, k: int, *, banned: Tensor) -> tuple[Tensor, Tensor]:
        """The best items for each query.

        Args:
            queries: ``(B, H)`` float32.
            k: How many.
            banned: Rows that must not come, ascending.

        Returns:
            Scores ``(B, k')`` float32, descending, and rows ``(B, k')``; k' is at most k, and where
            fewer are left the score is −inf.
        """
        ...

    def after(self, table: VectorTable, kept: Tensor) -> Index:
        """The index of other items, made with as little work as that takes.

        Args:
            table: The items' vectors.
            kept: The rows of the present items that begin ``table``, in that order.
        """
        ...


class ExactIndex:
    """Looks at every item.

    Args:
        table: The items' vectors.
    """

    kind = "exact"
    nbytes = 0

    def __init__(self, table: VectorTable) -> None:
        self._table = table

    def search(self, queries: Tensor, k: int, *, banned: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`Index` has it."""
        return top_k(self._table, queries, k, banned=banned)

    def after(self, table: VectorTable, kept: Tensor) -> ExactIndex:
        """As :class:`Index` has it."""
        del kept
        return ExactIndex(table)


def top_k(
    table: VectorTable,
    queries: Tensor,
    k: int,
    *,
    banned: Tensor | None = None,
    factor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The exact best items for each query.

    Args:
        table: ``n`` vectors.
        queries: ``(B, H)`` float32.
        k: How many.
        banned: Rows that must not come, ascending.
        factor: ``(n,)`` to multiply scores with, such as the inverse lengths of the vectors.

    Returns:
        Scores ``(B, min(k, n))`` descending and rows; −inf where fewer are left.
    """
    size = len(table)
    k = min(k, size)
    chunk = max(_SMALLEST, _CELLS // max(len(queries), 1))
    if table.dtype != "float32":
        chunk = min(chunk, max(1, _CONVERTED // table.values.shape[1]))
    best: Tensor | None = None
    rows = torch.empty(0, dtype=torch.long)
    for start in range(0, size, chunk):
        stop = min(start + chunk, size)
        scores = table.scores(queries, start, stop)  # (B, chunk)
        if factor is not None:
            scores = scores * factor[start:stop]
        if banned is not None and len(banned):
            low, high = torch.searchsorted(banned, torch.tensor([start, stop])).tolist()
            if high > low:
                scores.index_fill_(1, banned[low:high] - start, -torch.inf)
        if best is not None and best.shape[1] == k:
            better = scores.amax(1) > best[:, -1]
            if not bool(better.any()):
                continue
        found, place = scores.topk(min(k, stop - start), dim=1)
        if best is None:
            best, rows = found, place + start
            continue
        both = torch.cat([best, found], 1)
        best, order = both.topk(min(k, both.shape[1]), dim=1)
        rows = torch.cat([rows, place + start], 1).gather(1, order)
    assert best is not None
    return best, rows
