"""A miniature of MicroLens-100K: official names and formats, made-up users, small clips."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 60, 200),
    "yellow": (210, 200, 50),
}
VIDEOS = "MicroLens-100k_videos"
NOTE = (
    "A miniature of MicroLens-100K's layout: users were drawn by a program that lets each prefer "
    "items of one kind. The figures say that the way of the data works, and nothing else."
)


def write_layout(
    root: Path,
    *,
    items: int = 40,
    users: int = 120,
    clips: Sequence[Path] = (),
    videos: str = VIDEOS,
    tsv: bool = False,
    seed: int = 0,
) -> Path:
    """Write the official files.

    Args:
        root: The folder, made if it is not there.
        items: How many items, with ids from 1.
        users: How many users, of 5 to 9 items each.
        clips: Videos to link under the items' names, over and over; none given: each item gets a
            clip of moving blocks, in the colour of its kind.
        videos: Name of the folder of videos.
        tsv: Write a sequence a user in place of the table of pairs.
        seed: Of everything.
    """
    chance = np.random.default_rng(seed)
    kinds = list(COLOURS)
    kind = chance.integers(0, len(kinds), items)
    (root / videos).mkdir(parents=True)
    for item in range(items):
        path = root / videos / f"{item + 1}.mp4"
        if clips:
            _link(clips[item % len(clips)], path)
        else:
            write_colour(path, COLOURS[kinds[kind[item]]], seed=seed + item)
    with (root / "MicroLens-100k_title_en.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        for item in range(items):
            title = f"a {kinds[kind[item]]} thing, number {item + 1} # {kinds[kind[item]]}"
            writer.writerow([item + 1, "" if item == 2 else title])  # as some are in the real one
    (root / "MicroLens-50k_titles.csv").write_text(
        f"item,title\n3,a {kinds[kind[2]]} thing\n", encoding="utf-8"
    )
    sequences = [_sequence(chance, kind, preferred=user % len(kinds)) for user in range(users)]
    sequences[0][:0] = [i for i in range(items) if i not in {j for s in sequences for j in s}]
    _write_pairs(root, sequences, tsv=tsv)
    return root


def _sequence(chance: np.random.Generator, kind: np.ndarray, *, preferred: int) -> list[int]:
    weights = np.where(kind == preferred, 8.0, 1.0)
    length = int(chance.integers(5, 10))
    chosen = chance.choice(len(kind), length, replace=False, p=weights / weights.sum())
    return [int(item) for item in chosen]


def _write_pairs(root: Path, sequences: list[list[int]], *, tsv: bool) -> None:
    if tsv:
        lines = [f"{u + 1}\t{' '.join(str(i + 1) for i in s)}" for u, s in enumerate(sequences)]
        (root / "MicroLens-100k_pairs.tsv").write_text("\n".join(lines) + "\n")
        return
    first = 1_583_378_629_552  # milliseconds, as in the real table
    lines = ["user,item,timestamp"]
    for user, sequence in enumerate(sequences):
        lines += [f"{user + 1},{i + 1},{first + 977 * n + user}" for n, i in enumerate(sequence)]
    (root / "MicroLens-100k_pairs.csv").write_text("\n".join(lines) + "\n")


def _link(clip: Path, path: Path) -> None:
    try:
        path.symlink_to(clip.absolute())
    except OSError:  # a system without links
        shutil.copyfile(clip, path)


def write_colour(path: Path, colour: tuple[int, int, int], *, seed: int) -> None:
    """Half a second of a square that moves over noise, in MPEG-4."""
    import av

    chance = np.random.default_rng(seed)
    noise = chance.integers(0, 60, (6, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(4):
            picture = noise.copy()
            left = (seed * 7 + number * 6) % 40
            picture[12:36, left : left + 24] = colour
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
