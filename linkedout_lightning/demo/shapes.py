"""Silhouettes as distance fields: negative inside, of slope about 1, within about [-1, 1].

`x` grows to the right and `y` downwards, as in the frame.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]


def _plane(value: npt.NDArray[np.floating]) -> Plane:
    return np.asarray(value, dtype=np.float32)


def _triangle(x: Plane, y: Plane) -> Plane:
    return _plane(np.maximum(y - 0.8, 0.866 * np.abs(x) - 0.5 * y - 0.5))


def _square(x: Plane, y: Plane) -> Plane:
    return _plane(np.maximum(np.abs(x), np.abs(y)) - np.float32(0.8))


def _disc(x: Plane, y: Plane) -> Plane:
    return _plane(np.sqrt(x * x + y * y) - np.float32(0.95))


def _star(x: Plane, y: Plane) -> Plane:
    # Fold the plane onto half of one point of five, then take the distance from its edge.
    c, s = np.float32(np.cos(np.pi / 5)), np.float32(np.sin(np.pi / 5))
    px: npt.NDArray[np.floating] = np.abs(x)
    py: npt.NDArray[np.floating] = -y
    reach = np.maximum(c * px - s * py, 0) * 2
    px, py = px - reach * c, py + reach * s
    reach = np.maximum(-c * px - s * py, 0) * 2
    px, py = px + reach * c, py + reach * s
    px, py = np.abs(px), py - np.float32(1.05)
    # The edge runs from the tip (0, 1.05) to the dent at radius .45, 36 degrees off.
    ex, ey = 0.45 * s, 0.45 * c - 1.05
    length = float(np.hypot(ex, ey))
    return _plane((px * np.float32(-ey / length)) + (py * np.float32(ex / length)))


def _heart(x: Plane, y: Plane) -> Plane:
    # https://iquilezles.org/articles/distfunctions2d/ (heart), scaled and centred
    px, py = np.abs(x) * np.float32(0.6), np.float32(0.56) - y * np.float32(0.6)
    lobe = np.sqrt((px - 0.25) ** 2 + (py - 0.75) ** 2) - np.float32(0.35355)
    along = 0.5 * np.maximum(px + py, 0)
    side = np.minimum(px * px + (py - 1) ** 2, (px - along) ** 2 + (py - along) ** 2)
    flank = np.sqrt(side) * np.sign(px - py)
    return _plane(np.where(px + py > 1, lobe, flank) / np.float32(0.6))


def _cross(x: Plane, y: Plane) -> Plane:
    a, b = np.abs(x), np.abs(y)
    return _plane(
        np.maximum(np.maximum(a, b) - np.float32(0.95), np.minimum(a, b) - np.float32(0.3))
    )


def _crescent(x: Plane, y: Plane) -> Plane:
    bite = np.float32(0.72) - np.sqrt((x - 0.45) ** 2 + y * y)
    return _plane(np.maximum(np.sqrt(x * x + y * y) - np.float32(0.95), bite))


def _arrow(x: Plane, y: Plane) -> Plane:
    a = np.abs(x)
    head = np.maximum(y - 0.0, 0.7071 * (a - y) - 0.7071)
    shaft = np.maximum(a - 0.28, np.abs(y - 0.4) - 0.55)
    return _plane(np.minimum(head, shaft))


def _hourglass(x: Plane, y: Plane) -> Plane:
    a, b = np.abs(x), np.abs(y)
    return _plane(np.maximum(b - 0.92, 0.78 * a - 0.62 * b - 0.1))


SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "triangle": _triangle,
    "square": _square,
    "disc": _disc,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "crescent": _crescent,
    "arrow": _arrow,
    "hourglass": _hourglass,
}
SYMMETRY: dict[str, int] = {
    "triangle": 3,
    "square": 4,
    "star": 5,
    "heart": 1,
    "cross": 4,
    "crescent": 1,
    "arrow": 1,
    "hourglass": 2,
}
"""Turns by 1 / symmetry (nearly) map a subject's silhouette onto itself."""
