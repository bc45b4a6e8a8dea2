"""``explain.md`` and the terminal's summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.markdown import environment_lines, heading, markdown_table
from linkedout_lightning.explain.tables import (
    gates_table,
    leave_out_table,
    readout_table,
    spaces_table,
    stability_table,
)
from linkedout_lightning.wording import in_time

FILES = ("explain.json", "explain.md", "explain.html")


def render_markdown(document: Mapping[str, Any]) -> str:
    """The whole explanation in Markdown, its pictures as tables."""
    simulated = document["simulated"]
    lines = [f"# {heading(document)}", ""]
    if simulated:
        lines += [f"> **Simulated data.** {document['simulation_note']}".rstrip(), ""]
    lines += [f"- {sentence}" for sentence in document["findings"]]
    lines += ["", "## Method", "", *(f"- {line}" for line in method_lines(document)), ""]

    def add(title: str, *tables: Any) -> None:
        made = [table for table in tables if table is not None]
        if made:
            lines.extend([f"## {title}", ""])
        for table in made:
            lines.extend([markdown_table(table, simulated=simulated), ""])

    encoders = document["encoders"].values()
    add(
        "Which layer serves which items",
        stability_table(document), *(gates_table(document, e) for e in encoders),
    )  # fmt: skip
    add("One layer left out, without training anew", *(leave_out_table(e) for e in encoders))
    add("What the layers know of the ID vectors", readout_table(document))
    add("Item vectors", spaces_table(document))
    lines += _neighbour_lines(document)
    lines += ["## Environment", "", *(f"- {line}" for line in environment_lines(document)), ""]
    return "\n".join(lines)


def render_terminal(document: Mapping[str, Any], *, out: Path) -> str:
    """The findings and where the files are."""
    lines = [heading(document), "", *document["findings"]]
    lines += ["", *(f"{name}: {out / name}" for name in FILES if (out / name).exists())]
    return "\n".join(lines)


def method_lines(document: Mapping[str, Any]) -> list[str]:
    """How the figures came about, in a few lines."""
    told = document["protocol"]
    seeds = {name: e["seeds"] for name, e in document["encoders"].items()}
    cells = "; ".join(f"`{name}` {', '.join(map(str, found))}" for name, found in seeds.items())
    lines = [
        f"Data: {told['data']}, {told['items']:,} items, {told['cold_items']:,} of them cold; "
        f"{told['test_users']:,} test users. Finished trainings with {told['backbone']}, by seed: "
        f"{cells}.",
    ]
    lines += [f"Features: {told['features']}."] if told.get("features") else []
    lines += [
        "Weight: what the gate gives a layer, its share in the sum that is an item's content "
        "vector. Variance share: the part of what tells items apart that the layer brings, which "
        "counts the length and the spread of its expert's vectors too; it can be negative.",
        f"Categories of fewer than {told['min_items']} items are not looked at one by one"
        + (f"; {told['without_category']:,} items have none." if told["without_category"] else "."),
        "Seeds: the spread between categories (or deciles) is the root mean square over categories "
        "and layers of the mean weight's distance to that over all items; the spread over seeds is "
        "the standard deviation of that distance; what seeds agree on is the spread of its mean "
        "over seeds, what the seeds still add to that taken off.",
        "One layer left out: the gate's weights of the rest are brought to a sum of 1, nothing is "
        f"trained anew, and {told['ranked_users']:,} test users are ranked again; paired bootstrap "
        f"over users, {told['bootstrap']:,} resamples.",
        f"Neighbours: by cosine, among the {told['pool']:,} items that training saw; lists of "
        f"{told['near']} are compared for {told['sample']:,} items "
        f"({'all' if told['sample'] == told['pool'] else 'drawn at random'}).",
    ]
    if document.get("readout"):
        lines.append(
            "What a layer knows of the ID vectors: ridge regression from its whitened features, "
            "the mean over token groups, to the vectors of the ID encoder; each fifth of the items "
            "is foretold by a map fitted on three others, and the remaining one chooses the "
            "penalty."
        )
    if document.get("processor_seconds"):
        lines.append(f"It took {in_time(document['processor_seconds'])} of processor time.")
    return lines


def _neighbour_lines(document: Mapping[str, Any]) -> list[str]:
    shown = document["neighbours"]
    if not shown:
        return []
    label = document["encoders"][shown["encoder"]]["label"]
    lines = ["## Nearest neighbours", "", f"{label}, seed {shown['seed']}. {shown['rule']}", ""]
    for query in shown["queries"]:
        lines += [f"**{_named(document, query['id'])}**", ""]
        for space in shown["spaces"]:
            found = "; ".join(_named(document, item) for item, _ in query["lists"][space["key"]])
            lines.append(f"- {space['label']}: {found}")
        lines.append("")
    return lines


def _named(document: Mapping[str, Any], item: str) -> str:
    about = document["items"].get(item, {})
    words = [item, *(about[name] for name in ("category", "title") if name in about)]
    return ", ".join(words).replace("*", "\\*")
