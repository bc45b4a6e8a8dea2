"""Past versions of a store: every write makes one, a compaction frees the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from linkedout_lightning.errors import StoreError

_SHOWN = 8


@dataclass(frozen=True)
class StoreVersion:
    """One version of a store.

    Attributes:
        version: Its number, for :meth:`FeatureStore.open`.
        timestamp: When it was written, in UTC.
        rows: Entries that it holds: items, failures, and what later ones of the same id replaced.
        names: Names that :meth:`FeatureStore.tag` gave it; compactions keep it then.
    """

    version: int
    timestamp: datetime
    rows: int
    names: tuple[str, ...] = ()


def list_versions(dataset: Any) -> list[StoreVersion]:
    """Versions of a Lance table that still exist, the oldest first."""
    names: dict[int, list[str]] = {}
    for name, tag in sorted(dataset.tags.list().items()):
        names.setdefault(int(tag["version"]), []).append(name)
    return [
        StoreVersion(
            version=int(entry["version"]),
            # Lance tells local time without saying so.
            timestamp=entry["timestamp"].astimezone(UTC),
            rows=int(entry["metadata"].get("total_rows", 0)),
            names=tuple(names.get(int(entry["version"]), ())),
        )
        for entry in dataset.versions()
    ]


def number_of(version: int | str, there: Sequence[StoreVersion], where: str) -> int:
    """Number of a version that is given by number or name.

    Raises:
        StoreError: It is not there (any more).
    """
    for entry in there:
        if version == entry.version or version in entry.names:
            return entry.version
    raise gone(version, there, where)


def gone(version: int | str, there: Sequence[StoreVersion], where: str) -> StoreError:
    """The error for a version that is not there (any more), with those that are."""
    words = in_words([entry.version for entry in there])
    if names := [name for entry in there for name in entry.names]:
        words += f", with names {', '.join(map(repr, names))}"
    return StoreError(
        f"the feature store at {where!r} has no version {version!r}; it has {words} "
        "(a compaction frees old ones: see its `keep`)"
    )


def in_words(numbers: Sequence[int]) -> str:
    """Whole numbers as runs, the last few of them.

    Example:
        >>> in_words([3, 5, 6, 7, 9])
        '3, 5 to 7, 9'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[1]}" for run in runs]
    return ", ".join((["…"] if len(words) > _SHOWN else []) + words[-_SHOWN:])
