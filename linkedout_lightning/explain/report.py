"""``explain.html``: one page that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linkedout_lightning.compare.markdown import environment_lines, heading
from linkedout_lightning.compare.report import marked_code, render_page
from linkedout_lightning.explain import charts, curves
from linkedout_lightning.explain.markdown import method_lines
from linkedout_lightning.explain.tables import (
    gates_table,
    leave_out_table,
    readout_table,
    spaces_table,
    stability_table,
)


def render_html(document: Mapping[str, Any]) -> str:
    """The explanation as one self-contained page, light or dark as the reader's system is.

    Args:
        document: The object of ``explain.json``.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    return render_page(
        "explain.html.jinja",
        title=heading(document),
        results=document,
        stability=stability_table(document),
        encoders=[_encoder(document, name) for name in document["encoders"]],
        spectrum=_pictures(curves.spectrum_chart(document)),
        norms=_pictures(curves.norms_chart(document)),
        spectrum_legend=_legend(curves.spectrum_series(document)),
        norms_legend=_legend(curves.norm_series(document)),
        readout=readout_table(document),
        spaces=spaces_table(document),
        neighbours=_neighbours(document),
        method=[marked_code(line) for line in method_lines(document)],
        environment=[marked_code(line) for line in environment_lines(document)],
    )


def _encoder(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """All that the page shows of one encoder."""
    encoder = document["encoders"][name]
    layered = any(space["key"].startswith("expert/") for space in encoder["spaces"])
    return {
        "label": encoder["label"],
        "id": name.replace("+", "-").replace(":", "-"),
        "seeds": encoder["seeds"],
        "gates": _pictures(
            charts.gates_chart(document, encoder, ("category",)),
            charts.gates_chart(document, encoder, ("decile", "cold")),
        ),
        "by_seed": _pictures(charts.seeds_chart(document, encoder)),
        "gates_table": gates_table(document, encoder),
        "leave_out": _pictures(
            charts.leave_out_chart(document, encoder, ("category",)),
            charts.leave_out_chart(document, encoder, ("decile", "cold")),
        ),
        "leave_out_table": leave_out_table(encoder),
        "overlap": _pictures(charts.overlap_chart(document, encoder)) if layered else [],
        "kinds": _pictures(charts.kind_chart(document, encoder)) if layered else [],
    }


def _neighbours(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The shown items with their lists, each item by what may be said of it."""
    shown = document["neighbours"]
    if not shown:
        return None

    def card(item: str, category: str | None) -> dict[str, Any]:
        about = document["items"].get(item, {})
        own = about.get("category")
        return {
            "id": item,
            "title": about.get("title", ""),
            "image": about.get("image", ""),
            "category": own or "",
            "same": own is not None and own == category,
        }

    queries = []
    for query in shown["queries"]:
        item = card(query["id"], None)
        columns = [
            [card(other, item["category"]) | {"cosine": cosine} for other, cosine in found]
            for found in (query["lists"][space["key"]] for space in shown["spaces"])
        ]
        queries.append(item | {"columns": columns})
    return {
        "label": document["encoders"][shown["encoder"]]["label"],
        "seed": shown["seed"],
        "rule": shown["rule"],
        "spaces": [space["label"] for space in shown["spaces"]],
        "queries": queries,
    }


def _pictures(*made: str | None) -> list[Any]:
    from markupsafe import Markup

    return [Markup(picture) for picture in made if picture]


def _legend(series: curves.Named) -> list[tuple[Any, str]]:
    from markupsafe import Markup

    return [(Markup(mark), label) for mark, label in curves.legend(series)]
