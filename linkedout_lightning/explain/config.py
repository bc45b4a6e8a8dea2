"""What an explanation is made of: the one schema of Python, YAML and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from linkedout_lightning.errors import ConfigError

_LEAST = {
    "min_items": 2, "query_count": 0, "query_seed": 0, "listed": 1, "near": 1, "sample": 0,
    "test_users": 0, "bootstrap": 100, "threads": 0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Finished cells, and what is known of the items.

    Args:
        cells: Folders of comparisons (or of single cells) whose best.ckpt is looked into; what is
            said of several seeds is the mean over them.
        out: Folder for explain.json, explain.md and explain.html.
        render: An explain.json to make the page and the Markdown from anew; nothing is computed.
        store: Feature store; none given: the one that each cell was trained on.
        interactions: Table of interactions; none given: the one that the cells were trained on.
        encoders: Rows to look into, by their names in the comparison; none given: id, linkedout and
            linkedout+id, those that are there.
        backbone: Sequence model, where the folders hold several.
        seeds: Seeds to look into; none given: all that are there.
        items: Table of items, for titles: CSV, TSV, JSON lines, Parquet, RecBole .item.
        id_column: Its column of ids; none given: one with a usual name.
        title_column: Its column of titles; none given: title, or the first that is no id.
        categories: Table of one category an item; none given: `items`, if it has such a column.
        category_column: Its column of categories; none given: category or tag, or the first that is
            no id.
        covers: Folder of cover images by item id, shown in the page.
        videos: Folder of videos by item id; the middle frame is shown where there is no cover.
        titles: Show titles and pictures; false names items by id alone, in pages that are passed
            on.
        min_items: Categories with fewer items are not looked at one by one.
        leave_out: Rank the test users with each layer left out; the longest part of the work.
        test_users: How many test users are ranked for that, drawn at random; 0 for all.
        queries: Items whose neighbours are shown, by id; none given: drawn, one from each of the
            largest categories.
        query_count: How many are drawn.
        query_seed: Seed of that draw, and of the other two.
        listed: Neighbours that are shown.
        near: Neighbours that lists are compared by.
        sample: Items, drawn at random, whose lists are compared; 0 for all.
        bootstrap: Resamples of the paired bootstrap over users.
        accelerator: Lightning's accelerator for the rankings: auto, cpu, gpu and others.
        threads: CPU threads; 0 leaves them as they are.
        html: Write explain.html beside explain.md and explain.json.
        title: Heading.

    Raises:
        ConfigError: A value is not usable; the message names it, what is expected, and the fix.

    Example:
        >>> ExplainConfig(cells=("runs/compare",), query_count=3).near
        10
    """

    cells: tuple[str, ...] = ()
    out: str = "runs/explain"
    render: str | None = None
    store: str | None = None
    interactions: str | None = None
    encoders: tuple[str, ...] = ()
    backbone: str | None = None
    seeds: tuple[int, ...] = ()
    items: str | None = None
    id_column: str | None = None
    title_column: str | None = None
    categories: str | None = None
    category_column: str | None = None
    covers: str | None = None
    videos: str | None = None
    titles: bool = True
    min_items: int = 20
    leave_out: bool = True
    test_users: int = 0
    queries: tuple[str, ...] = ()
    query_count: int = 8
    query_seed: int = 0
    listed: int = 5
    near: int = 10
    sample: int = 2048
    bootstrap: int = 2000
    accelerator: str = "auto"
    threads: int = 0
    html: bool = True
    title: str = "Which layer serves which items"

    def __post_init__(self) -> None:
        if bool(self.cells) == bool(self.render):
            raise ConfigError(
                "give `cells`, folders that `linkedout compare` wrote, or `render`, an explain.json"
                + (", and not both" if self.cells else "")
            )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; give at least {least}")
        files = {name: getattr(self, name) for name in ("render", "items", "categories")}
        files["interactions"] = self.interactions
        for name, path in files.items():
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"`{name}` is {path!r}, but there is no such file")
        for name in ("covers", "videos"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_dir():
                raise ConfigError(f"`{name}` is {path!r}, but there is no such folder")
