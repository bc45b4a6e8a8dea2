"""Merging the pieces that appends leave, and freeing what nothing shows any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from linkedout_lightning.store.index import newest_last, scan

_ATTEMPTS = 5
_ROWS_A_DELETE = 100_000  # The text of a larger condition takes long to read, and much memory.


@dataclass(frozen=True)
class Compaction:
    """What a compaction has done.

    Attributes:
        pieces_before: Pieces of the table before.
        pieces: Pieces now.
        superseded: Rows removed that later ones of the same item had replaced.
        versions_freed: Versions that are no longer there.
        bytes_freed: Bytes of files that are no longer there.
    """

    pieces_before: int
    pieces: int
    superseded: int
    versions_freed: int
    bytes_freed: int


def compact_table(
    dataset: Any,
    *,
    rows_a_piece: int,
    keep: timedelta,
    purge: bool = False,
    alone: bool = False,
    before_freeing: Callable[[], None] = lambda: None,
) -> Compaction:
    """Compact a Lance table in place and move ``dataset`` to its latest version.

    Args:
        dataset: The table.
        rows_a_piece: Pieces of this many rows are not touched.
        keep: Versions younger than this stay.
        purge: Touch them where any of their rows is deleted.
        alone: Nothing else is at the table, so that files of no version are nobody's.
        before_freeing: Called when the newest version is written and older ones are about to go.
    """
    pieces, removed, versions, freed = len(dataset.get_fragments()), 0, 0, 0
    for attempt in range(1, _ATTEMPTS + 1):
        dataset.checkout_latest()
        try:
            gone = _superseded(dataset)
            for start in range(0, len(gone), _ROWS_A_DELETE):
                rows = ", ".join(map(str, gone[start : start + _ROWS_A_DELETE]))
                dataset.delete(f"_rowid IN ({rows})")
            removed += len(gone)
            # Freeing comes first too: merging needs room, which a full disk may have only then.
            for merge in (False, True):
                if merge:
                    dataset.optimize.compact_files(
                        target_rows_per_fragment=rows_a_piece,
                        batch_size=1024,
                        materialize_deletions_threshold=0.0 if purge else 0.1,
                    )
                    dataset.checkout_latest()
                before_freeing()
                stats = dataset.cleanup_old_versions(
                    older_than=keep, delete_unverified=alone, error_if_tagged_old_versions=False
                )
                versions, freed = versions + stats.old_versions, freed + stats.bytes_removed
        except (OSError, RuntimeError) as error:
            # Another process deleted or compacted meanwhile: look again at what there is.
            if attempt == _ATTEMPTS or not _overtaken(error):
                raise
        else:
            break
    return Compaction(
        pieces_before=pieces,
        pieces=len(dataset.get_fragments()),
        superseded=removed,
        versions_freed=versions,
        bytes_freed=freed,
    )


def _overtaken(error: Exception) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in ("conflict", "concurrent writers", "not found"))


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
