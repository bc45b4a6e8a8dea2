"""The tables of a report, as text in cells, for Markdown, HTML and the terminal alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from linkedout_lightning.compare.findings import BACKBONE_LABELS, compared, percent, signed, verdict
from linkedout_lightning.compare.slices import COLD, slice_mean, trained_mean

_TRAINED = "trained"
"""All slices but the cold one."""

KIND_ORDER = ("floor", "baseline", "control", "fusion", "features", "method", "ceiling")
VERDICTS = {"better": "better", "worse": "worse", "open": "open"}


@dataclass(frozen=True)
class TableCell:
    """One cell.

    Attributes:
        text: What stands in it.
        best: Whether it is the best of its column.
        small: A second line, such as an interval.
        tone: ``"better"``, ``"worse"`` or nothing, for colour beside the sign.
    """

    text: str
    best: bool = False
    small: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row, the others are figures.

    Attributes:
        caption: What it shows.
        columns: Headings.
        rows: Cells.
        kinds: Part of each row in the comparison, see :data:`KIND_ORDER`.
    """

    caption: str
    columns: list[str]
    rows: list[list[TableCell]]
    kinds: list[str] = field(default_factory=list)


def main_metric(results: Mapping[str, Any], name: str = "HR") -> str:
    """The metric at the cut-off that the findings speak of."""
    ks = results["protocol"]["ks"]
    return f"{name}@{10 if 10 in ks else min(ks)}"


def backbones(results: Mapping[str, Any]) -> list[str]:
    """Backbones that have finished rows, in the configuration's order."""
    found = list(dict.fromkeys(row["backbone"] for row in results["summary"]))
    return [name for name in found if name != "none"] or found


def rows_of(results: Mapping[str, Any], backbone: str) -> list[Mapping[str, Any]]:
    """The rows of one backbone and the floors beside them, ordered by their part."""
    encoders = results["encoders"]
    order = list(encoders)
    rows = [row for row in results["summary"] if row["backbone"] in (backbone, "none")]
    return sorted(
        rows,
        key=lambda row: (
            KIND_ORDER.index(encoders[row["encoder"]]["kind"]),
            order.index(row["encoder"]),
        ),
    )


def accuracy_table(results: Mapping[str, Any], backbone: str) -> Table:
    """Mean ± standard deviation over seeds, interval over users, and the gain over the baseline."""
    protocol, encoders = results["protocol"], results["encoders"]
    metrics = [f"{name}@{k}" for k in protocol["ks"] for name in ("HR", "NDCG")]
    rows = rows_of(results, backbone)
    contenders = [row for row in rows if encoders[row["encoder"]]["kind"] != "ceiling"]
    best = {m: max((r["metrics"][m]["mean"] for r in contenders), default=None) for m in metrics}
    baseline = protocol["baseline"]
    table: list[list[TableCell]] = []
    for row in rows:
        ceiling = encoders[row["encoder"]]["kind"] == "ceiling"
        line = [TableCell(encoders[row["encoder"]]["label"])]
        for metric in metrics:
            value = row["metrics"][metric]
            interval = row["intervals"].get(metric)
            line.append(
                TableCell(
                    spread(value),
                    best=not ceiling and value["mean"] == best[metric],
                    small=f"{interval['low']:.4f} to {interval['high']:.4f}" if interval else "",
                )
            )
        if baseline in encoders:
            test = compared(results, row["encoder"], baseline, backbone, main_metric(results))
            line.append(_gain(test))
        cold = row["slices"].get("cold", {}).get(main_metric(results))
        line.append(TableCell(spread(cold) if cold else "–"))
        line.append(TableCell(f"{row['parameters']:,}"))
        table.append(line)
    against = [f"against {encoders[baseline]['label']}"] if baseline in encoders else []
    parts = ["mean ± standard deviation over seeds", "95 % interval over users"]
    parts += [f"change of {main_metric(results)} {phrase}" for phrase in against]
    parts += [f"{main_metric(results)} of cold items", "trainable parameters"]
    return Table(
        caption=f"{BACKBONE_LABELS.get(backbone, backbone)}: {', '.join(parts)}",
        columns=["", *metrics, *against, f"cold {main_metric(results)}", "parameters"],
        rows=table,
        kinds=[encoders[row["encoder"]]["kind"] for row in rows],
    )


