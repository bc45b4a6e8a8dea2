"""MicroLens-100K as its authors publish it: which of its files lie where, and what is missing."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from linkedout_lightning.data.interactions import Interactions
from linkedout_lightning.data.readers import read_interactions
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.items import VIDEO_SUFFIXES
from linkedout_lightning.tap.tables import read_table

PAIRS = ("MicroLens-100k_pairs.csv", "MicroLens-100k_pairs.tsv")
TITLES = ("MicroLens-100k_title_en.csv", "MicroLens-100k_titles.csv")
MORE_TITLES = ("MicroLens-50k_titles.csv",)
"""Has titles of some items that the larger file leaves empty."""

VIDEOS = ("MicroLens-100k_videos", "video", "videos")
"""Folders of videos; names that go on, such as ``MicroLens-100k_videos_Part_1``, count too."""

COVERS = ("MicroLens-100k_covers", "cover", "covers")
OFFICIAL = {"users": 100_000, "items": 19_738, "rows": 719_405}
"""Sizes of the published data set."""

_COVER_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_NAMED = 5  # ids in a message
_KEPT, _HELD_OUT = 13, 3  # of a user's rows: the last ones; the first input and two targets


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of a copy of the data set.

    Attributes:
        root: The folder.
        pairs: Table of interactions.
        item_ids: The catalogue: every item that somebody met.
        sizes: Users, items and rows of the interactions.
        positions: Rows that training predicts under the MicroLens protocol.
        titles: Title by item id, for the items that have one.
        videos: Path by item id.
        covers: Path by item id; covers are optional.
        notes: What a person should know.
    """

    root: Path
    pairs: Path
    item_ids: list[str]
    sizes: dict[str, int]
    positions: int
    titles: dict[str, str]
    videos: dict[str, Path]
    covers: dict[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def official(self) -> bool:
        """Whether users, items and rows are as many as in the published data set."""
        return self.sizes == OFFICIAL

    def write_items(self, path: Path) -> None:
        """Write the item table that an extraction reads: id, video, cover and title.

        Args:
            path: The file; an equal one is left as it is.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        with unfinished.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["item_id", "video", "cover", "title"])
            for item in self.item_ids:
                files = (self.videos.get(item, ""), self.covers.get(item, ""))
                writer.writerow([item, *map(str, files), self.titles.get(item, "")])
        os.replace(unfinished, path)


def find_layout(
    root: str | os.PathLike[str], *, wants_titles: bool = True, incomplete: bool = False
) -> Layout:
    """Find the official files, in a folder or one level below it, whatever the case of their names.

    Args:
        root: The folder: ``MicroLens-100k_pairs.csv`` (or ``.tsv``),
            ``MicroLens-100k_title_en.csv`` and ``MicroLens-100k_videos/<item>.mp4`` (or
            ``video/``); tables may be gzipped.
        wants_titles: Whether titles are read; a missing table of them is an error then.
        incomplete: Accept that videos or titles are missing: such an item has what is there.

    Raises:
        ConfigError: There is no such folder, or something is missing; one message names all of it.
        DataError: A table cannot be read.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise ConfigError(
            f"`root` is {os.fspath(root)!r}, which is no folder; name the one that holds {PAIRS[0]}"
        )
    places = [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]
    pairs = _file(places, PAIRS)
    if pairs is None:
        raise ConfigError(
            f"`root` is {os.fspath(root)!r}, which holds neither {PAIRS[0]} nor {PAIRS[1]} (nor "
            "does a folder in it); name the folder that holds MicroLens-100K's official files"
        )
    data = Interactions.from_raw(read_interactions(pairs), duplicates="keep")
    item_ids = sorted(data.item_ids, key=_numeric)
    missing = []
    titles = _titles(places, item_ids)
    if titles is None and wants_titles:
        missing.append(f"there is no {TITLES[0]}, which the prompt reads")
    folders = list(_folders(places, VIDEOS))
    videos = _by_stem(folders, VIDEO_SUFFIXES)
    without = [item for item in item_ids if item not in videos]
    if without:
        missing.append(_videos_missing(places, folders, without, of=len(item_ids)))
    if missing and not incomplete:
        raise ConfigError(
            f"`root` is {os.fspath(root)!r}, where {'; and '.join(missing)}. With `incomplete` "
            "set, an item is read from what it has"
        )
    titles = titles or {}
    return Layout(
        root=folder,
        pairs=pairs,
        item_ids=item_ids,
        sizes={"users": data.num_users, "items": data.num_items, "rows": data.report.rows_read},
        positions=int((data.lengths().clamp(max=_KEPT) - _HELD_OUT).clamp(min=0).sum()),
        titles=titles,
        videos={item: videos[item] for item in item_ids if item in videos},
        covers=_by_stem(_folders(places, COVERS), _COVER_SUFFIXES),
        notes=tuple(_notes(item_ids, titles, without)),
    )


def _notes(item_ids: list[str], titles: dict[str, str], without: list[str]) -> Iterator[str]:
    untitled = sum(item not in titles for item in item_ids)
    if untitled:
        yield f"{untitled:,} of {len(item_ids):,} items have no title"
    if without:
        yield f"{len(without):,} of {len(item_ids):,} items have no video: their text is read alone"


def _videos_missing(places: list[Path], folders: list[Path], without: list[str], *, of: int) -> str:
    if not folders:
        archives = [p for place in places for p in sorted(place.glob("*ideos*.z*")) if p.is_file()]
        packed = (
            f"; {archives[0].name} is still packed: join its parts with `zip -s 0 "
            "MicroLens-100k_videos.zip --out whole.zip` and unpack that"
            if archives
            else ""
        )
        return f"there is no folder of videos ({', '.join(VIDEOS)}){packed}"
    named = ", ".join(repr(item) for item in without[:_NAMED])
    more = ", …" if len(without) > _NAMED else ""
    where = ", ".join(repr(folder.name) for folder in folders)
    return f"{len(without):,} of {of:,} items have no video in {where}: {named}{more}"


def _titles(places: list[Path], item_ids: list[str]) -> dict[str, str] | None:
    """Titles of the catalogue's items; None without a table."""
    found: dict[str, str] = {}
    main = _file(places, TITLES)
    for path in (_file(places, MORE_TITLES), main):  # the later one wins where both have a title
        if path is None:
            continue
        (item, title, *_), rows = read_table(path)
        found |= {row[item]: text for row in rows if (text := row[title].strip())}
    return None if main is None else {i: found[i] for i in item_ids if i in found}


def _file(places: Iterable[Path], names: Iterable[str]) -> Path | None:
    wanted = [(name + packed).lower() for name in names for packed in ("", ".gz")]
    there = [file for place in places for file in sorted(place.iterdir()) if file.is_file()]
    by_name = {file.name.lower(): file for file in reversed(there)}
    return next((by_name[name] for name in wanted if name in by_name), None)


def _folders(places: Iterable[Path], names: tuple[str, ...]) -> Iterator[Path]:
    """Folders of these names, or of the first, official one with an ending."""
    for place in places:
        for folder in sorted(p for p in place.iterdir() if p.is_dir()):
            name = folder.name.lower()
            if name in map(str.lower, names) or name.startswith(f"{names[0].lower()}_"):
                yield folder


def _by_stem(folders: Iterable[Path], suffixes: frozenset[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for place, _, names in os.walk(folder, followlinks=True):
            for name in sorted(names):
                file = Path(place, name)
                if file.suffix.lower() in suffixes:
                    found.setdefault(file.stem, file.absolute())
    return found


def _numeric(item: str) -> tuple[int, str]:
    return (int(item) if item.isascii() and item.isdigit() else 0, item)
