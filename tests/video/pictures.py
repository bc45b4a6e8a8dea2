"""Images written byte by byte, so that the test knows their pixels without any decoder."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def scene(height: int = 40, width: int = 60) -> np.ndarray:
    """A picture that no turn or mirroring maps onto itself, without sharp edges: uint8 RGB."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / (width - 1), 255 * y / (height - 1)
    blue = 127.5 + 127.5 * np.sin(x / 9) * np.cos(y / 7)
    return np.stack([red, green, blue], -1).round().astype(np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    path: Path,
    samples: np.ndarray,
    *,
    colour: int,
    extra: bytes = b"",
    size: tuple[int, int] | None = None,
) -> Path:
    """Write ``(height, width, channels)`` uint8 or uint16 samples; ``extra`` are whole chunks."""
    height, width = size or samples.shape[:2]
    depth = samples.dtype.itemsize * 8
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(samples.shape[0], -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )
    return path


def exif(orientation: int) -> bytes:
    """A TIFF block with that one tag."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
