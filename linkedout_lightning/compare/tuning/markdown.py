"""``tune.md`` and the terminal's summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from linkedout_lightning.compare.findings import BACKBONE_LABELS
from linkedout_lightning.compare.markdown import environment_lines, heading, protocol_lines

FILES = ("tune.json", "tune.md", "tuned.yaml")


def render_markdown(document: Mapping[str, Any]) -> str:
    """The whole tuning in Markdown."""
    budget = document["budget"]
    lines = [f"# {heading(document)}", ""]
    if document["simulated"]:
        lines += [f"> **Simulated data.** {document['simulation_note']}".rstrip(), ""]
    lines += [*(f"- {sentence}" for sentence in sentences(document)), "", "## Budget", ""]
    lines += [
        f"- {budget['trials']} trials a row, at most {budget['epochs']} epochs each, stopped after "
        f"{budget['patience']} without a better validation {budget['monitor']}, which also chooses "
        f"the trial; seed {budget['seed']}. Test figures are not shown.",
        "- Random search; trial 0 has the settings under Training, and trials of the same number "
        "have the same values of what all rows share.",
        *(f"- {line}" for line in protocol_lines(document) if not line.startswith("Test: ")),
        "",
        "| row | setting | values |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {row} | {name} | {', '.join(map(str, values))} |"
        for row, space in document["space"].items()
        for name, values in space.items()
    ]
    for row, backbone in dict.fromkeys((t["row"], t["backbone"]) for t in document["trials"]):
        lines += ["", f"## {row} with {BACKBONE_LABELS.get(backbone, backbone)}", ""]
        lines += _table(document, row, backbone)
    if document["failed"]:
        lines += ["", "## Failed trials", ""]
        lines += [f"- {cell['encoder']}: {cell['error']}" for cell in document["failed"]]
    lines += ["", "## Environment", "", *(f"- {line}" for line in environment_lines(document)), ""]
    return "\n".join(lines)


def sentences(document: Mapping[str, Any]) -> list[str]:
    """What was chosen, a sentence a row."""
    metric = document["budget"]["monitor"]
    found = []
    for trial in document["chosen"]:
        of_row = [
            t
            for t in document["trials"]
            if (t["row"], t["backbone"]) == (trial["row"], trial["backbone"])
        ]
        middle = median(t["validation"] for t in of_row)
        drawn = ", ".join(f"{name} {value}" for name, value in trial["settings"].items())
        settings = f": {drawn}" if drawn else ", nothing was drawn"
        name = BACKBONE_LABELS.get(trial["backbone"], trial["backbone"])
        found.append(
            f"{trial['row']} with {name}: trial {trial['number']} of {len(of_row)}, validation "
            f"{metric} {trial['validation']:.4f} (median {middle:.4f}){settings}."
            + _at_the_edge(trial, of_row)
        )
    return found


def _at_the_edge(chosen: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """A best learning rate at an end of those tried: a faster or a slower one was never seen."""
    tried = sorted({trial["settings"]["lr"] for trial in trials if "lr" in trial["settings"]})
    if len(tried) < 2 or chosen["settings"]["lr"] not in (tried[0], tried[-1]):
        return ""
    end, way = (
        ("lowest", "lower") if chosen["settings"]["lr"] == tried[0] else ("highest", "higher")
    )
    return f" This lr is the {end} that was tried: a {way} one may do better."


def render_terminal(document: Mapping[str, Any], *, out: Path) -> str:
    """What was chosen, and where the files are."""
    lines = [heading(document), "", *sentences(document)]
    lines += [
        f"failed: {cell['encoder']}: {cell['error']} (log: {out / cell['folder'] / 'log.txt'})"
        for cell in document["failed"]
    ]
    lines += ["", *(f"{name}: {out / name}" for name in FILES if (out / name).exists())]
    return "\n".join(lines)


def _table(document: Mapping[str, Any], row: str, backbone: str) -> list[str]:
    trials = [t for t in document["trials"] if (t["row"], t["backbone"]) == (row, backbone)]
    trials.sort(key=lambda trial: -trial["validation"])
    names = list(trials[0]["settings"])
    metric = document["budget"]["monitor"]
    head = ["trial", f"validation {metric}", *names, "epochs", "seconds", "parameters"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for trial in trials:
        cells = [
            trial["number"], f"{trial['validation']:.4f}", *trial["settings"].values(),
            f"{trial['best_epoch']} of {trial['epochs']}", f"{trial['seconds']:.0f}",
            f"{trial['parameters']:,}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines
