"""The item table: which items there are, their videos, covers and texts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
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
_COVER_NAMES = ("cover", "cover_path", "image", "image_path", "thumbnail")


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
    covers: str | os.PathLike[str] | None = None,
    id_column: str | None = None,
    video_column: str | None = None,
    cover_column: str | None = None,
    title_column: str | None = None,
) -> list[Item]:
    """Read a table of items, folders of videos and of covers, or all of them joined.

    Args:
        table: CSV, TSV, JSON lines (each also ``.gz``), RecBole ``.item`` or Parquet. MicroLens'
            ``*_titles.csv`` and ``*_title_en.csv`` are read with and without their header.
        videos: Folder of videos, searched with its subfolders. Without a table each video is an
            item whose id is the file's stem (the path below the folder, where two stems are
            equal). With a table ``<id>.<ext>`` is the item's video, unless the table has a column
            of videos, whose paths then start in this folder.
        covers: Folder of cover images, joined in the same way. Without table and videos each
            cover is an item.
        id_column: Name of the column of ids; by default one with a usual name.
        video_column: Name of the column of video paths; by default one with a usual name, if any.
        cover_column: Name of the column of paths of covers; by default one with a usual name.
        title_column: Column to offer to the prompt as ``{title}``.

    Returns:
        The items in the table's order, or sorted by id.

    Raises:
        ConfigError: Neither table nor folder, or one that does not exist.
        DataError: A column is missing, or an id is empty or occurs twice.
    """
    folders = {"videos": videos, "covers": covers}
    if table is None and videos is None and covers is None:
        raise ConfigError("give `items` (a table), `videos` or `covers` (folders), or several")
    for option, folder in folders.items():
        if folder is not None and not Path(folder).is_dir():
            raise ConfigError(f"`{option}` is {os.fspath(folder)!r}, which is no folder")
    if table is None:
        return _items_of_folders(videos, covers)
    names, rows = read_table(Path(table))
    where = os.fspath(table)
    ids = _column("id_column", id_column, _ID_NAMES, names, where=where)
    if ids is None:
        raise DataError(
            f"{where!r} has no column of item ids; its columns are {', '.join(names)}; name one in "
            f"`id_column`, or call it {_ID_NAMES[0]!r}"
        )
    title = _column("title_column", title_column, (), names, where=where)
    watched = _column("video_column", video_column, _VIDEO_NAMES, names, where=where)
    shown = _column("cover_column", cover_column, _COVER_NAMES, names, where=where)
    videos_of = _Files(watched, videos, Path(table).parent, VIDEO_SUFFIXES)
    covers_of = _Files(shown, covers, Path(table).parent, _image_suffixes())
    items = []
    for row in rows:
        columns = {name: text for name, text in row.items() if name not in (ids, watched, shown)}
        if title is not None:
            columns["title"] = row[title]
        item_id = row[ids]
        items.append(Item(item_id, videos_of(item_id, row), columns, covers_of(item_id, row)))
    _check_ids((item.item_id for item in items), where)
    return items


class _Files:
    """An item's file, from a column of paths or else from a folder by its id.

    Args:
        column: The column, if there is one; its paths start in the folder, if that is given.
        folder: The folder.
        base: Where paths of the column start without a folder.
        suffixes: Files of the folder that count.
    """

    def __init__(
        self,
        column: str | None,
        folder: str | os.PathLike[str] | None,
        base: Path,
        suffixes: Collection[str],
    ) -> None:
        self._column = column
        self._base = base if folder is None else Path(folder)
        self._by_id = {} if folder is None or column else _by_stem(folder, suffixes)

    def __call__(self, item_id: str, row: Mapping[str, str]) -> str | None:
        if self._column is None:
            return self._by_id.get(item_id)
        path = row[self._column].strip()
        return str(self._base / path) if path else None


def _items_of_folders(
    videos: str | os.PathLike[str] | None, covers: str | os.PathLike[str] | None
) -> list[Item]:
    """An item for each video, with the cover of its name; for each cover without videos."""
    images = _image_suffixes()
    if videos is None:
        assert covers is not None
        found = _by_unique_id(covers, images, what="image")
        return [Item(item_id, cover=path) for item_id, path in sorted(found.items())]
    by_id = {} if covers is None else _by_stem(covers, images)
    watched = _by_unique_id(videos, VIDEO_SUFFIXES, what="video")
    return [
        Item(item_id, path, cover=by_id.get(item_id)) for item_id, path in sorted(watched.items())
    ]


def _image_suffixes() -> frozenset[str]:
    # Here, as the options of the command line come this way and need no numpy.
    from linkedout_lightning.video.files import IMAGE_SUFFIXES

    return IMAGE_SUFFIXES


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


def _files(folder: str | os.PathLike[str], suffixes: Collection[str]) -> list[Path]:
    """Files with such a suffix, sorted; links to folders are not followed, as they may loop."""
    found = [
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in suffixes
    ]
    return sorted(found)


def _by_unique_id(
    folder: str | os.PathLike[str], suffixes: Collection[str], *, what: str
) -> dict[str, str]:
    files = _files(folder, suffixes)
    if not files:
        raise DataError(
            f"{os.fspath(folder)!r} holds no {what} (files with the suffixes "
            f"{', '.join(sorted(suffixes))})"
        )
    stems = Counter(_readable(file.stem) for file in files)
    found = {}
    for file in files:
        stem = _readable(file.stem)
        alone = stems[stem] == 1
        found[stem if alone else _readable(file.relative_to(folder).as_posix())] = str(file)
    return found


def _readable(name: str) -> str:
    r"""A file's name as an id: stores hold text, so a byte that is none becomes ``\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _by_stem(folder: str | os.PathLike[str], suffixes: Collection[str]) -> dict[str, str]:
    # Reversed: of two files with one stem the first in order stays.
    return {_readable(file.stem): str(file) for file in reversed(_files(folder, suffixes))}
