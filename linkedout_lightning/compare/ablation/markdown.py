"""``ablation.md`` and the terminal's summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.ablation.views import accuracy, costs, sections
from linkedout_lightning.compare.markdown import (
    environment_lines,
    heading,
    markdown_table,
    protocol_lines,
)

FILES = ("ablation.json", "ablation.md", "ablation.html")


def render_markdown(document: Mapping[str, Any]) -> str:
    """The whole ablation in Markdown."""
    simulated = document["simulated"]
    lines = [f"# {heading(document)}", ""]
    if simulated:
        lines += [f"> **Simulated data.** {document['simulation_note']}".rstrip(), ""]
    lines += [f"- {sentence}" for sentence in document["findings"]]
    lines += ["", "## Protocol", "", *(f"- {line}" for line in base_lines(document)), ""]
    if document["summary"]:
        for section in sections(document):
            lines += [f"## {section['title']}", "", section["question"], ""]
            table = accuracy(document, section["view"])
            lines += [markdown_table(table, simulated=simulated), ""]
        lines += ["## Costs", "", markdown_table(costs(document), simulated=simulated), ""]
    if document["failed"]:
        lines += ["## Failed cells", ""]
        lines += [
            f"- {cell['encoder']}, seed {cell['seed']}: {cell['error']} "
            f"(`{cell['folder']}/log.txt`)"
            for cell in document["failed"]
        ]
        lines.append("")
    lines += ["## Environment", "", *(f"- {line}" for line in environment_lines(document)), ""]
    return "\n".join(lines)


def base_lines(document: Mapping[str, Any]) -> list[str]:
    """The protocol, the base's settings, and axes that had nothing to change."""
    settings, base = document["protocol"]["settings"], document["encoders"]["base"]
    names = (
        "layers", "slots", "rank", "compressor", "queries", "whitening_power", "id_fusion",
        "id_dropout", "top_k", "temperature",
    )  # fmt: skip
    said = {name: settings[name] for name in names}
    lines = [
        *protocol_lines(document),
        f"Base: `{base['encoder']}` with "
        + ", ".join(f"{name} {_value(value)}" for name, value in said.items())
        + ". Every other row has one change, or in a grid one on each axis, and all else the same.",
    ]
    lines += [
        f"Axis `{name}` has nothing to change: {why}."
        for name, why in document["empty_axes"].items()
    ]
    return lines


def render_terminal(document: Mapping[str, Any], *, out: Path) -> str:
    """The findings and where the files are."""
    lines = [heading(document), "", *document["findings"]]
    lines += [
        f"failed: {cell['encoder']}, seed {cell['seed']}: {cell['error']} "
        f"(log: {out / cell['folder'] / 'log.txt'})"
        for cell in document["failed"]
    ]
    lines += ["", *(f"{name}: {out / name}" for name in FILES if (out / name).exists())]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if value is None:
        return "all"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
