"""What a training cell writes down while it runs, for the display and for the curves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as pl

from linkedout_lightning.compare.files import write_json

_BETWEEN_WRITES = 0.5  # seconds


class Recorder(pl.Callback):
    """Keeps one point of the training curve an epoch, and the cell's progress in a small file.

    Args:
        path: The progress file.
        monitor: Validation metric that the display shows, such as ``"NDCG@10"``.
    """

    def __init__(self, path: Path, *, monitor: str) -> None:
        self.path, self.monitor = path, monitor
        #: One object an epoch: ``epoch``, ``train_loss``, ``val``, ``seconds`` and
        #: ``train_seconds``, which are those without the validation.
        self.curve: list[dict[str, Any]] = []
        self._started = self._written = self._validation = self._validated = 0.0

    @property
    def best(self) -> dict[str, Any] | None:
        """The point with the best monitored value, the earliest of equals."""
        return max(self.curve, key=lambda point: point["val"][self.monitor], default=None)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        del trainer, pl_module
        self._started, self._validated = time.perf_counter(), 0.0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the validation's clock."""
        del trainer, pl_module
        self._validation = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the validation out of the training's time."""
        del trainer, pl_module
        self._validated += time.perf_counter() - self._validation

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Say how far the epoch is, a few times a second at most."""
        del pl_module, outputs, batch
        if time.perf_counter() - self._written > _BETWEEN_WRITES:
            steps = trainer.num_training_batches
            self._write(trainer, share=(batch_idx + 1) / steps if steps else 1.0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch to the curve; Lightning has validated before this."""
        del pl_module
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds = time.perf_counter() - self._started
        self.curve.append(
            {
                "epoch": trainer.current_epoch + 1,
                "train_loss": figures.get("train/loss"),
                "val": {n[4:]: v for n, v in figures.items() if n.startswith("val/")},
                "seconds": seconds,
                "train_seconds": seconds - self._validated,
            }
        )
        self._write(trainer, share=0.0)

    def _write(self, trainer: pl.Trainer, *, share: float) -> None:
        self._written = time.perf_counter()
        last, best = (self.curve[-1] if self.curve else None), self.best
        write_json(
            self.path,
            {
                "epochs_done": len(self.curve),
                "share_of_epoch": share,
                "epochs": trainer.max_epochs,
                "train_loss": last and last["train_loss"],
                "last": last and last["val"][self.monitor],
                "best": best and best["val"][self.monitor],
                "best_epoch": best and best["epoch"],
                "monitor": self.monitor,
            },
        )
