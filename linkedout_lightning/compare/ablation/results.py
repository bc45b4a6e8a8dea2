"""From finished cells to ``ablation.json``: every row against the base, axis by axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.ablation.rows import BASE, AblationPlan, Row
from linkedout_lightning.compare.environment import environment
from linkedout_lightning.compare.files import plain
from linkedout_lightning.compare.findings import (
    BACKBONE_LABELS,
    compared,
    percent,
    signed,
    verdict,
)
from linkedout_lightning.compare.names import parse_encoder
from linkedout_lightning.compare.results import (
    Ranks,
    failed_cell,
    finished_cell,
    headline_metrics,
    protocol_of,
    summarise,
)

_KEPT = "keeps the base"


def collect(planned: AblationPlan, *, grid: bool, failures: Mapping[Path, str]) -> dict[str, Any]:
    """The object of ``ablation.json``.

    Args:
        planned: The plan.
        grid: Whether its rows are combinations.
        failures: Why cells failed, by folder.

    Returns:
        JSON-able, without NaN: what ``results.json`` of a comparison has, rows in the place of
        encoders, and ``axes`` (each with its values and their rows), ``empty_axes`` and ``grid``
        (None, or the row of each combination).
    """
    config, cells = planned.base, planned.cells
    results = {cell: result for cell in cells if (result := cell.result()) is not None}
    ranks = Ranks(results, metrics=headline_metrics(config), resamples=config.bootstrap)
    protocol = protocol_of(config)
    document: dict[str, Any] = {
        "title": config.title,
        "simulated": config.simulated,
        "simulation_note": config.simulation_note,
        "environment": environment(),
        "protocol": protocol | {"baseline": BASE, "backbone": config.backbones[0]},
        "data": next((result["data"] for result in results.values()), None),
        "encoders": {row.name: _about(row) for row in planned.rows},
        "axes": [
            {
                "name": axis.name, "title": axis.title, "question": axis.question,
                "shape": axis.shape,
                "values": [
                    {"label": value.label, "changes": dict(value.changes), "at": list(value.at),
                     "row": row}
                    for value, row in zip(
                        axis.values,
                        planned.places.get(axis.name, (None,) * len(axis.values)),
                        strict=True,
                    )
                ],
            }
            for axis in planned.axes
        ],
        "empty_axes": dict(planned.empty),
        "grid": list(planned.places["grid"]) if grid else None,
        "cells": [finished_cell(config, cell, result) for cell, result in results.items()],
        "failed": [
            failed_cell(config, cell, failures) for cell in cells if cell not in results
        ],
        "summary": summarise(results, ranks),
        "comparisons": _against_base(ranks, config.backbones[0]),
    }  # fmt: skip
    document["findings"] = find(document)
    checked: dict[str, Any] = plain(document)
    return checked


def full_label(encoder: str) -> str:
    """The base's name for people."""
    return parse_encoder(encoder).label


def _about(row: Row) -> dict[str, Any]:
    if row.name == BASE:
        label = full_label(row.encoder)
        return {
            "label": "base", "kind": "baseline", "encoder": row.encoder, "changes": {},
            "meaning": f"{label}, with the settings of the protocol",
        }  # fmt: skip
    return {
        "label": row.label,
        "kind": "features",
        "encoder": row.encoder,
        "changes": dict(row.changes),
        "meaning": ", ".join(f"{name} {_said(value)}" for name, value in row.changes.items()),
    }


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _against_base(ranks: Ranks, backbone: str) -> list[dict[str, Any]]:
    base, found = (BASE, backbone), []
    for row in ranks.of:
        if row == base or base not in ranks.of:
            continue
        for metric in ranks.metrics:
            compared_ranks = ranks.compare(row, base, metric)
            if compared_ranks is None:
                continue
            test, seeds = compared_ranks
            found.append(
                {
                    "encoder": row[0], "reference": BASE, "backbone": backbone, "metric": metric,
                    "difference": test.difference, "low": test.low, "high": test.high,
                    "relative": test.relative, "users": test.users, "seeds": seeds,
                }
            )  # fmt: skip
    return found


