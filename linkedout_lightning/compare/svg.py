"""A few shapes of SVG as text; colours come from the page's style sheet by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

SERIES = 8
"""Classes ``s0`` to ``s7`` that the style sheet colours; a marker's shape differs with each."""


class Svg:
    """A picture under construction, in user units of one CSS pixel.

    Args:
        width: Width.
        height: Height.
        label: What the picture shows, for those who do not see it.

    Example:
        >>> picture = Svg(10, 10, label="a dot")
        >>> picture.circle(5, 5, 2, "s0")
        >>> str(picture).startswith("<svg")
        True
    """

    def __init__(self, width: float, height: float, *, label: str) -> None:
        self.width, self.height, self.label = width, height, label
        self._parts: list[str] = []

    def __str__(self) -> str:
        size = f"{_n(self.width)} {_n(self.height)}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img" '
            f'style="max-width:{_n(self.width)}px" aria-label={quoteattr(self.label)}>'
            f"{''.join(self._parts)}</svg>"
        )

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        """Text with its baseline at ``y``."""
        self._parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" class="{style}">'
            f"{escape(text)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line."""
        self._parts.append(
            f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{style}"/>'
        )

    def path(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Lines through points."""
        steps = " ".join(f"{'L' if i else 'M'}{_n(x)} {_n(y)}" for i, (x, y) in enumerate(points))
        self._parts.append(f'<path d="{steps}" class="{style}"/>')

    def rect(
        self, x: float, y: float, width: float, height: float, style: str, *,
        opacity: float | None = None, title: str = "",
    ) -> None:  # fmt: skip
        """A rectangle, with a tooltip."""
        shade = "" if opacity is None else f' fill-opacity="{opacity:.3f}"'
        self._parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
            f'class="{style}"{shade}>{_title(title)}</rect>'
        )

    def circle(self, x: float, y: float, radius: float, style: str, *, title: str = "") -> None:
        """A disc, with a tooltip."""
        self._parts.append(
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" class="{style}">'
            f"{_title(title)}</circle>"
        )

    def marker(
        self, x: float, y: float, series: int, *, radius: float = 4, title: str = ""
    ) -> None:
        """The marker of a series: its colour and its shape."""
        r = radius
        shapes = (
            None,
            [(-r, -r), (r, -r), (r, r), (-r, r)],
            [(0, -1.25 * r), (1.2 * r, r), (-1.2 * r, r)],
            [(0, -1.35 * r), (1.35 * r, 0), (0, 1.35 * r), (-1.35 * r, 0)],
            [(0, 1.25 * r), (1.2 * r, -r), (-1.2 * r, -r)],
        )
        shape = shapes[series % len(shapes)]
        if shape is None:
            self.circle(x, y, radius, f"mark s{series % SERIES}", title=title)
            return
        steps = " ".join(f"{_n(x + dx)},{_n(y + dy)}" for dx, dy in shape)
        self._parts.append(
            f'<polygon points="{steps}" class="mark s{series % SERIES}">{_title(title)}</polygon>'
        )


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover ``low`` to ``high``.

    Args:
        low: Smallest value.
        high: Largest value.
        count: About how many steps.

    Example:
        >>> nice_ticks(0.0, 0.092)
        [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]
    """
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick's number with as many digits as its neighbours need.

    Example:
        >>> tick_text(0.1, [0.0, 0.05, 0.1])
        '0.10'
    """
    digits = max((len(f"{tick:.10f}".rstrip("0").partition(".")[2]) for tick in ticks), default=0)
    return f"{value:.{digits}f}".replace("-", "−")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def begin_picture(document: Mapping[str, Any], width: float, height: float, label: str) -> Svg:
    """An empty picture that says, where it is so, that its data are simulated.

    Args:
        document: Results, with ``simulated``.
        width: Width.
        height: Height.
        label: What the picture shows.
    """
    if not document["simulated"]:
        return Svg(width, height, label=label)
    picture = Svg(width, height, label=f"{label}, simulated")
    picture.text(width, 12, "simulated", "axis", "end")
    return picture
