"""The pictures of a report, from the object of ``results.json``.

Every function gives SVG text, or None where there is nothing to show. A series keeps its colour
and its marker in all pictures of a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from linkedout_lightning.compare.findings import compared, percent, signed, verdict
from linkedout_lightning.compare.svg import Svg, begin_picture, nice_ticks, tick_text
from linkedout_lightning.compare.tables import main_metric, rows_of, slice_label

_CHARACTER = 7.0  # width of a letter at the size of the labels
_ROW = 30.0


def accuracy_chart(results: Mapping[str, Any], backbone: str, metric: str) -> str | None:
    """A dot with its interval over users for each row, and a small tick for each seed.

    Args:
        results: The object of ``results.json``.
        backbone: Whose rows.
        metric: Such as ``"HR@10"``; its interval is drawn if there is one.
    """
    rows = rows_of(results, backbone)
    if not rows:
        return None
    labels = [results["encoders"][row["encoder"]]["label"] for row in rows]
    left, width, top = _left(labels), 560.0, 26.0
    right, bottom = width - 64, top + _ROW * len(rows)
    highest = max(row["intervals"].get(metric, {}).get("high", 0) for row in rows)
    highest = max(highest, *(row["metrics"][metric]["mean"] for row in rows))
    ticks = nice_ticks(0.0, highest or 1.0)
    picture = begin_picture(
        results, width, bottom + 26, f"{metric} of each row with 95 % intervals"
    )
    colours = {
        name: number
        for number, name in series_of(results, backbone)
        if results["encoders"][name]["kind"] in ("baseline", "method", "ceiling")
    }

    def x(value: float) -> float:
        return left + (right - left) * value / ticks[-1]

    for tick in ticks:
        picture.line(x(tick), top - 6, x(tick), bottom, "grid")
        picture.text(x(tick), bottom + 17, tick_text(tick, ticks), "tick", "middle")
    picture.text(left, 12, metric, "axis")
    base = next((r for r in rows if r["encoder"] == results["protocol"]["baseline"]), None)
    if base is not None:
        at = x(base["metrics"][metric]["mean"])
        picture.line(at, top - 6, at, bottom, "reference")
    for position, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + _ROW * (position + 0.5)
        kind = results["encoders"][row["encoder"]]["kind"]
        colour = f"s{colours[row['encoder']]}" if row["encoder"] in colours else ""
        mean = row["metrics"][metric]["mean"]
        interval = row["intervals"].get(metric)
        picture.text(left - 12, y + 4, label, f"label {kind}", "end")
        for cell in results["cells"]:
            if (cell["encoder"], cell["backbone"]) == (row["encoder"], row["backbone"]):
                at = x(cell["metrics"][metric])
                picture.line(at, y - 8, at, y + 8, f"seed {colour}")
        text = f"{label}: {mean:.4f}"
        end = x(mean) + 6
        if interval:
            picture.line(x(interval["low"]), y, x(interval["high"]), y, f"interval {colour}")
            text += f" ({interval['low']:.4f} to {interval['high']:.4f})"
            end = x(interval["high"])
        picture.circle(x(mean), y, 4.5, f"dot {colour}", title=text)
        picture.text(end + 9, y + 4, f"{mean:.4f}", "value")
    return str(picture)


def difference_chart(results: Mapping[str, Any], backbone: str, metric: str) -> str | None:
    """The paired difference of each trained row to the baseline with its interval."""
    protocol, encoders = results["protocol"], results["encoders"]
    tests = [
        test
        for row in rows_of(results, backbone)
        if encoders[row["encoder"]]["kind"] != "floor"
        and (test := compared(results, row["encoder"], protocol["baseline"], backbone, metric))
    ]
    if not tests:
        return None
    labels = [encoders[test["encoder"]]["label"] for test in tests]
    left, width, top = _left(labels), 560.0, 26.0
    right, bottom = width - 76, top + _ROW * len(tests)
    ticks = nice_ticks(min(0.0, *(t["low"] for t in tests)), max(0.0, *(t["high"] for t in tests)))
    base = encoders[protocol["baseline"]]["label"]
    picture = begin_picture(results, width, bottom + 26, f"difference of {metric} to {base}")

    def x(value: float) -> float:
        return left + (right - left) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    for tick in ticks:
        picture.line(x(tick), top - 6, x(tick), bottom, "reference" if tick == 0 else "grid")
        picture.text(x(tick), bottom + 17, tick_text(tick, ticks), "tick", "middle")
    picture.text(left, 12, f"{metric} minus that of {base}", "axis")
    for position, (test, label) in enumerate(zip(tests, labels, strict=True)):
        y, how = top + _ROW * (position + 0.5), verdict(test)
        kind = encoders[test["encoder"]]["kind"]
        picture.text(left - 12, y + 4, label, f"label {kind}", "end")
        picture.line(x(test["low"]), y, x(test["high"]), y, f"interval {how}")
        spoken = f"{label}: {signed(test['difference'])} "
        spoken += f"({signed(test['low'])} to {signed(test['high'])})"
        picture.circle(x(test["difference"]), y, 4.5, f"dot {how}", title=spoken)
        picture.text(width - 2, y + 4, percent(test["relative"]), f"value {how}", "end")
    return str(picture)


def series_of(results: Mapping[str, Any], backbone: str) -> list[tuple[int, str]]:
    """Rows that line charts show, with the number of their colour: at most eight.

    The baseline, the hybrid and the plain method come first, then what they are measured against.
    """
    encoders = results["encoders"]
    there = [row["encoder"] for row in rows_of(results, backbone)]
    there.sort(key=lambda name: not name.endswith("+id"))  # stable: else as in the table
    chosen = [
        name
        for kinds in (("baseline",), ("method",), ("ceiling",), ("control",), ("features",))
        for name in there
        if encoders[name]["kind"] in kinds
    ]
    chosen += [name for name in there if encoders[name]["kind"] == "fusion"]
    return list(enumerate(chosen[:8]))


def legend(results: Mapping[str, Any], series: Sequence[tuple[int, str]]) -> list[tuple[str, str]]:
    """Marker and label of each series."""
    entries = []
    for number, name in series:
        picture = Svg(14, 14, label="")
        picture.marker(7, 7, number)
        entries.append((str(picture), results["encoders"][name]["label"]))
    return entries


def slices_chart(results: Mapping[str, Any], backbone: str) -> str | None:
    """The main metric over popularity deciles, cold items apart at the right."""
    metric, width, height = main_metric(results), 1080.0, 340.0
    rows = {row["encoder"]: row for row in rows_of(results, backbone)}
    names = list(dict.fromkeys(name for row in rows.values() for name in row["slices"]))
    series = [(n, rows[name]) for n, name in series_of(results, backbone) if rows[name]["slices"]]
    if not names or not series:
        return None
    left, right, top, bottom = 52.0, width - 20, 26.0, height - 54
    gap = 0.5 if "cold" in names else 0.0  # cold items are no eleventh decile
    step = (right - left) / (len(names) + gap)
    found = [row["slices"][n][metric]["mean"] for _, row in series for n in names
             if metric in row["slices"][n]]  # fmt: skip
    ticks = nice_ticks(0.0, max(found, default=1.0) or 1.0)
    picture = begin_picture(
        results, width, height, f"{metric} by popularity decile, and for cold items"
    )

    def x(name: str) -> float:
        return left + step * (names.index(name) + 0.5 + (gap if name == "cold" else 0))

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / ticks[-1]

    for tick in ticks:
        picture.line(left, y(tick), right, y(tick), "grid")
        picture.text(left - 8, y(tick) + 4, tick_text(tick, ticks), "tick", "end")
    picture.text(0, 12, metric, "axis")
    users = next(iter(rows.values()))["slices"]
    for name in names:
        picture.text(x(name), bottom + 18, slice_label(name), "tick strong", "middle")
        picture.text(x(name), bottom + 34, f"{users[name]['users']:,}", "tick faint", "middle")
    picture.text(
        left, bottom + 51, "popularity decile of the target (1: most popular), and test users",
        "axis",
    )  # fmt: skip
    for number, row in series:
        of_slice = row["slices"]
        points = [
            (x(n), y(of_slice[n][metric]["mean"]))
            for n in names
            if n != "cold" and metric in of_slice[n]
        ]
        picture.path(points, f"curve s{number}")
    for number, row in reversed(series):
        for name in names:
            value = row["slices"][name].get(metric)
            if value:
                label = results["encoders"][row["encoder"]]["label"]
                text = f"{label}, {name.replace('_', ' ')}: {value['mean']:.4f}"
                picture.marker(x(name), y(value["mean"]), number, title=text)
    return str(picture)


def gates_chart(results: Mapping[str, Any], row: Mapping[str, Any]) -> str | None:
    """Weight of each layer, over all items and by popularity, as shaded fields."""
    gates = row["gates"]
    if not gates:
        return None
    columns = {"all items": gates["mean"]} | gates["slices"]
    labels = [f"layer {layer}" for layer in gates["layers"]]
    left, cell_width, cell_height, top = _left(labels), 72.0, 30.0, 24.0
    space = 10.0  # between all items and their parts
    width = left + cell_width * len(columns) + space
    height = top + cell_height * len(labels) + 6
    label = results["encoders"][row["encoder"]]["label"]
    picture = Svg(width, height, label=f"weight of each layer in {label}{_mark(results)}")
    highest = max(max(values) for values in columns.values())
    for position, layer in enumerate(labels):
        picture.text(left - 12, top + cell_height * (position + 0.5) + 4, layer, "label", "end")
    for column, (name, values) in enumerate(columns.items()):
        x = left + cell_width * column + (space if column else 0)
        heading = slice_label(name)
        picture.text(x + cell_width / 2, 14, heading, "tick strong", "middle")
        for position, value in enumerate(values):
            share, y = value / highest, top + cell_height * position
            picture.rect(
                x + 1, y + 1, cell_width - 2, cell_height - 2, "heat", opacity=0.06 + 0.84 * share,
                title=f"{label}, {labels[position]}, {name.replace('_', ' ')}: {value:.4f}",
            )  # fmt: skip
            ink = "heat-high" if share > 0.8 else "heat-low"
            picture.text(x + cell_width / 2, y + cell_height / 2 + 4, f"{value:.2f}", ink, "middle")
    return str(picture)


def curves_chart(results: Mapping[str, Any], backbone: str, what: str) -> str | None:
    """A training curve a cell: validation metric or training loss by epoch.

    Args:
        results: The object of ``results.json``.
        backbone: Whose cells.
        what: ``"train_loss"`` or the name of a validation metric.
    """
    numbers = {name: number for number, name in series_of(results, backbone)}
    lines: list[tuple[int, Mapping[str, Any], list[tuple[int, float]]]] = []
    for cell in results["cells"]:
        if cell["backbone"] != backbone or cell["encoder"] not in numbers:
            continue
        points = [
            (point["epoch"], value)
            for point in cell["curve"] or []
            if (value := point["train_loss"] if what == "train_loss" else point["val"].get(what))
            is not None
        ]
        if points:
            lines.append((numbers[cell["encoder"]], cell, points))
    if not lines:
        return None
    width, height = 560.0, 300.0
    left, right, top, bottom = 56.0, width - 16, 26.0, height - 44
    values = [value for _, _, points in lines for _, value in points]
    lowest = min(values) if what == "train_loss" else 0.0
    ticks = nice_ticks(lowest, max(values))
    last = max(epoch for _, _, points in lines for epoch, _ in points)
    picture = begin_picture(results, width, height, f"{what} by epoch")

    def x(epoch: float) -> float:
        return left + (right - left) * (epoch - 1) / max(last - 1, 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    for tick in ticks:
        picture.line(left, y(tick), right, y(tick), "grid")
        picture.text(left - 8, y(tick) + 4, tick_text(tick, ticks), "tick", "end")
    every = max(1, -(-last // 6))
    for epoch in (1, *range(every, last + 1, every)) if every > 1 else range(1, last + 1):
        picture.text(x(epoch), bottom + 18, str(epoch), "tick", "middle")
    name = "training loss" if what == "train_loss" else f"validation {what}"
    picture.text(0, 12, name, "axis")
    picture.text((left + right) / 2, bottom + 38, "epoch", "axis", "middle")
    for number, _, points in reversed(lines):
        picture.path([(x(e), y(v)) for e, v in points], f"curve thin s{number}")
    if what != "train_loss":
        for number, cell, points in reversed(lines):
            chosen = dict(points).get(cell["best_epoch"])
            if chosen is not None:
                label = results["encoders"][cell["encoder"]]["label"]
                text = (
                    f"{label}, seed {cell['seed']}: best epoch {cell['best_epoch']}, {chosen:.4f}"
                )
                picture.marker(x(cell["best_epoch"]), y(chosen), number, title=text)
    return str(picture)


def _mark(results: Mapping[str, Any]) -> str:
    return ", simulated" if results["simulated"] else ""


def _left(labels: Sequence[str]) -> float:
    return 20 + _CHARACTER * max(map(len, labels))
