"""One state of a ranker: model and items, never changed once a reader can see it.

A change makes a new snapshot that shares everything large with the old one. Items that were added
since the last merge stand in a small second part, searched exactly beside the first; a removed item
of the first part is banned from its answers.

``B`` users, ``M`` inputs, ``H`` item dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from linkedout_lightning.serving.exact import ExactIndex, Index, top_k
from linkedout_lightning.serving.items import Items
from linkedout_lightning.serving.newcomers import NewItemEncoder
from linkedout_lightning.serving.table import VectorTable

Encode = Callable[[Tensor, Tensor], Tensor]
"""Item vectors ``(B, M, H)``, left-padded, and mask ``(B, M)`` to user states ``(B, H)``."""

_NONE = torch.empty(0, dtype=torch.long)
_MERGE_SHARE, _MERGE_LEAST = 0.05, 4096


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that an answer needs. A row is an item's place: first those of ``base``.

    Args:
        fingerprint: Of the bundle.
        encode: The sequence encoder.
        max_len: Longest input, M.
        newcomers: Makes vectors of new items; None for models of ids.
        base: The items that the index knows.
        index: Over ``base``.
        added: Items that came since, or None.
        removed: Rows of ``base`` that are gone, ascending.
    """

    fingerprint: str
    encode: Encode
    max_len: int
    newcomers: NewItemEncoder | None
    base: Items
    index: Index
    added: Items | None = None
    removed: Tensor = _NONE

    def __len__(self) -> int:
        return len(self.base) - len(self.removed) + (len(self.added) if self.added else 0)

    @cached_property
    def _gone(self) -> frozenset[int]:
        return frozenset(self.removed.tolist())

    @property
    def parts(self) -> Iterator[tuple[int, Items]]:
        """The items with the row of their first."""
        yield 0, self.base
        if self.added is not None:
            yield len(self.base), self.added

    def row(self, item_id: str) -> int | None:
        """Row of an item; None if it is not there."""
        if self.added is not None and (row := self.added.row_of.get(item_id)) is not None:
            return len(self.base) + row
        row = self.base.row_of.get(item_id)
        return None if row is None or row in self._gone else row

    def place(self, row: int) -> tuple[Items, int]:
        """Where a row stands: the part, and the row in it."""
        if row < len(self.base):
            return self.base, row
        assert self.added is not None
        return self.added, row - len(self.base)

    def id_of(self, row: int) -> str:
        """Id of a row."""
        items, place = self.place(row)
        return items.ids[place]

    def item_ids(self) -> list[str]:
        """All ids."""
        gone = self._gone
        kept = [item for row, item in enumerate(self.base.ids) if row not in gone]
        return [*kept, *(self.added.ids if self.added is not None else ())]

    def take(self, rows: Tensor, *, candidates: bool = False) -> Tensor:
        """Vectors of rows, float32 ``(len(rows), H)``."""

        def of(items: Items, which: Tensor) -> Tensor:
            return (items.candidates if candidates else items.vectors).take(which)

        if self.added is None:
            return of(self.base, rows)
        first = rows < len(self.base)
        taken = of(self.base, torch.where(first, rows, 0))
        taken[~first] = of(self.added, rows[~first] - len(self.base))
        return taken

    def search(self, queries: Tensor, k: int, *, banned: Tensor) -> tuple[Tensor, Tensor]:
        """The best rows of all items.

        Args:
            queries: ``(B, H)``.
            k: How many.
            banned: Rows that must not come, ascending.

        Returns:
            Scores ``(B, k')``, descending, and rows; −inf where there is no item.
        """
        size = len(self.base)
        ours = banned[banned < size]
        if len(self.removed):
            ours = _ascending([*ours.tolist(), *self.removed.tolist()])
        scores, rows = self.index.search(queries, min(k, size), banned=ours)
        if self.added is None:
            return scores, rows
        more, places = ExactIndex(self.added.candidates).search(
            queries, min(k, len(self.added)), banned=banned[banned >= size] - size
        )
        both = torch.cat([scores, more], 1)
        best, order = both.topk(min(k, both.shape[1]), dim=1)
        return best, torch.cat([rows, places + size], 1).gather(1, order)

    def nearest(
        self, queries: Tensor, k: int, *, layer: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The rows of the largest cosines, exactly.

        Args:
            queries: ``(B, H)`` of length one.
            k: How many.
            layer: Place of a layer, to compare what it alone sees; None: the items' vectors.
        """
        found = []
        for start, items in self.parts:
            table, factor = items.candidates, items.inverse_norms
            if layer is not None:
                if items.experts is None:
                    continue
                seen = items.experts[:, layer].float()
                table = VectorTable(torch.nn.functional.normalize(seen, dim=1))
                factor = torch.ones(len(items))
            banned = self.removed if start == 0 else None
            scores, rows = top_k(table, queries, k, banned=banned, factor=factor)
            found.append((scores, rows + start))
        scores, rows = (torch.cat(column, 1) for column in zip(*found, strict=True))
        best, order = scores.topk(min(k, scores.shape[1]), dim=1)
        return best, rows.gather(1, order)

    # ---- other snapshots ------------------------------------------------------------------------

    def with_items(self, items: Items) -> Snapshot:
        """A snapshot with further items; those of the same id are replaced."""
        kept = self.without(items.ids)
        added = items if kept.added is None else kept.added.joined(items)
        changed = replace(kept, added=added)
        return changed.merged() if changed._too_many() else changed

    def without(self, item_ids: Sequence[str]) -> Snapshot:
        """A snapshot without some items; ids that are not there are passed over."""
        gone, base, added = set(item_ids), self.base, self.added
        rows = [row for i in gone if (row := base.row_of.get(i)) is not None]
        removed = _ascending([*self.removed.tolist(), *rows])
        if added is not None and any(item in added.row_of for item in gone):
            left = [row for row, item in enumerate(added.ids) if item not in gone]
            added = added.kept(torch.tensor(left, dtype=torch.long)) if left else None
        return replace(self, removed=removed, added=added)

    def merged(self) -> Snapshot:
        """The same items in one part, under a new index."""
        base, kept = self.base, torch.arange(len(self.base))
        if len(self.removed):
            stays = torch.ones(len(base), dtype=torch.bool)
            stays[self.removed] = False
            kept = stays.nonzero().flatten()
            base = base.kept(kept)
        if self.added is not None:
            base = base.joined(self.added)
        index = self.index.after(base.candidates, kept)
        return replace(self, base=base, index=index, added=None, removed=_NONE)

    def _too_many(self) -> bool:
        loose = len(self.removed) + (len(self.added) if self.added is not None else 0)
        return loose > max(_MERGE_LEAST, _MERGE_SHARE * len(self.base))


def _ascending(rows: list[int]) -> Tensor:
    return torch.tensor(sorted(set(rows)), dtype=torch.long)
