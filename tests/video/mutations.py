"""Videos spoilt in every way that a disk, a network or an enemy may spoil them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from barcodes import write_video

SEEDS: dict[str, dict[str, object]] = {
    "mp4": {},
    "mkv": {},
    "ts": {},
    "webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "avi": {"codec": "mpeg4"},
    "mov": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "flv": {},
    "gif": {"codec": "gif", "pixel_format": "rgb8", "b_frames": 0},
}
KINDS = ("flipped", "flipped header", "truncated", "block twice", "blocks swapped", "block gone")


def write_seeds(folder: Path) -> list[Path]:
    """One short video of each format."""
    return [write_video(folder / f"seed.{e}", 30, **options) for e, options in SEEDS.items()]


def spoil(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Damage a file.

    Args:
        data: The whole file.
        kind: One of ``KINDS``.
        rng: Decides where.
    """
    spoilt = bytearray(data)
    begin, end = sorted(rng.integers(0, len(data), 2).tolist())
    if kind.startswith("flipped"):
        reach = min(len(data), 2000) if kind == "flipped header" else len(data)
        for position in rng.integers(0, reach, int(rng.integers(1, 60))).tolist():
            spoilt[position] ^= int(rng.integers(1, 256))
    elif kind == "truncated":
        del spoilt[begin:]
    elif kind == "block twice":
        spoilt[end:end] = data[begin:end]
    elif kind == "blocks swapped":
        spoilt = bytearray(data[end:] + data[begin:end] + data[:begin])
    elif kind == "block gone":
        del spoilt[begin:end]
    return bytes(spoilt)


def spoilt_videos(
    originals: list[Path],
    folder: Path,
    count: int,
    *,
    kinds: tuple[str, ...] = KINDS,
    rng: np.random.Generator,
) -> Iterator[Path]:
    """Write damaged copies in ``folder``, one at a time, of all originals in all kinds."""
    for index in range(count):
        original = originals[index % len(originals)]
        kind = kinds[index // len(originals) % len(kinds)]
        path = folder / f"{kind.replace(' ', '-')}-{index}{original.suffix}"
        path.write_bytes(spoil(original.read_bytes(), kind, rng))
        yield path
