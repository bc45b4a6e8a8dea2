"""Backdrops of the simulated clips, in muted tones before which a subject's colour stands out.

A backdrop repeats with period 2 in x (one frame's width), so that its offset is an angle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from linkedout_lightning.demo.shapes import Plane
from linkedout_lightning.demo.world import ATTRIBUTES

if TYPE_CHECKING:
    from linkedout_lightning.demo.render import Trajectory

# Scene -> palette (changes at a cut) -> the two tones between which the pattern mixes.
TONES: dict[str, tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]] = {
    "beach": (((0.62, 0.56, 0.42), (0.36, 0.50, 0.62)), ((0.50, 0.40, 0.30), (0.50, 0.44, 0.62))),
    "forest": (((0.20, 0.32, 0.20), (0.38, 0.46, 0.30)), ((0.36, 0.28, 0.20), (0.52, 0.48, 0.34))),
    "city": (((0.50, 0.54, 0.58), (0.26, 0.27, 0.30)), ((0.60, 0.52, 0.46), (0.36, 0.28, 0.28))),
    "space": (((0.06, 0.06, 0.12), (0.80, 0.80, 0.74)), ((0.17, 0.06, 0.15), (0.78, 0.70, 0.80))),
    "meadow": (((0.44, 0.56, 0.36), (0.56, 0.64, 0.68)), ((0.58, 0.56, 0.32), (0.68, 0.62, 0.58))),
    "room": (((0.46, 0.38, 0.34), (0.60, 0.54, 0.48)), ((0.34, 0.38, 0.44), (0.48, 0.56, 0.58))),
}


def _edge(value: npt.NDArray[np.floating]) -> Plane:
    """0 below and 1 above an edge about two pixels soft."""
    return np.asarray(np.clip(0.5 + 24.0 * value, 0, 1), dtype=np.float32)


def _beach(x: Plane, y: Plane) -> Plane:
    return _edge(0.18 * np.sin(np.pi * 2 * x) - y)


def _forest(x: Plane, y: Plane) -> Plane:
    return _edge(0.2 * np.sin(np.pi * 3 * x + 0.6 * np.sin(3 * y)))


def _city(x: Plane, y: Plane) -> Plane:
    column = np.floor(x * 2.5)
    roof = 0.35 * np.sin(column * (2 * np.pi / 5) * 2 + 1.0) - 0.1
    wall = _edge(y - roof)
    lights = _edge(0.15 * (np.sin(np.pi * 10 * x) * np.sin(14 * y) - 0.55))
    return wall * (1 - 0.9 * lights)


def _space(x: Plane, y: Plane) -> Plane:
    # Stars sit on a slanted lattice; every third one is large.
    u, v = 2 * x + y, 2 * y - x
    return _edge(0.11 * (np.cos(np.pi * 2 * u) + np.cos(np.pi * 2 * v) - 1.55))


def _meadow(x: Plane, y: Plane) -> Plane:
    near = _edge(0.3 + 0.25 * np.sin(np.pi * x) - y)
    far = _edge(-0.25 + 0.2 * np.cos(np.pi * 2 * x) - y)
    return 0.5 * near + 0.5 * far


def _room(x: Plane, y: Plane) -> Plane:
    floor = _edge(y - 0.3)
    tiles = _edge(0.1 * np.sin(np.pi * 4 * x) * np.sin(9 * y))
    pane = _edge(0.3 - np.maximum(np.abs(np.mod(x, 2) - 1), np.abs(y + 0.4)))
    return floor * tiles + (1 - floor) * (0.35 + 0.65 * pane)


SCENES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "space": _space,
    "meadow": _meadow,
    "room": _room,
}


def draw_scene(codes: npt.NDArray[np.int64], at: Trajectory, axis: Plane) -> Plane:
    """Backdrops (3, F, size, size) in [0, 1]; `axis` (size,) holds the pixels' coordinates."""
    size = len(axis)
    canvas = np.empty((3, len(codes), size, size), dtype=np.float32)
    for code in np.unique(codes):
        name = ATTRIBUTES["scene"][code]
        where = np.flatnonzero(codes == code)
        zoom = at.zoom[where, None, None]
        x = axis[None, None, :] / zoom + at.offset[where, None, None]
        y = axis[None, :, None] / zoom
        mix = SCENES[name](x, y)
        tones = np.array(TONES[name], dtype=np.float32)[at.palette[where]]  # (f, 2, 3)
        for channel in range(3):
            low = tones[:, 0, channel, None, None]
            high = tones[:, 1, channel, None, None]
            canvas[channel, where] = low + (high - low) * mix
    return canvas
