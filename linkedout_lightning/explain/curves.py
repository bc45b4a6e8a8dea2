"""Line charts of item vectors: singular values, and lengths by popularity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from linkedout_lightning.compare.svg import SERIES, Svg, begin_picture, nice_ticks, tick_text

_DECADES = 3
_MOST = 256
Named = list[tuple[str, Mapping[str, Any]]]


def spectrum_series(document: Mapping[str, Any]) -> Named:
    """The sets of vectors whose spectra are drawn: the recommenders' own, then the features'."""
    series = norm_series(document)
    raw = [s for s in document["frozen"] if s["key"].startswith("raw/")]
    raw.sort(key=lambda space: float(space["effective_rank"]))
    series += [(space["label"], space) for space in ([raw[0], raw[-1]] if len(raw) > 1 else raw)]
    return series[:SERIES]


def final_series(document: Mapping[str, Any]) -> Named:
    """Each encoder's item vectors."""
    series = []
    for encoder in document["encoders"].values():
        by_key = {space["key"]: space for space in encoder["spaces"]}
        series.append((encoder["label"], by_key.get("item") or by_key["content"]))
    return series


def norm_series(document: Mapping[str, Any]) -> Named:
    """Each encoder's item vectors, and the two halves of those that have an ID beside content."""
    series = final_series(document)
    for encoder in document["encoders"].values():
        by_key = {space["key"]: space for space in encoder["spaces"]}
        if "item" in by_key and "content" in by_key:
            series.append((f"{encoder['label']}: fused", by_key["content"]))
            series.append((f"{encoder['label']}: ID part", by_key["id"]))
    return series[:SERIES]


def legend(series: Named) -> list[tuple[str, str]]:
    """Marker and label of each series."""
    entries = []
    for number, (label, _) in enumerate(series):
        picture = Svg(14, 14, label="")
        picture.marker(7, 7, number)
        entries.append((str(picture), label))
    return entries


def spectrum_chart(document: Mapping[str, Any]) -> str | None:
    """Singular values over the largest, on a scale of powers of ten."""
    series = spectrum_series(document)
    if not series:
        return None
    width, height = 560.0, 320.0
    left, right, top, bottom = 56.0, width - 16, 28.0, height - 44
    longest = min(_MOST, max(len(space["spectrum"]) for _, space in series))
    picture = begin_picture(document, width, height, "singular values of item vectors")

    def x(at: float) -> float:
        return left + (right - left) * (at - 1) / max(longest - 1, 1)

    def y(value: float) -> float:
        decades = -math.log10(max(value, 10.0**-_DECADES))
        return top + (bottom - top) * decades / _DECADES

    for decade in range(_DECADES + 1):
        value = 10.0**-decade
        picture.line(left, y(value), right, y(value), "grid")
        picture.text(left - 8, y(value) + 4, f"{value:g}", "tick", "end")
    for tick in nice_ticks(0, longest, 6):
        if 0 < tick <= longest:
            picture.text(x(tick), bottom + 18, f"{tick:.0f}", "tick", "middle")
    picture.text(0, 12, "singular value over the largest", "axis")
    picture.text((left + right) / 2, bottom + 38, "number", "axis", "middle")
    for number, (_, space) in reversed(list(enumerate(series))):
        values = [v for v in space["spectrum"][:longest] if v >= 10.0**-_DECADES]
        picture.path([(x(n), y(v)) for n, v in enumerate(values, 1)], f"curve thin s{number}")
        if values:
            # At another place on each line: many of them end together.
            at = int((len(values) - 1) * (0.35 + 0.6 * number / SERIES))
            picture.marker(x(at + 1), y(values[at]), number)
    return str(picture)


def norms_chart(document: Mapping[str, Any]) -> str | None:
    """Mean length by popularity decile over that of all items, cold items apart at the right."""
    series = norm_series(document)
    groups = [(n, g) for n, g in enumerate(document["groups"]) if g["kind"] in ("decile", "cold")]
    if not groups or not series:
        return None
    width, height = 560.0, 320.0
    left, right, top, bottom = 56.0, width - 16, 28.0, height - 44
    cold = any(g["kind"] == "cold" for _, g in groups)
    step = (right - left) / (len(groups) + (0.5 if cold else 0.0))

    def x(place: int) -> float:
        return left + step * (place + 0.5 + (0.5 if groups[place][1]["kind"] == "cold" else 0.0))

    lines = []
    for number, (label, space) in enumerate(series):
        whole = space["norms"][0] or 1.0
        values = [space["norms"][n] for n, _ in groups]
        lines.append((number, label, [None if v is None else v / whole for v in values]))
    ticks = nice_ticks(0.0, max(v for _, _, values in lines for v in values if v is not None))
    picture = begin_picture(document, width, height, "length of item vectors by popularity")

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / ticks[-1]

    for tick in ticks:
        picture.line(left, y(tick), right, y(tick), "grid")
        picture.text(left - 8, y(tick) + 4, tick_text(tick, ticks), "tick", "end")
    for place, (_, group) in enumerate(groups):
        label = "cold" if group["kind"] == "cold" else group["label"]
        picture.text(x(place), bottom + 18, label, "tick strong", "middle")
    picture.text(0, 12, "mean length over that of all items", "axis")
    picture.text(left, bottom + 38, "popularity decile (1: most popular)", "axis")
    for number, _, values in reversed(lines):
        points = [
            (x(place), y(value))
            for place, value in enumerate(values)
            if value is not None and groups[place][1]["kind"] == "decile"
        ]
        if points:
            picture.path(points, f"curve s{number}")
    for number, label, values in reversed(lines):
        for place, value in enumerate(values):
            if value is not None:
                title = f"{label}, {groups[place][1]['label']}: {value:.3f}"
                picture.marker(x(place), y(value), number, title=title)
    return str(picture)
