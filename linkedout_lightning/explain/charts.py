"""The pictures of an explanation, from the object of ``explain.json``.

Every function gives SVG text, or None where there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from linkedout_lightning.compare.findings import percent, signed, verdict
from linkedout_lightning.compare.svg import begin_picture, nice_ticks, tick_text

_CHARACTER = 7.0
_ROW = 26.0


def gates_chart(
    document: Mapping[str, Any], encoder: Mapping[str, Any], kinds: Sequence[str]
) -> str | None:
    """Weight of each layer by group; shaded by how far it lies from that over all items.

    Args:
        document: The object of ``explain.json``.
        encoder: One of its encoders.
        kinds: Kinds of groups.
    """
    gates = encoder["gates"]
    chosen = _chosen(document, kinds)
    if not gates or not chosen:
        return None
    every = gates["mean"][0]
    rows = [("all items", every), *((label, gates["mean"][n]) for n, label in chosen)]
    furthest = max((abs(v - every[c]) for _, row in rows for c, v in enumerate(row)), default=0.0)
    return _heat(
        document,
        f"weight of each layer in {encoder['label']}",
        [f"layer {layer}" for layer in gates["layers"]],
        rows,
        text=lambda value, _: f"{value:.2f}",
        tone=lambda value, c: (value - every[c]) / max(furthest, 0.05),
        title=lambda value, c: f"{value:.4f} ({signed(value - every[c])} against all items)",
    )


def leave_out_chart(
    document: Mapping[str, Any], encoder: Mapping[str, Any], kinds: Sequence[str]
) -> str | None:
    """Relative change of the main metric by group of the target, layer by layer.

    Args:
        document: The object of ``explain.json``.
        encoder: One of its encoders.
        kinds: Kinds of groups, shown below all items.
    """
    left_out = encoder["leave_out"]
    if not left_out:
        return None
    layers = left_out["layers"]
    rows: list[tuple[str, list[Mapping[str, Any] | None]]] = []
    for n, group in enumerate(document["groups"]):
        tests = [one["groups"][n] for one in layers]
        if group["kind"] in ("all", *kinds) and any(tests):
            rows.append((group["label"], tests))
    if len(rows) < 2:
        return None
    furthest = max(
        (abs(t["relative"]) for _, r in rows for t in r if t and verdict(t) != "open"), default=1.0
    )

    def tone(test: Any, _: int) -> float:
        if not test or verdict(test) == "open":
            return 0.0
        return float(test["relative"] / furthest)

    return _heat(
        document,
        f"change of {left_out['metric']} in {encoder['label']} without a layer",
        [f"without {one['layer']}" for one in layers],
        rows,
        text=lambda test, _: percent(test["relative"]) if test else "–",
        tone=tone,
        title=lambda test, _: (
            f"{test['without']:.4f} for {test['whole']:.4f}, {signed(test['low'])} to "
            f"{signed(test['high'])}"
            if test
            else "too few hits to tell"
        ),
        width=84.0,
    )


def seeds_chart(document: Mapping[str, Any], encoder: Mapping[str, Any]) -> str | None:
    """Where each seed puts each category, a panel a layer: do the dots of a row stay together?"""
    gates = encoder["gates"]
    chosen = _chosen(document, ("category",)) or _chosen(document, ("decile", "cold"))
    if not gates or not chosen or len(gates["by_seed"]) < 2:
        return None
    panels, left, gap, top = len(gates["layers"]), _left([label for _, label in chosen]), 30.0, 44.0
    width = 1080.0
    step = (width - left - gap * (panels - 1) - 16) / panels
    bottom = top + 20 * len(chosen)
    seeds = gates["by_seed"]
    profile = [
        [[seed[n][c] - seed[0][c] for seed in seeds] for c in range(panels)] for n, _ in chosen
    ]
    limit = max((abs(v) for row in profile for values in row for v in values), default=0.1)
    edge = max(limit * 1.06, 0.02)
    ticks = [tick for tick in nice_ticks(-edge, edge, 4) if abs(tick) <= 0.9 * edge]
    picture = begin_picture(document, width, bottom + 26, f"weights of {encoder['label']} by seed")
    for c, layer in enumerate(gates["layers"]):
        start = left + c * (step + gap)

        def x(value: float, start: float = start) -> float:
            return start + step * (value + edge) / (2 * edge)

        picture.text(start + step / 2, 30, f"layer {layer}", "tick strong", "middle")
        for tick in ticks:
            style = "reference" if tick == 0 else "grid"
            picture.line(x(tick), top - 6, x(tick), bottom, style)
            picture.text(x(tick), bottom + 17, tick_text(tick, ticks), "tick", "middle")
        for r, (_, label) in enumerate(chosen):
            y, values = top + 20 * (r + 0.5), profile[r][c]
            picture.line(x(min(values)), y, x(max(values)), y, "interval")
            for s, value in enumerate(values):
                title = f"{label}, layer {layer}, seed {encoder['seeds'][s]}: {signed(value)}"
                picture.marker(x(value), y, s, radius=3.5, title=title)
    for r, (_, label) in enumerate(chosen):
        picture.text(left - 12, top + 20 * (r + 0.5) + 4, label, "label", "end")
    picture.text(0, 12, "mean weight minus that over all items, a marker a seed", "axis")
    return str(picture)


def overlap_chart(document: Mapping[str, Any], encoder: Mapping[str, Any]) -> str | None:
    """Share of nearest items that two sets of vectors have in common; seeds on the diagonal."""
    overlaps = encoder["overlaps"]
    labels: list[str] = overlaps["labels"]
    if len(labels) < 3:
        return None
    # Two lines where a layer and what became of it stand in one name.
    short = [label.replace(", ", "\n") for label in labels]
    highest = max(
        (v for n, row in enumerate(overlaps["values"]) for v in row[:n] if v is not None),
        default=1.0,
    )
    return _heat(
        document,
        f"neighbours in common, {encoder['label']}",
        short,
        list(zip(labels, overlaps["values"], strict=True)),
        text=lambda value, _: "" if value is None else f"{100 * value:.0f}",
        tone=lambda value, _: 0.0 if value is None else min(1.0, value / max(highest, 1e-9)),
        title=lambda value, _: "the same" if value is None else f"{value:.2%}",
        width=64.0,
    )


def kind_chart(document: Mapping[str, Any], encoder: Mapping[str, Any]) -> str | None:
    """Share of nearest items of the query's own category, against chance."""
    rows = [
        (space["label"], space["same_category"])
        for space in (*document["frozen"], *encoder["spaces"])
        if space["same_category"]
    ]
    rows += [
        ("ID alone", space["same_category"])
        for space in document["encoders"].get("id", {"spaces": []})["spaces"]
        if encoder is not document["encoders"].get("id") and space["same_category"]
    ]
    if not rows:
        return None
    left, width, top = _left([label for label, _ in rows]), 560.0, 28.0
    right, bottom = width - 60, top + _ROW * len(rows)
    ticks = nice_ticks(0.0, max(found["share"] for _, found in rows))
    picture = begin_picture(document, width, bottom + 26, "neighbours of the same category")

    def x(value: float) -> float:
        return left + (right - left) * value / ticks[-1]

    for tick in ticks:
        picture.line(x(tick), top - 6, x(tick), bottom, "grid")
        picture.text(x(tick), bottom + 17, f"{100 * tick:.0f} %", "tick", "middle")
    chance = rows[0][1]["chance"]
    picture.line(x(chance), top - 6, x(chance), bottom, "reference")
    picture.text(left, 12, "neighbours of the same category; dashed: by chance", "axis")
    for n, (label, found) in enumerate(rows):
        y, share, error = top + _ROW * (n + 0.5), found["share"], 1.96 * found["error"]
        picture.text(left - 12, y + 4, label, "label", "end")
        picture.line(x(max(0.0, share - error)), y, x(share + error), y, "interval s0")
        picture.circle(x(share), y, 4.5, "dot s0", title=f"{label}: {share:.1%}")
        picture.text(x(share + error) + 9, y + 4, f"{share:.0%}", "value")
    return str(picture)


