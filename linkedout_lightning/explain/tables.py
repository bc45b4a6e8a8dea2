"""The tables of an explanation, for Markdown and HTML alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from linkedout_lightning.compare.findings import percent, signed, verdict
from linkedout_lightning.compare.tables import Table, TableCell


def gates_table(document: Mapping[str, Any], encoder: Mapping[str, Any]) -> Table | None:
    """Weight of each layer by group, and its share of the variance; None without a gate."""
    gates = encoder["gates"]
    if not gates:
        return None
    layers = gates["layers"]
    rows = []
    for n, group in enumerate(document["groups"]):
        line = [TableCell(group_label(group)), TableCell(f"{group['items']:,}")]
        for column in range(len(layers)):
            by_seed = [row[n][column] for row in gates["by_seed"]]
            share = gates["variance_share"][n][column] if gates["variance_share"] else None
            line.append(
                TableCell(_spread(by_seed), small="" if share is None else f"variance {share:.2f}")
            )
        rows.append([*line, TableCell(f"{gates['entropy'][n]:.2f}")])
    return Table(
        caption=f"{encoder['label']}: mean weight of each layer ± standard deviation over seeds "
        f"{_seeds(encoder)}; below it the layer's share of the content vectors' variance; entropy "
        "of an item's weights, 1 for an even share",
        columns=["", "items", *(f"layer {layer}" for layer in layers), "entropy"],
        rows=rows,
        kinds=["" for _ in rows],
    )


def stability_table(document: Mapping[str, Any]) -> Table | None:
    """Whether seeds agree on the gate, encoder by encoder; None with one seed."""
    rows = []
    for encoder in document["encoders"].values():
        gates = encoder["gates"]
        found = gates and gates["agreement"]
        if not found:
            continue
        line = [TableCell(encoder["label"])]
        line += [TableCell(_number(found[name], 2)) for name in ("correlation", "grouping")]
        chance = f"chance {found['same_top_chance']:.0%}"
        line.append(TableCell(f"{found['same_top']:.0%}", small=chance))
        for name in ("category", "popularity"):
            between = gates["between"][name]
            if between is None:
                line.append(TableCell("–"))
                continue
            parts = (between[part] for part in ("between", "over_seeds", "by_chance"))
            small = " · ".join(_number(part, 3) for part in parts)
            line.append(TableCell(f"{between['within']:.3f}", small=small))
        line.append(TableCell(f"{gates['entropy'][0]:.2f}"))
        rows.append(line)
    if not rows:
        return None
    return Table(
        caption="Correlation of items' weights between seeds; agreement of the groups of "
        "items whichever layer they go to (CKA); share of items with the same heaviest layer; "
        "spread of the mean weights between categories and between popularity deciles in one "
        "training, below it the part that the seeds agree on · the spread over seeds · that of "
        "random groups; entropy of an item's weights, 1 for an even share",
        columns=[
            "", "correlation", "grouping", "same heaviest", "between categories",
            "between deciles", "entropy",
        ],
        rows=rows,
        kinds=["" for _ in rows],
    )  # fmt: skip


def readout_table(document: Mapping[str, Any]) -> Table | None:
    """What the features know of the learned ID vectors; None where it was not asked."""
    found = document.get("readout")  # explanations of older versions have none
    if not found:
        return None
    named = [(f"layer {n}", [row[i] for row in found["by_layer_by_seed"]])
             for i, n in enumerate(found["layers"])]  # fmt: skip
    named.append((f"all {len(found['layers'])} layers", found["together_by_seed"]))
    rows = [[TableCell(label), TableCell(_spread(values))] for label, values in named]
    if found["other_seed"] is not None:
        rows.append(
            [TableCell("ID vectors of another training"), TableCell(f"{found['other_seed']:.3f}")]
        )
    return Table(
        caption="Share of the ID vectors' variance that ridge regression foretells in items it was "
        f"not fitted on ({found['items']:,} items of at least {found['interactions']} training "
        "interactions), mean ± standard deviation over seeds",
        columns=["from", "share foretold"],
        rows=rows,
        kinds=["" for _ in rows],
    )


def leave_out_table(encoder: Mapping[str, Any]) -> Table | None:
    """Each layer's absence in the test; None where nothing was ranked."""
    left_out = encoder["leave_out"]
    if not left_out:
        return None
    metrics = list(left_out["layers"][0]["metrics"])
    rows = []
    for one in left_out["layers"]:
        line = [TableCell(f"without layer {one['layer']}")]
        for metric in metrics:
            test = one["metrics"][metric]
            how = verdict(test)
            line += [
                TableCell(f"{test['without']:.4f}"),
                TableCell(
                    f"{signed(test['difference'])} ({percent(test['relative'])})",
                    small=f"{signed(test['low'])} to {signed(test['high'])}",
                    tone="" if how == "open" else how,
                ),
                TableCell(", ".join(signed(value) for value in test["by_seed"])),
            ]
        rows.append(line)
    columns = [""]
    for metric in metrics:
        columns += [metric, "difference", "by seed"]
    whole = ", ".join(
        f"{metric} {left_out['layers'][0]['metrics'][metric]['whole']:.4f}" for metric in metrics
    )
    return Table(
        caption=f"{encoder['label']}: one layer left out without training anew, against all layers "
        f"({whole}); mean over seeds {_seeds(encoder)}, 95 % intervals over users",
        columns=columns,
        rows=rows,
        kinds=["" for _ in rows],
    )


