"""Merging the pieces that appends leave, and freeing what nothing shows any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from linkedout_lightning.store.index import newest_last, scan

_ATTEMPTS = 5


def compact_table(dataset: Any, *, rows_a_piece: int, keep: timedelta) -> None:
    """Compact a Lance table in place and move ``dataset`` to its latest version.

    Args:
        dataset: The table.
        rows_a_piece: Pieces of this many rows are not touched.
        keep: Versions younger than this stay.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        dataset.checkout_latest()
        try:
            if gone := _superseded(dataset):
                dataset.delete(f"_rowid IN ({', '.join(map(str, gone))})")
            dataset.optimize.compact_files(target_rows_per_fragment=rows_a_piece, batch_size=1024)
            dataset.checkout_latest()
            dataset.cleanup_old_versions(older_than=keep)
            return
        except (OSError, RuntimeError) as error:
            # Another process deleted or compacted meanwhile: look again at what there is.
            if "conflict" not in str(error).lower() or attempt == _ATTEMPTS:
                raise


def _superseded(dataset: Any) -> list[int]:
    """Row ids that nothing shows any more: replaced features and outdated failures."""
    table = scan(dataset, ["item_id", "reason"])
    order = newest_last(table)
    item_ids = table["item_id"].take(order).to_pylist()
    ok = table["reason"].take(order).is_null().to_pylist()
    row_ids = table["_rowid"].take(order).to_pylist()
    newest = dict(zip(item_ids, row_ids, strict=True))
    shown = {i: row for i, fine, row in zip(item_ids, ok, row_ids, strict=True) if fine}
    return sorted(set(row_ids) - set(newest.values()) - set(shown.values()))
