"""Parts of an ablation in the form of a comparison's results, for the tables and pictures there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linkedout_lightning.compare.ablation.results import validation
from linkedout_lightning.compare.ablation.rows import BASE
from linkedout_lightning.compare.findings import BACKBONE_LABELS
from linkedout_lightning.compare.tables import (
    Table,
    TableCell,
    accuracy_table,
    costs_table,
    rows_of,
)


def axis_view(document: Mapping[str, Any], axis: Mapping[str, Any]) -> dict[str, Any]:
    """The base and the rows of one axis, each named by the axis's own value.

    Args:
        document: The object of ``ablation.json``.
        axis: An entry of its ``axes``.
    """
    labels: dict[str, str] = {}
    for value in axis["values"]:
        labels.setdefault(value["row"], value["label"])
    base = f"base: {labels[BASE]}" if BASE in labels else "base"
    return _view(document, {BASE: base} | {n: v for n, v in labels.items() if n != BASE})


def whole_view(document: Mapping[str, Any]) -> dict[str, Any]:
    """All rows, each with its axis and its value."""
    return _view(document, {n: about["label"] for n, about in document["encoders"].items()})


def _view(document: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    encoders = {
        name: document["encoders"][name] | {"label": label} for name, label in labels.items()
    }
    return dict(document) | {
        "encoders": encoders,
        "summary": [row for row in document["summary"] if row["encoder"] in labels],
        "cells": [cell for cell in document["cells"] if cell["encoder"] in labels],
        "comparisons": [t for t in document["comparisons"] if t["encoder"] in labels],
    }


def sections(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is shown one after the other: the axes, or the whole grid; each with its ``view``."""
    if document["grid"] is not None:
        names = " x ".join(axis["title"].lower() for axis in document["axes"])
        grid = {
            "name": "grid", "title": "All combinations", "shape": "rows", "values": [],
            "question": f"Every combination of {names}.",
        }  # fmt: skip
        return [grid | {"view": whole_view(document)}]
    return [axis | {"view": axis_view(document, axis)} for axis in document["axes"]]


def accuracy(document: Mapping[str, Any], view: Mapping[str, Any]) -> Table:
    """The accuracy table of a comparison, with the figure that the validation chooses by."""
    backbone, monitor = document["protocol"]["backbone"], document["protocol"]["monitor"]
    table, known = accuracy_table(view, backbone), validation(document)
    names = [row["encoder"] for row in rows_of(view, backbone)]
    best = max((known[name] for name in names if name in known), default=None)
    rows = [
        [*line, TableCell(f"{known[name]:.4f}" if name in known else "–", best=known[name] == best)]
        for name, line in zip(names, table.rows, strict=True)
    ]
    return Table(
        caption=f"{table.caption}, validation {monitor}",
        columns=[*table.columns, f"val {monitor}"],
        rows=rows,
        kinds=table.kinds,
    )


def costs(document: Mapping[str, Any]) -> Table:
    """Parameters, seconds and memory of every row."""
    backbone = document["protocol"]["backbone"]
    table = costs_table(whole_view(document), backbone)
    name = BACKBONE_LABELS.get(backbone, backbone)
    return Table(
        caption=table.caption.replace(f"{name}: ", f"Every row with {name}: "),
        columns=table.columns,
        rows=table.rows,
        kinds=table.kinds,
    )
