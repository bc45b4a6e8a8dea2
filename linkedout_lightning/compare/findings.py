"""What a comparison found, in sentences that hold whichever way it went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linkedout_lightning.compare.slices import COLD, slice_mean, trained_mean

BACKBONE_LABELS = {
    "sasrec": "SASRec",
    "gru4rec": "GRU4Rec",
    "nextitnet": "NextItNet",
    "none": "No sequence model",
}


def find(results: Mapping[str, Any]) -> list[str]:
    """Sentences on the results, the most important first.

    Args:
        results: The object of ``results.json`` without its findings.
    """
    sentences: list[str] = []
    protocol, rows = results["protocol"], _rows(results)
    k = 10 if 10 in protocol["ks"] else min(protocol["ks"])
    metric = f"HR@{k}"
    backbones = list(dict.fromkeys(b for _, b in rows if b != "none"))
    for backbone in backbones:
        candidates = _candidates(results, backbone, metric)
        for candidate in candidates:
            sentences += _against_baseline(results, candidate, backbone, metric)
        if protocol.get("split") == "cold_items":
            sentences += _cold(results, candidates, backbone, metric)
        for candidate in candidates:
            sentences += _against_controls(results, candidate, backbone, metric)
        for with_id in (False, True):
            sentences += _best_layer(results, backbone, metric, with_id=with_id)
        sentences += _floor_check(results, backbone, metric)
    if not sentences:
        sentences.append("Nothing was compared: no baseline, or no other row, was finished.")
    if results["failed"]:
        names = ", ".join(sorted({cell["encoder"] for cell in results["failed"]}))
        count = "One cell" if len(results["failed"]) == 1 else f"{len(results['failed'])} cells"
        sentences.append(f"{count} failed and can be no part of the tables: {names}.")
    if len(protocol["seeds"]) < 2 and backbones:
        sentences.append("One seed only: the spread between trainings is not known.")
    return sentences


def verdict(test: Mapping[str, Any]) -> str:
    """``"better"``, ``"worse"`` or ``"open"``: where the interval of a difference lies."""
    if test["low"] > 0:
        return "better"
    return "worse" if test["high"] < 0 else "open"


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign, a real minus, and none before a zero.

    Example:
        >>> signed(0.01234), signed(-0.5, 1), signed(-0.0001, 2)
        ('+0.0123', '−0.5', '0.00')
    """
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def percent(value: float | None) -> str:
    """A signed share in per cent, a large one as a multiple.

    Example:
        >>> percent(0.1166), percent(21.4), percent(None)
        ('+11.7 %', '×22.4', '–')
    """
    if value is not None and value >= 10:
        return f"×{1 + value:.1f}"
    return "–" if value is None else f"{signed(100 * value, 1)} %"


def compared(
    results: Mapping[str, Any], encoder: str, reference: str, backbone: str, metric: str
) -> Mapping[str, Any] | None:
    """The paired test of two rows, None if there is none."""
    wanted = (encoder, reference, backbone, metric)
    for test in results["comparisons"]:
        if (test["encoder"], test["reference"], test["backbone"], test["metric"]) == wanted:
            found: Mapping[str, Any] = test
            return found
    return None


def _rows(results: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["encoder"], row["backbone"]): row for row in results["summary"]}


def _mean(row: Mapping[str, Any], metric: str) -> float:
    return float(row["metrics"][metric]["mean"])


def _candidates(results: Mapping[str, Any], backbone: str, metric: str) -> list[str]:
    """The method's rows, the better one first; without any, the best row with real features."""
    rows = _rows(results)
    for kinds, count in ((("method",), None), (("features", "fusion"), 1)):
        names: list[str] = [
            name
            for name, encoder in results["encoders"].items()
            if encoder["kind"] in kinds and (name, backbone) in rows
        ]
        if names:
            names.sort(key=lambda name: -_mean(rows[name, backbone], metric))
            return names[:count]
    return []


def _against_baseline(
    results: Mapping[str, Any], candidate: str, backbone: str, metric: str
) -> list[str]:
    baseline, rows = results["protocol"]["baseline"], _rows(results)
    test = compared(results, candidate, baseline, backbone, metric)
    if test is None:
        return []
    label, base = (results["encoders"][name]["label"] for name in (candidate, baseline))
    ours, theirs = (_mean(rows[name, backbone], metric) for name in (candidate, baseline))
    figures = f"{metric} {ours:.4f} against {theirs:.4f}, {percent(test['relative'])}"
    interval = f"95 % interval of the difference {signed(test['low'])} to {signed(test['high'])}"
    with_backbone = f"With {BACKBONE_LABELS.get(backbone, backbone)}, "
    how = verdict(test)
    if how == "better":
        return [f"{with_backbone}{label} beats {base}: {figures}; {interval}."]
    if how == "worse":
        figures = f"{metric} {theirs:.4f} against {ours:.4f}, {label} {percent(test['relative'])}"
        return [f"{with_backbone}{base} beats {label}: {figures}; {interval}."]
    return [
        f"{with_backbone}no difference between {label} and {base} can be claimed: {figures}; "
        f"{interval}."
    ]


