"""``study.md``."""

from __future__ import annotations

from linkedout_lightning.compare.markdown import markdown_table
from linkedout_lightning.study.parts import Part
from linkedout_lightning.study.results import Study


def render_markdown(study: Study) -> str:
    """The study in Markdown, without its pictures."""
    lines = [f"# {study.title}", ""]
    for text in study.introduction:
        lines += [text, ""]
    for part in study.parts:
        lines += _part(part)
    return "\n".join(lines)


def _part(part: Part) -> list[str]:
    lines = [f"## {part.heading}", ""]
    if part.simulated:
        lines += ["> **Simulated data.**", ""]
    lines += [f"- {sentence}" for sentence in part.findings]
    lines += ["", *(f"{part.cost}\n" for _ in [0] if part.cost)]
    for table in part.tables:
        lines += [markdown_table(table, simulated=part.simulated), ""]
    place = f"{part.place}/{part.page}".removesuffix(".html")
    lines += [f"All of it: [`{part.place}`]({place.removesuffix('.md')}.md)", ""]
    return lines
