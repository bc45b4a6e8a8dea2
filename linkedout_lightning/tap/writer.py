"""``Trainer.predict`` into a feature store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import BasePredictionWriter

from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap.sink import StoreSink
from linkedout_lightning.tap.types import TapBatch, TapOutput


class StoreWriter(BasePredictionWriter):
    """Appends what :meth:`VideoLLMTap.predict_step` returns to a store, batch after batch.

    Every process of a distributed run appends its own share. Items of which nothing can be kept
    (no token, NaN, overflow) are recorded as failures, and so is what a batch says of items that
    did not get into it (:class:`~linkedout_lightning.tap.dataset.VideoDataset`).

    Args:
        store: The store, made with :func:`linkedout_lightning.tap.sink.store_spec`.
        fingerprints: What each item was made from, by id; a batch may bring its own.
        rows: Append when this many items are waiting; by default 512.

    Example::

        store = FeatureStore.create("features", store_spec(tap, sampler=sampler))
        trainer = Trainer(callbacks=[StoreWriter(store)], logger=False)
        trainer.predict(tap, loader, return_predictions=False)
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        fingerprints: Mapping[str, str] | None = None,
        rows: int | None = None,
    ) -> None:
        super().__init__(write_interval="batch")
        self.store = store
        self.failures: dict[str, str] = {}
        self._fingerprints, self._rows = dict(fingerprints or {}), rows
        self._sink: StoreSink | None = None

    def write_on_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Take one batch."""
        del trainer, pl_module, batch_indices, batch_idx, dataloader_idx
        if not isinstance(prediction, TapOutput):
            raise TypeError(f"StoreWriter writes TapOutputs, not {type(prediction).__name__}")
        if self._sink is None:
            self._sink = StoreSink(self.store, fingerprints=self._fingerprints, rows=self._rows)
        failures: Mapping[str, str] = {}
        if isinstance(batch, TapBatch):
            failures = batch.failures
            self._fingerprints.update(batch.stamps)
        self._sink.add(prediction, failures)

    def on_predict_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Append what is waiting."""
        super().on_predict_end(trainer, pl_module)
        self._finish()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Keep what was finished before a run broke off."""
        super().on_exception(trainer, pl_module, exception)
        self._finish()

    def _finish(self) -> None:
        if self._sink is not None:
            sink, self._sink = self._sink, None
            sink.flush()
            self.failures |= sink.failures
