"""``FeatureStore``: a Lance table of frozen features, one row an item."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from os import PathLike
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from torch import Tensor

from linkedout_lightning.errors import StoreError, StoreSpecError, UnknownItemError
from linkedout_lightning.store import index, table
from linkedout_lightning.store.checks import (
    check_apart,
    check_finite,
    check_fit,
    fingerprints_by_id,
    folder_of,
    layer_positions,
)
from linkedout_lightning.store.compaction import compact_table
from linkedout_lightning.store.faults import as_store_errors, reason
from linkedout_lightning.store.spec import StoreSpec

_GATHER_BYTES = 64 * 2**20  # Arrow's copy of a gather is bounded by it; the result is not.
_T = TypeVar("_T")
_PIECE_BYTES = 512 * 2**20


class StoredFeatures(NamedTuple):
    """Features ``(n, L, S, D)`` in the store's dtype and mask ``(n, S)``, bool."""

    features: Tensor
    mask: Tensor


class StoreBatch(NamedTuple):
    """Some items with features ``(n, L, S, D)`` and mask ``(n, S)``."""

    item_ids: list[str]
    features: Tensor
    mask: Tensor


class FeatureStore:
    """Features of items on disk, made by :meth:`create` or :meth:`open`.

    Appends are atomic and several processes may append at once. A killed process loses what it
    had not appended and harms nothing else. The newest features of an id are those that are seen;
    an object sees the version that it opened, its own writes, and others' after :meth:`refresh`.

    Example:
        >>> import tempfile, torch
        >>> spec = StoreSpec(model="m", layers=(1, 2), slots=("last",), hidden_size=4)
        >>> store = FeatureStore.create(tempfile.mkdtemp() + "/features", spec)
        >>> mask = torch.ones(2, 1, dtype=torch.bool)
        >>> store.append(["a", "b"], torch.rand(2, 2, 1, 4).half(), mask)
        >>> store.get(["b", "a", "b"]).features.shape
        torch.Size([3, 2, 1, 4])
    """

    def __init__(self, dataset: Any, path: str) -> None:
        self._dataset = dataset
        self.path = path
        metadata = dataset.schema.metadata or {}
        if table.SPEC_KEY not in metadata:
            raise StoreError(f"{path!r} is a Lance table, but not a feature store")
        if metadata.get(table.FORMAT_KEY) != table.FORMAT:
            raise StoreError(
                f"the feature store at {path!r} has format {metadata.get(table.FORMAT_KEY)!r}, "
                f"this version of linkedout-lightning reads {table.FORMAT!r}"
            )
        self._spec = StoreSpec.from_json(json.loads(metadata[table.SPEC_KEY]))
        with as_store_errors("read", path):
            self._index = index.ItemIndex(dataset)

    @classmethod
    def create(
        cls, path: str | PathLike[str], spec: StoreSpec, *, exist_ok: bool = False
    ) -> FeatureStore:
        """Make an empty store.

        Args:
            path: Folder, which must not exist or be empty, or the address of an object store.
            spec: What the features will be.
            exist_ok: Open a store that is there already, if its specification is the same.

        Raises:
            StoreError: Something is there already, or the place cannot be written.
            StoreSpecError: The store that is there has another specification.
        """
        import lance

        where = folder_of(path)
        columns = table.schema(spec)
        try:
            dataset = lance.write_dataset(
                columns.empty_table(),
                where,
                schema=columns,
                mode="create",
                # Positions shift after a delete; row ids that stay also tell the newer of two.
                enable_stable_row_ids=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            if "already exists" not in str(error).lower():
                raise StoreError(
                    f"cannot create a feature store at {where!r}: {reason(error)}"
                ) from error
            if not exist_ok:
                raise StoreError(
                    f"cannot create a feature store at {where!r}: one exists; open it with "
                    "FeatureStore.open, or name another folder"
                ) from None
            store = cls.open(path)
            store.check_spec(spec)
            return store
        return cls(dataset, where)

    @classmethod
    def open(cls, path: str | PathLike[str]) -> FeatureStore:
        """Open a store for reading and writing.

        Raises:
            StoreError: There is none, or it cannot be read.
        """
        import lance

        where = folder_of(path)
        try:
            dataset = lance.dataset(where)
        except (OSError, ValueError, RuntimeError) as error:
            if "not found" in str(error).lower():
                raise StoreError(
                    f"there is no feature store at {where!r}; `linkedout extract` makes one"
                ) from None
            raise StoreError(
                f"cannot open the feature store at {where!r}: {reason(error)}"
            ) from error
        return cls(dataset, where)

    def __reduce__(self) -> tuple[Any, ...]:
        # Lance's handles cannot cross a process border; another process opens the latest version.
        return type(self).open, (self.path,)

    def __repr__(self) -> str:
        return (
            f"FeatureStore({self.path!r}, items={len(self)}, shape={self._spec.shape}, "
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

    def refresh(self) -> FeatureStore:
        """See what other processes wrote meanwhile; returns itself."""
        with as_store_errors("read", self.path):
            if self._dataset.latest_version != self._dataset.version:
                self._dataset.checkout_latest()
                self._index.update(self._dataset)
        return self

    def check_spec(self, spec: StoreSpec) -> None:
        """Make sure that features made after ``spec`` belong here.

        Raises:
            StoreSpecError: They do not; the message names each field that differs.
        """
        if differences := self._spec.differences(spec):
            raise StoreSpecError(
                f"the feature store at {self.path!r} was made with other settings: "
                f"{'; '.join(differences)}; use the store's settings or another folder"
            )

    def append(
        self,
        item_ids: Sequence[str],
        features: Tensor,
        mask: Tensor,
        *,
        fingerprints: Sequence[str] | Mapping[str, str] | None = None,
        replace: bool = False,
        failures: Mapping[str, str] | None = None,
    ) -> None:
        """Add items in one atomic commit: all of them become visible or none.

        Args:
            item_ids: ``n`` distinct ids.
            features: ``(n, L, S, D)`` in the store's dtype.
            mask: bool ``(n, S)``, which slots hold something.
            fingerprints: What the features were made from, to find changed items later: one an
                item, or by item id.
            replace: Let the new features stand for those that an id already has.
            failures: Reasons of other items that yielded nothing, recorded in the same commit;
                their fingerprints are looked up by id.

        Raises:
            StoreSpecError: Shape or dtype do not fit; the message names each field that differs.
            NonFiniteError: Features hold NaN or infinity; the message names the items.
            StoreError: An id is there already or twice, or the store cannot be written.
        """
        item_ids, failures = list(item_ids), failures or {}
        check_fit(item_ids, features, mask, spec=self._spec, path=self.path)
        check_finite(item_ids, features)
        check_apart(item_ids, failures)
        stamps = fingerprints_by_id(fingerprints, item_ids)
        self.refresh()
        if not replace and (present := [i for i in item_ids if i in self]):
            raise StoreError(
                f"{len(present)} of {len(item_ids)} items are already in the feature store at "
                f"{self.path!r}, first {present[0]!r}; pass replace=True to replace their features"
            )
        rows = table.feature_rows(
            item_ids,
            features,
            mask,
            fingerprints=[stamps.get(i, "") for i in item_ids],
            spec=self._spec,
        )
        self._write(rows, failures, stamps)

    def record_failures(
        self, reasons: Mapping[str, str], *, fingerprints: Mapping[str, str] | None = None
    ) -> None:
        """Keep why items yielded nothing; a later :meth:`append` of an id clears its failure.

        Args:
            reasons: Reason by item id.
            fingerprints: What was tried, by item id.
        """
        self._write(None, reasons, fingerprints or {})

    def delete(self, item_ids: Sequence[str]) -> None:
        """Remove items, their older features and their failures in one commit.

        Raises:
            UnknownItemError: An id has neither features nor a failure; nothing is deleted.
        """
        self.refresh()
        known = self._index.positions.keys() | self._index.failures.keys()
        self._check_known(item_ids, known)
        if not item_ids:
            return
        quoted = ", ".join("'" + i.replace("'", "''") + "'" for i in dict.fromkeys(item_ids))
        with as_store_errors("write", self.path):
            self._dataset.delete(f"item_id IN ({quoted})")
            self._index.update(self._dataset)

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
        self._check_known(item_ids, self._index.positions)
        for start in range(0, len(item_ids), batch_size):
            batch = list(item_ids[start : start + batch_size])
            yield StoreBatch(batch, *self.get(batch, layers=layers))

    @property
    def pieces(self) -> int:
        """Into how many pieces appends have cut the table; thousands make reading slow."""
        return len(self._dataset.get_fragments())

    def compact(self, *, keep: timedelta = timedelta(minutes=10)) -> None:
        """Merge small pieces into large ones and free what nothing shows any more.

        Safe while others read and write. What is seen does not change.

        Args:
            keep: Versions younger than this stay on disk, for appends that began on them. A reader
                of an older one moves on to the latest by itself.
        """
        # Pieces of this size are left alone: compacting often must not write a large store anew.
        rows = max(1024, _PIECE_BYTES // self._spec.bytes_per_item)
        with as_store_errors("compact", self.path):
            compact_table(self._dataset, rows_a_piece=rows, keep=keep)
            self._index.update(self._dataset)

    def _gather(self, item_ids: Sequence[str], layers: Sequence[int] | None) -> StoredFeatures:
        self._check_known(item_ids, self._index.positions)
        positions = self._index.positions
        wanted = np.fromiter((positions[i] for i in item_ids), np.int64, len(item_ids))
        found = table.gather(
            self._dataset, wanted, spec=self._spec, layers=layers, block_bytes=_GATHER_BYTES
        )
        return StoredFeatures(found.features, found.mask)

    def _at_latest_if_gone(self, read: Callable[[], _T]) -> _T:
        """Read; again, if a compaction elsewhere has freed the version that this object sees."""
        version = self.version
        try:
            with as_store_errors("read", self.path):
                return read()
        except StoreError:
            if self.refresh().version == version:
                raise
            with as_store_errors("read", self.path):
                return read()

    def _write(
        self, rows: Any, failures: Mapping[str, str], fingerprints: Mapping[str, str]
    ) -> None:
        import lance

        tables = [rows] if rows is not None and len(rows) else []
        if failures:
            stamps = [fingerprints.get(item_id, "") for item_id in failures]
            reasons = list(failures.values())
            tables.append(
                table.failure_rows(list(failures), reasons, fingerprints=stamps, spec=self._spec)
            )
        if not tables:
            return
        joined = pa.concat_tables(tables)
        with as_store_errors("write", self.path):
            self._dataset = lance.write_dataset(joined, self._dataset, mode="append")
            self._index.update(self._dataset)

    def _check_known(self, item_ids: Sequence[str], known: Any) -> None:
        if isinstance(item_ids, str):
            raise TypeError(f"`item_ids` is the string {item_ids!r}; give a sequence of ids")
        if unknown := [item_id for item_id in item_ids if item_id not in known]:
            raise UnknownItemError(dict.fromkeys(unknown), f"the feature store at {self.path!r}")
