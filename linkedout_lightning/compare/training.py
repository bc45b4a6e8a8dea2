"""What a cell does: read the data, build the model, train it, rank the test users."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import lightning as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from linkedout_lightning.compare.features import build_encoder
from linkedout_lightning.compare.names import EncoderName
from linkedout_lightning.compare.native import DATA_SETTINGS, DEFAULT_PRECISION
from linkedout_lightning.compare.recording import Recorder
from linkedout_lightning.compare.summaries import count_parameters, gate_summary, untrained
from linkedout_lightning.compare.tunables import LATER
from linkedout_lightning.data import InteractionDataModule
from linkedout_lightning.errors import DataError
from linkedout_lightning.evaluation.baselines import CoOccurrence, Popularity, Scorer
from linkedout_lightning.evaluation.metrics import RankingMetrics
from linkedout_lightning.evaluation.ranks import target_ranks
from linkedout_lightning.sequence import SequentialRecommender
from linkedout_lightning.store import FeatureStore

_BACKBONE_OPTIONS = {
    "sasrec": {"blocks": "blocks", "heads": "heads"},
    "gru4rec": {"layers": "gru_layers"},
    "nextitnet": {"blocks": "blocks"},
}
"""Arguments of each sequence model, and the settings that give them."""


def evaluate_floor(name: EncoderName, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Rank by a rule that needs no training.

    Args:
        name: ``popularity`` or ``cooccurrence``.
        spec: The cell.
        folder: The cell's folder; nothing is written.

    Returns:
        ``flat`` metrics, ``ranks``, and what a trained cell says of itself as far as it applies.
    """
    del folder
    data = read_data(spec)
    started = time.perf_counter()
    model: Scorer = Popularity(data.train_counts)
    if name.base == "cooccurrence":
        rows = data.train_dataloader()
        model = CoOccurrence(rows.items, rows.start, rows.stop, num_items=data.num_items)
    fitted = time.perf_counter()
    metrics = RankingMetrics(
        tuple(spec["settings"]["ks"]), data.popularity_slices(), keep_ranks=True
    )
    for batch in data.test_dataloader():
        scores = model.scores(batch.inputs, batch.history)
        metrics.update(target_ranks(scores, batch.target, batch.history), batch.target, batch.users)
    return untrained(
        metrics,
        describe(data),
        fit=fitted - started,
        evaluation=time.perf_counter() - fitted,
    )


def train_and_test(name: EncoderName, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train with early stopping on the validation, test the best epoch's weights once.

    Args:
        name: A row that trains.
        spec: The cell.
        folder: Where progress and the best weights go.

    Returns:
        As :func:`evaluate_floor`.

    Raises:
        LinkedOutError: Data, features and settings that do not fit each other.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    settings, seed = spec["settings"], spec["seed"]
    pl.seed_everything(seed, workers=True, verbose=False)
    data = read_data(spec)
    model = build_model(name, spec, data)
    recorder = Recorder(folder / "progress.json", monitor=settings["monitor"])
    best = ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor=f"val/{settings['monitor']}",
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    callbacks: list[pl.Callback] = [best, recorder]
    if settings["patience"]:
        callbacks.append(
            EarlyStopping(f"val/{settings['monitor']}", patience=settings["patience"], mode="max")
        )
    trainer = pl.Trainer(
        accelerator=settings["accelerator"],
        devices=1,
        precision=settings.get("precision", DEFAULT_PRECISION),
        max_epochs=settings["epochs"],
        gradient_clip_val=settings["gradient_clip"] or None,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    fitted = time.perf_counter()
    # weights_only: nothing in the file is run.
    weights = torch.load(best.best_model_path, weights_only=True, map_location="cpu")
    model.load_state_dict(weights["state_dict"])
    if not settings["keep_checkpoints"]:
        Path(best.best_model_path).unlink()
    cold = None
    if model.cold_calibration == "budget":  # the curve of the epoch that was chosen
        trainer.validate(model, datamodule=data, verbose=False)
        cold = model.cold_choice and model.cold_choice.to_json()
    chosen = time.perf_counter()
    [flat] = trainer.test(model, datamodule=data, verbose=False)
    evaluated = time.perf_counter()
    point = recorder.best
    parameters = count_parameters(model.item_encoder, model.backbone)
    epochs = [p["seconds"] for p in recorder.curve]
    return {
        "flat": {key.removeprefix("test/"): float(value) for key, value in flat.items()},
        "ranks": model.test_ranks,
        "parameters": parameters["total"],
        "parameters_by_part": parameters,
        "seconds_by_part": {
            "fit": fitted - started,
            "epoch": sum(epochs) / len(epochs),
            "evaluation": evaluated - chosen,
        },
        "best_epoch": point and point["epoch"],
        "best_val": point and point["val"],
        "curve": recorder.curve,
        "gates": gate_summary(model.item_encoder, data.popularity_slices()),
        "cold_choice": cold,
        "checkpoint": "best.ckpt" if settings["keep_checkpoints"] else None,
        "data": describe(data),
    }


def build_model(
    name: EncoderName, spec: dict[str, Any], data: InteractionDataModule
) -> SequentialRecommender:
    """The untrained model of a cell.

    Args:
        name: Its row.
        spec: The cell.
        data: Its data, set up.
    """
    settings = spec["settings"]
    encoder = build_encoder(
        name,
        store=FeatureStore.open(settings["store"]) if settings["store"] else None,
        item_ids=data.item_ids,
        train_items=data.train_item_mask,
        settings=settings,
        seed=spec["seed"],
    )
    taken = _BACKBONE_OPTIONS[spec["backbone"]]
    return SequentialRecommender(
        encoder,
        spec["backbone"],
        backbone_options={option: settings[name] for option, name in taken.items()},
        max_len=settings["max_len"],
        ks=tuple(settings["ks"]),
        slices=data.popularity_slices(),
        **{
            option: settings.get(option, LATER[option])
            for option in ("cold_calibration", "cold_budget", "candidates")
        },
        **{key: settings[key] for key in ("loss", "negatives", "lr", "weight_decay", "dropout")},
    )


def read_data(spec: dict[str, Any]) -> InteractionDataModule:
    """The cell's data module, set up.

    Raises:
        DataError: The file is not usable, or nobody is left to validate or to test.
    """
    settings = spec["settings"]
    data = InteractionDataModule(
        settings["interactions"],
        seed=spec["seed"],
        split_seed=settings["split_seed"],  # all cells split alike, whatever their seed
        batch_size=settings.get("batch_size", 512),
        **{key: settings[key] for key in DATA_SETTINGS},
    )
    data.setup()
    for stage, users in (("valid", data.report.valid_users), ("test", data.report.test_users)):
        if not users:
            raise DataError(
                f"{settings['interactions']}: the split {settings['split']!r} leaves no user for "
                f"the {stage} set"
            )
    return data


def describe(data: InteractionDataModule) -> dict[str, Any]:
    """Sizes of the data, for the report."""
    return {
        "users": data.num_users,
        "items": data.num_items,
        "interactions": data.report.rows,
        "train_items": data.report.train_items,
        "train_rows": data.report.train_rows,
        "cold_items": data.report.cold_items,
        "valid_users": data.report.valid_users,
        "test_users": data.report.test_users,
        "items_by_slice": {n: int(m.sum()) for n, m in data.popularity_slices().items()},
        "report": {k: v for k, v in data.report.as_dict().items() if k != "source"},
    }
