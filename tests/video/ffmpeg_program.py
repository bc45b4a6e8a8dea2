"""The ``ffmpeg`` program as an oracle: which frames it shows, when, and their pixels.

It is a build of its own (that of the `imageio-ffmpeg` package), another version than the libraries
inside PyAV, and it decodes every frame from the start where we seek.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np

_FRAME = re.compile(r"\bn:\s*\d+ pts:\s*(-?\d+|NOPTS)\s.*?\bduration:\s*(-?\d+)\s.*? s:(\d+)x(\d+)")
_TIME_BASE = re.compile(r"config in time_base: (\d+)/(\d+)")


def run(*arguments: str | Path, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the program, to its end or for ten minutes."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", *arguments]
    return subprocess.run(
        [os.fspath(a) for a in command], input=data, capture_output=True, timeout=600, check=False
    )


def program_version() -> str:
    return str(imageio_ffmpeg.get_ffmpeg_version())


@dataclass(frozen=True)
class Shown:
    """The frames that ffmpeg shows of a file.

    Attributes:
        starts: Presentation times in ticks, in the order in which they are shown.
        end: Tick at which the last one ends.
        time_base: Seconds a tick.
        size: Height and width of the first one, upright.
        complaint: What ffmpeg says last, if it shows none.
    """

    starts: list[int]
    end: int
    time_base: Fraction
    size: tuple[int, int] = (0, 0)
    complaint: str = ""

    def at_uniform_instants(self, count: int) -> list[int]:
        """Indices of the frames shown at ``(i + 0.5) / count`` of the time, by a walk."""
        first = self.starts[0]
        instants = [
            first + Fraction(2 * i + 1, 2 * count) * (self.end - first) for i in range(count)
        ]
        return [max(k for k, s in enumerate(self.starts) if s <= t) for t in instants]

    def indices_at(self, seconds: np.ndarray) -> list[int]:
        """Indices of the frames that begin at these times after the first; -1 where none does."""
        starts = np.array([float((s - self.starts[0]) * self.time_base) for s in self.starts])
        distance = np.abs(starts[None, :] - np.asarray(seconds)[:, None])
        nearest = distance.argmin(1)
        return np.where(distance.min(1) <= 1.1e-3, nearest, -1).tolist()


def shown_frames(path: Path) -> Shown:
    """Decode a whole file and list its frames."""
    result = run(*_ALONE, "-i", path, "-vf", "showinfo", *_PASS, "-f", "null", "-")
    text = result.stderr.decode(errors="replace")
    found = [frame for frame in _FRAME.findall(text) if frame[0] != "NOPTS"]
    if not found:
        lines = [line for line in text.strip().splitlines() if line.strip()]
        return Shown([], 0, Fraction(1), complaint=lines[-1][:120] if lines else "nothing")
    starts = sorted({int(pts) for pts, *_ in found})
    duration = next(int(d) for pts, d, *_ in found if int(pts) == starts[-1])
    if duration <= 0:
        gaps = np.diff(starts)
        duration = int(np.median(gaps)) if len(gaps) else 1
    base = _TIME_BASE.search(text)
    assert base is not None
    size = (int(found[0][3]), int(found[0][2]))
    return Shown(starts, starts[-1] + duration, Fraction(int(base[1]), int(base[2])), size)


def pixels(path: Path, starts: list[int], *, height: int, width: int) -> np.ndarray:
    """Frames at these presentation times as ffmpeg shows them: uint8 ``(n, height, width, 3)``.

    Raises:
        ValueError: If ffmpeg gives another number of frames.
    """
    distinct = sorted(set(starts))
    choice = "+".join(f"eq(pts\\,{start})" for start in distinct)
    filters = f"select={choice},scale={width}:{height}:flags=bicubic,format=rgb24"
    raw = run(*_ALONE, "-i", path, "-vf", filters, *_PASS, "-f", "rawvideo", "-").stdout
    data = np.frombuffer(raw, np.uint8)
    if data.size != len(distinct) * height * width * 3:
        raise ValueError(f"{data.size} bytes for {len(distinct)} frames of {width}x{height}")
    data = data.reshape(len(distinct), height, width, 3)
    return data[[distinct.index(start) for start in starts]]


# How damage is concealed depends on the number of threads; with one it is always the same.
_ALONE = ("-threads", "1")
# The stream is the one that ffmpeg chooses by itself.
_PASS = ("-an", "-sn", "-dn", "-fps_mode", "passthrough")
