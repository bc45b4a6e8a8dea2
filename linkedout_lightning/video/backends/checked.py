"""What keeps the other decoders exact: the demuxer's times decide which frame is which.

decord and torchcodec return wrong frames without a word where an edit list or a codec with
delayed frames is involved. A file whose frames they count or time differently than the container
does is refused, and the caller falls back to PyAV with that reason.
"""

from __future__ import annotations

import re

import av
import numpy as np
from numpy.typing import NDArray

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video.pixels import PixelConverter
from linkedout_lightning.video.settings import DecodeSettings
from linkedout_lightning.video.source import VideoSource
from linkedout_lightning.video.timeline import Timeline


def read_timeline(
    path: str,
    settings: DecodeSettings,
    *,
    refused_formats: tuple[str, ...] = (),
    exact_pixels: re.Pattern[str] | None = None,
) -> Timeline:
    """Times of the frames from the demuxer, after the checks that hold for every backend.

    Args:
        path: The file.
        settings: What is wanted of it.
        refused_formats: Containers that the decoder is not to be tried on, by FFmpeg's names.
        exact_pixels: Matches the pixel formats, by FFmpeg's names, whose colours the decoder
            converts as FFmpeg does; by default all.

    Raises:
        VideoDecodeError: If the decoder is known to be inexact on such a file, or to hang.
    """
    with VideoSource(path, max_pixels=settings.max_pixels) as source:
        if source.format_name in refused_formats:
            raise source.fail(f"not exact, or hangs, on {source.format_name}")
        pixels = source.stream.codec_context.pix_fmt
        if exact_pixels is not None and pixels and not exact_pixels.fullmatch(pixels):
            raise source.fail(f"its colours are not exact for {pixels}")
        timeline = source.scan()
        if timeline is None or timeline.doubtful:
            raise source.fail("the packets carry no presentation times")
        return timeline


def require_same_times(
    path: str,
    timeline: Timeline,
    *,
    count: int,
    indices: NDArray[np.int64],
    seconds: NDArray[np.float64],
) -> None:
    """Refuse a file whose frames the decoder places elsewhere than the container does.

    Args:
        path: The file.
        timeline: What the demuxer says.
        count: Number of frames by the decoder.
        indices: int64 ``(m,)``, some frames.
        seconds: float64 ``(m,)``, their beginnings by the decoder, after its first frame's.

    Raises:
        VideoDecodeError: If they disagree by a frame or by half a frame's duration.
    """
    if count != len(timeline.starts):
        raise VideoDecodeError(path, f"sees {count} frames instead of {len(timeline.starts)}")
    if np.abs(seconds - timeline.seconds(indices)).max() > 0.5 / timeline.fps:
        raise VideoDecodeError(path, "its frame times differ from the container's")


def resized(arrays: NDArray[np.uint8], settings: DecodeSettings) -> NDArray[np.uint8]:
    """Bring upright ``(T, height, width, 3)`` RGB arrays to the wanted size."""
    if settings.size is None:
        return arrays
    convert = PixelConverter(settings)
    return np.stack([convert(av.VideoFrame.from_ndarray(a, format="rgb24")) for a in arrays])
