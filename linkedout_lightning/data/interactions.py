"""All interactions as three index tensors, sorted by user and time.

``E`` rows, ``U`` users, ``N`` items. Every step below is one sort or one gather over the whole
set; nothing iterates over users.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from linkedout_lightning.data.readers import RawInteractions, time_values
from linkedout_lightning.data.report import DataReport
from linkedout_lightning.errors import ConfigError, DataError

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Who met what and when.

    Attributes:
        user_index: ``(E,)`` int64 in ``0..U-1``, ascending.
        item_index: ``(E,)`` int64 in ``1..N``; 0 is left for padding.
        timestamp: ``(E,)`` int64 or float64, ascending within a user; ties keep the source's order.
        user_ids: User ids by index.
        item_ids: Item ids; item index ``i`` is ``item_ids[i - 1]``.
        has_time: False where the source gave an order and no time; ``timestamp`` then counts rows.
        report: What was read and what was changed.
    """

    user_index: Tensor
    item_index: Tensor
    timestamp: Tensor
    user_ids: list[str]
    item_ids: list[str]
    has_time: bool
    report: DataReport

    @classmethod
    def from_raw(cls, raw: RawInteractions, *, duplicates: str = "drop") -> Interactions:
        """Index, sort and count what a reader gave.

        Users and items are numbered in the order in which the source first names them.

        Args:
            raw: Columns from :func:`~linkedout_lightning.data.readers.read_interactions`.
            duplicates: ``"drop"`` or ``"keep"`` rows whose user, item and time
                an earlier row has.

        Raises:
            DataError: Nothing is left.
        """
        if duplicates not in ("drop", "keep"):
            raise ConfigError(f"`duplicates` is {duplicates!r}; give 'drop' or 'keep'")
        rows_read = len(raw.user)
        has_time = raw.time is not None
        time = time_values(raw.time, raw.source) if has_time else np.arange(rows_read)
        present = _present(raw.user) & _present(raw.item) & np.isfinite(time)
        user, user_ids = _encode(raw.user, present)
        item, item_ids = _encode(raw.item, present)
        time = time[present]
        if not len(user):
            raise DataError(
                f"{raw.source} holds no usable interaction ({rows_read} rows, "
                f"{rows_read - len(user)} of them with an empty user, item or time)"
            )

        by_user = np.argsort(user, kind="stable")
        step_back = np.diff(time[by_user]) < 0
        unsorted = int((step_back & (np.diff(user[by_user]) == 0)).sum())
        order = np.lexsort((time, user))  # stable, so ties keep their order
        first = _first_occurrence(user, item, time)
        report = DataReport(
            source=raw.source,
            rows_read=rows_read,
            missing_values=rows_read - len(user),
            duplicates=int((~first).sum()),
            duplicates_dropped=duplicates == "drop",
            repeats=int(first.sum()) - len(np.unique(user * (len(item_ids) + 1) + item)),
            unsorted=unsorted,
        )
        if duplicates == "drop":
            order = order[first[order]]
        return cls(
            user_index=torch.from_numpy(user[order]),
            item_index=torch.from_numpy(item[order] + 1),
            timestamp=torch.from_numpy(time[order]),
            user_ids=user_ids,
            item_ids=item_ids,
            has_time=has_time,
            report=replace(report, users=len(user_ids), items=len(item_ids), rows=len(order)),
        )

    def __len__(self) -> int:
        return len(self.user_index)

    @property
    def num_users(self) -> int:
        """``U``."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """``N``."""
        return len(self.item_ids)

    def lengths(self) -> Tensor:
        """``(U,)`` rows of each user."""
        return torch.bincount(self.user_index, minlength=self.num_users)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """``(U,)`` first row of each user, and ``(U,)`` the row after the last."""
        stop = self.lengths().cumsum(0)
        return stop - self.lengths(), stop

    def prepared(self, *, min_len: int = 1, keep_last: int | None = None) -> Interactions:
        """Without users of fewer than ``min_len`` rows, with the latest ``keep_last`` of the rest.

        Items that no longer occur leave the catalogue. The report counts all of it.

        Raises:
            DataError: No user is long enough.
        """
        if min_len < 1 or (keep_last is not None and keep_last < min_len):
            raise ConfigError(
                f"`min_len` must be at least 1 and at most `keep_last`, got {min_len}, {keep_last}"
            )
        lengths = self.lengths()
        _, stop = self.bounds()
        long_enough = (lengths >= min_len)[self.user_index]
        from_end = stop[self.user_index] - torch.arange(len(self))
        recent = torch.ones_like(long_enough) if keep_last is None else from_end <= keep_last
        kept = self._select(long_enough & recent)
        return replace(
            kept,
            report=replace(
                kept.report,
                short_users=int((lengths < min_len).sum()),
                short_user_rows=int((~long_enough).sum()),
                truncated_rows=int((long_enough & ~recent).sum()),
            ),
        )

    def _select(self, keep: Tensor) -> Interactions:
        """Rows where ``keep`` is set, users and items numbered anew in their old order."""
        if bool(keep.all()):
            return self
        if not bool(keep.any()):
            raise DataError(
                f"{self.report.source}: no user is long enough; the longest has "
                f"{int(self.lengths().max())} interactions. Give a smaller min_len"
            )
        users, user_index = torch.unique(self.user_index[keep], return_inverse=True)
        items, item_index = torch.unique(self.item_index[keep], return_inverse=True)
        return replace(
            self,
            user_index=user_index,
            item_index=item_index + 1,
            timestamp=self.timestamp[keep],
            user_ids=[self.user_ids[i] for i in users.tolist()],
            item_ids=[self.item_ids[i - 1] for i in items.tolist()],
            report=replace(
                self.report,
                users=len(users),
                items=len(items),
                rows=len(user_index),
                vanished_items=self.num_items - len(items),
            ),
        )


def _present(column: pa.Array) -> _Array:
    return np.asarray(pc.is_valid(column).to_numpy(zero_copy_only=False))


def _encode(column: pa.Array, present: _Array) -> tuple[_Array, list[str]]:
    """Index from 0 by first occurrence, and the ids by index."""
    if not present.all():
        column = column.filter(pa.array(present))
    encoded = pc.dictionary_encode(column)
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _first_occurrence(user: _Array, item: _Array, time: _Array) -> _Array:
    """``(E,)`` bool: no earlier row has the same user, item and time."""
    order = np.lexsort((time, item, user))
    same = np.ones(len(order), dtype=bool)
    for column in (user, item, time):
        same[1:] &= column[order][1:] == column[order][:-1]
    same[:1] = False
    first = np.empty(len(order), dtype=bool)
    first[order] = ~same
    return first
