"""What an explanation found, in sentences that hold whichever way it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from linkedout_lightning.compare.findings import percent, signed, verdict

OFF = 2e-4
"""A figure made again may differ by so much: ties and rounding of another machine."""
_VERDICTS = {
    "above": "what seeds agree on is {between:.3f}, {ratio:.1f} times the spread over seeds: more "
    "than an accident of the seed",
    "similar": "what seeds agree on is {between:.3f}, {ratio:.1f} times the spread over seeds: a "
    "tendency, no law",
    "below": "what seeds agree on is {between:.3f}, less than the spread over seeds "
    "({over_seeds:.3f}): another seed gives these items to other layers",
    "chance": "no more than twice the {by_chance:.3f} that groups of items drawn at random show",
}


def find(document: Mapping[str, Any]) -> list[str]:
    """Sentences on an explanation, the most important first.

    Args:
        document: The object of ``explain.json`` without its findings.
    """
    sentences: list[str] = []
    gated = {n: e for n, e in document["encoders"].items() if e["gates"]}
    for encoder in gated.values():
        sentences += _agreement(encoder)
    for encoder in gated.values():
        sentences += _layers(document, encoder)
    left_out = [said for encoder in gated.values() for said in _without(encoder)]
    if left_out:
        left_out[-1] += (
            " That is how much the trained model leans on a layer, not how much the layer would "
            "be missed: for that, linkedout ablate --axes without trains without it."
        )
    sentences += left_out
    sentences += _readout(document)
    sentences += _neighbours(document)
    sentences += _norms(document)
    for encoder in document["encoders"].values():
        sentences += _check(encoder)
    if gated and max(len(e["seeds"]) for e in gated.values()) < 2:
        sentences.append("One seed only: whether another would say the same is not known.")
    elif gated and max(len(e["seeds"]) for e in gated.values()) == 2:
        sentences.append("Two seeds only: the spread over seeds is itself known but roughly.")
    if not gated:
        sentences.append("No encoder here has a gate over several layers.")
    return sentences


def _layers(document: Mapping[str, Any], encoder: Mapping[str, Any]) -> list[str]:
    gates, label = encoder["gates"], encoder["label"]
    layers, every = gates["layers"], gates["mean"][0]
    shares = ", ".join(f"layer {n} {w:.2f}" for n, w in zip(layers, every, strict=True))
    sentence = f"{label}: the gate gives {shares} of an item's content on average"
    leaders = {row[0].index(max(row[0])) for row in gates["by_seed"]}
    if len(gates["by_seed"]) > 1:
        sentence += (
            f", layer {layers[leaders.pop()]} most in every seed" if len(leaders) == 1
            else ", and which layer gets most depends on the seed"
        )  # fmt: skip
    sentence += f"; within one item it is {_evenness(gates['entropy'][0])}."
    sentences = [sentence]
    for name, words in (("category", "categories"), ("popularity", "popularity deciles")):
        between = gates["between"][name]
        if between is None:
            continue
        said = f"{label}: in one training, weights differ between {words} by "
        said += f"{between['within']:.3f} (root mean square)"
        if between["verdict"]:
            said += f", {_VERDICTS[between['verdict']].format(**between)}"
        if between["correlation"] is not None:
            said += f"; two seeds' profiles correlate at {signed(between['correlation'], 2)}"
        sentences.append(f"{said}.{_largest(document, gates) if name == 'category' else ''}")
    return sentences


def _agreement(encoder: Mapping[str, Any]) -> list[str]:
    found = encoder["gates"]["agreement"]
    if not found:
        return []
    correlation = found["correlation"]
    said = "is the same whatever the seed" if correlation >= 0.7 else "depends in part on the seed"
    if correlation < 0.4:
        said = "is mostly an accident of the seed"
    return [
        f"{encoder['label']}: which layer serves an item {said}. The weights that two seeds give "
        f"an item correlate at {signed(correlation, 2)}, the heaviest layer is the same for "
        f"{found['same_top']:.0%} of the items ({found['same_top_chance']:.0%} by chance). That "
        "the gate tells the same items apart, whichever layer it gives them to, holds to "
        f"{found['grouping']:.2f} (CKA; 1 is the same groups)."
    ]


def _largest(document: Mapping[str, Any], gates: Mapping[str, Any]) -> str:
    """The category and layer furthest from the whole, and what each seed says of it."""
    every = gates["mean"][0]
    found: tuple[float, int, int] | None = None
    for n, group in enumerate(document["groups"]):
        if group["kind"] == "category":
            for column, weight in enumerate(gates["mean"][n]):
                distance = abs(weight - every[column])
                if found is None or distance > found[0]:
                    found = (distance, n, column)
    if found is None:
        return ""
    _, n, column = found
    by_seed = [row[n][column] - row[0][column] for row in gates["by_seed"]]
    each = ", ".join(signed(value, 2) for value in by_seed)
    name = document["groups"][n]["label"]
    over = f" ({each} by seed)" if len(by_seed) > 1 else ""
    return (
        f" Furthest from the whole is {name}: layer {gates['layers'][column]} has "
        f"{gates['mean'][n][column]:.2f} there, {every[column]:.2f} over all items{over}."
    )


def _evenness(entropy: float) -> str:
    share = f"(entropy {entropy:.2f}; 1 is an even share, 0 one layer alone)"
    if entropy > 0.95:
        return f"close to an even share {share}"
    return f"{'uneven' if entropy > 0.5 else 'nearly one layer alone'} {share}"


def _without(encoder: Mapping[str, Any]) -> list[str]:
    left_out = encoder["leave_out"]
    if not left_out:
        return []
    metric = left_out["metric"]
    tests = [(one["layer"], one["metrics"][metric]) for one in left_out["layers"]]
    tests.sort(key=lambda pair: float(pair[1]["difference"]))
    parts = [f"layer {n} {percent(t['relative'])}{_sure(t)}" for n, t in tests]
    return [
        f"{encoder['label']}: {metric} {left_out['whole'][0]:.4f} with all layers; with one left "
        f"out and its weight shared among the rest, without training anew: {', '.join(parts)}."
    ]


def _sure(test: Mapping[str, Any]) -> str:
    return " (interval spans zero)" if verdict(test) == "open" else ""


def _readout(document: Mapping[str, Any]) -> list[str]:
    found = document.get("readout")
    if not found:
        return []
    shares = list(zip(found["by_layer"], found["layers"], strict=True))
    best, layer = max(shares)
    listed = ", ".join(f"layer {n} {share:.1%}" for share, n in shares)
    known = "" if found["other_seed"] is None else (
        f"; the ID vectors of another training foretell {found['other_seed']:.0%}"
    )  # fmt: skip
    more = found["together"] - best
    return [
        "Of the variance of the learned ID vectors, a linear map from the features foretells, in "
        f"items that it was not fitted on: {listed}; all layers together {found['together']:.1%}, "
        f"{signed(100 * more, 1)} points beside layer {layer} alone{known}."
    ]


def _neighbours(document: Mapping[str, Any]) -> list[str]:
    sentences: list[str] = []
    told: dict[str, Mapping[str, Any]] = {}
    for name, encoder in document["encoders"].items():
        for space in encoder["spaces"]:
            if space["same_category"]:
                told[f"{name}/{space['key']}"] = space["same_category"]
    fused = next((n for n in told if n.endswith("+id/content")), None)
    fused = fused or next((n for n in told if n.endswith("/content")), None)
    if fused and "id/item" in told:
        content, ids = told[fused], told["id/item"]
        sentences.append(
            f"Neighbours of the same category: {content['share']:.0%} by the fused vector, "
            f"{ids['share']:.0%} by the ID vector trained alone, {ids['chance']:.0%} by chance."
        )
    for encoder in document["encoders"].values():
        if any(space["key"].startswith("expert/") for space in encoder["spaces"]):
            apart = _overlap_of_experts(encoder["overlaps"])
            again = {space["key"]: space["stability"] for space in encoder["spaces"]}["content"]
            seeds = "" if again is None else f", the fused vectors of two seeds {again:.0%}"
            sentences.append(
                f"{encoder['label']}: two layers' experts share {apart:.0%} of an item's "
                f"{document['protocol']['near']} nearest items{seeds} "
                f"({document['protocol']['chance']:.2%} by chance)."
            )
    return sentences


def _overlap_of_experts(overlaps: Mapping[str, Any]) -> float:
    at = [n for n, label in enumerate(overlaps["labels"]) if label.endswith("expert")]
    pairs = [overlaps["values"][a][b] for a in at for b in at if a < b]
    return float(sum(pairs) / len(pairs))


def _norms(document: Mapping[str, Any]) -> list[str]:
    """How short the vectors of cold items are beside those of the rarest trained ones."""
    names = {g["name"]: n for n, g in enumerate(document["groups"])}
    if "cold" not in names:
        return []
    rarest = max((n for n in names if n.startswith("decile_")), key=lambda n: int(n[7:]))
    parts: list[str] = []
    for encoder in document["encoders"].values():
        space = _final(encoder["spaces"])
        cold, low, top = (space["norms"][names[n]] for n in ("cold", rarest, "decile_1"))
        if cold is not None and low and top:
            parts.append(
                f"{encoder['label']} {cold:.2f} against {low:.2f} and {top:.2f} "
                f"({percent(cold / top - 1)})"
            )
    sentences = []
    if parts:
        sentences.append(
            "Length of cold items' vectors, against the rarest and the most popular tenth of the "
            f"trained items (and the difference to the latter): {'; '.join(parts)}."
        )
    ranks = [
        f"{encoder['label']} {space['effective_rank']:.0f} of {space['dim']}"
        for encoder in document["encoders"].values()
        for space in [_final(encoder["spaces"])]
    ]
    raw = document["frozen"]
    if raw:
        first = [s for s in raw if s["key"].startswith("raw/")]
        low = min(first, key=lambda s: float(s["effective_rank"]))
        cosine = max(float(s["mean_cosine"]) for s in first)
        ranks.append(
            f"the raw features of {low['label'].removesuffix(', raw')} {low['effective_rank']:.1f} "
            f"of {low['dim']} (mean cosine of raw features up to {cosine:.2f})"
        )
    sentences.append(f"Effective rank of the item vectors: {'; '.join(ranks)}.")
    for encoder in document["encoders"].values():
        if encoder["id_share"]:
            every, popular = encoder["id_share"][0], encoder["id_share"][names["decile_1"]]
            sentences.append(
                f"{encoder['label']}: the content brings {every[0]:.0%} of what tells the item "
                f"vectors apart and the ID {every[1]:.0%}, for the most popular tenth "
                f"{popular[0]:.0%} and {popular[1]:.0%}."
            )
    return sentences


def _final(spaces: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    by_key = {space["key"]: space for space in spaces}
    return by_key.get("item") or by_key["content"]


def _check(encoder: Mapping[str, Any]) -> list[str]:
    checks = (encoder["leave_out"] or {}).get("check") or []
    off = [c for c in checks if abs(c["recorded"] - c["found"]) > OFF]
    if not off:
        return []
    metric = encoder["leave_out"]["metric"]
    told = ", ".join(f"seed {c['seed']} {c['found']:.4f} for {c['recorded']:.4f}" for c in off)
    return [
        f"Beware: {encoder['label']} does not give the {metric} that its comparison recorded "
        f"({told}); the features or the interactions are not those of the training."
    ]
