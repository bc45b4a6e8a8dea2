"""From finished trials to ``tune.json``; what the test says of them stays in their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.compare.files import plain
from linkedout_lightning.compare.results import failed_cell, finished_cell, protocol_of
from linkedout_lightning.compare.tuning.config import TuneConfig
from linkedout_lightning.compare.tuning.space import space_of
from linkedout_lightning.compare.tuning.trials import Trial


def collect(
    config: TuneConfig, trials: Sequence[Trial], *, failures: Mapping[Path, str]
) -> dict[str, Any]:
    """The object of ``tune.json``.

    Args:
        config: The tuning.
        trials: All trials.
        failures: Why trials failed, by folder.

    Returns:
        JSON-able, without NaN: ``environment``, ``protocol``, ``budget``, ``base`` (what all trials
        share), ``space`` by row, ``trials`` with settings, validation figure, epochs and seconds,
        ``chosen`` by row and backbone, and ``failed``.
    """
    done: list[dict[str, Any]] = []
    failed, data = [], None
    for trial in trials:
        result = trial.cell.result()
        if result is None:
            failed.append(failed_cell(trial.config, trial.cell, failures))
            continue
        data = result["data"]
        cell = finished_cell(trial.config, trial.cell, result)
        done.append(
            {
                "row": trial.row, "backbone": trial.backbone, "number": trial.number,
                "encoder": trial.encoder, "settings": trial.settings,
                "validation": cell["best_value"], "best_epoch": result["best_epoch"],
                "epochs": len(result["curve"]), "seconds": result["seconds"],
                "parameters": result["parameters"], "folder": cell["folder"],
            }
        )  # fmt: skip
    base = trials[0].config
    document: dict[str, Any] = {
        "title": config.title,
        "simulated": config.simulated,
        "simulation_note": config.simulation_note,
        "environment": environment(),
        "protocol": protocol_of(base),
        "data": data,
        "budget": {"trials": config.trials, "epochs": base.epochs, "patience": base.patience,
                   "seed": config.seed, "monitor": base.monitor},
        "base": _base(config),
        "space": {row: _space(row, config) for row in config.encoders},
        "trials": done,
        "chosen": _best(done, by="row"),
        "cells": done,
        "failed": failed,
    }  # fmt: skip
    checked: dict[str, Any] = plain(document)
    return checked


def tuned_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a comparison of the best trial of everything that was trained.

    An ID with and one without item dropout are two of its rows; the better one is its baseline.
    """
    best = _best(document["trials"], by="encoder")
    options = dict(document["base"]) | {
        "encoders": list(dict.fromkeys(trial["encoder"] for trial in best)),
        "backbones": list(dict.fromkeys(trial["backbone"] for trial in best)),
    }
    ids = [trial["encoder"] for trial in document["chosen"] if trial["row"] == "id"]
    if ids:
        options["baseline"] = ids[0]
    options["overrides"] = {
        f"{trial['encoder']}/{trial['backbone']}": {
            name: value
            for name, value in trial["settings"].items()
            if trial["encoder"] != "id" or name != "item_dropout"
        }
        for trial in best
    }
    return options


def _base(config: TuneConfig) -> dict[str, Any]:
    """What all trials share, as options of a comparison."""
    named = ("preset", "split", "max_len", "epochs", "patience")
    given = {name: getattr(config, name) for name in named}
    fixed = {
        name: values[0]
        for name, values in config.values.items()
        if len(values) == 1 and "/" not in name
    }
    return {k: v for k, v in (given | config.settings | fixed).items() if v is not None}


def _space(row: str, config: TuneConfig) -> dict[str, list[Any]]:
    shared, own = space_of(row, config.values)
    return {name: list(values) for name, values in (shared | own).items()}


def _best(done: Sequence[Mapping[str, Any]], *, by: str) -> list[dict[str, Any]]:
    """The best trial of each row, or encoder, and backbone; of equal ones the first."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for trial in done:
        key = trial[by], trial["backbone"]
        if key not in best or trial["validation"] > best[key]["validation"]:
            best[key] = dict(trial)
    return list(best.values())