def _cold(
    results: Mapping[str, Any], candidates: list[str], backbone: str, metric: str
) -> list[str]:
    """Cold items beside trained ones and the rarest of these, all in the full catalogue."""
    rows, told = _rows(results), []
    for name in dict.fromkeys((*candidates, results["protocol"]["baseline"])):
        row = rows.get((name, backbone))
        if row is None:
            continue
        last = max(
            (part for part in row["slices"] if part != COLD),
            key=lambda part: int(part.removeprefix("decile_")),
        )
        figures = slice_mean(row, COLD, metric), trained_mean(row, metric)
        cold, trained, rarest = (
            "–" if mean is None else f"{mean:.4f}"
            for mean in (*figures, slice_mean(row, last, metric))
        )
        label, choice = results["encoders"][name]["label"], row.get("cold_choice")
        if choice:
            chosen = ", ".join(f"{strength:g}" for strength in choice["chosen"])
            label += f", calibrated at the strength that the validation affords ({chosen}),"
        told.append(f"{label} {cold} (trained items {trained}, their least popular tenth {rarest})")
    if not told:
        return []
    backbone = BACKBONE_LABELS.get(backbone, backbone)
    return [f"{metric} of cold items in the full catalogue with {backbone}: {'; '.join(told)}."]


def _against_controls(
    results: Mapping[str, Any], candidate: str, backbone: str, metric: str
) -> list[str]:
    """Which controls a row beats, and which it does not."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    passed_over: set[str] = set()  # single layers that the validation would not have chosen
    for with_id in (False, True):
        passed_over |= set(_single_layers(results, backbone, with_id=with_id)[1:])
    for name, encoder in results["encoders"].items():
        test = compared(results, candidate, name, backbone, metric)
        if test is None or name in passed_over:
            continue
        if encoder["kind"] in ("control", "fusion"):
            phrase = f"{_inside(encoder['label'])} ({percent(test['relative'])})"
            groups[verdict(test)].append(phrase)
    label = results["encoders"][candidate]["label"]
    if not any(groups.values()):
        return [
            f"{label} has no control with the same parts in this comparison, so what a gain comes "
            "from is not shown."
        ]
    parts = [
        f"{word} {_listed(groups[how])}"
        for how, word in (
            ("better", "it is ahead of"), ("worse", "it is behind"),
            ("open", "no difference can be claimed against"),
        )
        if groups[how]
    ]  # fmt: skip
    where = BACKBONE_LABELS.get(backbone, backbone)
    return [f"Controls for {label} with {where}: {'; '.join(parts)}."]


def _single_layers(results: Mapping[str, Any], backbone: str, *, with_id: bool) -> list[str]:
    """The rows ``layer:<k>``, the one with the best validation figure first."""
    values: dict[str, list[float]] = {}
    for cell in results["cells"]:
        name: str = cell["encoder"]
        ours = name.startswith("layer:") and name.endswith("+id") == with_id
        if ours and cell["backbone"] == backbone and cell["best_value"] is not None:
            values.setdefault(name, []).append(cell["best_value"])
    return sorted(values, key=lambda name: -sum(values[name]) / len(values[name]))


def _best_layer(
    results: Mapping[str, Any], backbone: str, metric: str, *, with_id: bool
) -> list[str]:
    names = _single_layers(results, backbone, with_id=with_id)
    if len(names) < 2:
        return []
    best = _rows(results)[names[0], backbone]
    label = results["encoders"][names[0]]["label"]
    return [
        f"Of {len(names)} single layers with {BACKBONE_LABELS.get(backbone, backbone)}, the "
        f"validation chooses {_inside(label)} ({metric} {_mean(best, metric):.4f})."
    ]


def _floor_check(results: Mapping[str, Any], backbone: str, metric: str) -> list[str]:
    baseline, rows = results["protocol"]["baseline"], _rows(results)
    if (baseline, backbone) not in rows:
        return []
    ours = _mean(rows[baseline, backbone], metric)
    above = [
        f"{_inside(results['encoders'][name]['label'])} ({_mean(row, metric):.4f})"
        for (name, where), row in rows.items()
        if where == "none" and _mean(row, metric) >= ours
    ]
    if not above:
        return []
    label = results["encoders"][baseline]["label"]
    return [
        f"Floor check not passed: {BACKBONE_LABELS.get(backbone, backbone)} with {label} "
        f"({ours:.4f}) is not above {_listed(above)}; a gain over this baseline says little."
    ]


def _inside(label: str) -> str:
    """A label inside a sentence."""
    return label if label[:2].isupper() else label[0].lower() + label[1:]


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
