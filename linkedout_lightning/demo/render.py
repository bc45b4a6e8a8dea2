"""Pixels of a simulated clip: where everything is at an instant, and what that looks like.

Letters: n clips, T instants, F = n * T frames. Frame coordinates run from -1 (left, top) to 1
(right, bottom). Everything is arithmetic on whole batches; frames that show the same shape or scene
are drawn together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linkedout_lightning.demo.scenes import draw_scene
from linkedout_lightning.demo.shapes import SHAPES, Plane
from linkedout_lightning.demo.world import ATTRIBUTES, CUTS, Clips

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.95, 0.10, 0.10),
    "orange": (1.00, 0.50, 0.00),
    "yellow": (1.00, 0.95, 0.10),
    "green": (0.10, 0.75, 0.15),
    "cyan": (0.10, 0.90, 0.95),
    "blue": (0.15, 0.25, 1.00),
    "magenta": (0.95, 0.15, 0.90),
    "white": (1.00, 1.00, 1.00),
}
LIGHTS: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "dusk": (0.80, 0.66, 0.58),
    "night": (0.48, 0.50, 0.60),
}
CHUNK = 32  # frames drawn at once: their planes stay in the processor's cache

Vec = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Trajectory:
    """Where things are, each float32 (n, T) (`palette` int64): the truth behind the pixels."""

    x: Vec
    y: Vec
    half: Vec  # half the subject's height
    angle: Vec
    visible: Vec  # 1 or 0
    companion_x: Vec
    companion_y: Vec
    companion_half: Vec
    offset: Vec  # of the backdrop to the left, period 2
    zoom: Vec  # of the backdrop; larger shows it larger
    palette: npt.NDArray[np.int64]  # 0 or 1, changes at each cut


def sampled_instants(frames: int) -> Vec:
    """Instants (frames,) in (0, 1): the middles of equal spans, as the uniform sampler has them."""
    return ((np.arange(frames) + 0.5) / frames).astype(np.float32)


def trajectory(clips: Clips, instants: Vec) -> Trajectory:
    """The clips' course.

    Args:
        clips: n clips.
        instants: (T,) the same for all clips, or (n, T); 0 is a clip's start and 1 its end.
    """
    n = len(clips)
    u = np.broadcast_to(np.asarray(instants, dtype=np.float32), (n, np.shape(instants)[-1]))
    r = clips.nuisance[:, :, None]  # (n, NUISANCES, 1): r[:, k] is (n, 1)
    fast = (clips.code("speed") == 1).astype(np.float32)[:, None]
    event = clips.code("event")[:, None]

    def happens(name: str) -> npt.NDArray[np.bool_]:
        return np.asarray(event == ATTRIBUTES["event"].index(name))

    # A move of .45 or 1.0 through a point near the middle; otherwise the subject rests there.
    way = (u - 0.5) * (0.45 + 0.55 * fast)
    x = (r[:, 0] - 0.5) * 0.36 + way * (1.0 * happens("right") - 1.0 * happens("left"))
    y = (r[:, 1] - 0.5) * 0.36 + way * (1.0 * happens("down") - 1.0 * happens("up"))
    large = (clips.code("size") == 1)[:, None]
    half = np.where(large, 0.50, 0.34) + 0.07 * r[:, 2]
    swell = (u - 0.5) * (0.45 + 0.45 * fast) * (1.0 * happens("grows") - 1.0 * happens("shrinks"))
    half = half * np.exp(swell)
    turns = (0.4 + 0.8 * fast) * np.where(r[:, 3] < 0.5, -1.0, 1.0) * u * happens("spins")
    angle = (r[:, 4] - 0.5) * 0.4 + 2 * np.pi * turns
    blink = np.sin(2 * np.pi * ((1.0 + 1.5 * fast) * u + r[:, 5])) < -0.1
    visible = 1.0 - 1.0 * (blink & happens("blinks"))

    cuts = np.array(CUTS)[clips.code("pacing")][:, None]
    shot = np.minimum(np.floor(u * (cuts + 1)), cuts).astype(np.int64)  # (n, T)
    palette = (shot + (r[:, 6] < 0.5)) % 2
    camera = clips.code("camera")[:, None]
    pan = (u - 0.5) * np.where(r[:, 7] < 0.5, -1.0, 1.0) * (camera == 1)
    push = (u - 0.5) * np.where(r[:, 8] < 0.5, -0.7, 0.7) * (camera == 2)
    zoom = np.exp(push) * np.ones_like(u)
    offset = 2 * r[:, 9] + 0.74 * shot + 1.2 * pan
    # The companion stands in a corner, changes sides at a cut, and follows the camera.
    side = np.where((shot + (r[:, 10] < 0.5)) % 2 == 0, -0.68, 0.68)
    above = np.where(r[:, 11] < 0.5, -0.68, 0.68)
    companion_x = (side + 0.12 * (r[:, 12] - 0.5)) * np.exp(push * 0.3) - 0.35 * pan
    companion_y = (above + 0.12 * (r[:, 13] - 0.5)) * np.exp(push * 0.3)
    companion_half = (0.21 + 0.04 * r[:, 14]) * zoom

    def full(value: npt.NDArray[np.floating]) -> Vec:
        return np.ascontiguousarray(np.broadcast_to(value, u.shape), dtype=np.float32)

    return Trajectory(
        x=full(x),
        y=full(y),
        half=full(half),
        angle=full(angle),
        visible=full(visible),
        companion_x=full(companion_x),
        companion_y=full(companion_y),
        companion_half=full(companion_half),
        offset=full(offset),
        zoom=full(zoom),
        palette=np.ascontiguousarray(np.broadcast_to(palette, u.shape)),
    )


def render(
    clips: Clips, instants: Vec, *, size: int, masks: bool = False
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw clips at given instants.

    Args:
        clips: n clips.
        instants: (T,) or (n, T) in [0, 1].
        size: Height and width in pixels.
        masks: Also return where subject and companion are.

    Returns:
        Frames uint8 (n, T, size, size, 3) RGB, and masks uint8 (n, T, 2, size, size), 255 where the
        subject (0) or the companion (1) covers a pixel (an empty array without `masks`).
    """
    course = trajectory(clips, instants)
    n, t = course.x.shape
    flat = {name: value.reshape(-1) for name, value in vars(course).items()}
    codes = np.repeat(clips.codes, t, axis=0)
    per_frame = Clips(codes=codes, nuisance=np.repeat(clips.nuisance, t, axis=0))
    frames = np.empty((n * t, size, size, 3), dtype=np.uint8)
    covers = np.zeros((n * t if masks else 0, 2, size, size), dtype=np.uint8)
    # Frames alike in scene and shape side by side: fewer, larger operations.
    order = np.lexsort((per_frame.code("shape"), per_frame.code("scene")))
    for start in range(0, n * t, CHUNK):
        index = order[start : start + CHUNK]
        chunk = {name: value[index] for name, value in flat.items()}
        frames[index], cover = _draw(per_frame[index], Trajectory(**chunk), size)
        if masks:
            covers[index] = cover
    return frames.reshape(n, t, size, size, 3), covers.reshape(n if masks else 0, t, 2, size, size)


