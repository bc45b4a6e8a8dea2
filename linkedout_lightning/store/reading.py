"""Reading a store: which items it has, and their features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from torch import Tensor

from linkedout_lightning.errors import StoreError, UnknownItemError
from linkedout_lightning.store import index, table
from linkedout_lightning.store.checks import layer_positions
from linkedout_lightning.store.faults import as_store_errors
from linkedout_lightning.store.spec import StoreSpec
from linkedout_lightning.store.usage import DiskUsage, disk_usage
from linkedout_lightning.store.versions import StoreVersion, gone, list_versions

_GATHER_BYTES = 64 * 2**20  # Arrow's copy of a gather is bounded by it; the result is not.
_T = TypeVar("_T")


class StoredFeatures(NamedTuple):
    """Features ``(n, L, S, D)`` in the store's dtype and mask ``(n, S)``, bool."""

    features: Tensor
    mask: Tensor


class StoreBatch(NamedTuple):
    """Some items with features ``(n, L, S, D)`` and mask ``(n, S)``."""

    item_ids: list[str]
    features: Tensor
    mask: Tensor


class StoreReader:
    """What :class:`~linkedout_lightning.store.FeatureStore` can do without writing.

    Args:
        dataset: The Lance table.
        path: Its folder or address.
        pinned: Stay at the table's version, which is a past one.
    """

    def __init__(self, dataset: Any, path: str, *, pinned: bool = False) -> None:
        self._dataset = dataset
        self._pinned = pinned
        self.path = path
        self._spec = table.spec_of(dataset, path)
        with as_store_errors("read", path):
            self._index = index.ItemIndex(dataset)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.path!r}, items={len(self)}, shape={self._spec.shape}, "
            f"dtype={self._spec.dtype}, version={self.version})"
        )

    def __len__(self) -> int:
        return len(self._index.positions)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._index.positions

    @property
    def spec(self) -> StoreSpec:
        """What the features are."""
        return self._spec

    @property
    def version(self) -> int:
        """Version of the table that this object sees; every write makes a new one."""
        return int(self._dataset.version)

    @property
    def pinned_version(self) -> int | None:
        """The past version that this object was opened at; None: it may write."""
        return self.version if self._pinned else None

    @property
    def item_ids(self) -> list[str]:
        """Ids of all items with features, sorted: the same whatever the order of extraction."""
        return sorted(self._index.positions)

    @property
    def failures(self) -> dict[str, str]:
        """Reason for each item whose last extraction yielded nothing.

        An item may have features and a failure at once: those of an earlier version of its video.
        """
        return dict(self._index.failures)

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each item's newest entry, features or failure."""
        rows = self._at_latest_if_gone(
            lambda: index.scan(self._dataset, ["item_id", "fingerprint"])
        )
        rows = rows.take(index.newest_last(rows))
        return dict(zip(rows["item_id"].to_pylist(), rows["fingerprint"].to_pylist(), strict=True))

    def refresh(self) -> Self:
        """See what other processes wrote meanwhile, if this is no past version; returns itself."""
        if self._pinned:
            return self
        with as_store_errors("read", self.path):
            if self._dataset.latest_version != self._dataset.version:
                self._dataset.checkout_latest()
                self._index.update(self._dataset)
        return self

    def not_among(self, item_ids: Iterable[str]) -> list[str]:
        """Items with features or a failure that are not among some, sorted.

        What :meth:`delete` takes to make a store follow its catalogue.

        Args:
            item_ids: Items that are to stay.
        """
        known = self._index.positions.keys() | self._index.failures.keys()
        return sorted(known - set(item_ids))

    def disk_usage(self) -> DiskUsage:
        """Bytes on disk, and which of them a compaction would free."""
        # An item may be shown by two rows at once: features, and the failure of a newer video.
        visible = len(self._index.positions) + len(self._index.failures)
        with as_store_errors("read", self.path):
            return disk_usage(self._dataset, visible_rows=visible)

    def get(
        self, item_ids: Sequence[str], *, layers: Sequence[int] | None = None
    ) -> StoredFeatures:
        """Features of items, in the order asked; ids may repeat.

        Args:
            item_ids: ``n`` ids.
            layers: Names of the layers to keep, in that order; None: all. An item is one piece on
                disk and all of it is read; memory holds the kept layers and a block of 64 MiB.

        Returns:
            ``features (n, L, S, D)`` in the store's dtype and ``mask (n, S)``.

        Raises:
            UnknownItemError: Ids without features; the message shows the first few.
            ConfigError: A layer that the store does not have, or none.
        """
        places = layer_positions(layers, self._spec)
        return self._at_latest_if_gone(lambda: self._gather(item_ids, places))

    def iter_batches(
        self,
        item_ids: Sequence[str] | None = None,
        *,
        batch_size: int = 1024,
        layers: Sequence[int] | None = None,
    ) -> Iterator[StoreBatch]:
        """Go through items a batch at a time, so that they need not fit into memory.

        Args:
            item_ids: Which items, in this order; by default all, in the (fast) order of storage.
            batch_size: Items a batch.
            layers: As for :meth:`get`.

        Yields:
            Ids with their features and masks.

        Raises:
            UnknownItemError: Ids without features, before anything is read.
            ConfigError: As `get`.
        """
        if item_ids is None:
            positions = self._index.positions
            item_ids = sorted(positions, key=positions.__getitem__)
        self.check_known(item_ids)
        for start in range(0, len(item_ids), batch_size):
            batch = list(item_ids[start : start + batch_size])
            yield StoreBatch(batch, *self.get(batch, layers=layers))

    def versions(self) -> list[StoreVersion]:
        """Versions that still exist, the oldest first; :meth:`open` opens each of them."""
        with as_store_errors("read", self.path):
            return list_versions(self._dataset)

    @property
    def pieces(self) -> int:
        """Into how many pieces appends have cut the table; thousands make reading slow."""
        return len(self._dataset.get_fragments())

    def _gather(self, item_ids: Sequence[str], layers: Sequence[int] | None) -> StoredFeatures:
        self.check_known(item_ids)
        positions = self._index.positions
        wanted = np.fromiter((positions[i] for i in item_ids), np.int64, len(item_ids))
        found = table.gather(
            self._dataset, wanted, spec=self._spec, layers=layers, block_bytes=_GATHER_BYTES
        )
        return StoredFeatures(found.features, found.mask)

    def _at_latest_if_gone(self, do: Callable[[], _T], *, doing: str = "read") -> _T:
        """Do; again, if a compaction elsewhere has freed the version that this object sees."""
        version = self.version
        try:
            with as_store_errors(doing, self.path):
                return do()
        except StoreError:
            there = self.versions()
            if version in {entry.version for entry in there}:
                raise
            if self._pinned:
                raise gone(version, there, self.path) from None
            self.refresh()
            with as_store_errors(doing, self.path):
                return do()

    def check_known(self, item_ids: Sequence[str], *, failures: bool = False) -> None:
        """Make sure that items are there.

        Args:
            item_ids: Their ids.
            failures: Count those with a failure and no features too.

        Raises:
            UnknownItemError: Ids that are not; the message shows the first few.
        """
        if isinstance(item_ids, str):
            raise TypeError(f"`item_ids` is the string {item_ids!r}; give a sequence of ids")
        known, failed = self._index.positions, self._index.failures if failures else {}
        if unknown := [i for i in item_ids if i not in known and i not in failed]:
            raise UnknownItemError(dict.fromkeys(unknown), f"the feature store at {self.path!r}")
