"""The default backend: PyAV, exact by presentation time, tolerant of damage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.pixels import PixelConverter, TooLargeError
from linkedout_lightning.video.settings import DecodeSettings
from linkedout_lightning.video.source import VideoSource
from linkedout_lightning.video.timeline import Timeline, make_timeline

# Presentation time and pixels of the frame that answers for one wanted time.
Shown = tuple[int, NDArray[np.uint8]]


def decode(path: str, settings: DecodeSettings) -> Frames:
    """Decode the frames that are shown at uniform instants.

    Raises:
        VideoDecodeError: If the file yields none, with the reason.
    """
    with VideoSource(path, max_pixels=settings.max_pixels) as source:
        try:
            return _decode(source, settings)
        except TooLargeError as error:
            raise source.fail(str(error)) from None


def _decode(source: VideoSource, settings: DecodeSettings) -> Frames:
    timeline = source.scan()
    if timeline is None or timeline.doubtful:
        source.reopen()
        times = [frame.pts for frame in source.frames()]
        source.reopen()
        if timeline is None or None in times or times != sorted(times):
            return _decode_by_count(source, settings, timeline, len(times))
    wanted = timeline.starts[timeline.shown_uniformly(settings.frames)].tolist()
    distinct = sorted(set(wanted))
    shown = _by_seeking(source, timeline, distinct, PixelConverter(settings))
    if shown is None:
        source.reopen()
        shown = _in_order(source.frames(), distinct, PixelConverter(settings))
    if not shown:
        raise source.nothing_decoded()
    ticks = np.asarray([shown[tick][0] for tick in wanted], dtype=np.int64)
    return Frames(
        data=np.stack([shown[tick][1] for tick in wanted]),
        timestamps=np.maximum(timeline.seconds_at(ticks), 0.0),
        fps=timeline.fps,
        duration=timeline.duration,
        backend="pyav",
    )


def _by_seeking(
    source: VideoSource, timeline: Timeline, wanted: list[int], convert: PixelConverter
) -> dict[int, Shown] | None:
    """Decode from the key frame before each wanted time; ``None`` where seeking went wrong.

    A seek may land too late, or the decoder may drop frames after it: then the first frame that
    comes out is later than the wanted one, and nothing that follows is trusted.
    """
    if not len(timeline.keys) or timeline.keys[0] > wanted[0]:
        return None
    before = np.searchsorted(timeline.keys, wanted, side="right") - 1
    keys = timeline.keys[before].tolist()
    shown: dict[int, Shown] = {}
    position = None
    for key, tick in zip(keys, wanted, strict=True):
        if position is None or key > position:
            if not source.seek(key):
                return None
            frames = _Lookahead(source.frames())
        frame = frames.last_at_or_before(tick)
        if frame is None:
            return None
        position = frame.pts
        shown[tick] = (position, convert(frame))
    return shown


def _in_order(
    frames: Iterable[Any], wanted: list[int], convert: PixelConverter
) -> dict[int, Shown]:
    """Decode everything from the start; the frame before answers for a lost one."""
    lookahead = _Lookahead(iter(frames))
    shown: dict[int, Shown] = {}
    for tick in wanted:
        frame = lookahead.last_at_or_before(tick)
        if frame is None:
            frame = lookahead.next
        if frame is None:
            break
        shown[tick] = (frame.pts, convert(frame))
    return shown


class _Lookahead:
    """Frames in order of time, with the one after the current one at hand."""

    def __init__(self, frames: Iterator[Any]) -> None:
        # A frame without a time cannot be placed; its neighbours answer for it.
        self._frames = (frame for frame in frames if frame.pts is not None)
        self.current: Any = None
        self.next: Any = None

    def last_at_or_before(self, tick: int) -> Any:
        """Advance to the last frame at or before ``tick``; ``None`` if the first is later."""
        while self.current is None or self.current.pts < tick:
            if self.next is None:
                self.next = next(self._frames, None)
            if self.next is None or self.next.pts > tick:
                break
            self.current, self.next = self.next, None
        return self.current


def _decode_by_count(
    source: VideoSource, settings: DecodeSettings, timeline: Timeline | None, count: int
) -> Frames:
    """Sample a stream whose packets do not say when their frames are shown.

    The order in which frames come out of the decoder is the order in which they are shown; the
    n-th one takes the n-th time, or, in bare H.264 and the like, the n-th of a constant rate. Only
    decoding tells how many there are, so such a stream is decoded twice.

    Args:
        source: At the first packet.
        settings: What is wanted.
        timeline: Times that belong to the frames in order; ``None`` if there are none.
        count: Number of frames that can be decoded.
    """
    if not count:
        raise source.nothing_decoded()
    if timeline is None:
        rate = source.guessed_fps or Fraction(25)
        timeline = make_timeline(
            list(range(count)), [0], last_duration=1, time_base=1 / rate, guessed_fps=rate
        )
    wanted = np.minimum(timeline.shown_uniformly(settings.frames), count - 1)
    distinct, convert = set(wanted.tolist()), PixelConverter(settings)
    arrays = {i: convert(f) for i, f in enumerate(source.frames()) if i in distinct}
    return Frames(
        data=np.stack([arrays[i] for i in wanted.tolist()]),
        timestamps=timeline.seconds(wanted),
        fps=timeline.fps,
        duration=timeline.duration,
        backend="pyav",
    )
