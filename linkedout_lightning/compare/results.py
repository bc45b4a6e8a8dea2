"""From finished cells to ``results.json``: means over seeds, intervals over users, paired tests.

``U`` test users.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.engines import planner
from linkedout_lightning.compare.environment import environment
from linkedout_lightning.compare.files import plain
from linkedout_lightning.compare.findings import find
from linkedout_lightning.compare.names import EncoderName
from linkedout_lightning.compare.plan import NO_BACKBONE, Cell
from linkedout_lightning.compare.slices import mean_choice
from linkedout_lightning.evaluation.metrics import UserRanks, ranking_values
from linkedout_lightning.evaluation.significance import (
    PairedDifference,
    compare_ranks,
    paired_bootstrap,
)

_OF_CELL = (
    "encoder", "backbone", "engine", "seed", "metrics", "slices", "parameters",
    "parameters_by_part", "seconds", "seconds_by_part", "peak_mb", "peak_device_mb", "best_epoch",
    "best_val", "curve", "gates", "cold_choice", "alignment",
)  # fmt: skip


def collect(
    config: CompareConfig, cells: Sequence[Cell], *, failures: Mapping[Path, str]
) -> dict[str, Any]:
    """The object of ``results.json``.

    Args:
        config: The comparison.
        cells: All cells of its plan.
        failures: Why cells failed, by folder.

    Returns:
        JSON-able, without NaN: ``environment``, ``protocol``, ``simulated``, ``cells``, ``failed``,
        ``summary`` (a row an encoder and backbone), ``comparisons`` (paired differences over
        users), ``encoders`` (labels and meanings), ``data`` and ``findings`` (sentences).
    """
    results = {cell: result for cell in cells if (result := cell.result()) is not None}
    names = {name: config.encoder(name) for name in config.encoders}
    ranks = Ranks(results, metrics=headline_metrics(config), resamples=config.bootstrap)
    document = {
        "title": config.title,
        "simulated": config.simulated,
        "simulation_note": config.simulation_note,
        "environment": environment(recbole=config.engine == "recbole"),
        "protocol": protocol_of(config),
        "data": next((result["data"] for result in results.values()), None),
        "encoders": {
            n: {"label": e.label, "kind": e.kind, "meaning": e.meaning} for n, e in names.items()
        },
        "cells": [finished_cell(config, cell, result) for cell, result in results.items()],
        "failed": [
            failed_cell(config, cell, failures) for cell in cells if cell not in results
        ],
        "summary": summarise(results, ranks),
        "comparisons": _comparisons(config, names, ranks),
    }  # fmt: skip
    document["findings"] = find(document)
    checked: dict[str, Any] = plain(document)
    return checked


def headline_metrics(config: CompareConfig) -> tuple[str, str]:
    """The two metrics that are tested: HR and NDCG at 10, or at the smallest cut-off."""
    k = 10 if 10 in config.ks else min(config.ks)
    return f"HR@{k}", f"NDCG@{k}"


class Ranks:
    """Every user's rank by row ``(encoder, backbone)`` and seed.

    Args:
        results: Finished cells.
        metrics: The metrics to test.
        resamples: Of the bootstrap.
    """

    def __init__(
        self,
        results: Mapping[Cell, Mapping[str, Any]],
        *,
        metrics: Sequence[str],
        resamples: int,
    ) -> None:
        self.metrics, self.resamples = tuple(metrics), resamples
        self.of: dict[tuple[str, str], dict[int, UserRanks]] = {}
        for cell in results:
            kept = load_file(cell.folder / "ranks.safetensors")
            ranks = UserRanks(kept["users"], kept["ranks"])
            self.of.setdefault((cell.name, cell.backbone), {})[cell.seed] = ranks

    def interval(self, row: tuple[str, str], metric: str) -> dict[str, float]:
        """95 % interval over users of a row's mean."""
        name, _, k = metric.partition("@")
        values = torch.stack([ranking_values(r.ranks, int(k), name) for r in self.of[row].values()])
        against_nothing = paired_bootstrap(
            values, torch.zeros_like(values), resamples=self.resamples
        )
        return {"low": against_nothing.low, "high": against_nothing.high}

    def compare(
        self, row: tuple[str, str], other: tuple[str, str], metric: str
    ) -> tuple[PairedDifference, int] | None:
        """Paired difference over the seeds that both rows have, and how many; None for no seed."""
        ours, theirs = self.of[row], self.of[other]
        if NO_BACKBONE in (row[1], other[1]):
            first, second = list(ours.values()), list(theirs.values())  # a floor has no seed
        else:
            both = [seed for seed in ours if seed in theirs]
            first, second = [ours[seed] for seed in both], [theirs[seed] for seed in both]
        if not first or not second:
            return None
        name, _, k = metric.partition("@")
        test = compare_ranks(first, second, metric=name, k=int(k), resamples=self.resamples)
        return test, max(len(first), len(second))


