"""Finished cells of another folder, taken over where they are exactly the ones wanted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from linkedout_lightning.compare.files import read_json, write_json
from linkedout_lightning.compare.plan import Cell
from linkedout_lightning.errors import ConfigError

_RANKS = "ranks.safetensors"


def take_over(cells: Iterable[Cell], folders: Sequence[str | Path]) -> int:
    """Copy the results of cells that another comparison has finished; checkpoints stay there.

    A cell is the same if its fingerprint is: settings, data, features and version.

    Args:
        cells: The cells wanted; those with a result are left alone.
        folders: Folders that `compare`, `ablate` or `tune` wrote.

    Returns:
        How many were taken over.

    Raises:
        ConfigError: A folder holds no cells.
    """
    finished: dict[str, Path] = {}
    for folder in folders:
        if not (Path(folder) / "cells").is_dir():
            raise ConfigError(
                f"`reuse` names {str(folder)!r}, which holds no cells; give a folder that "
                "`linkedout compare`, `ablate` or `tune` wrote"
            )
        for file in sorted(Path(folder).glob("cells/*/result.json")):
            result = read_json(file)
            whole = isinstance(result, dict) and not result.get("error")
            if whole and (file.parent / _RANKS).exists():
                finished.setdefault(result["fingerprint"], file.parent)
    taken = 0
    for cell in cells:
        source = finished.get(cell.fingerprint)
        if source is None or cell.result() is not None:
            continue
        cell.folder.mkdir(parents=True, exist_ok=True)
        unfinished = cell.folder / f".{_RANKS}.{os.getpid()}"
        shutil.copyfile(source / _RANKS, unfinished)
        os.replace(unfinished, cell.folder / _RANKS)
        # Last, so that a result is there only with all that belongs to it.
        result = read_json(source / "result.json") | {"checkpoint": None}
        write_json(cell.folder / "result.json", result)
        taken += 1
    return taken
