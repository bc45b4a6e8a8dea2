"""``linkedout compact`` and ``linkedout delete``: keeping a feature store small and true."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from linkedout_lightning.errors import ConfigError, DataError, UnknownItemError
from linkedout_lightning.wording import in_bytes

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """Make a store fast and small again; what it shows does not change.

    Args:
        path: Folder of the feature store, or its address in an object store.
        keep: Past versions younger than this stay readable: 0, 30s, 10m, 12h, 7d, 2w. Appends
            that run meanwhile need theirs: give 0 only where nothing is being written.
        purge: Write every piece anew that holds a deleted item. By default large pieces are left
            as they are while less than a tenth of them is deleted. With keep 0, what was deleted
            is then gone from the disk.
        alone: Nothing else is writing: free what killed writers left, too, which otherwise stays
            for seven days.
    """

    path: str
    keep: str = "10m"
    purge: bool = False
    alone: bool = False

    def __post_init__(self) -> None:
        duration(self.keep)


@dataclass(frozen=True)
class CompactReport:
    """What a compaction did, and how large the store was before and after, in bytes."""

    path: str
    items: int
    pieces_before: int
    pieces: int
    superseded: int
    versions_freed: int
    bytes_before: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    def summary(self) -> str:
        """The same for people."""
        return "\n".join(
            [
                f"{self.path}: {self.items:,} items",
                f"  pieces      {self.pieces_before:,} -> {self.pieces:,}",
                f"  on disk     {in_bytes(self.bytes_before)} -> {in_bytes(self.bytes)}",
                f"  freed       {self.versions_freed:,} past versions, {self.superseded:,} rows "
                "that newer ones had replaced",
            ]
        )


def compact(config: CompactConfig, *, progress: bool = True) -> CompactReport:
    """Merge pieces, drop replaced rows, free past versions.

    Args:
        config: Which store, and what stays.
        progress: Unused; every command takes it.

    Raises:
        StoreError: There is no store, or it cannot be written.
    """
    del progress
    from linkedout_lightning.store import FeatureStore

    store = FeatureStore.open(config.path)
    before = store.disk_usage()
    done = store.compact(keep=duration(config.keep), purge=config.purge, alone=config.alone)
    return CompactReport(
        path=store.path,
        items=len(store),
        pieces_before=done.pieces_before,
        pieces=done.pieces,
        superseded=done.superseded,
        versions_freed=done.versions_freed,
        bytes_before=before.total,
        bytes=store.disk_usage().total,
    )


@dataclass(frozen=True, kw_only=True)
class DeleteConfig:
    """Remove items, with all their older features and failures, in one commit.

    Args:
        path: Folder of the feature store, its address in an object store, or folder of a bundle.
        items: Their ids.
        from_file: Text file with an id a line; "-" reads them from the standard input.
        missing: Ids that are not in the store: "error" deletes nothing then, "ignore" the others.
        dry_run: Say what would be removed.
    """

    path: str
    items: tuple[str, ...] = ()
    from_file: str | None = None
    missing: Literal["error", "ignore"] = "error"
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.items and self.from_file is None:
            raise ConfigError("give ids in `items`, or a file of them in `from_file`")
        if self.missing not in ("error", "ignore"):
            raise ConfigError(f"`missing` is {self.missing!r}; give error or ignore")


@dataclass(frozen=True)
class DeleteReport:
    """What was removed, or would be."""

    path: str
    dry_run: bool
    deleted: int
    with_features: int
    missing: int
    items: int
    version: int
    store: bool = True

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    def summary(self) -> str:
        """The same for people."""
        verb = "would delete" if self.dry_run else "deleted"
        of_them = f", {self.with_features:,} of them with features" if self.store else ""
        lines = [
            f"{self.path}: {verb} {self.deleted:,} ids{of_them}; {self.items:,} items are there"
        ]
        if self.missing:
            lines.append(f"  {self.missing:,} ids were not there")
        if self.deleted and not self.dry_run and self.store:
            lines.append(
                f"  past versions still show them: `linkedout compact {self.path} --purge --keep 0`"
                " takes them off the disk"
            )
        return "\n".join(lines)


def delete(config: DeleteConfig, *, progress: bool = True) -> DeleteReport:
    """Remove items from a store.

    Args:
        config: Which store and which items.
        progress: Unused; every command takes it.

    Raises:
        DataError: The file of ids cannot be read or holds none.
        StoreError: There is no store, or it cannot be written.
        UnknownItemError: An id is not there, and none was deleted.
    """
    del progress
    from linkedout_lightning.store import FeatureStore

    item_ids = list(dict.fromkeys([*config.items, *_listed(config.from_file)]))
    if "://" not in config.path and (Path(config.path) / "manifest.json").is_file():
        return _delete_from_bundle(config, item_ids)
    store = FeatureStore.open(config.path)
    failures = store.failures
    there = [i for i in item_ids if i in store or i in failures]
    asked = there if config.missing == "ignore" else item_ids
    with_features = sum(item_id in store for item_id in there)
    store.check_known(asked, failures=True)
    if not config.dry_run:
        store.delete(asked)
    return DeleteReport(
        path=store.path,
        dry_run=config.dry_run,
        deleted=len(there),
        with_features=with_features,
        missing=len(item_ids) - len(there),
        items=len(store),
        version=store.version,
    )


def _delete_from_bundle(config: DeleteConfig, item_ids: list[str]) -> DeleteReport:
    from linkedout_lightning.serving import Ranker

    ranker = Ranker.load(config.path)
    there = [item for item in item_ids if item in ranker]
    if len(there) < len(item_ids) and config.missing == "error":
        raise UnknownItemError([i for i in item_ids if i not in ranker], f"{config.path!r}")
    if there and not config.dry_run:
        ranker.remove_items(there, durable=True)
    return DeleteReport(
        path=config.path,
        dry_run=config.dry_run,
        deleted=len(there),
        with_features=len(there),
        missing=len(item_ids) - len(there),
        items=len(ranker),
        version=ranker.bundle.manifest.generation,
        store=False,
    )


def _listed(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"`from_file` is {file!r}, which cannot be read: {error}") from error
    if not (found := [line.strip() for line in text.split("\n") if line.strip()]):
        raise DataError(f"`from_file` is {file!r}, which holds no id")
    return found


def duration(text: str) -> timedelta:
    """A span of time as people write it.

    Raises:
        ConfigError: It is none.

    Example:
        >>> duration("12h")
        datetime.timedelta(seconds=43200)
    """
    if text.strip() == "0":
        return timedelta(0)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text)
    if found is None:
        raise ConfigError(f"{text!r} is no span of time; give one such as 0, 30s, 10m, 12h or 7d")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})
