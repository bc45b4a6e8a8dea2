"""What a ranker answers from, and how it changes while it does."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError, StoreSpecError
from linkedout_lightning.serving.additions import as_items, checked_ids, made_of
from linkedout_lightning.serving.answers import known_row
from linkedout_lightning.serving.bundle import Bundle
from linkedout_lightning.serving.loading import make_snapshot
from linkedout_lightning.serving.snapshot import Snapshot

if TYPE_CHECKING:
    from linkedout_lightning.serving.watching import VideoWatcher


class LiveCatalogue:
    """A bundle and the snapshot of it that readers see: one reference, replaced in one step.

    Args:
        bundle: The bundle as it is on disk.
        snapshot: What was made of it.
        options: How snapshots are made: arguments of
            :func:`~linkedout_lightning.serving.loading.make_snapshot`.
    """

    def __init__(
        self, bundle: Bundle, snapshot: Snapshot, *, options: Mapping[str, Any] | None = None
    ) -> None:
        self._state = (bundle, snapshot)
        self._options = dict(options or {})
        self._changing = threading.RLock()
        self._watcher: tuple[tuple[Any, ...], VideoWatcher] | None = None

    @property
    def _snapshot(self) -> Snapshot:
        return self._state[1]

    @property
    def bundle(self) -> Bundle:
        """The bundle as it was when it was loaded, or last changed by this ranker."""
        return self._state[0]

    def __len__(self) -> int:
        return len(self._snapshot)

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and self._snapshot.row(item_id) is not None

    def add_items(
        self,
        item_ids: Sequence[str],
        vectors: Tensor | None = None,
        *,
        features: Tensor | None = None,
        mask: Tensor | None = None,
        columns: Mapping[str, Sequence[str | None]] | None = None,
        replace: bool = False,
        durable: bool = False,
    ) -> None:
        """Add items, which are recommendable when this returns.

        Args:
            item_ids: Their ids.
            vectors: ``(n, H)`` finished item vectors, or
            features: ``(n, L, S, D)`` of the store's layers, from which the bundle's fusion encoder
                makes vectors.
            mask: ``(n, S)`` bool beside ``features``; None: every slot holds something.
            columns: Texts by name, ``n`` each, such as titles.
            replace: Whether an id that is there may get a new vector.
            durable: Also write them into the bundle's folder.

        Raises:
            ConfigError: Neither or both of vectors and features, or an id that is there.
            DataError: Shapes that do not fit, or ids that repeat.
            NonFiniteError: NaN or infinity.
        """
        ids = checked_ids(item_ids)
        with self._changing:
            bundle, snapshot = self._state
            self.check_new(ids, replace=replace)
            if not ids:
                return
            made = made_of(
                snapshot.newcomers,
                dim=bundle.manifest.dim,
                vectors=vectors,
                features=features,
                mask=mask,
            )
            items = as_items(ids, made, columns or {}, like=snapshot.base)
            if durable:
                bundle = _seen(bundle, bundle.append(items))
            self._state = (bundle, snapshot.with_items(items))

    def add_videos(
        self,
        item_ids: Sequence[str],
        videos: Sequence[str | os.PathLike[str]],
        *,
        columns: Mapping[str, Sequence[str | None]] | None = None,
        model: str | None = None,
        device: str = "auto",
        replace: bool = False,
        durable: bool = False,
    ) -> None:
        """Add items straight from their videos, each watched once by the training's video LLM.

        Answers go on meanwhile. The model is loaded at the first call and kept.

        Args:
            item_ids: Their ids.
            videos: Their files, in that order.
            columns: Texts by name; those that the prompt names, such as ``title``, are read by the
                model.
            model: Folder or hub name of the model, where the bundle does not tell.
            device: Where it runs.
            replace: As for :meth:`add_items`.
            durable: As for :meth:`add_items`.

        Raises:
            VideoDecodeError: A file yields no frames; no item was added.
            ConfigError: As for :meth:`add_items`, or the model cannot be named.
            StoreSpecError: The model is not the one of the training.
        """
        from linkedout_lightning.serving.watching import VideoWatcher

        ids, spec = checked_ids(item_ids), self._features()
        if len(videos) != len(ids):
            raise DataError(f"{len(ids)} ids and {len(videos)} videos; give one video an id")
        self.check_new(ids, replace=replace)
        with self._changing:
            key = (spec, model, device)
            if self._watcher is None or self._watcher[0] != key:
                self._watcher = (key, VideoWatcher(spec, model=model, device=device))
            watcher = self._watcher[1]
        texts = [
            {n: text for n, column in (columns or {}).items() if (text := column[row]) is not None}
            for row in range(len(ids))
        ]
        features, mask = watcher.watch(videos, texts)
        with self._changing:
            if self._features() != spec:
                raise ConfigError(
                    "another bundle, of other features, came while the videos were watched; add "
                    "them again"
                )
            self.add_items(
                ids, features=features, mask=mask, columns=columns, replace=replace, durable=durable
            )

    def add_from_store(
        self,
        store: str | os.PathLike[str],
        item_ids: Sequence[str],
        *,
        columns: Mapping[str, Sequence[str | None]] | None = None,
        replace: bool = False,
        durable: bool = False,
    ) -> None:
        """Add items whose features are in a feature store.

        Args:
            store: Its folder or address.
            item_ids: Ids of items in it.
            columns: As for :meth:`add_items`.
            replace: As for :meth:`add_items`.
            durable: As for :meth:`add_items`.

        Raises:
            StoreSpecError: It holds features of another model, prompt or sampler.
            UnknownItemError: An item is not in it.
        """
        from linkedout_lightning.store import FeatureStore, StoreSpec

        opened = FeatureStore.open(os.fspath(store))
        differences = StoreSpec.from_json(self._features()).differences(opened.spec)
        if differences:
            raise StoreSpecError(
                f"{os.fspath(store)!r} holds other features than the model was trained on: "
                + "; ".join(differences)
            )
        ids = checked_ids(item_ids)
        opened.check_known(ids)
        found = opened.get(ids)
        self.add_items(
            ids,
            features=found.features,
            mask=found.mask,
            columns=columns,
            replace=replace,
            durable=durable,
        )

    def check_new(self, item_ids: Sequence[str], *, replace: bool = False) -> None:
        """Refuse ids that are there.

        Raises:
            ConfigError: One is, and ``replace`` is not set.
        """
        known = [item for item in checked_ids(item_ids) if item in self]
        if known and not replace:
            raise ConfigError(
                f"{len(known)} of the items are there already, such as {known[0]!r}; remove them "
                "first, or add with `replace`"
            )

    def _features(self) -> dict[str, Any]:
        features = self.bundle.manifest.features
        if features is None or self._snapshot.newcomers is None:
            raise ConfigError(
                "the bundle does not say what features its model reads: it knows items by their "
                "ids, or was trained on tensors; give `vectors`"
            )
        return features

    def remove_items(self, item_ids: Sequence[str], *, durable: bool = False) -> None:
        """Remove items: none of the answers that begin after this returns holds them.

        Args:
            item_ids: Their ids.
            durable: Also remove them from the bundle's folder.

        Raises:
            UnknownItemError: An item is not there; none was removed.
            ConfigError: No item would be left.
        """
        ids = checked_ids(item_ids)
        with self._changing:
            bundle, snapshot = self._state
            for item in ids:
                known_row(snapshot, item)
            if len(ids) >= len(snapshot):
                raise ConfigError("no item would be left; swap to another bundle in place of that")
            changed = snapshot.without(ids)
            if durable:
                bundle = _seen(bundle, bundle.remove(ids))
            self._state = (bundle, changed)

    def swap(self, bundle: str | os.PathLike[str] | None = None) -> None:
        """Answer from another bundle, with the same options, from one request to the next.

        Items that were added without ``durable`` belong to the old model's space and are gone.

        Args:
            bundle: Its folder; None: read the present one again, with what other processes added.

        Raises:
            BundleError: It cannot be loaded; the old one goes on answering.
        """
        with self._changing:
            path = self.bundle.path if bundle is None else bundle
            self._state = make_snapshot(path, **self._options)

    def refresh(self) -> bool:
        """Take over what other processes added to the bundle or removed from it, as a swap does.

        Returns:
            Whether there was anything.
        """
        with self._changing:
            if Bundle.open(self.bundle.path, verify=False) == self.bundle:
                return False
            self.swap()
            return True


def _seen(before: Bundle, after: Bundle) -> Bundle:
    """The state of the disk that the snapshot has: not what others changed in between."""
    alone = after.manifest.generation == before.manifest.generation + 1
    return after if alone else before
