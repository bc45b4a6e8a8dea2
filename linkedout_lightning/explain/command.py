"""``explain``: look into finished cells, write what was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.compare.files import plain, read_json, write_json, write_text
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.explain.config import ExplainConfig
from linkedout_lightning.explain.markdown import render_markdown, render_terminal

KIND = "explanation"


class Explanation(dict[str, Any]):
    """The content of ``explain.json``, and what the command line needs of it.

    Args:
        document: The content.
        out: The folder that holds it.
    """

    def __init__(self, document: dict[str, Any], *, out: Path) -> None:
        super().__init__(document)
        self.out = out

    def to_json(self) -> dict[str, Any]:
        """The content as a plain dictionary."""
        return dict(self)

    def summary(self) -> str:
        """The findings and the files, for a terminal."""
        return render_terminal(self, out=self.out)


def explain(config: ExplainConfig, *, progress: bool = True) -> Explanation:
    """Explain finished cells, or make the pages of an explanation anew.

    Args:
        config: Cells, tables and choices.
        progress: Show progress on standard error.

    Returns:
        What ``explain.json`` holds.

    Raises:
        ConfigError: The configuration or an input is not usable.
        DataError: A table, the interactions or a checkpoint does not fit.
        StoreError: A feature store cannot be opened.
        MissingExtraError: The page or pictures are wanted and their packages are not installed.
    """
    if config.html:
        from linkedout_lightning.compare.report import check_installed

        check_installed()
    document = _stored(config) if config.render else _computed(config, progress=progress)
    out = Path(config.out)
    write_json(out / "explain.json", document)
    write_text(out / "explain.md", render_markdown(document))
    if config.html:
        from linkedout_lightning.explain.report import render_html

        write_text(out / "explain.html", render_html(document))
    return Explanation(document, out=out)


def _stored(config: ExplainConfig) -> dict[str, Any]:
    document = read_json(Path(str(config.render)))
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ConfigError(f"`render` is {config.render!r}, which is no explain.json")
    if config.title != ExplainConfig.title:
        document["title"] = config.title
    if not config.titles:
        shown = document["items"].items()
        document["protocol"]["titles"] = False
        document["items"] = {i: {"category": a["category"]} for i, a in shown if "category" in a}
    return document


def _computed(config: ExplainConfig, *, progress: bool) -> dict[str, Any]:
    import torch
    from tqdm.auto import tqdm

    from linkedout_lightning.explain.cells import find_cells, load_data
    from linkedout_lightning.explain.document import make_document
    from linkedout_lightning.explain.groups import make_groups
    from linkedout_lightning.explain.items import know_items
    from linkedout_lightning.explain.study import gather, rankings

    # Of the processor: by the clock it would say how busy the machine was with other things.
    started = time.process_time()
    if config.threads:
        torch.set_num_threads(config.threads)
    cells = find_cells(config)
    data = load_data(cells[0])
    known = know_items(config, data.item_ids)
    groups = make_groups(known.categories, data.popularity_slices(), min_items=config.min_items)
    with tqdm(total=rankings(cells, config), desc="explain", disable=not progress) as bar:
        study = gather(cells, data, known, groups, config, step=_teller(bar))
    document = make_document(study, cells, data, known, groups, config)
    document["environment"] = environment()
    document["processor_seconds"] = time.process_time() - started
    rounded: dict[str, Any] = _rounded(plain({"kind": KIND} | document))
    return rounded


def _teller(bar: Any) -> Callable[[str], None]:
    told: list[str] = []

    def step(what: str) -> None:
        if told:
            bar.update()
        told.append(what)
        bar.set_postfix_str(what)

    return step


def _rounded(value: Any) -> Any:
    """Figures to six digits: more would be noise that fills the file."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
