"""Decoded frames in the form that Hugging Face's processors take."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from linkedout_lightning.errors import MissingExtraError

if TYPE_CHECKING:
    from linkedout_lightning.video import Frames

_TILING = ("do_image_splitting", "crop_to_patches", "split_image", "do_pan_and_scan")
"""Options of image processors that cut one photograph into tiles."""
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
    return options | dict.fromkeys(_tiling(processor), False)


def without_tiling(processor: Any) -> Any:
    """A processor that shows every picture once; the one given stays as it is.

    Tiles of one photograph would multiply a video's tokens by up to 17. The call says so too
    (`images_of`), as some processors have defaults of their own for it; the copy is for those
    that read the setting itself (Idefics2).
    """
    if getattr(processor, "video_processor", None) is not None or not _tiling(processor):
        return processor
    processor = copy.copy(processor)
    processor.image_processor = copy.copy(processor.image_processor)
    for name in _tiling(processor):
        setattr(processor.image_processor, name, False)
    return processor


def _tiling(processor: Any) -> list[str]:
    images = getattr(processor, "image_processor", None)
    return [name for name in _TILING if hasattr(images, name)]
