"""What is known of the items: titles, categories, pictures; and which of them are looked at."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError, MissingExtraError, VideoDecodeError
from linkedout_lightning.explain.config import ExplainConfig
from linkedout_lightning.explain.groups import numbered
from linkedout_lightning.tap.items import read_items
from linkedout_lightning.tap.tables import read_table

_ID_NAMES = ("item_id", "item", "id", "video_id", "itemid", "iid")
_CATEGORY_NAMES = ("category", "tag", "genre", "class", "label")
_EDGE = 96
_LONGEST_TITLE = 160


@dataclass(frozen=True, kw_only=True)
class KnownItems:
    """What tables and folders say of a catalogue's N items, in its order.

    Attributes:
        item_ids: The catalogue.
        titles: Of each item, empty where there is none.
        categories: Likewise.
        pictures: Path of a cover or a video by item id.
    """

    item_ids: list[str]
    titles: list[str]
    categories: list[str]
    pictures: dict[str, str] = field(default_factory=dict)


def know_items(config: ExplainConfig, item_ids: Sequence[str]) -> KnownItems:
    """Read the tables and folders of the configuration.

    Args:
        config: Where they are.
        item_ids: The catalogue.

    Raises:
        ConfigError: A table that cannot be read, or a column that is not there.
        DataError: A table has none of the catalogue's items.
    """
    titles: dict[str, str] = {}
    categories: dict[str, str] = {}
    pictures: dict[str, str] = {}
    if config.items or config.covers or config.videos:
        found = read_items(
            config.items, config.videos, covers=config.covers,
            id_column=config.id_column if config.items else None,
            title_column=config.title_column if config.items else None,
        )  # fmt: skip
        for item in found:
            if config.items:
                titles[item.item_id] = item.columns.get("title") or _first(item.columns.values())
                named = {name.lower(): text for name, text in item.columns.items()}
                categories[item.item_id] = _first(named.get(n, "") for n in _CATEGORY_NAMES)
            if picture := item.cover or item.video:
                pictures[item.item_id] = picture
        if config.items:
            _check_known(item_ids, titles, config.items)
        if config.category_column and config.items and not config.categories:
            categories = _categories(config, config.items)
    if config.categories:
        categories = _categories(config, config.categories)
        _check_known(item_ids, categories, config.categories)
    return KnownItems(
        item_ids=list(item_ids),
        titles=[titles.get(i, "").strip() for i in item_ids],
        categories=[categories.get(i, "").strip() for i in item_ids],
        pictures=pictures,
    )


def choose_queries(
    known: KnownItems, usable: Tensor, *, wanted: Sequence[str], count: int, seed: int
) -> tuple[list[int], str]:
    """Items whose neighbours are shown, and the rule that chose them.

    Args:
        known: The catalogue.
        usable: ``(N,)`` bool, items that may be drawn.
        wanted: Ids that were asked for.
        count: How many to draw where none was.
        seed: Of the draw.

    Returns:
        Positions in the catalogue, from 0, and a sentence.

    Raises:
        ConfigError: An id that the catalogue lacks, or whose item training never saw.
    """
    if wanted:
        place = {item: n for n, item in enumerate(known.item_ids)}
        for item in wanted:
            if item not in place:
                raise ConfigError(
                    f"`queries` has {item!r}, which is no item of the catalogue; its ids are "
                    f"{', '.join(known.item_ids[:3])} and so on"
                )
            if not usable[place[item]]:
                raise ConfigError(
                    f"`queries` has {item!r}, which training never saw or which has no features: "
                    "it has no ID vector to compare; leave it out"
                )
        return [place[item] for item in wanted], "The items were asked for by id."
    generator = torch.Generator().manual_seed(seed)
    names, numbers = numbered(known.categories)
    sizes = torch.bincount(numbers[usable & (numbers >= 0)], minlength=len(names))
    by_size = [n for n in sizes.argsort(descending=True, stable=True).tolist() if sizes[n] > 1]
    chosen: list[int] = []
    for number in by_size[:count]:
        inside = ((numbers == number) & usable).nonzero()[:, 0]
        chosen.append(int(inside[torch.randint(len(inside), (1,), generator=generator)]))
    rule = f"One item at random from each of the {len(chosen)} largest categories"
    if not chosen:
        pool = usable.nonzero()[:, 0]
        chosen = pool[torch.randperm(len(pool), generator=generator)[:count]].tolist()
        rule = f"{len(chosen)} items at random"
    return chosen, f"{rule}, among those that training saw at least five times; seed {seed}."


def describe_items(
    known: KnownItems, item_ids: Iterable[str], *, titles: bool
) -> tuple[dict[str, dict[str, str]], int]:
    """Title, category and picture of items, for the page.

    Args:
        known: The catalogue.
        item_ids: Those that are shown.
        titles: False: the category alone.

    Returns:
        By id, and how many pictures could not be read.

    Raises:
        MissingExtraError: Pictures are wanted, and what reads them is not installed.
    """
    place = {item: n for n, item in enumerate(known.item_ids)}
    described: dict[str, dict[str, str]] = {}
    broken = 0
    for item in item_ids:
        about = {"category": known.categories[place[item]]}
        if titles:
            about["title"] = known.titles[place[item]][:_LONGEST_TITLE]
            if item in known.pictures:
                try:
                    about["image"] = thumbnail(known.pictures[item])
                except VideoDecodeError:
                    broken += 1
        described[item] = {name: text for name, text in about.items() if text}
    return described, broken


def thumbnail(path: str | os.PathLike[str]) -> str:
    """A cover, or the middle frame of a video, as a small JPEG in a data URI.

    Raises:
        VideoDecodeError: The file cannot be decoded.
        MissingExtraError: Pillow or the decoder is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "video", "pictures in explain.html") from error
    from linkedout_lightning.video import FrameSampler

    frames = FrameSampler(frames=1, size=_EDGE)(path)
    stream = io.BytesIO()
    Image.fromarray(frames.data[0]).save(stream, "JPEG", quality=70, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _categories(config: ExplainConfig, path: str) -> dict[str, str]:
    try:
        names, rows = read_table(Path(path))
    except ConfigError as error:
        raise ConfigError(str(error).replace("`items`", "`categories`")) from error
    lowered = {name.lower(): name for name in names}
    ids = config.id_column if config.id_column in names else None
    ids = ids or next((lowered[name] for name in _ID_NAMES if name in lowered), None)
    if ids is None:
        raise DataError(
            f"{path!r} has no column of item ids; its columns are {', '.join(names)}; name one in "
            "`id_column`"
        )
    column = config.category_column
    if column is not None and column not in names:
        raise DataError(
            f"`category_column` is {column!r}, but the columns of {path!r} are {', '.join(names)}"
        )
    others = [name for name in names if name != ids]
    column = column or next((lowered[n] for n in _CATEGORY_NAMES if n in lowered), None)
    if column is None and not others:
        raise DataError(f"{path!r} has the column {ids} alone; give one of categories beside it")
    column = column or others[0]
    return {row[ids]: row[column] for row in rows}


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")


def _check_known(item_ids: Sequence[str], table: dict[str, str], path: str) -> None:
    if not any(item in table for item in item_ids):
        theirs = ", ".join(list(table)[:3])
        raise DataError(
            f"{path!r} knows none of the catalogue's items: its ids are {theirs} and so on, the "
            f"catalogue's {', '.join(item_ids[:3])}; is it the right table and column?"
        )
