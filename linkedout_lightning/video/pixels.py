"""From decoded frames to upright RGB arrays of the wanted size.

FFmpeg's own scale filter converts, so that colours (matrix, range, chroma position) are bit for
bit those of the ``ffmpeg`` program. Resizing is bicubic, with the filter widened when it shrinks
an image, so that nothing aliases.
"""

from __future__ import annotations

import struct
from typing import Any

import av
import av.filter
import numpy as np
from numpy.typing import NDArray

from linkedout_lightning.video.settings import DecodeSettings


class TooLargeError(ValueError):
    """A frame has more pixels than are allowed."""


class PixelConverter:
    """Convert the frames of one video; frames may change their size and format on the way.

    Every result has the size of the first one.
    """

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings
        self._graph: Any = None
        self._graph_key: tuple[Any, ...] | None = None
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> NDArray[np.uint8]:
        """Make an upright uint8 ``(height, width, 3)`` array of one ``av.VideoFrame``."""
        turns, mirror = orientation(frame)
        upright = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        self._require_allowed(*upright)
        if self._size is None:
            self._size = self._settings.target_size(*upright)
            self._require_allowed(*self._size)
        height, width = self._size[::-1] if turns % 2 else self._size
        array = self._scaled(frame, height, width)
        if mirror:
            array = array[:, ::-1]
        return np.ascontiguousarray(np.rot90(array, turns))

    def _require_allowed(self, height: int, width: int) -> None:
        limit = self._settings.max_pixels
        if height * width > limit:
            raise TooLargeError(f"{width}x{height} is more than the limit of {limit} pixels")

    def _scaled(self, frame: Any, height: int, width: int) -> NDArray[np.uint8]:
        colours = (frame.colorspace, frame.color_range)
        key = (frame.width, frame.height, frame.format.name, *colours, height, width)
        if key != self._graph_key:
            self._graph, self._graph_key = _scale_graph(frame, height, width), key
        self._graph.vpush(frame)
        array: NDArray[np.uint8] = self._graph.vpull().to_ndarray(format="rgb24")
        return array


def _scale_graph(frame: Any, height: int, width: int) -> Any:
    graph = av.filter.Graph()
    if hasattr(graph, "threads"):
        graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    scale = graph.add("scale", f"{width}:{height}:flags=bicubic")
    graph.link_nodes(source, scale, graph.add("format", "rgb24"), graph.add("buffersink"))
    graph.configure()
    return graph


def orientation(frame: Any) -> tuple[int, bool]:
    """How a frame is to be turned to stand upright.

    Returns:
        Quarter turns counterclockwise, and whether the image is mirrored left to right first.
    """
    matrix = next((s for s in frame.side_data if s.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return 0, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    # A negative determinant mirrors: undo it on the x axis, then read the angle that is left.
    mirror = a * d - b * c < 0
    if mirror:
        a, b = -a, -b
    angle = float(np.degrees(np.arctan2(-b, a)))
    return round(angle / 90) % 4, mirror
