"""The pictures that only an ablation has, from the object of ``ablation.json``.

Every function gives SVG text, or None where there is nothing to show. ``axis`` is an entry of
``axes``; green and red are kept for differences whose interval leaves out zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linkedout_lightning.compare.ablation.rows import BASE
from linkedout_lightning.compare.findings import compared, percent, signed, verdict
from linkedout_lightning.compare.svg import begin_picture, nice_ticks, tick_text
from linkedout_lightning.compare.tables import main_metric

_CHARACTER = 7.0  # width of a letter at the size of the labels


def overview_chart(document: Mapping[str, Any]) -> str | None:
    """Every row's change against the base, an axis a line: where there is something to gain."""
    metric, backbone = main_metric(document), document["protocol"]["backbone"]
    lines: list[tuple[str, list[tuple[str, Mapping[str, Any]]]]] = []
    for axis in document["axes"]:
        tests = [
            (value["label"], test)
            for value in axis["values"]
            if (test := compared(document, value["row"], BASE, backbone, metric))
            and test["relative"] is not None
        ]
        if tests:
            lines.append((axis["title"], tests))
    if not lines:
        return None
    left = 24 + _CHARACTER * max(len(title) for title, _ in lines)
    width, top, step, right_text = 1080.0, 30.0, 34.0, 300.0
    right, bottom = width - right_text, top + step * len(lines)
    every: list[float] = [100 * test["relative"] for _, tests in lines for _, test in tests]
    # A control that falls to nothing must not press all others into one spot.
    low, high = max(min(0.0, *every), -50.0), min(max(0.0, *every), 100.0)
    ticks = nice_ticks(low, high, 6)
    picture = begin_picture(document, width, bottom + 26, f"change of {metric} by every row")

    def x(value: float) -> float:
        at = min(max(value, ticks[0]), ticks[-1])
        return left + (right - left) * (at - ticks[0]) / (ticks[-1] - ticks[0])

    for tick in ticks:
        style = "reference" if tick == 0 else "grid"
        picture.line(x(tick), top - 6, x(tick), bottom, style)
        picture.text(x(tick), bottom + 17, f"{tick_text(tick, ticks)} %", "tick", "middle")
    picture.text(left, 12, f"change of {metric} against the base", "axis")
    picture.text(right + 24, 12, "best in the test", "axis")
    for position, (title, tests) in enumerate(lines):
        y = top + step * (position + 0.5)
        picture.text(left - 12, y + 4, title, "label", "end")
        picture.line(left, y, right, y, "grid")
        for label, test in tests:
            change = 100 * test["relative"]
            outside = not ticks[0] <= change <= ticks[-1]
            spoken = f"{title}, {label}: {percent(test['relative'])}"
            spoken += f" ({signed(test['low'])} to {signed(test['high'])})"
            if outside:
                sign, side = ("‹", 11) if change < 0 else ("›", -11)
                picture.text(x(change) + side, y + 4, sign, f"value {verdict(test)}", "middle")
            picture.circle(x(change), y, 3 if outside else 5, f"dot {verdict(test)}", title=spoken)
        label, best = max(tests, key=lambda entry: entry[1]["relative"])
        said = f"{percent(best['relative'])}  {_cut(label, 32)}"
        picture.text(right + 24, y + 4, said, f"value {verdict(best)}")
    return str(picture)