def find(document: Mapping[str, Any]) -> list[str]:
    """Sentences on an ablation, the most important first.

    What an axis prefers is chosen by the validation, and the test says what the choice is worth:
    the best of many test figures is too good.

    Args:
        document: The object of ``ablation.json`` without its findings.
    """
    protocol = document["protocol"]
    backbone, metric = protocol["backbone"], _metric(protocol)
    rows = {row["encoder"]: row for row in document["summary"]}
    if BASE not in rows:
        return ["The base was not finished, so there is nothing to hold the other rows against."]
    label = document["encoders"][BASE]["meaning"].partition(",")[0]
    name = BACKBONE_LABELS.get(backbone, backbone)
    sentences = [
        f"The base, {label} with {name}, has {metric} {rows[BASE]['metrics'][metric]['mean']:.4f}; "
        f"{len(rows) - 1} other rows were trained with the same data, seeds and budget."
    ]
    if document["grid"] is not None:
        sentences += _choice(document, "Of all combinations", document["grid"], {}, metric)
        sentences = [s if s != _KEPT else "The validation keeps the base." for s in sentences]
    else:
        kept = []
        for axis in document["axes"]:
            labels = {value["row"]: value["label"] for value in axis["values"]}
            chosen = _choice(document, axis["title"], list(labels), labels, metric)
            if chosen == [_KEPT]:
                own = f" ({labels[BASE]})" if BASE in labels else ""
                title = axis["title"]
                title = title if title[:2].isupper() else title[0].lower() + title[1:]
                kept.append(title + own)
            else:
                sentences += chosen
        if kept:
            sentences.append(f"The validation keeps the base in: {'; '.join(kept)}.")
    tests = [t for t in document["comparisons"] if t["metric"] == metric]
    apart = sum(verdict(test) != "open" for test in tests)
    if tests:
        chance = 0.05 * len(tests)
        sentences.append(
            f"{apart} of {len(tests)} intervals leave out zero; about {chance:.0f} would by chance "
            "alone if no change did anything."
        )
    if document["failed"]:
        names = ", ".join(dict.fromkeys(cell["encoder"] for cell in document["failed"]))
        sentences.append(f"Cells that failed and are in no table: {names}.")
    if len(protocol["seeds"]) < 2:
        sentences.append("One seed only: the spread between trainings is not known.")
    return sentences


def validation(document: Mapping[str, Any]) -> dict[str, float]:
    """The validation figure that chose each row's epoch, mean over its seeds."""
    found: dict[str, list[float]] = {}
    for cell in document["cells"]:
        if cell["best_value"] is not None:
            found.setdefault(cell["encoder"], []).append(cell["best_value"])
    return {name: sum(values) / len(values) for name, values in found.items()}


def _choice(
    document: Mapping[str, Any],
    title: str,
    names: list[str],
    labels: Mapping[str, str],
    metric: str,
) -> list[str]:
    known = validation(document)
    finished = [name for name in dict.fromkeys((BASE, *names)) if name in known]
    if len(finished) < 2:
        return []
    best = max(finished, key=lambda name: known[name])
    label = labels.get(best, document["encoders"][best]["label"])
    if best == BASE:
        return [_KEPT]
    test = compared(document, best, BASE, document["protocol"]["backbone"], metric)
    if test is None:
        return []
    worth = {
        "better": "better than the base", "worse": "worse than the base",
        "open": "no difference to the base can be claimed",
    }[verdict(test)]  # fmt: skip
    return [
        f"{title}: the validation chooses {label}; in the test {worth}, {metric} "
        f"{percent(test['relative'])} ({signed(test['low'])} to {signed(test['high'])})."
    ]


def _metric(protocol: Mapping[str, Any]) -> str:
    ks = protocol["ks"]
    return f"HR@{10 if 10 in ks else min(ks)}"
