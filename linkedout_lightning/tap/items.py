"""The item table: which items there are, their videos and their texts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.tap.tables import read_table

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".ogv", ".ts", ".webm", ".wmv"}
)
_ID_NAMES = ("item_id", "item", "id", "video_id", "itemid", "iid")
_VIDEO_NAMES = ("video", "video_path", "path", "file", "filename", "file_name")


@dataclass(frozen=True)
class Item:
    """One item as its table gives it.

    Args:
        item_id: The item's id.
        video: Path of its video, or ``None`` for an item without one.
        columns: Its texts by column.
        cover: Path of its cover image, or ``None``.
    """

    item_id: str
    video: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    cover: str | None = None


def read_items(
    table: str | os.PathLike[str] | None = None,
    videos: str | os.PathLike[str] | None = None,
    *,
    id_column: str | None = None,
    video_column: str | None = None,
    title_column: str | None = None,
) -> list[Item]:
    """Read a table of items, a folder of videos, or both joined.

    Args:
        table: CSV, TSV, JSON lines (each also ``.gz``), RecBole ``.item`` or Parquet. MicroLens'
            ``*_titles.csv`` and ``*_title_en.csv`` are read with and without their header.
        videos: Folder of videos, searched with its subfolders. Without a table each video is an
            item whose id is the file's stem (the path below the folder, where two stems are
            equal). With a table ``<id>.<ext>`` is the item's video, unless the table has a column
            of videos, whose paths then start in this folder.
        id_column: Name of the column of ids; by default one with a usual name.
        video_column: Name of the column of video paths; by default one with a usual name, if any.
        title_column: Column to offer to the prompt as ``{title}``.

    Returns:
        The items in the table's order, or sorted by id.

    Raises:
        ConfigError: Neither table nor folder, or one that does not exist.
        DataError: A column is missing, or an id is empty or occurs twice.
    """
    if table is None and videos is None:
        raise ConfigError("give `items` (a table), `videos` (a folder), or both")
    if videos is not None and not Path(videos).is_dir():
        raise ConfigError(f"`videos` is {os.fspath(videos)!r}, which is no folder")
    if table is None:
        assert videos is not None
        return [Item(item_id, path) for item_id, path in sorted(_by_unique_id(videos).items())]
    names, rows = read_table(Path(table))
    where = os.fspath(table)
    ids = _column("id_column", id_column, _ID_NAMES, names, where=where)
    if ids is None:
        raise DataError(
            f"{where!r} has no column of item ids; its columns are {', '.join(names)}; name one in "
            f"`id_column`, or call it {_ID_NAMES[0]!r}"
        )
    paths = _column("video_column", video_column, _VIDEO_NAMES, names, where=where)
    title = _column("title_column", title_column, (), names, where=where)
    files = _by_stem(videos) if videos is not None and paths is None else {}
    base = Path(videos) if videos is not None else Path(table).parent
    items = []
    for row in rows:
        columns = {name: text for name, text in row.items() if name not in (ids, paths)}
        if title is not None:
            columns["title"] = row[title]
        video = files.get(row[ids])
        if paths is not None and row[paths].strip():
            video = str(base / row[paths].strip())
        items.append(Item(row[ids], video, columns))
    _check_ids((item.item_id for item in items), where)
    return items


def _column(
    option: str, asked: str | None, usual: Iterable[str], names: list[str], *, where: str
) -> str | None:
    if asked is not None:
        if asked not in names:
            raise DataError(
                f"`{option}` is {asked!r}, but the columns of {where!r} are {', '.join(names)}"
            )
        return asked
    lowered = {name.lower(): name for name in names}
    return next((lowered[name] for name in usual if name in lowered), None)


def _check_ids(item_ids: Iterable[str], where: str) -> None:
    counts = Counter(item_ids)
    if "" in counts:
        raise DataError(f"{counts['']} rows of {where!r} have no item id")
    if twice := [item_id for item_id, count in counts.items() if count > 1]:
        raise DataError(
            f"{len(twice)} item ids occur more than once in {where!r}, first {twice[0]!r}; "
            "give each item one row"
        )


def _video_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Files with a video's suffix, sorted; links to folders are not followed, as they may loop."""
    found = [
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in VIDEO_SUFFIXES
    ]
    return sorted(found)


def _by_unique_id(folder: str | os.PathLike[str]) -> dict[str, str]:
    files = _video_files(folder)
    if not files:
        raise DataError(
            f"{os.fspath(folder)!r} holds no video (files with the suffixes "
            f"{', '.join(sorted(VIDEO_SUFFIXES))})"
        )
    stems = Counter(file.stem for file in files)
    return {
        file.stem if stems[file.stem] == 1 else file.relative_to(folder).as_posix(): str(file)
        for file in files
    }


def _by_stem(folder: str | os.PathLike[str]) -> dict[str, str]:
    # Reversed: of two files with one stem the first in order stays.
    return {file.stem: str(file) for file in reversed(_video_files(folder))}
