"""Which row of the table is an item's: the newest one.

The table is a log. Appends never conflict with each other, so two processes may write the same id;
Lance's stable row ids grow with every commit, so the row with the highest one is the newest and the
others are invisible.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


class ItemIndex:
    """Row positions and failures by item id at one version of the table.

    Attributes:
        positions: Place in scan order of each item's newest features.
        failures: Reason of each item whose newest entry is a failure.
    """

    def __init__(self, dataset: Any) -> None:
        self.positions: dict[str, int] = {}
        self.failures: dict[str, str] = {}
        self._fragments: list[tuple[int, str]] = []
        self._rows = 0
        self.update(dataset)

    def update(self, dataset: Any) -> None:
        """Catch up with another version; appended fragments alone are read where that is enough."""
        fragments = dataset.get_fragments()
        signature = [(f.fragment_id, str(f.metadata.deletion_file)) for f in fragments]
        known = len(self._fragments)
        if signature[:known] != self._fragments:
            self.positions, self.failures, self._rows, known = {}, {}, 0, 0
        self._fragments = signature
        if not fragments[known:]:
            return
        table = scan(dataset, ["item_id", "reason"], fragments=fragments[known:])
        order = newest_last(table)
        item_ids = table["item_id"].take(order).to_pylist()
        reasons = table["reason"].take(order)
        if reasons.null_count == len(reasons):
            kept, places = item_ids, order + self._rows
        else:
            ok = reasons.is_null().to_numpy()
            kept = [item_id for item_id, fine in zip(item_ids, ok, strict=True) if fine]
            places = order[ok] + self._rows
        self.positions.update(zip(kept, places.tolist(), strict=True))
        if self.failures or len(kept) < len(item_ids):
            for item_id, reason in zip(item_ids, reasons.to_pylist(), strict=True):
                if reason is None:
                    self.failures.pop(item_id, None)
                else:
                    self.failures[item_id] = reason
        self._rows += table.num_rows


def scan(dataset: Any, columns: list[str], *, fragments: Any = None) -> pa.Table:
    """Small columns of the table with ``_rowid``, in the order that ``dataset.take`` counts in."""
    return dataset.scanner(
        columns=columns, with_row_id=True, scan_in_order=True, fragments=fragments
    ).to_table()


def newest_last(table: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Places of a scan's rows from the oldest to the newest."""
    return np.argsort(table["_rowid"].to_numpy(), kind="stable")
