"""What each kind of result brings to the page: sentences, pictures, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from linkedout_lightning.compare import charts
from linkedout_lightning.compare.ablation.charts import cost_chart, overview_chart
from linkedout_lightning.compare.ablation.markdown import base_lines
from linkedout_lightning.compare.ablation.views import accuracy, sections, whole_view
from linkedout_lightning.compare.findings import BACKBONE_LABELS
from linkedout_lightning.compare.markdown import environment_lines, protocol_lines
from linkedout_lightning.compare.tables import (
    Table,
    TableCell,
    accuracy_table,
    backbones,
    cold_table,
    costs_table,
    gates_table,
    main_metric,
    rows_of,
    slices_table,
    tests_table,
)
from linkedout_lightning.compare.tuning.markdown import sentences
from linkedout_lightning.explain import charts as explained
from linkedout_lightning.explain import curves
from linkedout_lightning.explain.markdown import method_lines
from linkedout_lightning.explain.tables import leave_out_table, readout_table, stability_table

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One result.

    Attributes:
        place: Its folder, from that of the study.
        heading: Over it.
        page: Its own page, in its folder.
        simulated: Whether its data are simulated.
        findings: Sentences.
        figures: Caption and picture, as SVG.
        tables: Shown at once.
        further: Tables that are unfolded on demand.
        method: How it came about.
        cost: Trained cells and their time, in a sentence.
    """

    place: str
    heading: str
    page: str
    simulated: bool
    findings: list[str]
    figures: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    further: list[Table] = field(default_factory=list)
    method: list[str] = field(default_factory=list)
    cost: str = ""


def comparison_part(document: Document, place: str, heading: str) -> Part:
    """Accuracy, differences, popularity, gates and costs of every backbone."""
    hr, ndcg = main_metric(document), main_metric(document, "NDCG")
    figures: list[tuple[str, str | None]] = []
    tables, further = [], []
    for backbone in backbones(document):
        name = BACKBONE_LABELS.get(backbone, backbone)
        figures += [
            (
                f"{name}: {metric}. Dot: mean over seeds. Bar: 95 % interval over users. Small "
                "ticks: single seeds. Dashed: the baseline.",
                charts.accuracy_chart(document, backbone, metric),
            )
            for metric in (hr, ndcg)
        ]
        figures += [
            (
                f"{name}: difference of {hr} to the baseline, paired bootstrap over users, 95 % "
                "intervals; colour only where the interval leaves out zero.",
                charts.difference_chart(document, backbone, hr),
            )
        ]
        figures += [
            (
                f"{name}: weight of each layer in "
                f"{document['encoders'][row['encoder']]['label']}, by the items' popularity.",
                charts.gates_chart(document, row),
            )
            for row in rows_of(document, backbone)
            if document["encoders"][row["encoder"]]["kind"] in ("method", "features")
        ]
        tables.append(accuracy_table(document, backbone))
        more = (
            tests_table(document, backbone),
            slices_table(document, backbone),
            cold_table(document, backbone),
            gates_table(document, backbone),
            costs_table(document, backbone),
        )
        further += [table for table in more if table is not None]
    return Part(
        place=place,
        heading=heading,
        page="report.html",
        simulated=document["simulated"],
        findings=list(document["findings"]),
        figures=_drawn(figures),
        tables=tables,
        further=further,
        method=[*protocol_lines(document), *environment_lines(document)],
        cost=_cost(document["cells"]),
    )


def ablation_part(document: Document, place: str, heading: str) -> Part:
    """Every change against the base, and a table an axis."""
    finished = bool(document["summary"])
    shown = sections(document) if finished else []
    backbone = document["protocol"]["backbone"]
    pictures = [
        ("Each row has one change; in percent of the base.", overview_chart(document)),
        ("Accuracy over trainable parameters.", cost_chart(document)),
    ]
    return Part(
        place=place,
        heading=heading,
        page="ablation.html",
        simulated=document["simulated"],
        findings=list(document["findings"]),
        figures=_drawn(pictures if finished else []),
        tables=[_tests(document, backbone)] if finished else [],
        further=[accuracy(document, section["view"]) for section in shown],
        method=[*base_lines(document), *environment_lines(document)],
        cost=_cost(document["cells"]),
    )


def tuning_part(document: Document, place: str, heading: str) -> Part:
    """What was tried and chosen."""
    budget, metric = document["budget"], document["budget"]["monitor"]
    rows = []
    for chosen in document["chosen"]:
        key = chosen["row"], chosen["backbone"]
        trials = [t for t in document["trials"] if (t["row"], t["backbone"]) == key]
        values = [trial["validation"] for trial in trials]
        texts = (
            f"{chosen['row']}, {BACKBONE_LABELS.get(chosen['backbone'], chosen['backbone'])}",
            len(trials),
            f"{chosen['validation']:.4f}",
            f"{median(values):.4f}",
            f"{min(values):.4f}",
            ", ".join(f"{name} {value}" for name, value in chosen["settings"].items()),
        )
        rows.append([TableCell(str(text)) for text in texts])
    columns = ["", "trials", f"best val {metric}", "median", "worst", "chosen"]
    table = Table(
        caption=f"Random search over {metric} of the validation, {budget['trials']} trials a row, "
        f"at most {budget['epochs']} epochs each, seed {budget['seed']}",
        columns=columns,
        rows=rows,
        kinds=["" for _ in rows],
    )
    method = [line for line in protocol_lines(document) if not line.startswith("Test: ")]
    return Part(
        place=place,
        heading=heading,
        page="tune.md",
        simulated=document["simulated"],
        findings=sentences(document),
        tables=[table],
        method=[*method, *environment_lines(document)],
        cost=_cost(document["trials"]),
    )


def explanation_part(document: Document, place: str, heading: str) -> Part:
    """Which layer serves which items, and item vectors."""
    encoders = list(document["encoders"].values())
    figures = [
        (
            f"{encoder['label']}: mean weight of each layer by category.",
            explained.gates_chart(document, encoder, ("category",)),
        )
        for encoder in encoders
    ]
    figures.append(("Singular values of item vectors.", curves.spectrum_chart(document)))
    readout = readout_table(document)
    tables = [stability_table(document), *(leave_out_table(one) for one in encoders)]
    return Part(
        place=place,
        heading=heading,
        page="explain.html",
        simulated=document["simulated"],
        findings=list(document["findings"]),
        figures=_drawn(figures),
        tables=[] if readout is None else [readout],
        further=[table for table in tables if table is not None],
        method=[*method_lines(document), *environment_lines(document)],
    )


MAKERS: Mapping[str, Callable[[Document, str, str], Part]] = {
    "results.json": comparison_part,
    "ablation.json": ablation_part,
    "tune.json": tuning_part,
    "explain.json": explanation_part,
}
"""What makes a part of a file of this name."""


def _tests(document: Document, backbone: str) -> Table:
    """Every change against the base with its interval."""
    table = tests_table(whole_view(document), backbone)
    return table or Table(caption="No differences", columns=[""], rows=[])


def _drawn(figures: list[tuple[str, str | None]]) -> list[tuple[str, str]]:
    return [(caption, picture) for caption, picture in figures if picture]


def _cost(cells: list[Mapping[str, Any]]) -> str:
    trained = [cell for cell in cells if cell.get("seconds") and cell.get("parameters", 1)]
    hours = sum(cell["seconds"] for cell in trained) / 3600
    return (
        f"{len(trained)} trainings, {hours:.1f} hours together, the longest "
        f"{max(c['seconds'] for c in trained) / 60:.0f} minutes."
        if trained
        else ""
    )
