"""The trials of a tuning, each a cell of a comparison."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.plan import Cell, folder_name, plan
from linkedout_lightning.compare.tuning.config import TuneConfig
from linkedout_lightning.compare.tuning.space import DEFAULTS, Space, draw, space_of


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One try.

    Attributes:
        row: The row's name.
        backbone: Its sequence model.
        number: From 0; 0 has the base's settings.
        settings: Those that are drawn, with their values here.
        encoder: What is trained: the row, or ``id-dropout`` for an ID with item dropout.
        config: The comparison that trains it.
        cell: Its run.
    """

    row: str
    backbone: str
    number: int
    settings: dict[str, Any]
    encoder: str
    config: CompareConfig
    cell: Cell


def plan_trials(config: TuneConfig) -> list[Trial]:
    """All trials, the first of every row, then the second of every row, and so on.

    Args:
        config: The tuning.

    Raises:
        ConfigError: An input does not exist, or values cannot be used.
        StoreError: There is no feature store.
    """
    known: dict[str, Any] = {}
    found = []
    for row in config.encoders:
        for backbone in config.backbones:
            shared, own = space_of(row, config.values)
            names = [
                name
                for name, values in (shared | own).items()
                if len(values) > 1 or f"{row}/{name}" in config.values
            ]
            drawn = draw(shared, own, trials=config.trials, seed=config.seed, row=row)
            first = _first(config, row, backbone, shared | own)
            others = [settings for settings in drawn if settings != first]
            for number, settings in enumerate([first, *others]):
                trial = _trial(config, row, backbone, number, settings, known=known)
                shown = {name: settings[name] for name in names}
                found.append(dataclasses.replace(trial, settings=shown))
    return sorted(found, key=lambda trial: trial.number)


def _first(config: TuneConfig, row: str, backbone: str, space: Space) -> dict[str, Any]:
    """The base's settings of what is drawn; where values leave them out, the first value."""
    base = config.base(row, backbone)
    said = DEFAULTS | config.settings
    wanted = {name: said.get(name, getattr(base, name)) for name in space}
    return {
        name: wanted[name] if wanted[name] in values else values[0]
        for name, values in space.items()
    }


def _trial(
    config: TuneConfig,
    row: str,
    backbone: str,
    number: int,
    settings: dict[str, Any],
    *,
    known: dict[str, Any],
) -> Trial:
    encoder = "id-dropout" if row == "id" and settings["item_dropout"] else row
    changes = dict(settings)
    if encoder == "id":  # which has no item dropout, and is one cell whatever that would be
        del changes["item_dropout"]
    comparison = config.base(encoder, backbone, **changes)
    (cell,) = plan(comparison, known=known)
    folder = Path(config.out) / "cells" / folder_name(f"{row}-{number}", backbone, config.seed)
    cell = dataclasses.replace(cell, row=f"{row} #{number}", folder=folder)
    return Trial(
        row=row,
        backbone=backbone,
        number=number,
        settings=settings,
        encoder=encoder,
        config=comparison,
        cell=cell,
    )