def tests_table(results: Mapping[str, Any], backbone: str) -> Table | None:
    """Every paired difference; None if there is none."""
    label = {name: encoder["label"] for name, encoder in results["encoders"].items()}
    tests = [test for test in results["comparisons"] if test["backbone"] == backbone]
    metrics = list(dict.fromkeys(test["metric"] for test in tests))
    pairs = list(dict.fromkeys((test["encoder"], test["reference"]) for test in tests))
    rows = []
    for encoder, reference in pairs:
        line = [TableCell(f"{label[encoder]} against {label[reference]}")]
        for metric in metrics:
            test = compared(results, encoder, reference, backbone, metric)
            if test is None:
                line.append(TableCell("–"))
                continue
            line.append(
                TableCell(
                    f"{signed(test['difference'])} ({percent(test['relative'])})",
                    small=f"{signed(test['low'])} to {signed(test['high'])}",
                    tone=_tone(test),
                )
            )
        rows.append(line)
    if not rows:
        return None
    return Table(
        caption=f"{BACKBONE_LABELS.get(backbone, backbone)}: paired differences over users with "
        "95 % intervals; an interval without zero is a difference",
        columns=["", *metrics],
        rows=rows,
        kinds=["" for _ in rows],
    )


def slices_table(results: Mapping[str, Any], backbone: str) -> Table:
    """The main metric by popularity decile of the target, for all trained items, and cold ones."""
    metric, encoders = main_metric(results), results["encoders"]
    rows = rows_of(results, backbone)
    users = {name: row["slices"][name]["users"] for row in rows for name in row["slices"]}
    trained = [name for name in users if name != COLD]
    names = [*trained, *([_TRAINED, COLD] if COLD in users else [])]
    contenders = [row for row in rows if encoders[row["encoder"]]["kind"] != "ceiling"]
    values = {
        id(row): {
            name: trained_mean(row, metric) if name == _TRAINED else slice_mean(row, name, metric)
            for name in names
        }
        for row in rows
    }
    best = {
        name: max((v for row in contenders if (v := values[id(row)][name]) is not None), default=0)
        for name in names
    }
    lines = []
    for row in rows:
        line = [TableCell(encoders[row["encoder"]]["label"])]
        for name in names:
            found = values[id(row)][name]
            top = bool(found) and row in contenders and found == best[name]
            line.append(TableCell("–" if found is None else f"{found:.4f}", best=top))
        lines.append(line)
    users[_TRAINED] = sum(users[name] for name in trained)
    lines.append([TableCell("Test users"), *(TableCell(f"{users[n]:,}") for n in names)])
    return Table(
        caption=f"{BACKBONE_LABELS.get(backbone, backbone)}: {metric} by popularity decile of the "
        "target item (1: most popular), for all trained items, and for items that training never "
        "saw",
        columns=["", *(slice_label(name) for name in names)],
        rows=lines,
        kinds=[*(encoders[row["encoder"]]["kind"] for row in rows), "foot"],
    )


def gates_table(results: Mapping[str, Any], backbone: str) -> Table | None:
    """Mean weight of each layer; None where no row has a gate."""
    rows = [row for row in rows_of(results, backbone) if row["gates"]]
    if not rows:
        return None
    layers = list(dict.fromkeys(layer for row in rows for layer in row["gates"]["layers"]))
    lines = []
    for row in rows:
        gates = row["gates"]
        weights = zip(gates["mean"], gates["std_over_items"], strict=True)
        of_layer = dict(zip(gates["layers"], weights, strict=True))
        line = [TableCell(results["encoders"][row["encoder"]]["label"])]
        for layer in layers:
            mean, spread_over_items = of_layer.get(layer, (None, None))
            text = "–" if mean is None else f"{mean:.3f} ± {spread_over_items:.3f}"
            line.append(TableCell(text))
        line.append(TableCell(f"{gates['entropy']:.3f}"))
        lines.append(line)
    return Table(
        caption=f"{BACKBONE_LABELS.get(backbone, backbone)}: weight of each layer, mean ± standard "
        "deviation over items; entropy 1 is an even share, 0 one layer alone",
        columns=["", *(f"layer {layer}" for layer in layers), "entropy"],
        rows=lines,
        kinds=[results["encoders"][row["encoder"]]["kind"] for row in rows],
    )


