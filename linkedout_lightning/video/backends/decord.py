"""decord with one thread, held to the container's presentation times."""

from __future__ import annotations

import re

import decord
import numpy as np

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video.backends.checked import read_timeline, require_same_times, resized
from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.settings import DecodeSettings

# decord 0.6 does not come back from MPEG-TS, mixes frames up in AVI, and shows frames of another
# group of pictures after a seek in ASF (WMV). The time limit would end the first and the comparison
# of times finds the second; nothing would find the third.
REFUSED_FORMATS = ("mpegts", "avi", "asf")
# What it converts bit for bit as FFmpeg does. Of colours that are halved vertically that is 8-bit
# planes alone: with 10 bits or interleaved planes values are off by 1.3 in the mean, 180 at most.
EXACT_PIXELS = re.compile(
    r"yuv[aj]?420p|yuv[aj]?(422|444)p(\d+[bl]e)?|(uyvy|yuyv)422|gray(\d+[bl]e)?|ya8|gbrp"
    r"|rgb24|bgr24|bgra|bgr0|pal8|rgb8"
)


def decode(path: str, settings: DecodeSettings) -> Frames:
    """Decode the frames that are shown at uniform instants; run it only in a worker process.

    Raises:
        VideoDecodeError: If decord cannot decode the file, or not exactly.
    """
    timeline = read_timeline(
        path, settings, refused_formats=REFUSED_FORMATS, exact_pixels=EXACT_PIXELS
    )
    if timeline.open_gops:
        # decord 0.6 loses count of the frames after each seek: 4 of 7 wrong, without a word.
        raise VideoDecodeError(path, "not exact where key frames are not closed (open GOP)")
    decord.logging.set_level(decord.logging.QUIET)
    try:
        # One thread: VP9 fails with more, and many videos at once use more processes.
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        every = np.arange(len(reader))
        starts = np.asarray(reader.get_frame_timestamp(every.tolist()), dtype=np.float64)[:, 0]
        require_same_times(
            path, timeline, count=len(reader), indices=every, seconds=starts - starts[0]
        )
        wanted = timeline.shown_uniformly(settings.frames)
        distinct, position = np.unique(wanted, return_inverse=True)
        arrays = reader.get_batch(distinct.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        if isinstance(error, VideoDecodeError):
            raise
        raise VideoDecodeError(path, _brief(error, path)) from None
    return Frames(
        data=resized(arrays, settings)[position],
        timestamps=timeline.seconds(wanted),
        fps=timeline.fps,
        duration=timeline.duration,
        backend="decord",
    )


def _brief(error: Exception, path: str) -> str:
    # decord's messages start with a clock, a source line and the path, and end in a stack trace.
    line = str(error).strip().splitlines()[0].replace(f"[{path}]", "")
    text = line.rpartition(".cc:")[2].partition(": ")[2].strip()
    return text[:200] or type(error).__name__