def _heat(
    document: Mapping[str, Any],
    label: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Any]]],
    *,
    text: Callable[[Any, int], str],
    tone: Callable[[Any, int], float],
    title: Callable[[Any, int], str],
    width: float = 72.0,
) -> str:
    """Fields with a number each, blue above and orange below, the stronger the further."""
    lines = max(name.count("\n") for name in columns)
    left, top = _left([name for name, _ in rows]), 28.0 + 15.0 * lines
    space = 8.0 if rows and rows[0][0] == "all items" else 0.0
    picture = begin_picture(
        document, left + width * len(columns) + 4, top + _ROW * len(rows) + space + 4, label
    )
    for c, name in enumerate(columns):
        for line, words in enumerate(name.split("\n")):
            at = left + width * (c + 0.5)
            picture.text(at, 18 + 15 * line, _cut(words, width), "tick strong", "middle")
    for r, (name, values) in enumerate(rows):
        y = top + _ROW * r + (space if r else 0)
        picture.text(left - 12, y + _ROW / 2 + 4, name, "label", "end")
        for c, value in enumerate(values):
            strength = tone(value, c)
            x, style = left + width * c, "more" if strength >= 0 else "less"
            heading = columns[c].replace("\n", ", ")
            spoken = f"{name}, {heading}: {title(value, c)}"
            picture.rect(
                x + 1, y + 1, width - 2, _ROW - 2, style,
                opacity=0.04 + 0.72 * min(1.0, abs(strength)), title=spoken,
            )  # fmt: skip
            ink = "heat-high" if abs(strength) > 0.75 else "heat-low"
            picture.text(x + width / 2, y + _ROW / 2 + 4, text(value, c), ink, "middle")
    return str(picture)


def _chosen(document: Mapping[str, Any], kinds: Sequence[str]) -> list[tuple[int, str]]:
    return [
        (n, str(group["label"]))
        for n, group in enumerate(document["groups"])
        if group["kind"] in kinds
    ]


def _left(labels: Sequence[str]) -> float:
    return 20 + _CHARACTER * max(map(len, labels))


def _cut(text: str, width: float) -> str:
    length = int(width / 5.6)
    return text if len(text) <= length else f"{text[: length - 1]}…"
