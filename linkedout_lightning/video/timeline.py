"""When each frame of a video is shown, and which frame is shown at a given instant.

Times are whole ticks of the stream's time base, so that an instant that falls exactly on the
border of two frames always picks the second one, whatever the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Timeline:
    """Presentation times of one video stream.

    Attributes:
        starts: int64 ``(n,)``, strictly increasing: when each frame begins, in ticks.
        keys: int64 ``(m,)``, increasing: the starts at which decoding can begin.
        end: Tick at which the last frame ends.
        time_base: Seconds a tick.
        open_gops: Whether frames exist that are shown before the key frame they are decoded after.
        doubtful: Whether packets' times may be on the wrong frames: the codec reorders frames but
            no packet's time shows it (AVI numbers packets in the order of decoding), or packets
            hold two frames (packed B-frames of DivX and Xvid).
    """

    starts: NDArray[np.int64]
    keys: NDArray[np.int64]
    end: int
    time_base: Fraction
    open_gops: bool = False
    doubtful: bool = False

    @property
    def duration(self) -> float:
        """Seconds from the first frame's beginning to the last one's end."""
        return float((self.end - int(self.starts[0])) * self.time_base)

    @property
    def fps(self) -> float:
        """Mean frames a second."""
        return len(self.starts) / self.duration

    def seconds(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Beginning of the frames at ``indices``, in seconds after the first frame's."""
        return self.seconds_at(self.starts[indices])

    def seconds_at(self, ticks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds after the first frame's beginning, correctly rounded."""
        numerators = (ticks - self.starts[0]) * self.time_base.numerator
        return np.asarray(numerators / self.time_base.denominator, dtype=np.float64)

    def shown_uniformly(self, count: int) -> NDArray[np.int64]:
        """Indices of the frames shown at ``(i + 0.5) / count`` of the duration.

        Args:
            count: Number of instants ``T``.

        Returns:
            int64 ``(T,)``, never decreasing, with repeats where the video is too short.

        Example:
            >>> ten = Timeline(np.arange(10), np.array([0]), 10, Fraction(1, 5))
            >>> ten.shown_uniformly(5).tolist()
            [1, 3, 5, 7, 9]
        """
        first = int(self.starts[0])
        length = self.end - first
        # Flooring is exact here: a whole tick is at or before x iff it is at or before floor(x).
        ticks = [first + (2 * i + 1) * length // (2 * count) for i in range(count)]
        found = np.searchsorted(self.starts, np.asarray(ticks, dtype=np.int64), side="right") - 1
        return np.asarray(found, dtype=np.int64)


def make_timeline(
    starts: list[int],
    keys: list[int],
    *,
    last_duration: int,
    time_base: Fraction,
    guessed_fps: Fraction | None,
    open_gops: bool = False,
    doubtful: bool = False,
) -> Timeline:
    """Build a timeline from packets in any order.

    Args:
        starts: Presentation time of every frame that is shown; at least one.
        keys: Presentation times of the key frames among them.
        last_duration: Ticks that the last frame is shown for; 0 if the container does not say,
            then the median distance between frames stands in, or one frame of ``guessed_fps``.
        time_base: Seconds a tick.
        guessed_fps: The rate that the container claims, if any; used only for a single frame.
        open_gops: As in :class:`Timeline`.
        doubtful: As in :class:`Timeline`.
    """
    unique = np.unique(np.asarray(starts, dtype=np.int64))
    if last_duration <= 0:
        if len(unique) > 1:
            last_duration = int(np.median(np.diff(unique)))
        else:
            last_duration = round(1 / ((guessed_fps or Fraction(25)) * time_base))
    end = int(unique[-1]) + max(1, last_duration)
    unique_keys = np.unique(np.asarray(keys, dtype=np.int64))
    return Timeline(unique, unique_keys, end, time_base, open_gops, doubtful)
