"""Items as a snapshot holds them: ids, vectors, and what else is known of each.

``n`` items, ``L`` layers, ``H`` item dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from linkedout_lightning.serving.table import VectorTable


@dataclass(frozen=True, eq=False)
class Items:
    """Some items, never changed once made.

    Args:
        ids: ``n`` ids, each once.
        vectors: What a history's items are to the sequence encoder.
        candidates: What a user's state is multiplied with; the same object where there is no
            difference.
        popularity: ``(n,)`` share of the training interactions, or None.
        gates: ``(n, L)`` weight of each layer in an item's content, or None.
        experts: ``(n, L, H)`` an item as each layer alone sees it, or None.
        columns: Texts by name, ``n`` each; None where an item has none.
    """

    ids: Sequence[str]
    vectors: VectorTable
    candidates: VectorTable
    popularity: Tensor | None = None
    gates: Tensor | None = None
    experts: Tensor | None = None
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each id."""
        return {item: row for row, item in enumerate(self.ids)}

    @cached_property
    def inverse_norms(self) -> Tensor:
        """``(n,)`` one over the length of each candidate vector, 0 for a zero vector."""
        parts = [
            self.candidates.span(start, start + 65_536).norm(dim=1)
            for start in range(0, len(self), 65_536)
        ]
        norms = torch.cat(parts)
        return torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))

    @cached_property
    def popular(self) -> Tensor | None:
        """Rows by popularity, the most popular first; None where it is not known."""
        if self.popularity is None:
            return None
        return self.popularity.argsort(descending=True, stable=True)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        tables = [self.vectors, *([] if self.vectors is self.candidates else [self.candidates])]
        extra = (self.popularity, self.gates, self.experts)
        return sum(t.nbytes for t in tables) + sum(t.nbytes for t in extra if t is not None)

    def as_dtype(self, dtype: str) -> Items:
        """The same items with vectors of another dtype."""
        if dtype == self.vectors.dtype:
            return self
        vectors = VectorTable.of(self.vectors.all(), dtype)
        same = self.vectors is self.candidates
        candidates = vectors if same else VectorTable.of(self.candidates.all(), dtype)
        return Items(
            self.ids, vectors, candidates, self.popularity, self.gates, self.experts, self.columns
        )

    def kept(self, rows: Tensor) -> Items:
        """Some of the items, in new memory."""
        chosen = rows.tolist()
        vectors = self.vectors.kept(rows)
        return Items(
            [self.ids[row] for row in chosen],
            vectors,
            vectors if self.vectors is self.candidates else self.candidates.kept(rows),
            *_picked(rows, self.popularity, self.gates, self.experts),
            columns={name: [v[row] for row in chosen] for name, v in self.columns.items()},
        )

    def joined(self, other: Items) -> Items:
        """These items and then others, in new memory."""
        vectors = self.vectors.joined(other.vectors)
        same = self.vectors is self.candidates and other.vectors is other.candidates
        names = [*self.columns, *(name for name in other.columns if name not in self.columns)]
        return Items(
            [*self.ids, *other.ids],
            vectors,
            vectors if same else self.candidates.joined(other.candidates),
            _joined(self.popularity, other.popularity, len(self), len(other), fill=0.0),
            _joined(self.gates, other.gates, len(self), len(other), fill=float("nan")),
            _joined(self.experts, other.experts, len(self), len(other), fill=0.0),
            columns={
                name: [
                    *self.columns.get(name, [None] * len(self)),
                    *other.columns.get(name, [None] * len(other)),
                ]
                for name in names
            },
        )


def _picked(
    rows: Tensor, popularity: Tensor | None, gates: Tensor | None, experts: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    first, second, third = (
        None if extra is None else extra.index_select(0, rows)
        for extra in (popularity, gates, experts)
    )
    return first, second, third


def _joined(
    first: Tensor | None, second: Tensor | None, n: int, m: int, *, fill: float
) -> Tensor | None:
    """Both, one below the other; rows that one side does not know hold ``fill``."""
    known = first if first is not None else second
    if known is None:
        return None
    sides = [
        known.new_full((count, *known.shape[1:]), fill) if side is None else side
        for side, count in ((first, n), (second, m))
    ]
    return torch.cat(sides)
