"""One cell of ``linkedout compare --engine recbole``: train and test, or rank by a rule.

``E`` rows, ``N`` items, ``B`` rows of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linkedout_lightning.compare.files import write_json
from linkedout_lightning.compare.names import EncoderName
from linkedout_lightning.compare.summaries import gate_summary, untrained
from linkedout_lightning.encoders import parameter_counts
from linkedout_lightning.errors import DataError
from linkedout_lightning.evaluation.baselines import CoOccurrence, Popularity, Scorer
from linkedout_lightning.evaluation.metrics import RankingMetrics
from linkedout_lightning.evaluation.slices import popularity_slices
from recbole_adapters.compat import session
from recbole_adapters.data import Histories, Loaders, build_dataset, build_loaders
from recbole_adapters.launcher import Request, recbole_log
from recbole_adapters.options import SECTION
from recbole_adapters.ranking import RankLog, RowRanks
from recbole_adapters.running import read_config, run_here
from recbole_adapters.settings import write_file
from recbole_adapters.slots import slots_of
from recbole_adapters.table import Projected

CONFIGURATION = "recbole.yaml"
_KEPT = ("model.safetensors", "run.json", "items.json")


def evaluate_floor(name: EncoderName, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Rank RecBole's test rows by a rule that needs no training.

    Args:
        name: ``popularity`` or ``cooccurrence``.
        spec: The cell.
        folder: The cell's folder.

    Returns:
        As :func:`linkedout_lightning.compare.training.evaluate_floor`.

    Raises:
        DataError: The data have no training sequences.
    """
    settings = spec["settings"]
    with session(), recbole_log(True):
        config = read_config(_request(spec, folder))
        masked = settings["section"]["mask_history"]
        loaders = build_loaders(config, build_dataset(config), mask_history=masked)
        started = time.perf_counter()
        counts = train_counts(loaders)
        model: Scorer = Popularity(counts)
        if name.base == "cooccurrence":
            model = CoOccurrence(*_train_sequences(loaders), num_items=len(counts) - 1)
        fitted = time.perf_counter()
        log = RankLog()
        part = loaders.test._dataset
        for interaction, history, rows, targets in loaders.test:
            inputs = interaction[getattr(part, f"{part.iid_field}_list_field")]
            scores = model.scores(inputs).clone()  # (B, N + 1)
            scores[:, 0] = -torch.inf
            if history is not None:
                scores[history] = -torch.inf
            log.add(interaction[part.uid_field], targets, scores[rows])
    ranked = log.rows()
    assert ranked is not None
    slices = popularity_slices(counts)
    metrics = _metrics(ranked, settings["ks"], slices)
    return untrained(
        metrics,
        describe(loaders, counts),
        fit=fitted - started,
        evaluation=time.perf_counter() - fitted,
    )


