"""Bytes of a store, by what still needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_FOLDERS = frozenset({"data", "_versions", "_transactions", "_deletions", "_indices"})


@dataclass(frozen=True)
class DiskUsage:
    """Bytes of a store's files.

    Attributes:
        current: Files of the version that is seen.
        past: Files that only past versions need; a compaction frees them.
        loose: Files of no version: what a killed writer left, or what one is writing just now.
            A compaction frees them when they are seven days old.
        beside: Files in the store's folder that are not the table's, such as those by which
            several extractions share their work.
        deleted_rows: Rows in the current files that are marked as deleted.
        superseded_rows: Rows in them that newer ones of the same item have replaced.
    """

    current: int
    past: int
    loose: int
    beside: int
    deleted_rows: int
    superseded_rows: int

    @property
    def total(self) -> int:
        """Bytes on disk."""
        return self.current + self.past + self.loose + self.beside


def disk_usage(dataset: Any, *, visible_rows: int) -> DiskUsage:
    """Sum up the files of a Lance table, wherever it is kept.

    Args:
        dataset: The table.
        visible_rows: Rows that an item index shows.
    """
    needed: set[str] = set()
    past: set[str] = set()
    for batch in dataset.tracked_files():
        versions, paths = batch.column("version").to_pylist(), batch.column("path").to_pylist()
        for version, path in zip(versions, paths, strict=True):
            (needed if version == dataset.version else past).add(path)
    sums = dict.fromkeys(("current", "past", "loose", "beside"), 0)
    for batch in dataset.all_files():
        paths, sizes = batch.column("path").to_pylist(), batch.column("size_bytes").to_pylist()
        for path, size in zip(paths, sizes, strict=True):
            sums[_needed_by(path, needed, past)] += size
    metadata = [fragment.metadata for fragment in dataset.get_fragments()]
    deleted = sum(piece.num_deletions for piece in metadata)
    physical = sum(piece.physical_rows for piece in metadata)
    return DiskUsage(
        **sums,
        deleted_rows=deleted,
        superseded_rows=physical - deleted - visible_rows,
    )


def _needed_by(path: str, current: set[str], past: set[str]) -> str:
    # The hint and the names of versions belong to none of them, and to the store.
    if path in current or path.startswith(("_versions/latest_version_hint", "_refs/")):
        return "current"
    if path in past:
        return "past"
    return "loose" if path.split("/")[0] in _FOLDERS else "beside"
