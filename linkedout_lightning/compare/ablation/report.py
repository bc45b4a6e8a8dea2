"""``ablation.html``: one page that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linkedout_lightning.compare.ablation import charts
from linkedout_lightning.compare.ablation.markdown import base_lines
from linkedout_lightning.compare.ablation.rows import BASE
from linkedout_lightning.compare.ablation.views import accuracy, costs, sections
from linkedout_lightning.compare.charts import accuracy_chart, difference_chart, gates_chart
from linkedout_lightning.compare.markdown import environment_lines, heading
from linkedout_lightning.compare.report import marked_code, render_page
from linkedout_lightning.compare.tables import main_metric

_DRAWN = {"depth": charts.curve_chart, "count": charts.curve_chart, "pairs": charts.pairs_chart}


def render_html(document: Mapping[str, Any]) -> str:
    """The ablation as one self-contained page, light or dark as the reader's system is.

    Args:
        document: The object of ``ablation.json``.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    finished = bool(document["summary"])
    return render_page(
        "ablation.html.jinja",
        title=heading(document),
        results=document,
        metric=main_metric(document),
        overview=_pictures(charts.overview_chart(document)),
        sections=[_section(document, s) for s in sections(document)] if finished else [],
        gates=_pictures(_base_gates(document)),
        cost_chart=_pictures(charts.cost_chart(document)),
        costs=costs(document) if finished else None,
        protocol=[marked_code(line) for line in base_lines(document)],
        environment=[marked_code(line) for line in environment_lines(document)],
    )


def _section(document: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows of one axis."""
    view, metric = section["view"], main_metric(document)
    backbone = document["protocol"]["backbone"]
    draw = _DRAWN.get(section["shape"])
    return {
        "name": section["name"],
        "title": section["title"],
        "question": section["question"],
        "shape": section["shape"],
        "own": _pictures(draw(document, section)) if draw else [],
        "accuracy": _pictures(accuracy_chart(view, backbone, metric)),
        "difference": _pictures(difference_chart(view, backbone, metric)),
        "table": accuracy(document, view),
    }


def _base_gates(document: Mapping[str, Any]) -> str | None:
    base = next((row for row in document["summary"] if row["encoder"] == BASE), None)
    return gates_chart(document, base) if base else None


def _pictures(*made: str | None) -> list[Any]:
    from markupsafe import Markup

    return [Markup(picture) for picture in made if picture]