def _draw(
    clips: Clips, at: Trajectory, size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw F frames: `clips` and the fields of `at` hold one entry a frame."""
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    canvas = draw_scene(clips.code("scene"), at, axis)  # (3, F, size, size)
    soft = 2.0 / size  # a pixel's width in frame coordinates: edges blend over it

    half = at.companion_half[:, None, None]
    dx = (axis[None, None, :] - at.companion_x[:, None, None]) / half
    dy = (axis[None, :, None] - at.companion_y[:, None, None]) / half
    field = _by_shape(clips.words("companion"), dx, dy)
    second = np.clip(0.5 - field * (half / soft), 0, 1).astype(np.float32)
    _paint(canvas, second, clips.words("companion_color"))

    half = at.half[:, None, None]
    dx = (axis[None, None, :] - at.x[:, None, None]) / half
    dy = (axis[None, :, None] - at.y[:, None, None]) / half
    cos, sin = np.cos(at.angle)[:, None, None], np.sin(at.angle)[:, None, None]
    px, py = cos * dx + sin * dy, cos * dy - sin * dx
    field = _by_shape(clips.words("shape"), px, py)
    scale = half / soft
    seen = at.visible[:, None, None]
    silhouette = np.clip(0.5 - (field - 0.09) * scale, 0, 1) * seen
    for channel in range(3):  # a dark rim parts the subject from any backdrop
        canvas[channel] *= 1 - 0.85 * silhouette
    inside = (np.clip(0.5 - field * scale, 0, 1) * seen).astype(np.float32)
    colors = clips.words("color")
    _paint(canvas, inside, colors, shade=0.4)
    _paint(canvas, inside * _pattern(clips.code("fill"), field, px, py, scale), colors)

    light = np.array([LIGHTS[word] for word in clips.words("light")], dtype=np.float32)
    frames = np.empty((len(clips), size, size, 3), dtype=np.uint8)
    for channel in range(3):
        frames[..., channel] = canvas[channel] * (255 * light[:, channel, None, None])
    cover = np.stack([silhouette, second * (1 - silhouette)], axis=1) * 255
    return frames, cover.astype(np.uint8)


def _by_shape(words: list[str], x: Plane, y: Plane) -> Plane:
    """Distance fields (F, size, size) of frames whose shapes differ."""
    x, y = np.broadcast_arrays(x, y)
    names = np.array(words)
    field = np.empty(x.shape, dtype=np.float32)
    for name in np.unique(names):
        where = np.flatnonzero(names == name)
        if len(where) == len(names):
            return SHAPES[name](x, y)
        field[where] = SHAPES[name](x[where], y[where])
    return field


def _pattern(fill: npt.NDArray[np.int64], field: Plane, x: Plane, y: Plane, scale: Plane) -> Plane:
    """Where colour lies in the subject (F, size, size) by `fill`: all, a band, stripes, dots."""
    paint = np.ones_like(field)
    for code in (1, 2, 3):
        where = np.flatnonzero(fill == code)
        if not len(where):
            continue
        if code == 1:
            edge = -field[where] - 0.2
            soft = scale[where]
        elif code == 2:
            edge = np.sin(x[where] * 11.0)
            soft = scale[where] / 11.0
        else:
            edge = np.cos(x[where] * 9.0) + np.cos(y[where] * 9.0) - 0.1
            soft = scale[where] / 9.0
        paint[where] = np.clip(0.5 - edge * soft, 0, 1)
    return paint


def _paint(canvas: Plane, alpha: Plane, words: list[str], *, shade: float = 1.0) -> None:
    """Lay each frame's colour over `canvas` (3, F, size, size) by `alpha` (F, size, size)."""
    colors = np.array([COLORS[word] for word in words], dtype=np.float32) * np.float32(shade)
    for channel in range(3):
        canvas[channel] += alpha * (colors[:, channel, None, None] - canvas[channel])