def finished_cell(config: CompareConfig, cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    """What results.json says of a finished cell.

    Its files are relative to the comparison's folder; ``best_value`` is what chose its epoch.
    """
    folder, kept = cell.folder.relative_to(config.out), result.get("checkpoint")
    best = result.get("best_val")
    return {key: result.get(key) for key in _OF_CELL} | {
        "encoder": cell.name,
        "folder": folder.as_posix(),
        "checkpoint": (folder / kept).as_posix() if kept else None,
        "best_value": best[config.monitor] if best else None,
    }


def failed_cell(config: CompareConfig, cell: Cell, failures: Mapping[Path, str]) -> dict[str, Any]:
    """What results.json says of a cell without a result."""
    return {
        "encoder": cell.name,
        "backbone": cell.backbone,
        "seed": cell.seed,
        "error": failures.get(cell.folder, "not run"),
        "folder": str(cell.folder.relative_to(config.out)),
    }


def summarise(results: Mapping[Cell, Mapping[str, Any]], ranks: Ranks) -> list[dict[str, Any]]:
    """A row for each encoder (or named row) and backbone: means over seeds, intervals over users.

    Args:
        results: Finished cells.
        ranks: Their users' ranks.
    """
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell, result in results.items():
        rows.setdefault((cell.name, cell.backbone), []).append(result)
    summary = []
    for (encoder, backbone), runs in rows.items():
        summary.append(
            {
                "encoder": encoder,
                "backbone": backbone,
                "seeds": [run["seed"] for run in runs],
                "metrics": _spread_of_each([run["metrics"] for run in runs]),
                "intervals": {m: ranks.interval((encoder, backbone), m) for m in ranks.metrics},
                "slices": {
                    name: _spread_of_each([run["slices"][name] for run in runs])
                    | {"users": runs[0]["slices"][name]["users"]}
                    for name in runs[0]["slices"]
                },
                "parameters": runs[0]["parameters"],
                "seconds": _spread([run["seconds"] for run in runs]),
                "seconds_by_part": _spread_of_each([run["seconds_by_part"] for run in runs]),
                "peak_mb": max(run["peak_mb"] for run in runs),
                "best_epoch": _spread([run["best_epoch"] for run in runs]),
                "gates": _mean_gates([run["gates"] for run in runs]),
                "cold_choice": mean_choice([run.get("cold_choice") for run in runs]),
            }
        )
    return summary


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and sample standard deviation; None where there is none."""
    known = [float(value) for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "std": statistics.stdev(known) if len(known) > 1 else None,
    }


def _spread_of_each(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    return {name: _spread([run.get(name) for run in runs]) for name in runs[0] if name != "users"}


def _mean_gates(gates: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    known = [gate for gate in gates if gate is not None]
    if not known:
        return None

    def mean(vectors: Sequence[Sequence[float]]) -> list[float]:
        return torch.tensor(vectors, dtype=torch.float64).mean(0).tolist()

    by_seed = torch.tensor([gate["mean"] for gate in known], dtype=torch.float64)
    return {
        "layers": known[0]["layers"],
        "mean": mean([gate["mean"] for gate in known]),
        "std_over_items": mean([gate["std"] for gate in known]),
        "std_over_seeds": by_seed.std(0).tolist() if len(known) > 1 else None,
        "entropy": statistics.fmean(gate["entropy"] for gate in known),
        "slices": {
            name: mean([gate["slices"][name] for gate in known]) for name in known[0]["slices"]
        },
    }


def _comparisons(
    config: CompareConfig, names: Mapping[str, EncoderName], ranks: Ranks
) -> list[dict[str, Any]]:
    found = []
    for encoder, reference in _pairs(names, config.baseline):
        for backbone in config.backbones:
            row, other = (_row(ranks, name, backbone) for name in (encoder, reference))
            if row is None or other is None:
                continue
            for metric in ranks.metrics:
                compared = ranks.compare(row, other, metric)
                if compared is None:
                    continue
                test, seeds = compared
                found.append(
                    {
                        "encoder": encoder,
                        "reference": reference,
                        "backbone": backbone,
                        "metric": metric,
                        "difference": test.difference,
                        "low": test.low,
                        "high": test.high,
                        "relative": test.relative,
                        "users": test.users,
                        "seeds": seeds,
                    }
                )
    return found


def _row(ranks: Ranks, encoder: str, backbone: str) -> tuple[str, str] | None:
    for row in ((encoder, backbone), (encoder, NO_BACKBONE)):
        if row in ranks.of:
            return row
    return None


def _pairs(names: Mapping[str, EncoderName], baseline: str) -> list[tuple[str, str]]:
    """Which rows are tested against which: all against the baseline, methods against controls."""
    pairs = [(name, baseline) for name in names if name != baseline and baseline in names]
    for method, parsed in names.items():
        if parsed.kind != "method":
            continue
        pairs += [
            (method, name)
            for name, other in names.items()
            if other.kind in ("control", "fusion") and parsed.with_id == other.knows_ids
        ]
        pairs += [
            (method, name) for name, o in names.items() if o.kind == "ceiling" and name != baseline
        ]
    if {"linkedout", "linkedout+id"} <= set(names):
        pairs.append(("linkedout+id", "linkedout"))
    return list(dict.fromkeys(pairs))


def protocol_of(config: CompareConfig) -> dict[str, Any]:
    """How the figures came about: seeds, settings, ranking, tests."""
    names = ("engine", "seeds", "baseline", "monitor", "ks", "bootstrap", "overrides")
    return {
        **{name: getattr(config, name) for name in names},
        "stores": {
            name: Path(path).name
            for name, path in {"store": config.store, **config.stores}.items()
            if path
        },
        "test": f"paired bootstrap over users, {config.bootstrap} resamples, 95 % interval of the "
        "difference of means, each user's value averaged over the seeds",
        **planner(config.engine).protocol(config),
    }
