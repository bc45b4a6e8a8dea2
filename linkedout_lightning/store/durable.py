"""What was written outlives a power failure, not only a killed process.

Lance 14 leaves files to the operating system's cache: a process that is killed loses nothing, but a
machine that stops within the next half minute may keep the table's newest manifest and not the data
that it names; after a compaction that freed the old files, that would be the whole table. So files
are forced to the disk before a write counts as done, and before anything older is freed.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

_LAST = 2**64 - 1


class Durability:
    """Forces the new files of a table to the disk; object stores do that themselves.

    Args:
        path: Folder or address of the table.
        dataset: The table; the files that it has now count as safe.
    """

    def __init__(self, path: str, dataset: Any) -> None:
        self._path = path
        # Elsewhere a folder cannot be opened, or the store is no folder.
        self._needed = "://" not in path and os.name == "posix"
        self._safe = _files(dataset) if self._needed else set()

    def force(self, dataset: Any) -> None:
        """Force everything to the disk that the table's version needs and that is not safe yet.

        Raises:
            OSError: The disk refuses, as some file systems find out only now that they are full.
        """
        if not self._needed:
            return
        there = _files(dataset)
        version = int(dataset.version)
        for name in (*sorted(there - self._safe), f"_versions/{_LAST - version:020d}.manifest"):
            # Another process may have compacted meanwhile, and freed it.
            with contextlib.suppress(FileNotFoundError):
                _force(f"{self._path}/{name}")
        for folder in ("data", "_deletions", "_versions", "."):
            with contextlib.suppress(FileNotFoundError):
                _force(f"{self._path}/{folder}")
        self._safe = there


def _files(dataset: Any) -> set[str]:
    names: set[str] = set()
    for fragment in dataset.get_fragments():
        names.update(f"data/{file.path}" for file in fragment.metadata.files)
        if fragment.metadata.deletion_file is not None:
            names.add(fragment.deletion_file())
    return names


def _force(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
