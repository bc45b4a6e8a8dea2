"""``FeatureStore``: a Lance table of frozen features, one row an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from os import PathLike
from typing import Any

import pyarrow as pa
from torch import Tensor

from linkedout_lightning.errors import StoreError, StoreSpecError
from linkedout_lightning.store import table
from linkedout_lightning.store.checks import (
    check_apart,
    check_finite,
    check_fit,
    fingerprints_by_id,
    folder_of,
)
from linkedout_lightning.store.compaction import Compaction, compact_table
from linkedout_lightning.store.durable import Durability
from linkedout_lightning.store.faults import as_store_errors
from linkedout_lightning.store.opening import create_table, open_table
from linkedout_lightning.store.reading import StoreBatch, StoredFeatures, StoreReader
from linkedout_lightning.store.spec import StoreSpec
from linkedout_lightning.store.versions import number_of

__all__ = ["FeatureStore", "StoreBatch", "StoredFeatures"]

_PIECE_BYTES = 512 * 2**20


class FeatureStore(StoreReader):
    """Features of items on disk, made by :meth:`create` or :meth:`open`.

    Appends are atomic and several processes may append at once. A killed process loses what it
    had not appended and harms nothing else; what was appended is on the disk, as far as the file
    system tells the truth. The newest features of an id are those that are seen;
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

    def __init__(self, dataset: Any, path: str, *, pinned: bool = False) -> None:
        super().__init__(dataset, path, pinned=pinned)
        self._durability = Durability(path, dataset)

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
        where = folder_of(path)
        dataset = create_table(where, spec)
        if dataset is None:
            if not exist_ok:
                raise StoreError(
                    f"cannot create a feature store at {where!r}: one exists; open it with "
                    "FeatureStore.open, or name another folder"
                )
            store = cls.open(path)
            store.check_spec(spec)
            return store
        return cls(dataset, where)

    @classmethod
    def open(cls, path: str | PathLike[str], *, version: int | str | None = None) -> FeatureStore:
        """Open a store for reading and writing, or one of its past versions for reading.

        Args:
            path: Folder, or address of an object store.
            version: A version that :meth:`versions` lists, by number or name. It is what the store
                was then, whatever is written meanwhile, until a compaction frees it; one with a
                name is never freed.

        Raises:
            StoreError: There is none, or it cannot be read, or the version is not there (any more).
        """
        where = folder_of(path)
        return cls(open_table(where, version), where, pinned=version is not None)

    def __reduce__(self) -> tuple[Any, ...]:
        # Lance's handles cannot cross a process border; another process opens the latest version.
        return partial(type(self).open, version=self.pinned_version), (self.path,)

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
        self._check_writable()
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

        Their bytes stay on disk, and past versions show them, until :meth:`compact` frees them.

        Args:
            item_ids: Any number of ids; a million take seconds.

        Raises:
            UnknownItemError: An id has neither features nor a failure; nothing is deleted.
            StoreError: The store cannot be written.
        """
        self._check_writable()
        self.refresh()
        self.check_known(item_ids, failures=True)
        if item_ids:
            # A join reads ids: another process may compact, and free them, meanwhile.
            self._at_latest_if_gone(lambda: self._delete(item_ids), doing="write")

    def compact(
        self,
        *,
        keep: timedelta = timedelta(minutes=10),
        purge: bool = False,
        alone: bool = False,
    ) -> Compaction:
        """Merge small pieces into large ones and free what nothing shows any more.

        Safe while others read and write. What is seen does not change.

        Args:
            keep: Versions younger than this stay on disk, for appends that began on them. A reader
                of an older one moves on to the latest by itself.
            purge: Write every piece anew that holds a deleted item. By default large pieces are
                left as they are while less than a tenth of them is deleted.
            alone: Free what killed writers left, too. Only where nothing else writes: what one is
                writing just now looks the same, and is otherwise left alone for seven days.

        Returns:
            What was merged and freed.
        """
        self._check_writable()
        # Pieces of this size are left alone: compacting often must not write a large store anew.
        rows = max(1024, _PIECE_BYTES // self._spec.bytes_per_item)
        with as_store_errors("compact", self.path):
            done = compact_table(
                self._dataset,
                rows_a_piece=rows,
                keep=keep,
                purge=purge,
                alone=alone,
                before_freeing=lambda: self._durability.force(self._dataset),
            )
            self._index.update(self._dataset)
        return done

    def tag(self, name: str, *, version: int | None = None) -> None:
        """Give a version a name, so that compactions keep it; for what a model was trained on.

        Args:
            name: Letters, digits, dots, dashes and underscores.
            version: Which; by default the one that this object sees.

        Raises:
            StoreError: The name is taken or not usable, or there is no such version.
        """
        with as_store_errors(f"name a version {name!r} of", self.path):
            number = number_of(version or self.version, self.versions(), self.path)
            self._dataset.tags.create(name, number)

    def untag(self, name: str) -> None:
        """Take a version's name away; the next compaction may free it.

        Raises:
            StoreError: No version has that name.
        """
        with as_store_errors(f"take away the name {name!r} from a version of", self.path):
            self._dataset.tags.delete(name)

    def _delete(self, item_ids: Sequence[str]) -> None:
        table.delete_items(self._dataset, list(dict.fromkeys(item_ids)))
        self._durability.force(self._dataset)
        self._index.update(self._dataset)

    def _check_writable(self) -> None:
        if self._pinned:
            raise StoreError(
                f"this is version {self.version} of the feature store at {self.path!r}, and a past "
                "version is for reading; open the store without `version` to write"
            )

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
        self._check_writable()
        joined = pa.concat_tables(tables)
        with as_store_errors("write", self.path):
            self._dataset = lance.write_dataset(joined, self._dataset, mode="append")
            self._durability.force(self._dataset)
            self._index.update(self._dataset)
