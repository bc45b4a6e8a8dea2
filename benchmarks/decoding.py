"""What isolation costs: the same frames decoded here, and in a worker that sends them by a pipe.

Each clip is decoded in turn within this process and by a worker: CPU seconds of both processes
together, which other load on the machine disturbs least, median of the repeats. Beside it stands
the pipe alone: a decoder that hands out blank frames of the same shape without decoding. Synthetic
clips are made by the ``ffmpeg`` program; a flat test picture decodes faster than a film, so the
share of the pipe is rather too large with them.

    python benchmarks/decoding.py --folder CLIPS
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "video"))

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video import DecodeSettings, Frames, FrameSampler

SIZES: tuple[int | None, ...] = (224, 336, None)
BLANK: dict[tuple[int, ...], Frames] = {}


def blank(path: str, settings: DecodeSettings) -> Frames:
    """A decoder that decodes nothing; the path's last part is the shape."""
    height, width = (int(side) for side in os.path.basename(path).split("x"))
    shape = (settings.frames, height, width, 3)
    if shape not in BLANK:
        data = np.full(shape, 7, np.uint8)
        BLANK[shape] = Frames(data, np.arange(shape[0], dtype=np.float64), 1.0, 1.0, "blank")
    return BLANK[shape]


class Measured:
    """A way to decode, and the CPU seconds that it takes here and in its worker."""

    def __init__(self, sampler: FrameSampler) -> None:
        self._sampler = sampler
        self._worker = sampler.new_worker() if sampler.isolate else None

    def __call__(self, path: Path) -> Frames:  # noqa: D102
        if self._worker is None:
            return self._sampler(path)
        return self._worker.decode(str(path), *self._sampler.decoding_of(str(path)))

    def seconds(self, path: Path) -> float:  # noqa: D102
        begun = time.process_time() + self._worker_seconds()
        self(path)
        return time.process_time() + self._worker_seconds() - begun

    def _worker_seconds(self) -> float:
        if self._worker is None:
            return 0.0
        # Nanoseconds on a core, of all threads.
        tasks = Path(f"/proc/{self._worker.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def close(self) -> None:  # noqa: D102
        if self._worker is not None:
            self._worker.close()


def measure(path: Path, size: int | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """One clip at one size."""
    ways = {
        "inside": Measured(FrameSampler(arguments.frames, size, isolate=False)),
        "isolated": Measured(FrameSampler(arguments.frames, size)),
        "pipe": Measured(FrameSampler(arguments.frames, backend="decoding:blank")),
    }
    try:
        frames = ways["inside"](path)
        _, height, width, _ = frames.data.shape
        files = {"inside": path, "isolated": path, "pipe": Path(f"{height}x{width}")}
        for name, way in ways.items():
            way(files[name])
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                taken[name].append(way.seconds(files[name]))
    finally:
        for way in ways.values():
            way.close()
    median = {name: statistics.median(values) for name, values in taken.items()}
    megabytes = frames.data.nbytes / 1e6
    return {
        "clip": path.name,
        "size": size,
        "shape": [height, width],
        "megabytes": round(megabytes, 2),
        **{f"{name}_ms": round(1e3 * value, 2) for name, value in median.items()},
        "pipe_share_of_decode": round(median["pipe"] / median["inside"], 4),
        "isolated_to_inside": round(median["isolated"] / median["inside"], 3),
        "pipe_mb_a_second": round(megabytes / median["pipe"]),
    }


def synthetic(folder: Path) -> list[Path]:
    from synthetic_clips import h264

    sizes = ("640x360", "1280x720", "1920x1080")
    options = ("-g", "250", "-preset", "superfast")
    return [h264(f"testsrc2-{s}.mp4", *options, size=s, seconds=8)(folder) for s in sizes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decoding.json"))
    parser.add_argument("--folder", type=Path, help="clips of your own, beside the synthetic ones")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        given = sorted(arguments.folder.iterdir()) if arguments.folder is not None else []
        for path in (*synthetic(Path(folder)), *given):
            for size in SIZES:
                try:
                    rows.append(measure(path, size, arguments))
                except VideoDecodeError:
                    break
                print(json.dumps(rows[-1]), flush=True)
    from linkedout_lightning.compare.environment import environment

    together = {}
    for size in SIZES:
        chosen = [row for row in rows if row["size"] == size]
        sums = {k: sum(row[f"{k}_ms"] for row in chosen) for k in ("inside", "isolated", "pipe")}
        together["own size" if size is None else f"shorter side {size}"] = {
            "clips": len(chosen),
            "megabytes": round(sum(row["megabytes"] for row in chosen), 1),
            **{f"{name}_ms": round(value, 1) for name, value in sums.items()},
            "pipe_share_of_decode": round(sums["pipe"] / sums["inside"], 4),
            "isolated_to_inside": round(sums["isolated"] / sums["inside"], 3),
        }
    document = {
        "what": "median CPU time of both processes; pipe = no decoding, frames of the same shape",
        "environment": {**environment(), "av": version("av"), "load_average": load},
        "settings": {"frames": arguments.frames, "repeats": arguments.repeats},
        "together": together,
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(together, indent=1))


if __name__ == "__main__":
    main()
