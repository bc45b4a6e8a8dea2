"""``study.html``: one page that needs nothing but a browser."""

from __future__ import annotations

from typing import Any

from linkedout_lightning.compare.report import marked_code, render_page
from linkedout_lightning.study.parts import Part
from linkedout_lightning.study.results import Study


def render_html(study: Study) -> str:
    """The study as one self-contained page, light or dark as the reader's system is.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    return render_page(
        "study.html.jinja",
        title=study.title,
        introduction=[marked_code(text) for text in study.introduction],
        parts=[_shown(part) for part in study.parts],
        simulated=study.simulated,
    )


def _shown(part: Part) -> dict[str, Any]:
    from markupsafe import Markup

    return {
        "id": part.place.replace("/", "-").replace(".", "all"),
        "heading": part.heading,
        "link": f"{part.place}/{part.page}",
        # What the shared parts of the templates ask for.
        "results": {"simulated": part.simulated},
        "findings": [marked_code(sentence) for sentence in part.findings],
        "figures": [(caption, Markup(picture)) for caption, picture in part.figures],
        "tables": part.tables,
        "further": part.further,
        "method": [marked_code(line) for line in part.method],
        "cost": part.cost,
    }
