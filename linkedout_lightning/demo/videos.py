"""Real files of simulated clips: H.264 in mp4, as a recommender's videos would come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linkedout_lightning.demo.render import render, sampled_instants
from linkedout_lightning.demo.world import Clips
from linkedout_lightning.errors import MissingExtraError

VIDEO_FRAMES = 32
VIDEO_SIZE = 128
VIDEO_FPS = 16
BATCH = 16  # clips rendered at once: 50 MB of frames would not fit any cache, 25 MB need not


def write_video(path: Path, frames: npt.NDArray[np.uint8], *, fps: int = VIDEO_FPS) -> None:
    """Encode frames (T, height, width, 3) RGB, even height and width, as H.264.

    The file appears under its name only when it is whole.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video", "writing the demo's clips") from error

    part = path.with_name(f".{path.name}.part")
    options = {"crf": "20", "preset": "veryfast", "threads": "1"}
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    os.replace(part, path)


def write_videos(clips: Clips, paths: Sequence[Path], *, progress: bool = True) -> int:
    """Render and encode clips to `paths`, two seconds each; files that exist are left alone.

    Returns:
        How many files were written.
    """
    from tqdm import tqdm

    missing = np.array([i for i, path in enumerate(paths) if not path.exists()], dtype=np.int64)
    bar = tqdm(total=len(missing), desc="render and encode", unit="clip", disable=not progress)
    with bar:
        for start in range(0, len(missing), BATCH):
            index = missing[start : start + BATCH]
            frames, _ = render(clips[index], sampled_instants(VIDEO_FRAMES), size=VIDEO_SIZE)
            for i, clip in zip(index, frames, strict=True):
                write_video(paths[i], clip)
            bar.update(len(index))
    return len(missing)
