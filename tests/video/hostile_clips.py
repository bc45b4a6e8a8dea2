"""Broken and hostile clips: none of them may crash, hang or open anything else."""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from synthetic_clips import H264, Clip, encoded, h264, written


def cut(name: str, share: float, *options: str) -> Callable[[Path], Path]:
    """Maker of the first part of a clip."""

    def make(folder: Path) -> Path:
        whole = folder / f"whole-{name}"
        if not whole.exists():
            h264(whole.name, "-g", "12", *options)(folder)
        data = whole.read_bytes()
        path = folder / f"{whole.stem}-{share:g}{whole.suffix}"
        path.write_bytes(data[: int(len(data) * share)])
        return path

    return make


def audio_only(folder: Path) -> Path:
    return written(folder / "audio.mp4", "-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac")


def cover_art(folder: Path) -> Path:
    """A song with a picture: a video stream by name only."""
    picture = written(folder / "art.png", "-f", "lavfi", "-i", "testsrc2", "-frames:v", "1")
    maps = (
        "-map",
        "0",
        "-map",
        "1",
        "-c:a",
        "aac",
        "-c:v",
        "copy",
        "-disposition:v",
        "attached_pic",
    )
    return written(
        folder / "song.m4a", "-f", "lavfi", "-i", "sine=duration=1", "-i", picture, *maps
    )


def holding(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def link_loop(folder: Path) -> Path:
    (folder / "loop-a.mp4").symlink_to(folder / "loop-b.mp4")
    (folder / "loop-b.mp4").symlink_to(folder / "loop-a.mp4")
    return folder / "loop-a.mp4"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo.mp4")
    return folder / "fifo.mp4"


def archive(name: str) -> Callable[[Path], Path]:
    """A sound clip inside an archive, inside another one."""

    def make(folder: Path) -> Path:
        clip = encoded("packed.mp4", seconds=0.4)(folder)
        with zipfile.ZipFile(folder / "inner.zip", "w", zipfile.ZIP_STORED) as inner:
            inner.write(clip, "packed.mp4")
        if name.endswith(".gz.mp4"):
            (folder / name).write_bytes(gzip.compress((folder / "inner.zip").read_bytes()))
        else:
            with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_STORED) as outer:
                outer.write(folder / "inner.zip", "inner.zip")
        return folder / name

    return make


def frames_declared(count: int) -> Callable[[Path], Path]:
    """A raw clip of five frames whose index promises many more."""

    def make(folder: Path) -> Path:
        options = ("-c:v", "rawvideo", "-pix_fmt", "rgb24")
        whole = encoded("raw.mov", *options, size="16x16", seconds=0.2)(folder)
        data = bytearray(whole.read_bytes())
        # Runs of frames of one duration, frames of one size, frames in a chunk.
        for box, offset in ((b"stts", 12), (b"stsz", 12), (b"stsc", 16)):
            at = data.index(box) + offset
            if struct.unpack_from(">I", data, at)[0] != 5:
                raise RuntimeError(f"{box!r} does not say that there are five frames")
            struct.pack_into(">I", data, at, count)
        path = folder / f"declares-{count}.mov"
        path.write_bytes(data)
        return path

    return make


def gif(name: str, *, side: int, frames: int) -> Callable[[Path], Path]:
    """A picture of ``side`` x ``side`` that a few bytes a frame unpack to, written by hand."""

    def make(folder: Path) -> Path:
        head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
        # One block of one pixel: clear code, colour 1, end code, in codes of three bits.
        block = b"\x21\xf9\x04\0" + struct.pack("<H", 4) + b"\0\0"
        block += b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\0"
        path = folder / name
        with open(path, "wb") as file:
            file.write(head)
            for _ in range(frames):
                file.write(block)
            file.write(b"\x3b")
        return path

    return make


def claims_size(side: int) -> Callable[[Path], Path]:
    """A header that promises frames of ``side`` x ``side``, over a tiny file."""

    def make(folder: Path) -> Path:
        whole = encoded("small.mov", "-c:v", "png", size="160x96", seconds=0.2)(folder)
        data = whole.read_bytes()
        for form in (">II", ">HH"):
            data = data.replace(struct.pack(form, 160, 96), struct.pack(form, side, side))
        path = folder / f"claims-{side}.mov"
        path.write_bytes(data)
        return path

    return make


def refers(name: str, text: str) -> Callable[[Path], Path]:
    """A script that names a sound clip beside it."""

    def make(folder: Path) -> Path:
        encoded("beside.ts", *H264, seconds=0.4)(folder)
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return make


def _asked(*clips: tuple[str, str, Callable[[Path], Path]]) -> dict[str, Clip]:
    return {name: Clip(what, make) for name, what, make in clips}


def _unasked(*clips: tuple[str, str, Callable[[Path], Path]]) -> dict[str, Clip]:
    return {name: Clip(what, make, ask_ffmpeg=False) for name, what, make in clips}


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.4,\nbeside.ts\n#EXT-X-ENDLIST\n"
SCRIPT = "ffconcat version 1.0\nfile beside.ts\n"
ADDRESS = b"http://127.0.0.1:9/v.mp4\n"
CUTS = (0.02, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 0.97, 0.999)
LAYOUTS = {
    "mp4": ("an MP4 with its index in front", ("-movflags", "faststart")),
    "mkv": ("an MKV", ()),
}

TRUNCATED = {
    f"truncated-{share:g}.{ending}": Clip(
        f"the first {100 * share:g} % of {kind}", cut(f"{ending}.{ending}", share, *options)
    )
    for ending, (kind, options) in LAYOUTS.items()
    for share in CUTS
}
BROKEN = {
    **TRUNCATED,
    **_asked(
        ("truncated-no-index.mp4", "an MP4 cut before its index", cut("late.mp4", 0.9)),
        ("zero.mp4", "zero bytes", holding("zero.mp4", b"")),
        ("text.mp4", "text", holding("text.mp4", b"This is no video.\n" * 500)),
        (
            "noise.mp4",
            "random bytes",
            holding("noise.mp4", np.random.default_rng(0).bytes(50_000)),
        ),
        ("audio.mp4", "sound only", audio_only),
    ),
    **_unasked(
        ("song.m4a", "sound with cover art", cover_art),
        ("loop-a.mp4", "a loop of symbolic links", link_loop),
        ("fifo.mp4", "a FIFO", fifo),
        ("status", "a file of /proc", lambda _: Path("/proc/self/status")),
        ("zero", "a device", lambda _: Path("/dev/zero")),
        ("folder", "a folder", lambda folder: folder),
        ("playlist.mp4", "an HLS playlist", refers("playlist.mp4", PLAYLIST)),
        ("concat.mp4", "a script of files to join", refers("concat.mp4", SCRIPT)),
        ("address.mp4", "an address as text", holding("address.mp4", ADDRESS)),
        ("archive.mp4", "an archive in an archive", archive("archive.mp4")),
        ("archive.gz.mp4", "a compressed archive", archive("archive.gz.mp4")),
        ("claims-16384.mov", "claims 16384x16384", claims_size(16384)),
        ("bomb.gif", "a GIF of 65535x65535", gif("bomb.gif", side=65535, frames=10)),
        ("declares-1000000.mov", "5 frames, 10^6 declared", frames_declared(10**6)),
        ("declares-4000000000.mov", "5 frames, 4·10^9 declared", frames_declared(4 * 10**9)),
    ),
}
LARGE = _unasked(
    ("long.gif", "200 000 frames of 16x16", gif("long.gif", side=16, frames=200_000)),
    ("wide.gif", "200 frames of 8000x8000", gif("wide.gif", side=8000, frames=200)),
)
