"""Answers in milliseconds: the light half of the model over item vectors made beforehand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.serving.answers import Recommendations, known_row, recommend, similar
from linkedout_lightning.serving.live import LiveCatalogue
from linkedout_lightning.serving.loading import make_snapshot
from linkedout_lightning.serving.snapshot import Snapshot

IndexKind = Literal["exact", "flat", "ivf"]


class Ranker(LiveCatalogue):
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
            "similar_by_layer": snapshot.base.experts is not None,
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

    def column(self, name: str) -> dict[str, str]:
        """One text of all items that have it, such as their titles, by id."""
        snapshot = self._snapshot
        found: dict[str, str] = {}
        for _, items in snapshot.parts:
            texts = zip(items.ids, items.columns.get(name, ()), strict=False)
            found |= {item: text for item, text in texts if text is not None}
        return {item: text for item, text in found.items() if snapshot.row(item) is not None}

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
