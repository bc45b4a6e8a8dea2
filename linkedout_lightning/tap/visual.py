"""Decoded frames in the form that Hugging Face's processors take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from linkedout_lightning.errors import MissingExtraError

if TYPE_CHECKING:
    from linkedout_lightning.video import Frames

_DEFAULT_FPS = 24.0  # what transformers assumes where a rate is unknown


def videos_of(videos: Sequence[Frames], processor: Any) -> dict[str, Any]:
    """Arguments of a processor call for one video an item.

    The frames are final: ``do_sample_frames=False`` keeps processors from choosing among them by
    a rule of their own. Their times go along, as several families write them into the prompt.
    A cover, or a video of one frame, is repeated where the processor merges pairs of frames: some
    do that by themselves, others refuse (Qwen3-VL, GLM4V).
    """
    from transformers.video_utils import VideoMetadata

    least = int(getattr(processor.video_processor, "temporal_patch_size", None) or 1)
    shown, metadata = [], []
    for frames in videos:
        missing = max(0, least - len(frames.data))
        fps = frames.fps if math.isfinite(frames.fps) and frames.fps > 0 else _DEFAULT_FPS
        indices = [max(round(float(t) * fps), 0) for t in frames.timestamps]
        indices += indices[-1:] * missing
        repeated = [frames.data, *[frames.data[-1:]] * missing]
        shown.append(np.concatenate(repeated) if missing else frames.data)
        metadata.append(
            VideoMetadata(
                total_num_frames=max(round(frames.duration * fps), indices[-1] + 1),
                fps=fps,
                width=frames.data.shape[2],
                height=frames.data.shape[1],
                duration=frames.duration,
                frames_indices=indices,
            )
        )
    return {
        "videos": shown,
        "video_metadata": metadata,
        "do_sample_frames": False,
    }


def images_of(videos: Sequence[Frames], processor: Any) -> dict[str, Any]:
    """Arguments of a processor call for families without video: every frame an image."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "video", "giving frames to an image processor") from error

    options: dict[str, Any] = {
        "images": [[Image.fromarray(frame) for frame in frames.data] for frames in videos]
    }
    if getattr(processor.image_processor, "do_image_splitting", False):
        # Tiles of one photograph: they would multiply a video's tokens by up to 17.
        options["do_image_splitting"] = False
    return options