def cold_table(results: Mapping[str, Any], backbone: str) -> Table | None:
    """What each strength of cold items' calibration gave on the validation; None if none chose."""
    found = [
        (results["encoders"][row["encoder"]]["label"], choice)
        for row in rows_of(results, backbone)
        if (choice := row.get("cold_choice"))
    ]
    if not found:
        return None
    lines, columns = [], [""]
    for label, choice in found:
        at = f"HR@{choice['k']}"
        columns.append(f"{label}, at most {100 * choice['budget']:g} % lost: trained {at}")
        columns.append(f"cold {at}")
    for place, strength in enumerate(found[0][1]["strengths"]):
        line = [TableCell(f"strength {strength:g}")]
        for _, choice in found:
            chosen = strength in choice["chosen"]
            line += [
                TableCell(f"{part[place]:.4f}", best=chosen) if part else TableCell("–")
                for part in (choice["trained"], choice["cold"])
            ]
        lines.append(line)
    trained, cold = found[0][1]["users"]
    return Table(
        caption=f"{BACKBONE_LABELS.get(backbone, backbone)}: cold items' calibration on the "
        f"validation ({trained:,} users with a trained target, {cold:,} with a cold one), mean "
        "over seeds; in bold where the test was read, for each seed the last strength before one "
        "that costs trained items more than they may lose",
        columns=columns,
        rows=lines,
        kinds=["" for _ in lines],
    )


def costs_table(results: Mapping[str, Any], backbone: str) -> Table:
    """Parameters, seconds and memory."""
    rows = rows_of(results, backbone)
    lines = []
    for row in rows:
        parts = row["seconds_by_part"]
        lines.append(
            [
                TableCell(results["encoders"][row["encoder"]]["label"]),
                TableCell(f"{row['parameters']:,}"),
                TableCell(_seconds(parts.get("fit"))),
                TableCell(_seconds(parts.get("epoch"))),
                TableCell(_number(row["best_epoch"]["mean"], 1)),
                TableCell(_seconds(parts.get("evaluation"))),
                TableCell(f"{row['peak_mb']:,.0f}"),
            ]
        )
    return Table(
        caption=f"{BACKBONE_LABELS.get(backbone, backbone)}: trainable parameters, seconds (mean "
        "over seeds) and peak memory of the process",
        columns=[
            "", "parameters", "training s", "s an epoch", "best epoch", "test s", "peak MB",
        ],
        rows=lines,
        kinds=[results["encoders"][row["encoder"]]["kind"] for row in rows],
    )  # fmt: skip


def cited_table(results: Mapping[str, Any]) -> Table | None:
    """Figures of publications; None where none are cited."""
    cited = results.get("cited")
    if cited is None:
        return None
    rows = [
        [TableCell(row["method"])]
        + [TableCell(_number(row["metrics"].get(name), 4)) for name in cited["columns"]]
        for row in cited["rows"]
    ]
    return Table(
        caption=cited["note"], columns=["", *cited["columns"]], rows=rows, kinds=["" for _ in rows]
    )


def spread(value: Mapping[str, Any], digits: int = 4) -> str:
    """``mean ± std`` or the mean alone.

    Example:
        >>> spread({"mean": 0.12345, "std": 0.001}), spread({"mean": 0.5, "std": None}, 2)
        ('0.1235 ± 0.0010', '0.50')
    """
    if value["mean"] is None:
        return "–"
    text = f"{value['mean']:.{digits}f}"
    return text if value["std"] is None else f"{text} ± {value['std']:.{digits}f}"


def slice_label(name: str) -> str:
    """``decile_3`` as ``3``."""
    return name.removeprefix("decile_")


def _gain(test: Mapping[str, Any] | None) -> TableCell:
    if test is None:
        return TableCell("")
    interval = f"{signed(test['low'])} to {signed(test['high'])}"
    return TableCell(percent(test["relative"]), small=interval, tone=_tone(test))


def _tone(test: Mapping[str, Any]) -> str:
    return verdict(test).replace("open", "")


def _seconds(value: Mapping[str, Any] | None) -> str:
    if value is None or value["mean"] is None:
        return "–"
    return f"{value['mean']:,.0f}" if value["mean"] >= 100 else f"{value['mean']:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
