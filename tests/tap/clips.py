"""Small videos for the tests of the job."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SHAPES = ((32, 48), (48, 32), (32, 32))


def write_clip(path: Path, *, seed: int, frames: int = 12) -> Path:
    """Moving blocks of chance colours, in one of three shapes."""
    import av

    height, width = SHAPES[seed % len(SHAPES)]
    chance = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(frames):
            small = chance.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            picture = small.repeat(8, axis=0).repeat(8, axis=1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_catalogue(folder: Path, *, videos: int, texts: int) -> tuple[Path, Path]:
    """A table of items and its videos; two videos are broken, one is missing.

    Returns:
        The table and the folder of videos.
    """
    clips = folder / "videos"
    clips.mkdir(parents=True)
    chance = np.random.default_rng(0)
    lines = ["item_id,title"]
    for number in range(videos):
        write_clip(clips / f"v{number}.mp4", seed=number)
        lines.append(f"v{number},{'word ' * int(chance.integers(0, 6))}".rstrip())
    whole = (clips / "v1.mp4").read_bytes()
    (clips / "v1.mp4").write_bytes(whole[:40])
    (clips / "v4.mp4").write_text("this is no video")
    lines += [f"t{n},{'a title ' * int(chance.integers(1, 9))}".rstrip() for n in range(texts)]
    lines.append("empty,")
    table = folder / "items.csv"
    table.write_text("\n".join(lines) + "\n")
    return table, clips