def curve_chart(document: Mapping[str, Any], axis: Mapping[str, Any]) -> str | None:
    """The main metric over depth, or over a count of layers, with intervals over users."""
    metric, rows = main_metric(document), _rows(document)
    points: list[tuple[float, str, Mapping[str, Any]]] = [
        (value["at"][0], value["label"], rows[value["row"]])
        for value in axis["values"]
        if len(value["at"]) == 1 and value["row"] in rows
    ]
    if len(points) < 2:
        return None
    width, height = 1080.0, 320.0
    left, right, top, bottom = 56.0, width - 130, 28.0, height - 48
    shown = [row for _, _, row in points] + ([rows[BASE]] if BASE in rows else [])
    values = [row["metrics"][metric]["mean"] for row in shown]
    values += [row["intervals"][metric][end] for row in shown for end in ("low", "high")]
    ticks = nice_ticks(min(values), max(values))
    first, last = min(p[0] for p in points), max(p[0] for p in points)
    picture = begin_picture(document, width, height, f"{metric}, {axis['title'].lower()}")

    def x(at: float) -> float:
        return left + 24 + (right - left - 48) * (at - first) / max(last - first, 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    for tick in ticks:
        picture.line(left, y(tick), right, y(tick), "grid")
        picture.text(left - 8, y(tick) + 4, tick_text(tick, ticks), "tick", "end")
    picture.text(0, 12, metric, "axis")
    unit = "layers" if axis["shape"] == "count" else "layer"
    picture.text((left + right) / 2, height - 6, unit, "axis", "middle")
    if BASE in rows:
        mean = rows[BASE]["metrics"][metric]["mean"]
        picture.line(left, y(mean), right, y(mean), "reference")
        picture.text(right + 8, y(mean) + 4, f"base {mean:.4f}", "value")
    picture.path([(x(at), y(r["metrics"][metric]["mean"])) for at, _, r in points], "curve s0")
    written = -100.0
    for at, label, row in points:
        mean, interval = row["metrics"][metric]["mean"], row["intervals"][metric]
        picture.line(x(at), y(interval["low"]), x(at), y(interval["high"]), "interval s0")
        spoken = f"{label}: {mean:.4f} ({interval['low']:.4f} to {interval['high']:.4f})"
        picture.marker(x(at), y(mean), 0, radius=4.5, title=spoken)
        if x(at) - written > 26:  # two numbers must not stand in each other
            picture.text(x(at), bottom + 18, str(at), "tick strong", "middle")
            written = x(at)
    return str(picture)


def pairs_chart(document: Mapping[str, Any], axis: Mapping[str, Any]) -> str | None:
    """Two layers a field, shaded by the main metric; a layer alone on the diagonal."""
    metric, rows = main_metric(document), _rows(document)
    fields = {
        tuple(sorted(value["at"])): rows[value["row"]]["metrics"][metric]["mean"]
        for value in axis["values"]
        if value["row"] in rows
    }
    layers = sorted({layer for pair in fields for layer in pair})
    if len(layers) < 2:
        return None
    alone = [a["values"] for a in document["axes"] if a["name"] == "layers"]
    for value in alone[0] if alone else ():
        if len(value["at"]) == 1 and value["at"][0] in layers and value["row"] in rows:
            fields[value["at"][0], value["at"][0]] = rows[value["row"]]["metrics"][metric]["mean"]
    cell_width, cell_height, left, top = 82.0, 34.0, 96.0, 44.0
    width = left + cell_width * len(layers) + 4
    height = top + cell_height * len(layers) + 6
    picture = begin_picture(document, width, height, f"{metric} of pairs of layers")
    low, high = min(fields.values()), max(fields.values())
    picture.text(0, 12, metric, "axis")
    for column, layer in enumerate(layers):
        at = left + cell_width * (column + 0.5)
        picture.text(at, top - 10, str(layer), "tick strong", "middle")
        picture.text(
            left - 12, top + cell_height * (column + 0.5) + 4, f"layer {layer}", "label", "end"
        )
    for row, first in enumerate(layers):
        for column, second in enumerate(layers[: row + 1]):
            value = fields.get((second, first))
            if value is None:
                continue
            share = (value - low) / (high - low) if high > low else 0.5
            name = f"layers {second} and {first}" if first != second else f"layer {first} alone"
            at, y = left + cell_width * column, top + cell_height * row
            picture.rect(
                at + 1, y + 1, cell_width - 2, cell_height - 2, "heat",
                opacity=0.06 + 0.84 * share, title=f"{name}: {value:.4f}",
            )  # fmt: skip
            ink = "heat-high" if share > 0.7 else "heat-low"
            middle = y + cell_height / 2 + 4
            picture.text(at + cell_width / 2, middle, f"{value:.4f}", ink, "middle")
    return str(picture)


def cost_chart(document: Mapping[str, Any]) -> str | None:
    """The main metric of each row over its parameters beside the backbone and the IDs."""
    metric, width, height = main_metric(document), 1080.0, 320.0
    points = [
        (_of_features(document, row["encoder"]), row["metrics"][metric]["mean"], row["encoder"])
        for row in document["summary"]
    ]
    points = [point for point in points if point[0]]
    if len(points) < 2:
        return None
    left, right, top, bottom = 56.0, width - 20, 28.0, height - 48
    across = nice_ticks(0.0, max(p[0] for p in points) / 1000)
    up = nice_ticks(min(p[1] for p in points), max(p[1] for p in points))
    picture = begin_picture(document, width, height, f"{metric} over parameters")

    def x(count: float) -> float:
        return left + (right - left) * count / 1000 / across[-1]

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - up[0]) / (up[-1] - up[0])

    for tick in up:
        picture.line(left, y(tick), right, y(tick), "grid")
        picture.text(left - 8, y(tick) + 4, tick_text(tick, up), "tick", "end")
    for tick in across:
        picture.text(x(1000 * tick), bottom + 18, tick_text(tick, across), "tick", "middle")
    picture.text(0, 12, metric, "axis")
    picture.text(
        (left + right) / 2, height - 6, "thousand parameters of experts and fuser", "axis", "middle"
    )
    for count, value, name in sorted(points, key=lambda point: point[2] == BASE):
        label = document["encoders"][name]["label"]
        spoken = f"{label}: {count:,} parameters, {metric} {value:.4f}"
        if name == BASE:
            picture.marker(x(count), y(value), 0, radius=5.5, title=spoken)
            picture.text(x(count) + 10, y(value) + 4, "base", "value")
        else:
            picture.circle(x(count), y(value), 4.5, "dot", title=spoken)
    return str(picture)


def _of_features(document: Mapping[str, Any], name: str) -> int:
    """Parameters between the features and the item vectors, the ID's apart."""
    for cell in document["cells"]:
        if cell["encoder"] == name:
            parts = cell["parameters_by_part"]
            return sum(
                count
                for part, count in parts.items()
                if part in ("encoder/compressor", "encoder/fuser")
            )
    return 0


def _rows(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {row["encoder"]: row for row in document["summary"]}


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
