"""Sound synthetic clips, made by the ``ffmpeg`` program: one for each thing that may go wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffmpeg_program import run


@dataclass(frozen=True)
class Clip:
    """One clip.

    Attributes:
        what: What is particular about it.
        make: Writes it into a folder and returns its path.
        ask_ffmpeg: Whether the program may be asked what it shows: not for what would block it,
            or make it open other files.
    """

    what: str
    make: Callable[[Path], Path]
    ask_ffmpeg: bool = True


H264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")


def encoded(
    name: str,
    *options: str,
    size: str = "320x180",
    rate: str = "25",
    seconds: float = 2,
    before: tuple[str, ...] = (),
) -> Callable[[Path], Path]:
    """Maker of a moving test picture, encoded with these options (H.264 without)."""

    def make(folder: Path) -> Path:
        source = f"testsrc2=size={size}:rate={rate}:duration={seconds}"
        return written(
            folder / name, "-f", "lavfi", "-i", source, *before, *(options or H264), "-threads", "1"
        )

    return make


def written(path: Path, *arguments: str | Path) -> Path:
    result = run(*arguments, path)
    if result.returncode or not path.exists():
        raise RuntimeError(f"{path.name}: {result.stderr.decode(errors='replace')[-500:]}")
    return path


def rotated(degrees: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        plain = encoded("unturned.mp4")(folder)
        return written(
            folder / f"rotated-{degrees}.mp4",
            *("-display_rotation:v:0", str(degrees), "-i", plain, "-c", "copy"),
        )

    return make


def h264(name: str, *options: str, **how: Any) -> Callable[[Path], Path]:
    """Maker of an H.264 clip with these options beside the usual ones."""
    return encoded(name, *H264, *options, **how)


def variable_rate(name: str) -> Callable[[Path], Path]:
    filters = "setpts='(N*N*7+N*40)/1000/TB'"
    return encoded(name, *H264, before=("-vf", filters, "-fps_mode", "passthrough"))


def edit_list(folder: Path) -> Path:
    """Cut without re-encoding: the frames before the cut stay in the file and are hidden."""
    plain = encoded("uncut.mp4", *H264, "-g", "25", "-bf", "2")(folder)
    return written(folder / "edit-list.mp4", "-ss", "0.6", "-i", plain, "-c", "copy")


def two_sizes(folder: Path) -> Path:
    """The picture changes its size in the middle of the stream."""
    parts = [
        encoded(f"part-{i}.ts", *H264, "-output_ts_offset", str(1.2 * i), size=size, seconds=1)(
            folder
        )
        for i, size in enumerate(("320x180", "240x240"))
    ]
    path = folder / "two-sizes.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def named(name: str) -> Callable[[Path], Path]:
    """A sound clip under an odd name."""

    def make(folder: Path) -> Path:
        plain = encoded("plain-name.mp4", seconds=0.4)(folder)
        return plain.rename(folder / name)

    return make


def _by_name(*clips: tuple[str, str, Callable[[Path], Path]]) -> dict[str, Clip]:
    return {name: Clip(what, make) for name, what, make in clips}


X264 = ("-c:v", "libx264", "-preset", "veryfast")
X265 = ("-c:v", "libx265", "-preset", "ultrafast")
TEN_BITS = ("-pix_fmt", "yuv420p10le")
PQ = "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
FAR_KEYS = ("-g", "600", "-keyint_min", "600", "-sc_threshold", "0")
BT709 = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")
VP8_HIDDEN = ("-auto-alt-ref", "1", "-lag-in-frames", "16", "-deadline", "realtime")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
UHD_2 = {"size": "7680x4320", "rate": "5", "seconds": 0.8}
NOT_UTF8 = os.fsdecode(b"not-\xff-utf8.mp4")

SOUND = _by_name(
    ("h264.mp4", "plain H.264", h264("h264.mp4")),
    ("gop-600.mp4", "key frames 600 apart", h264("gop-600.mp4", *FAR_KEYS, seconds=30)),
    ("all-intra.mp4", "every frame a key frame", h264("all-intra.mp4", "-g", "1")),
    (
        "open-gop.mp4",
        "open groups of pictures",
        h264("open-gop.mp4", "-x264-params", "open-gop=1:keyint=10:scenecut=0"),
    ),
    (
        "fragmented.mp4",
        "fragmented",
        h264("fragmented.mp4", "-movflags", "frag_keyframe+empty_moov"),
    ),
    ("vfr.mp4", "variable frame rate", variable_rate("vfr.mp4")),
    ("vfr.mkv", "variable frame rate", variable_rate("vfr.mkv")),
    ("ntsc.mkv", "29.97 a second, in whole milliseconds", h264("ntsc.mkv", rate="30000/1001")),
    ("one-frame.mp4", "one frame", h264("one-frame.mp4", "-frames:v", "1")),
    ("three-frames.mp4", "three frames", h264("three-frames.mp4", "-frames:v", "3")),
    ("rotated-90.mp4", "display matrix, 90 degrees", rotated(90)),
    ("rotated-180.mp4", "display matrix, 180 degrees", rotated(180)),
    ("rotated-270.mp4", "display matrix, 270 degrees", rotated(270)),
    ("edit-list.mp4", "begins in the middle of a group", edit_list),
    (
        "odd-size.mp4",
        "321x181, 4:4:4",
        encoded("odd-size.mp4", *X264, before=("-vf", "format=yuv444p,scale=321:181")),
    ),
    ("10-bit.mp4", "10 bits, H.264", encoded("10-bit.mp4", *X264, *TEN_BITS)),
    (
        "10-bit-hevc.mp4",
        "10 bits, HEVC",
        encoded("10-bit-hevc.mp4", *X265, "-x265-params", "log-level=none", *TEN_BITS),
    ),
    ("hdr.mp4", "10 bits, BT.2020, PQ", encoded("hdr.mp4", *X265, "-x265-params", PQ, *TEN_BITS)),
    ("full-range.mp4", "full range", encoded("full-range.mp4", *X264, "-pix_fmt", "yuvj420p")),
    (
        "bt709.mp4",
        "BT.709 matrix",
        h264("bt709.mp4", *BT709, before=("-vf", "scale=out_color_matrix=bt709")),
    ),
    (
        "interlaced.mp4",
        "interlaced",
        h264("interlaced.mp4", "-flags", "+ilme+ildct", "-x264-params", "interlaced=1"),
    ),
    (
        "anamorphic.mp4",
        "pixels that are not square",
        h264("anamorphic.mp4", before=("-vf", "setsar=2")),
    ),
    ("vp8.webm", "VP8, hidden frames", encoded("vp8.webm", "-c:v", "libvpx", *VP8_HIDDEN)),
    ("vp9.webm", "VP9", encoded("vp9.webm", *VP9)),
    ("av1.mkv", "AV1", encoded("av1.mkv", "-c:v", "libsvtav1", "-preset", "12")),
    ("mpeg4.avi", "B-frames in AVI", encoded("mpeg4.avi", "-c:v", "mpeg4", "-bf", "2")),
    ("mpeg2.mpg", "MPEG-2 PS", encoded("mpeg2.mpg", "-c:v", "mpeg2video", "-bf", "2")),
    ("h264.ts", "MPEG-TS", encoded("h264.ts")),
    ("two-sizes.ts", "the size changes on the way", two_sizes),
    ("bare.h264", "no container, no times", h264("bare.h264", "-bf", "2")),
    ("flv.flv", "FLV", encoded("flv.flv")),
    ("wmv.wmv", "WMV", encoded("wmv.wmv", "-c:v", "wmv2")),
    ("ogv.ogv", "Theora", encoded("ogv.ogv", "-c:v", "libtheora")),
    ("gif.gif", "GIF", encoded("gif.gif", "-c:v", "gif", rate="10")),
    ("prores.mov", "ProRes, 4:2:2", encoded("prores.mov", "-c:v", "prores_ks", seconds=0.4)),
    ("8k.mp4", "7680x4320", encoded("8k.mp4", *X264[:2], "-preset", "ultrafast", **UHD_2)),
    ("line\nbreak.mp4", "a line break in the name", named("line\nbreak.mp4")),
    (NOT_UTF8, "a name that is not UTF-8", named(NOT_UTF8)),
)