def train_and_test(name: EncoderName, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train by RecBole's trainer, test the best epoch's weights once.

    Args:
        name: A row that trains.
        spec: The cell.
        folder: Where the configuration, progress and the best weights go.

    Returns:
        As :func:`linkedout_lightning.compare.training.train_and_test`, with ``alignment`` and
        RecBole's own ``recbole`` figures.

    Raises:
        LinkedOutError: Data, features and settings that do not fit each other.
    """
    del name  # the section of the configuration says it
    settings = spec["settings"]
    recorder = Recorder(folder / "progress.json", monitor=settings["monitor"], ks=settings["ks"])
    outcome = run_here(_request(spec, folder), listener=recorder)
    run, loaders = outcome.run, outcome.loaders
    recorder.finish(run["seconds"]["fit"])
    if outcome.ranks is None:
        raise DataError("the test rows have several targets each; a comparison needs one a row")
    counts = train_counts(loaders)
    slices = popularity_slices(counts)
    metrics = _metrics(outcome.ranks, settings["ks"], slices)
    if not settings["keep_checkpoints"]:
        for file in _KEPT:
            (folder / file).unlink(missing_ok=True)
    parameters = count_parameters(outcome.model)
    best = recorder.best
    return {
        "flat": {name: float(value) for name, value in metrics.compute().items()},
        "ranks": metrics.ranks(),
        "parameters": parameters["total"],
        "parameters_by_part": parameters,
        "seconds_by_part": {
            "fit": run["seconds"]["fit"],
            "epoch": run["seconds"]["fit"] / max(len(recorder.curve), 1),
            "evaluation": run["seconds"]["test"],
            "data": run["seconds"]["data"],
        },
        "best_epoch": best and best["epoch"],
        "best_val": best and best["val"],
        "curve": recorder.curve,
        "gates": gate_summary(_first_encoder(outcome.model), slices),
        "checkpoint": _KEPT[0] if settings["keep_checkpoints"] else None,
        "alignment": run["alignment"],
        "recbole": {key: run[key] for key in ("best_valid_result", "test_result", "encodings")},
        "data": describe(loaders, counts),
    }


class Recorder:
    """Keeps one point of the training curve an epoch, and the cell's progress in a small file.

    Args:
        path: The progress file.
        monitor: Validation metric that the display shows, such as ``"NDCG@10"``.
        ks: Cut-offs of the metrics.
    """

    def __init__(self, path: Path, *, monitor: str, ks: Sequence[int]) -> None:
        self.path, self.monitor, self.ks = path, monitor, tuple(ks)
        #: One object an epoch: ``epoch``, ``train_loss``, ``val`` (not rounded), ``seconds`` and
        #: ``train_seconds``, which are those without the validation.
        self.curve: list[dict[str, Any]] = []
        #: The point whose weights RecBole keeps.
        self.best: dict[str, Any] | None = None
        self._best_score = -float("inf")
        self._ends: list[float] = []  # of the epochs, by the clock

    def __call__(self, trainer: Any) -> None:
        """Take an epoch over from the trainer."""
        point = dict(trainer.curve[-1])
        point["train_seconds"] = point["seconds"]
        self._ends.append(time.perf_counter())
        if len(self._ends) > 1:
            point["seconds"] = self._ends[-1] - self._ends[-2]
        if point["val"]:
            score = point["val"][trainer.valid_metric]
            ranked = trainer.evaluated
            point["val"] = {k: float(v) for k, v in _metrics(ranked, self.ks).compute().items()}
            if score >= self._best_score:  # RecBole's rule: the last of equals
                self._best_score, self.best = score, point
        self.curve.append(point)
        last = next((p for p in reversed(self.curve) if p["val"]), None)
        best = self.best
        write_json(
            self.path,
            {
                "epochs_done": len(self.curve),
                "share_of_epoch": 0.0,
                "epochs": trainer.epochs,
                "train_loss": point["train_loss"],
                "last": last and last["val"][self.monitor],
                "best": best and best["val"][self.monitor],
                "best_epoch": best and best["epoch"],
                "monitor": self.monitor,
            },
        )

    def finish(self, seconds: float) -> None:
        """Give the first epoch what the others leave of the whole training's seconds."""
        if self.curve:
            self.curve[0]["seconds"] = seconds - (self._ends[-1] - self._ends[0])


def train_counts(loaders: Loaders) -> Tensor:
    """How often training meets each item, ``(N + 1,)`` int64, the first item of each user too."""
    part = loaders.train._dataset
    if part.config["benchmark_filename"]:  # rows of the user's own, which may start anywhere
        items = part.inter_feat[part.iid_field]
    else:
        items = Histories.of((part,)).items
    return torch.bincount(items, minlength=part.item_num)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Trainable parameters by part; ``total`` is what the tables show.

    Args:
        model: A RecBole model, adapted or not.
    """
    parts: dict[str, int] = {}
    slots = slots_of(type(model))
    for slot in slots:
        table = getattr(model, slot)
        prefix = "encoder" if len(slots) == 1 else f"encoder/{slot}"
        encoder = getattr(table, "encoder", None)
        counts = {"ids": parameter_counts(table)["total"]}  # RecBole's own table
        if encoder is not None:
            counts = {n: c for n, c in parameter_counts(encoder).items() if n != "total"}
            if table.extra is not None:
                counts["extra"] = table.extra.numel()
        parts |= {f"{prefix}/{part}": count for part, count in counts.items()}
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return parts | {"backbone": total - sum(parts.values()), "total": total}


def describe(loaders: Loaders, counts: Tensor) -> dict[str, Any]:
    """Sizes of the data, for the report.

    Args:
        loaders: RecBole's.
        counts: Of :func:`train_counts`.
    """
    train, valid, test = (loader._dataset for loader in loaders)
    users = [part.inter_feat[part.uid_field] for part in (train, valid, test)]
    trained = int((counts > 0).sum())
    return {
        "users": train.user_num - 1,
        "items": train.item_num - 1,
        "interactions": int(counts.sum()) + len(valid) + len(test),
        "train_items": trained,
        "train_rows": len(train),
        "cold_items": train.item_num - 1 - trained,
        "valid_users": len(torch.unique(users[1])),
        "test_users": len(torch.unique(users[2])),
        "test_rows": len(test),
        "items_by_slice": {n: int(m.sum()) for n, m in popularity_slices(counts).items()},
        "report": {},
    }


def _request(spec: Mapping[str, Any], folder: Path) -> Request:
    """The cell's run; its whole configuration goes into a file that RecBole reads."""
    settings = spec["settings"]
    section = dict(settings["section"])
    if settings["store"]:
        section |= {"store": settings["store"], "seed": spec["seed"]}
    content = dict(settings["recbole"]) | {"seed": spec["seed"], SECTION: section}
    content |= {key: settings[key] for key in ("data_path", "gpu_id") if settings[key] is not None}
    if settings["accelerator"] == "cpu":
        content["use_gpu"] = False
    path = folder / CONFIGURATION
    write_file(path, content)
    return Request(
        model=settings["model"],
        dataset=settings["dataset"],
        config_files=(str(path),),
        config_dict={"show_progress": False},
        folder=folder,
    )


def _metrics(
    ranked: RowRanks, ks: Sequence[int], slices: Mapping[str, Tensor] | None = None
) -> RankingMetrics:
    metrics = RankingMetrics(tuple(ks), slices, keep_ranks=True)
    metrics.update(ranked.ranks, ranked.targets, ranked.users)
    return metrics


def _first_encoder(model: nn.Module) -> nn.Module:
    tables = getattr(model, "item_tables", None) or {}
    encoder: nn.Module = next((table.encoder for table in tables.values()), model)
    return encoder.encoder if isinstance(encoder, Projected) else encoder


def _train_sequences(loaders: Loaders) -> tuple[Tensor, Tensor, Tensor]:
    """Items of the training histories and where each begins and ends."""
    part = loaders.train._dataset
    if part.config["benchmark_filename"]:
        raise DataError(
            "cooccurrence needs a user's whole history in time order, which `benchmark_filename` "
            "does not hold; leave out one of the two"
        )
    history = Histories.of((part,))
    start = torch.unique(history.start[0])
    return history.items, start, torch.cat([start[1:], torch.tensor([len(history.items)])])
