"""Synthetic videos whose every frame carries its own number, so that tests can read it back."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 10
BAR = 16
WIDTH, HEIGHT = BITS * BAR, 96


def picture(number: int) -> np.ndarray:
    """Bits of the number as vertical bars; the top left eighth is red, so that upright shows."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            image[:, bit * BAR : (bit + 1) * BAR] = 255
    image[: HEIGHT // 4, : WIDTH // 4] = (255, 0, 0)
    return image


def numbers(data: np.ndarray) -> list[int]:
    """Read the frames' numbers from upright frames of any size."""
    _, height, width, _ = data.shape
    found = []
    for frame in data:
        value = 0
        for bit in range(BITS):
            left, right = (bit + 0.3) * width / BITS, (bit + 0.7) * width / BITS
            bar = frame[int(height * 0.5) : int(height * 0.9), int(left) : int(right) + 1]
            value |= int(bar.mean() > 127) << bit
        found.append(value)
    return found


def write_video(
    path: Path,
    count: int = 60,
    *,
    codec: str = "libx264",
    rate: int = 25,
    gop: int = 12,
    b_frames: int = 2,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    audio: bool = False,
    pixel_format: str = "yuv420p",
    title: str = "numbered frames",
) -> Path:
    """Encode numbered frames; ``times`` are presentation times in milliseconds, else constant."""
    with av.open(str(path), "w", options=container_options or {}) as output:
        output.metadata["title"] = title
        # Every bar changes at once now and then, which x264 would answer with a key frame.
        fixed = {"sc_threshold": "0"} if codec == "libx264" else {}
        stream: Any = output.add_stream(codec, rate=rate, options={**fixed, **(options or {})})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        stream.codec_context.gop_size = gop
        if codec in ("libx264", "libx265", "mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = b_frames
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        sound: Any = output.add_stream("aac", rate=44100) if audio else None
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            _mux(output, stream.encode(frame))
        _mux(output, stream.encode(None))
        if sound is not None:
            write_silence(output, sound)
    return path


def write_packed(path: Path, count: int = 60) -> Path:
    """An AVI as DivX writes it, whose packets do not hold one frame each.

    The first B-frame of a run stands in the packet of the frame before it, and a packet that says
    "nothing coded" ends the run.
    """
    plain = write_video(path.with_suffix(".plain.avi"), count, codec="mpeg4", b_frames=2)
    with av.open(str(plain)) as source:
        packets = [bytes(packet) for packet in source.demux(video=0) if packet.size]
    at = packets[0].index(_PICTURE)
    packets[0] = packets[0][:at] + b"\0\0\1\xb2DivX503b1393p" + packets[0][at:]
    packed: list[bytes] = []
    inside = False
    for data in packets:
        if _kind(data) != "B":
            packed += [_NOTHING_CODED, data] if inside else [data]
        elif inside:
            packed.append(data)
        else:
            packed[-1] += data
        inside = _kind(data) == "B"
    packed += [_NOTHING_CODED] * inside
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.codec_tag = "DX50"
        for number, data in enumerate(packed):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.dts = stream, Fraction(1, 25), number
            packet.is_keyframe = _kind(data) == "I"
            output.mux(packet)
    return path


_PICTURE = b"\0\0\1\xb6"
_NOTHING_CODED = _PICTURE + b"\x50\x9f"


def _kind(data: bytes) -> str:
    return "IPBS"[data[data.index(_PICTURE) + 4] >> 6]


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        write_silence(output, output.add_stream("aac", rate=44100))
    return path


def write_silence(output: Any, stream: Any) -> None:
    for block in range(20):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 44100, block * 1024
        _mux(output, stream.encode(frame))
    _mux(output, stream.encode(None))


def _mux(output: Any, packets: Iterable[Any]) -> None:
    for packet in packets:
        output.mux(packet)


def expected_numbers(count: int, frames: int) -> list[int]:
    """The frame shown at each instant of a constant-rate video, in exact arithmetic."""
    return [int(Fraction(2 * i + 1, 2 * frames) * count) for i in range(frames)]


def expected_by_times(starts: Sequence[float], end: float, frames: int) -> list[int]:
    """The slow reference: walk through the times of every frame for every instant."""
    shown = []
    for i in range(frames):
        instant = starts[0] + Fraction(2 * i + 1, 2 * frames) * (
            Fraction(end) - Fraction(starts[0])
        )
        shown.append(max(k for k, start in enumerate(starts) if start <= instant))
    return shown


def patch_display_matrix(path: Path, matrix: Sequence[int]) -> None:
    """Give an mp4 another display matrix: (a, b, c, d), each -1, 0 or 1."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def patch_edit_list(path: Path, *, skip_ticks: int, movie_ticks: int) -> None:
    """Make an mp4 with one edit begin later and end earlier than its media."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 8
    entries, _, media_time = struct.unpack_from(">Iii", data, at)
    assert entries == 1
    struct.pack_into(">ii", data, at + 4, movie_ticks, media_time + skip_ticks)
    path.write_bytes(data)
