"""Answers in milliseconds: the light half of the model over item vectors made beforehand."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from torch import Tensor

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.serving.additions import as_items, checked_ids, made_of
from linkedout_lightning.serving.answers import Recommendations, known_row, recommend, similar
from linkedout_lightning.serving.bundle import Bundle
from linkedout_lightning.serving.loading import make_snapshot
from linkedout_lightning.serving.snapshot import Snapshot

IndexKind = Literal["exact", "flat", "ivf"]


class Ranker:
    """Ranks a catalogue for histories of item ids; made by :meth:`load`.

    Any number of threads may ask while others add, remove and swap: an answer comes from one state
    of the catalogue, the one before a change or the one after it. Changes wait for each other.

    **Rules.** Of a history the last ``max_len`` known items are read; with ``exclude_seen`` none of
    it is recommended, however long it is. Ids that the ranker does not know are passed over and
    reported. A user without a known item gets the most popular items of the training, where the
    bundle knows them, and ``fallback`` says so.

    Example::

        ranker = Ranker.load("runs/demo/bundle")
        found = ranker.recommend([["v12", "v7"], ["v3"]], k=10)
        found.ids[0], found.scores[0]
    """

    def __init__(
        self, bundle: Bundle, snapshot: Snapshot, *, options: Mapping[str, Any] | None = None
    ) -> None:
        self._state = (bundle, snapshot)
        self._options = dict(options or {})
        self._changing = threading.RLock()

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str],
        index: IndexKind = "exact",
        *,
        dtype: str | None = None,
        runtime: Literal["torch", "onnx"] = "torch",
        index_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Load a bundle.

        No code of the bundle is run: weights are safetensors, everything else is JSON, and the
        sequence encoder is rebuilt from this package's own classes (or, with ``runtime="onnx"``,
        run by ONNX Runtime). Every file is checked against its digest.

        Args:
            bundle: The folder that `linkedout export` wrote.
            index: ``"exact"`` (torch, one pass over all items), ``"flat"`` (faiss, the same ones,
                faster on large catalogues) or ``"ivf"`` (faiss IVF-Flat, approximate, for a
                million items).
            dtype: Of the item vectors in memory: float32, float16 or int8; None: as in the bundle.
            runtime: What runs the sequence encoder.
            index_options: For ``"ivf"``: ``lists`` and ``probes``.

        Raises:
            BundleError: There is none, it is damaged, or it is of another format version.
            ConfigError: An unknown index, dtype or runtime.
            MissingExtraError: faiss or ONNX Runtime is wanted and not installed.
        """
        options = {
            "index": index,
            "dtype": dtype,
            "runtime": runtime,
            "index_options": dict(index_options or {}),
        }
        return cls(*make_snapshot(bundle, **options), options=options)  # type: ignore[arg-type]

    # ---- what is there --------------------------------------------------------------------------

    @property
    def _snapshot(self) -> Snapshot:
        return self._state[1]

    @property
    def bundle(self) -> Bundle:
        """The bundle as it was when it was loaded, or last changed by this ranker."""
        return self._state[0]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model that answers now; changes with :meth:`swap`."""
        return self._snapshot.fingerprint

    @property
    def item_ids(self) -> list[str]:
        """Ids of all items; a new list at each call."""
        return self._snapshot.item_ids()

    @property
    def layers(self) -> list[int]:
        """Names of the L axis of :meth:`gates`; empty for models of ids."""
        return list(self.bundle.manifest.source.get("layers", []))

    def __len__(self) -> int:
        return len(self._snapshot)

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and self._snapshot.row(item_id) is not None

    def info(self) -> dict[str, Any]:
        """What answers now, as JSON-able values."""
        bundle, snapshot = self._state
        return {
            "bundle": str(bundle.path),
            "fingerprint": snapshot.fingerprint,
            "generation": bundle.manifest.generation,
            "items": len(snapshot),
            "dim": bundle.manifest.dim,
            "dtype": snapshot.base.vectors.dtype,
            "index": snapshot.index.kind,
            "max_len": snapshot.max_len,
            "sequence": bundle.manifest.sequence["kind"],
            "new_items_from_features": snapshot.newcomers is not None,
            "layers": self.layers,
            "bytes": snapshot.base.nbytes + snapshot.index.nbytes,
            "source": bundle.manifest.source,
        }

    def columns(self, item_id: str) -> dict[str, str]:
        """What is known of an item beside its vector, such as its title.

        Raises:
            UnknownItemError: There is no such item.
        """
        snapshot = self._snapshot
        items, row = snapshot.place(known_row(snapshot, item_id))
        found = {name: column[row] for name, column in items.columns.items()}
        return {name: value for name, value in found.items() if value is not None}

    def gates(self, item_id: str) -> dict[int, float] | None:
        """Weight of each layer in an item's content; None where the bundle does not know it.

        Raises:
            UnknownItemError: There is no such item.
        """
        snapshot = self._snapshot
        items, row = snapshot.place(known_row(snapshot, item_id))
        if items.gates is None or bool(items.gates[row].isnan().any()):
            return None
        return dict(zip(self.layers, items.gates[row].tolist(), strict=True))

    # ---- answers --------------------------------------------------------------------------------

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Sequence[str] | None = None,
        deny: Sequence[str] = (),
    ) -> Recommendations:
        """The best items for each user.

        Args:
            histories: Item ids of each user, the latest last.
            k: Items a user.
            exclude_seen: Leave out the items of the user's own history.
            candidates: Rank these items only; ids that are not there are passed over.
            deny: Items that nobody gets.

        Raises:
            ConfigError: ``k`` is below 1.
            DataError: ``histories`` is no list of lists of texts.
        """
        return recommend(
            self._snapshot,
            histories,
            k,
            exclude_seen=exclude_seen,
            candidates=candidates,
            deny=deny,
        )

    def similar(
        self, item_ids: Sequence[str], k: int = 10, *, layer: int | None = None
    ) -> Recommendations:
        """The items most like each of some items, by the cosine of their vectors, exactly.

        Args:
            item_ids: The items.
            k: How many for each; the item itself is left out.
            layer: Compare what this layer alone sees; the bundle must have been exported with
                ``layers=True``.

        Raises:
            ConfigError: ``k`` is below 1, or the bundle does not have the layer.
            UnknownItemError: An item is not there.
        """
        snapshot = self._snapshot
        place = None if layer is None else self._layer(snapshot, layer)
        return similar(snapshot, item_ids, k, layer=place)

    def _layer(self, snapshot: Snapshot, layer: int) -> int:
        if snapshot.base.experts is None:
            raise ConfigError(
                f"`layer` is {layer}, but the bundle holds no vectors by layer; export it with "
                "`layers`"
            )
        if layer not in self.layers:
            raise ConfigError(f"`layer` is {layer}; give one of {', '.join(map(str, self.layers))}")
        return self.layers.index(layer)

    # ---- changes --------------------------------------------------------------------------------

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
            known = [item for item in ids if snapshot.row(item) is not None]
            if known and not replace:
                raise ConfigError(
                    f"{len(known)} of the items are there already, such as {known[0]!r}; remove "
                    "them first, or add with `replace`"
                )
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
                bundle = bundle.append(items)
            self._state = (bundle, snapshot.with_items(items))

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
                bundle = bundle.remove(ids)
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
        """Take over what other processes added to the bundle or removed from it.

        Returns:
            Whether there was anything.
        """
        with self._changing:
            if Bundle.open(self.bundle.path, verify=False) == self.bundle:
                return False
            self.swap()
            return True
