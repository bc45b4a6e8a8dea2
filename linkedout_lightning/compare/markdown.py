"""``report.md`` and the terminal's summary, from the object of ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.findings import BACKBONE_LABELS
from linkedout_lightning.compare.tables import (
    Table,
    TableCell,
    accuracy_table,
    backbones,
    cited_table,
    cold_table,
    costs_table,
    gates_table,
    slices_table,
    tests_table,
)


def render_markdown(results: Mapping[str, Any]) -> str:
    """The whole report in Markdown."""
    simulated = results["simulated"]
    lines = [f"# {heading(results)}", ""]
    if simulated:
        lines += [f"> **Simulated data.** {results['simulation_note']}".rstrip(), ""]
    lines += [f"- {sentence}" for sentence in results["findings"]]
    lines += ["", "## Protocol", "", *(f"- {line}" for line in protocol_lines(results)), ""]
    for backbone in backbones(results):
        lines += [f"## {BACKBONE_LABELS.get(backbone, backbone)}", ""]
        for table in tables(results, backbone):
            lines += [markdown_table(table, simulated=simulated), ""]
    if (cited := cited_table(results)) is not None:
        lines += [f"## {results['cited']['title']}", "", markdown_table(cited, simulated=False), ""]
    lines += ["## What the rows are", ""]
    lines += [f"- **{e['label']}**: {e['meaning']}." for e in results["encoders"].values()]
    if results["failed"]:
        lines += ["", "## Failed cells", ""]
        lines += [
            f"- {cell['encoder']}, {cell['backbone']}, seed {cell['seed']}: {cell['error']} "
            f"(`{cell['folder']}/log.txt`)"
            for cell in results["failed"]
        ]
    lines += ["", "## Environment", "", *(f"- {line}" for line in environment_lines(results)), ""]
    return "\n".join(lines)


def tables(results: Mapping[str, Any], backbone: str) -> list[Table]:
    """All tables of one backbone."""
    made = (
        accuracy_table(results, backbone),
        tests_table(results, backbone),
        slices_table(results, backbone),
        cold_table(results, backbone),
        gates_table(results, backbone),
        costs_table(results, backbone),
    )
    return [table for table in made if table is not None]


def render_terminal(results: Mapping[str, Any], *, out: Path) -> str:
    """The main table of each backbone, the findings, and where the files are."""
    lines = [heading(results)]
    if results["simulated"]:
        lines.append(f"simulated data. {results['simulation_note']}".rstrip())
    for backbone in backbones(results):
        lines += ["", BACKBONE_LABELS.get(backbone, backbone)]
        lines += _aligned(accuracy_table(results, backbone))
    lines += ["", *results["findings"]]
    if (cited := cited_table(results)) is not None:
        lines += ["", f"{results['cited']['title']}. {cited.caption}.", *_aligned(cited)]
    for cell in results["failed"]:
        lines.append(
            f"failed: {cell['encoder']}, {cell['backbone']}, seed {cell['seed']}: {cell['error']} "
            f"(log: {out / cell['folder'] / 'log.txt'})"
        )
    names = ("results.json", "report.md", "report.html")
    lines += ["", *(f"{name}: {out / name}" for name in names if (out / name).exists())]
    return "\n".join(lines)


def heading(results: Mapping[str, Any]) -> str:
    """The title, marked where the data are simulated."""
    title: str = results["title"]
    marked = results["simulated"] and "simulated" not in title.lower()
    return f"{title} (simulated)" if marked else title


def markdown_table(table: Table, *, simulated: bool) -> str:
    """A table with its caption above."""
    note = " Simulated." if simulated else ""
    lines = [f"*{table.caption}.{note}*", ""]
    lines.append(f"| {' | '.join(table.columns)} |")
    lines.append(f"| --- |{' ---: |' * (len(table.columns) - 1)}")
    lines += [f"| {' | '.join(_markdown(cell) for cell in row)} |" for row in table.rows]
    return "\n".join(lines)


def protocol_lines(results: Mapping[str, Any]) -> list[str]:
    """The protocol in a few lines."""
    protocol, data = results["protocol"], results["data"]
    lines = []
    if data:
        lines.append(
            f"Data: {protocol['data']}, {data['users']:,} users, {data['items']:,} items, "
            f"{data['interactions']:,} interactions; training sees {data['train_items']:,} items, "
            f"{data['cold_items']:,} are cold; {data['test_users']:,} test users."
        )
    lines += results.get("preset", {}).get("lines", [])
    lines += protocol["lines"] if "lines" in protocol else _native_lines(protocol)
    lines.append(f"Ranking: {protocol['ranking']}.")
    lines += [
        f"Features: {summary}."
        for summary in dict.fromkeys(
            cell["alignment"]["summary"] for cell in results["cells"] if cell.get("alignment")
        )
    ]
    lines += [
        f"Seeds: {', '.join(map(str, protocol['seeds']))}. Choice: {protocol['choice']}.",
        f"Test: {protocol['test']}. The interval is about users; the spread over seeds stands "
        "beside it.",
    ]
    for name, changes in protocol["overrides"].items():
        changed = ", ".join(f"{key} {value}" for key, value in changes.items())
        lines.append(f"Differently for {name}: {changed}.")
    return lines


def _native_lines(protocol: Mapping[str, Any]) -> list[str]:
    settings = protocol["settings"]
    preset = f"preset {protocol['preset']}, " if protocol["preset"] else ""
    precision = protocol.get("precision", "32-true")
    return [
        f"Split: {preset}{protocol['split'].replace('_', ' ')}, at most {protocol['max_len']} "
        f"inputs, users of at least {protocol['min_len']} interactions.",
        f"Training: dim {settings['dim']}, {settings['loss'].replace('_', '-')} loss, AdamW at "
        f"{settings['lr']:g} with weight decay {settings['weight_decay']:g}, dropout "
        f"{settings['dropout']:g}, batches of {settings['batch_size']}, at most "
        f"{settings['epochs']} epochs, patience {settings['patience']}"
        f"{'' if precision == '32-true' else f', precision {precision}'}.",
    ]


def environment_lines(results: Mapping[str, Any]) -> list[str]:
    """Hardware, versions and the command."""
    found = results["environment"]
    hardware = [found["cpu"], f"{found['cores']} cores"]
    if found["memory_gb"]:
        hardware.append(f"{found['memory_gb']:g} GB")
    hardware += found["accelerators"]
    versions = [f"Python {found['python']}"]
    versions += [f"{name} {number}" for name, number in found["versions"].items() if number]
    return [
        f"Hardware: {', '.join(hardware)}",
        f"System: {found['platform']}",
        f"Versions: {', '.join(versions)}",
        f"Command: `{found['command']}`",
        f"Finished: {found['finished']}",
    ]


def _markdown(cell: TableCell) -> str:
    text = cell.text.replace("|", "\\|")
    if cell.best:
        text = f"**{text}**"
    return f"{text} [{cell.small}]" if cell.small else text


def _aligned(table: Table) -> list[str]:
    """Plain text in columns; the best figures are marked with a star."""
    texts = [[f"{c.text}{'*' if c.best else ''}" for c in row] for row in table.rows]
    texts = [table.columns, *texts]
    widths = [max(len(row[i]) for row in texts) for i in range(len(table.columns))]
    return [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    ]
