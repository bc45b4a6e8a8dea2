"""``report.html``: one page that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linkedout_lightning.compare import charts
from linkedout_lightning.compare.findings import BACKBONE_LABELS
from linkedout_lightning.compare.markdown import environment_lines, heading, protocol_lines
from linkedout_lightning.compare.tables import (
    accuracy_table,
    backbones,
    cited_table,
    cold_table,
    costs_table,
    gates_table,
    main_metric,
    rows_of,
    slices_table,
    tests_table,
)
from linkedout_lightning.errors import MissingExtraError

_TEMPLATES = Path(__file__).parent / "templates"


def check_installed() -> None:
    """Say at the start what would be missing at the end.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("jinja2", "report", "report.html (or html: false)") from error


def render_html(results: Mapping[str, Any]) -> str:
    """The report as one self-contained page, light or dark as the reader's system is.

    Args:
        results: The object of ``results.json``.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    check_installed()
    from markupsafe import Markup

    return render_page(
        "report.html.jinja",
        title=heading(results),
        results=results,
        metric=main_metric(results),
        protocol=[marked_code(line) for line in protocol_lines(results)],
        environment=[marked_code(line) for line in environment_lines(results)],
        sections=[_section(results, backbone, Markup) for backbone in backbones(results)],
        cited=cited_table(results),
    )


def render_page(template: str, **content: Any) -> str:
    """A page from a template of this package, its style inside.

    Args:
        template: Name of the template.
        **content: What it shows; text is escaped.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    check_installed()
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, **content) + "\n"


def _section(results: Mapping[str, Any], backbone: str, markup: Any) -> dict[str, Any]:
    """All that the page shows of one backbone."""
    hr, ndcg = main_metric(results), main_metric(results, "NDCG")
    monitor = results["protocol"]["monitor"]

    def pictures(*made: str | None) -> list[Any]:
        return [markup(picture) for picture in made if picture]

    def gates(kinds: tuple[str, ...]) -> list[tuple[str, Any]]:
        return [
            (results["encoders"][row["encoder"]]["label"], markup(picture))
            for row in rows_of(results, backbone)
            if results["encoders"][row["encoder"]]["kind"] in kinds
            and (picture := charts.gates_chart(results, row))
        ]

    series = charts.series_of(results, backbone)
    return {
        "name": BACKBONE_LABELS.get(backbone, backbone),
        "id": backbone,
        "accuracy": accuracy_table(results, backbone),
        "tests": tests_table(results, backbone),
        "slices": slices_table(results, backbone),
        "cold": cold_table(results, backbone),
        "gates": gates_table(results, backbone),
        "costs": costs_table(results, backbone),
        "accuracy_charts": pictures(
            *(charts.accuracy_chart(results, backbone, metric) for metric in (hr, ndcg))
        ),
        "difference_charts": pictures(
            *(charts.difference_chart(results, backbone, metric) for metric in (hr, ndcg))
        ),
        "slices_chart": pictures(charts.slices_chart(results, backbone)),
        "gates_charts": gates(("method", "features", "ceiling")),
        "control_gates_charts": gates(("control", "fusion")),
        "curves": pictures(
            charts.curves_chart(results, backbone, monitor),
            charts.curves_chart(results, backbone, "train_loss"),
        ),
        "legend": [(markup(mark), label) for mark, label in charts.legend(results, series)],
    }


def marked_code(line: str) -> Any:
    """Text with its `code` marked up; what it holds is escaped."""
    from markupsafe import Markup

    parts = line.split("`")
    wrapped = [Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts)]
    return Markup("").join(wrapped)