def spaces_table(document: Mapping[str, Any]) -> Table:
    """The figures of every set of vectors."""
    rows, kinds = [], []
    cold = _place(document, "cold")
    rarest = max((n for n, g in enumerate(document["groups"]) if g["kind"] == "decile"), default=0)
    for owner, space in every_space(document):
        same, norms = space["same_category"], space["norms"]
        ratio = None
        if cold is not None and norms[cold] is not None and norms[rarest]:
            ratio = norms[cold] / norms[rarest]
        chance = f"chance {same['chance']:.0%}" if same else ""
        rows.append(
            [
                TableCell(f"{owner}: {space['label']}" if owner else space["label"]),
                TableCell(f"{space['effective_rank']:.1f}", small=f"of {space['dim']}"),
                TableCell(f"{space['first_direction']:.1%}"),
                TableCell(_number(space["mean_cosine"], 3)),
                TableCell(_long(space["norm"])),
                TableCell("–" if ratio is None else f"{ratio:.2f}"),
                TableCell("–" if not same else f"{same['share']:.1%}", small=chance),
                TableCell("–" if space["stability"] is None else f"{space['stability']:.1%}"),
            ]
        )
        kinds.append("floor" if not owner else "")
    near = document["protocol"]["near"]
    return Table(
        caption="Item vectors: effective rank, share of variance along the widest direction, mean "
        "cosine of two items, mean length, length of cold items over that of the rarest trained "
        f"tenth, share of the {near} nearest that are of the same category, share of the {near} "
        "nearest that another seed has too; means over seeds",
        columns=[
            "", "effective rank", "widest", "mean cosine", "length", "cold / rare",
            "same category", "same neighbours",
        ],
        rows=rows,
        kinds=kinds,
    )  # fmt: skip


def every_space(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """All sets of vectors, with the label of their encoder, which the features do not have."""
    found: list[tuple[str, Mapping[str, Any]]] = [("", space) for space in document["frozen"]]
    for encoder in document["encoders"].values():
        found += [(encoder["label"], space) for space in encoder["spaces"]]
    return found


def group_label(group: Mapping[str, Any]) -> str:
    """A group's name where categories, deciles and cold items stand in one column."""
    return f"popularity {group['label']}" if group["kind"] == "decile" else str(group["label"])


def _place(document: Mapping[str, Any], name: str) -> int | None:
    return next((n for n, g in enumerate(document["groups"]) if g["name"] == name), None)


def _seeds(encoder: Mapping[str, Any]) -> str:
    return ", ".join(map(str, encoder["seeds"]))


def _spread(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{mean:.3f} ± {deviation:.3f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _long(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:,.1f}"
