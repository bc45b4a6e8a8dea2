"""torchcodec in its exact mode, held to the container's presentation times."""

from __future__ import annotations

import numpy as np
from torchcodec.decoders import VideoDecoder

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video.backends.checked import read_timeline, require_same_times, resized
from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.settings import DecodeSettings


def decode(path: str, settings: DecodeSettings) -> Frames:
    """Decode the frames that are shown at uniform instants; run it only in a worker process.

    Raises:
        VideoDecodeError: If torchcodec cannot decode the file, or not exactly (edit lists).
    """
    timeline = read_timeline(path, settings)
    wanted = timeline.shown_uniformly(settings.frames)
    distinct, position = np.unique(wanted, return_inverse=True)
    try:
        # The approximate mode places frames by the mean rate, wrong where the rate varies.
        decoder = VideoDecoder(
            path, seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu"
        )
        count = len(decoder)
        # A frame beyond the end would fail with a message about the index, not about the count.
        inside = distinct[distinct < count]
        batch = decoder.get_frames_at(inside.tolist())
        first = decoder.metadata.begin_stream_seconds
        seconds = batch.pts_seconds.numpy().astype(np.float64) - float(first)
    except (RuntimeError, ValueError, IndexError) as error:
        raise VideoDecodeError(path, str(error).strip().splitlines()[0][:200]) from None
    require_same_times(path, timeline, count=count, indices=inside, seconds=seconds)
    return Frames(
        data=resized(batch.data.numpy(), settings)[position],
        timestamps=timeline.seconds(wanted),
        fps=timeline.fps,
        duration=timeline.duration,
        backend="torchcodec",
    )
