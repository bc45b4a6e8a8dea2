"""What a video file holds, for ``linkedout inspect``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video.backends import find_backend
from linkedout_lightning.video.isolation import DecoderProcess
from linkedout_lightning.video.settings import MAX_PIXELS, DecodeSettings


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video file's description; ``None`` where the file does not say.

    Attributes:
        path: The file.
        container: FFmpeg's name of the container format.
        codec: Name of the video codec.
        pixel_format: FFmpeg's name of the stored pixel format.
        width: Width in pixels when upright.
        height: Height in pixels when upright.
        frames: Number of frames that are shown, counted from the packets.
        fps: Mean frames a second, measured over the packets' times.
        duration: Seconds from the first frame's beginning to the last frame's end.
        constant_rate: Whether all frames are shown equally long (within one tick).
        rotation: Degrees counterclockwise that metadata turns the stored image by.
        key_frames: Number of places at which decoding can begin.
        streams: One description a stream, for example ``"audio: aac"``.
        decodable: Whether a frame from the middle could be decoded.
        reason: Why not.
    """

    path: str
    container: str | None = None
    codec: str | None = None
    pixel_format: str | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None
    constant_rate: bool | None = None
    rotation: int | None = None
    key_frames: int | None = None
    streams: tuple[str, ...] = ()
    decodable: bool = False
    reason: str | None = None


def probe_video(
    path: str | os.PathLike[str],
    *,
    timeout_s: float = 60.0,
    memory_mb: int = 4096,
    max_pixels: int = MAX_PIXELS,
) -> VideoInfo:
    """Describe a video file, in a worker process, whatever the file is.

    Args:
        path: The file.
        timeout_s: Seconds that it may take.
        memory_mb: MiB that it may take.
        max_pixels: Largest width x height that is decoded.

    Returns:
        The description; a file that cannot be read gives one with ``decodable=False`` and the
        reason.

    Raises:
        MissingExtraError: If PyAV is not installed.
    """
    find_backend("pyav")
    name = os.fsdecode(path)
    worker = DecoderProcess(timeout_s=timeout_s, memory_mb=memory_mb)
    settings = DecodeSettings(frames=1, max_pixels=max_pixels)
    try:
        fields: dict[str, Any] = worker.call(name, f"{__name__}:describe", settings)
    except VideoDecodeError as error:
        return VideoInfo(path=name, reason=error.reason)
    finally:
        worker.close()
    return VideoInfo(**{**fields, "streams": tuple(fields["streams"])})


def describe(path: str, settings: DecodeSettings) -> VideoInfo:
    """Describe a file within this process; ``probe_video`` does it safely.

    Raises:
        VideoDecodeError: If the file has no video stream that can be opened.
    """
    # PyAV is imported here so that the rest of the module needs no extra.
    import numpy as np

    from linkedout_lightning.video.backends import pyav
    from linkedout_lightning.video.pixels import orientation
    from linkedout_lightning.video.source import VideoSource

    fields: dict[str, Any] = {"path": path}
    with VideoSource(path, max_pixels=settings.max_pixels) as source:
        context = source.stream.codec_context
        fields.update(
            container=source.format_name,
            codec=context.codec.canonical_name,
            pixel_format=context.pix_fmt,
            width=context.width,
            height=context.height,
            streams=tuple(_stream_name(stream) for stream in source.container.streams),
        )
        try:
            timeline = source.scan()
            if timeline is not None:
                gaps = np.diff(timeline.starts)
                fields.update(
                    frames=len(timeline.starts),
                    fps=timeline.fps,
                    duration=timeline.duration,
                    constant_rate=bool(not len(gaps) or gaps.max() - gaps.min() <= 1),
                    key_frames=len(timeline.keys),
                )
            source.reopen()
            frame = next(source.frames(), None)
            if frame is not None:
                turns, _ = orientation(frame)
                fields["rotation"] = turns * 90
                if turns % 2:
                    fields["width"], fields["height"] = context.height, context.width
            result = pyav.decode(path, settings)
        except VideoDecodeError as error:
            return VideoInfo(**fields, reason=error.reason)
    fields.setdefault("fps", result.fps)
    fields.setdefault("duration", result.duration)
    return VideoInfo(**fields, decodable=True)


def _stream_name(stream: Any) -> str:
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown codec"
    return f"{stream.type}: {codec}"
