"""What a decoded video is to the rest of the package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of one video, upright and in RGB.

    Attributes:
        data: uint8 ``(T, height, width, 3)``.
        timestamps: float64 ``(T,)``: when each frame begins to be shown, in seconds after the
            video's first frame; never decreasing. A video with fewer frames than were asked for
            repeats frames, and their times with them.
        fps: Mean rate of the source in frames a second, measured over its presentation times.
        duration: Seconds from the first frame's beginning to the last frame's end.
        backend: Name of the decoder that made the frames.
        fallback_reason: Why the backend that was asked for did not make them; ``None`` if it did.
    """

    data: NDArray[np.uint8]
    timestamps: NDArray[np.float64]
    fps: float
    duration: float
    backend: str
    fallback_reason: str | None = None

    def __len__(self) -> int:
        return len(self.data)
