"""The parts of ``explain.json`` put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.files import read_json
from linkedout_lightning.data import InteractionDataModule
from linkedout_lightning.explain.cells import TrainedCell, open_store
from linkedout_lightning.explain.config import ExplainConfig
from linkedout_lightning.explain.findings import find
from linkedout_lightning.explain.groups import Groups
from linkedout_lightning.explain.items import KnownItems, describe_items
from linkedout_lightning.explain.study import Study
from linkedout_lightning.explain.summary import (
    gates_of,
    leave_out_of,
    neighbours_of,
    overlaps_of,
    readout_of,
    spaces_of,
)


def make_document(
    study: Study,
    cells: Sequence[TrainedCell],
    data: InteractionDataModule,
    known: KnownItems,
    groups: Groups,
    config: ExplainConfig,
) -> dict[str, Any]:
    """All figures, with the findings in words.

    Args:
        study: What the cells show.
        cells: The cells.
        data: What they share.
        known: The catalogue.
        groups: Groups of items.
        config: Choices.
    """
    base = study.encoders.get("id")
    encoders: dict[str, Any] = {}
    for name, found in study.encoders.items():
        encoders[name] = {
            "label": found.cells[0].name.label,
            "seeds": [cell.seed for cell in found.cells],
            "gates": gates_of(found, groups),
            "leave_out": leave_out_of(found, study.targets, groups, config),
            "id_share": _mean_of(found.id_shares),
            "spaces": spaces_of(found.spaces),
            "overlaps": overlaps_of(found, study.frozen, base),
        }
    shown = neighbours_of(study, _shown(study), known.item_ids, config.listed)
    ids = sorted(
        {i for q in shown["queries"] for i in (q["id"], *(n[0] for v in q["lists"].values()
         for n in v))} if shown else ()
    )  # fmt: skip
    items, broken = describe_items(known, ids, titles=config.titles)
    simulated, note = _simulated(config)
    document: dict[str, Any] = {
        "title": config.title,
        "simulated": simulated,
        "simulation_note": note,
        "protocol": {
            "data": Path(cells[0].spec["settings"]["interactions"]).name,
            "backbone": cells[0].spec["backbone"],
            "features": _features(cells),
            "items": data.num_items,
            "cold_items": data.report.cold_items,
            "test_users": data.report.test_users,
            "ranked_users": len(study.targets),
            "cells": [
                {"encoder": c.encoder, "seed": c.seed, "folder": c.folder.name,
                 "best_epoch": c.result.get("best_epoch")} for c in cells
            ],
            "near": study.sample.k,
            "sample": len(study.sample.drawn),
            "pool": len(study.sample.pool),
            "chance": study.sample.k / (len(study.sample.pool) - 1),
            "min_items": config.min_items,
            "categories": len({c for c in known.categories if c}),
            "without_category": sum(not c for c in known.categories),
            "titles": config.titles,
            "broken_pictures": broken,
            "bootstrap": config.bootstrap,
        },
        "groups": groups.to_json(),
        "encoders": encoders,
        "frozen": spaces_of([study.frozen]) if study.frozen else [],
        "readout": readout_of(study.readout),
        "neighbours": shown,
        "items": items,
    }  # fmt: skip
    document["findings"] = find(document)
    return document


def _features(cells: Sequence[TrainedCell]) -> str | None:
    """What the encoders read, in a line."""
    reading = [cell for cell in cells if cell.spec["settings"].get("store")]
    store = open_store(reading[0]) if reading else None
    if store is None:
        return None
    spec, settings = store.spec, reading[0].spec["settings"]
    layers = ", ".join(map(str, settings.get("layers") or spec.layers))
    slots = ", ".join(settings.get("slots") or spec.slots)
    return f"{spec.model}, layers {layers}, token groups {slots}, prompt {spec.prompt!r}"


def _mean_of(shares: list[Any]) -> list[list[float]] | None:
    if not shares:
        return None
    total = sum(shares[1:], shares[0])
    means: list[list[float]] = (total / len(shares)).tolist()
    return means


def _shown(study: Study) -> str:
    """The encoder whose neighbours are shown: one that has both layers and an ID, if there is."""

    def rank(name: str) -> int:
        spaces = study.encoders[name].spaces[0]
        return 2 * any(key.startswith("expert/") for key in spaces) + ("id" in spaces)

    return max(study.encoders, key=rank)


def _simulated(config: ExplainConfig) -> tuple[bool, str]:
    """Whether a comparison says that its data are simulated, and how."""
    for folder in config.cells:
        results = read_json(Path(folder) / "results.json")
        if isinstance(results, dict) and results.get("simulated"):
            return True, str(results.get("simulation_note", ""))
    return False, ""
