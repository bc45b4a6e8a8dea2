"""``linkedout fit``: one recommender, trained with Lightning, its best checkpoint kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from linkedout_lightning.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """One model on one data set.

    Args:
        interactions: Table of interactions: RecBole .inter, MicroLens pairs, Parquet or CSV.
        out: Folder for the checkpoints (best.ckpt, last.ckpt), metrics.csv and cell.json, which
            says how the model was made.
        store: Feature store; needed by every encoder but id and id-dropout.
        encoder: Item encoder, by the names of `linkedout compare`: id, linkedout, linkedout+id, dff
            and others.
        backbone: Sequence model: sasrec, gru4rec, nextitnet.
        preset: A published protocol: microlens sets split, lengths, loss and weight decay.
        split: leave_one_out, temporal or cold_items; none given: the preset's, or leave_one_out.
        max_len: Longest input sequence; none given: the preset's, or 50.
        dim: Size of an item vector.
        rank: Size of a whitened token.
        compressor: Layer token compressor: latent, mlp or mean.
        cold_calibration: What a ranking does with items that have no ID in an encoder with +id:
            none, moments, or budget, as far as the validation affords.
        cold_budget: The largest share of their HR@10 that trained items may lose on the validation
            to the cold calibration budget.
        loss: full, in_batch or sampled; none given: the preset's, or full.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW; none given: the preset's, or 0.01.
        dropout: Dropout of the sequence model.
        batch_size: Sequences a step and process.
        epochs: Most epochs.
        patience: Epochs without a better validation figure before training stops; 0 for never.
        monitor: Validation figure that picks the best epoch.
        seed: Seed of weights and order.
        resume: Checkpoint to go on from, usually <out>/last.ckpt.
        accelerator: Lightning's accelerator: auto, cpu, gpu and others.
        devices: Devices.
        strategy: Lightning's strategy: auto, ddp and others.
        precision: Lightning's precision: 32-true, bf16-mixed and others; ranking is always done in
            float32.
    """

    interactions: str
    out: str = "runs/fit"
    store: str | None = None
    encoder: str = "linkedout"
    backbone: str = "sasrec"
    preset: Literal["microlens"] | None = None
    split: str | None = None
    max_len: int | None = None
    dim: int = 128
    rank: int = 256
    compressor: str = "latent"
    cold_calibration: str = "none"
    cold_budget: float = 0.01
    loss: str | None = None
    lr: float = 1e-3
    weight_decay: float | None = None
    dropout: float = 0.1
    batch_size: int = 512
    epochs: int = 50
    patience: int = 5
    monitor: str = "NDCG@10"
    seed: int = 0
    resume: str | None = None
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"


_SHARED = (
    "interactions", "out", "store", "preset", "split", "max_len", "dim", "rank", "compressor",
    "cold_calibration", "cold_budget", "loss", "lr", "weight_decay", "dropout", "batch_size",
    "epochs", "patience", "monitor",
)  # fmt: skip


@dataclass(frozen=True)
class FitReport:
    """What came out.

    Args:
        checkpoint: The best epoch's checkpoint.
        metrics: Test metrics by name, such as ``"HR@10"``.
        parameters: Trainable parameters.
        calibration_strength: How far cold items were brought to the measure of the others, 0 to 1.
    """

    checkpoint: Path
    metrics: dict[str, float]
    parameters: int
    calibration_strength: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "checkpoint": str(self.checkpoint),
            "parameters": self.parameters,
            "calibration_strength": self.calibration_strength,
            "metrics": self.metrics,
        }

    def summary(self) -> str:
        """The report for people."""
        shown = [name for name in self.metrics if "/" not in name]
        figures = ", ".join(f"{name} {self.metrics[name]:.4f}" for name in shown)
        lines = [f"{self.checkpoint}: {self.parameters:,} parameters", f"  test: {figures}"]
        if self.calibration_strength:
            lines.append(f"  cold items calibrated at strength {self.calibration_strength:g}")
        return "\n".join(lines)


def fit(config: FitConfig, *, progress: bool = True) -> FitReport:
    """Train, keep the best epoch by validation, test it once.

    Args:
        config: Data, model and training.
        progress: Show Lightning's progress bar.

    Returns:
        Checkpoint and test metrics.

    Raises:
        ConfigError: A value is not usable.
        DataError: The interactions are not usable.
        UnknownItemError: The store lacks items of the catalogue.
    """
    if config.resume and not Path(config.resume).is_file():
        raise ConfigError(f"`resume` is {config.resume!r}, but there is no such checkpoint")
    from linkedout_lightning.compare import CompareConfig
    from linkedout_lightning.compare.names import parse_encoder
    from linkedout_lightning.compare.plan import plan

    if not parse_encoder(config.encoder).trains:
        raise ConfigError(f"`encoder` is {config.encoder!r}, which is a rule and has no weights")
    [cell] = plan(
        CompareConfig(
            encoders=(config.encoder,),
            baseline=config.encoder,
            backbones=(config.backbone,),
            seeds=(config.seed,),
            html=False,
            **{name: getattr(config, name) for name in _SHARED},
        )
    )
    return _train(config, cell.to_json(), progress=progress)


def _train(config: FitConfig, spec: dict[str, Any], *, progress: bool) -> FitReport:
    import lightning as pl
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    from linkedout_lightning.compare.files import write_json
    from linkedout_lightning.compare.names import parse_encoder
    from linkedout_lightning.compare.training import build_model, read_data

    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = read_data(spec)
    model = build_model(parse_encoder(config.encoder), spec, data)
    monitor = f"val/{config.monitor}"
    best = ModelCheckpoint(
        dirpath=config.out, filename="best", monitor=monitor, mode="max", save_last=True,
        enable_version_counter=False,
    )  # fmt: skip
    callbacks: list[pl.Callback] = [best]
    if config.patience:
        callbacks.append(EarlyStopping(monitor, mode="max", patience=config.patience))
    trainer = pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=config.strategy,
        precision=config.precision,  # type: ignore[arg-type]
        max_epochs=config.epochs,
        gradient_clip_val=spec["settings"]["gradient_clip"] or None,
        callbacks=callbacks,
        logger=CSVLogger(config.out, name="", version=""),
        enable_progress_bar=progress,
        enable_model_summary=progress,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data, ckpt_path=config.resume, weights_only=True)
    # What `linkedout export` makes the model from again; Lightning wants the folder empty before.
    write_json(Path(config.out) / "cell.json", spec)
    [flat] = trainer.test(
        model, datamodule=data, ckpt_path=best.best_model_path, verbose=False, weights_only=True
    )
    return FitReport(
        checkpoint=Path(best.best_model_path),
        metrics={name.removeprefix("test/"): float(value) for name, value in flat.items()},
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        calibration_strength=model.calibration_strength,
    )
