"""Finished cells of comparisons: found, chosen, and built again around their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from linkedout_lightning.compare.files import read_json
from linkedout_lightning.compare.names import EncoderName, parse_encoder
from linkedout_lightning.compare.native import DATA_SETTINGS
from linkedout_lightning.compare.training import build_model, read_data
from linkedout_lightning.data import InteractionDataModule
from linkedout_lightning.errors import ConfigError, DataError, LinkedOutError
from linkedout_lightning.explain.config import ExplainConfig
from linkedout_lightning.sequence import SequentialRecommender
from linkedout_lightning.store import FeatureStore

CHECKPOINT = "best.ckpt"
DEFAULT_ENCODERS = ("id", "linkedout", "linkedout+id")


@dataclass(frozen=True, kw_only=True)
class TrainedCell:
    """A finished cell with its weights on disk.

    Attributes:
        folder: Where they are.
        spec: Encoder, backbone, seed and settings, inputs as they are to be read now.
        result: What the cell said of itself when it was finished.
    """

    folder: Path
    spec: dict[str, Any]
    result: dict[str, Any]

    @property
    def encoder(self) -> str:
        """Name of its row."""
        return str(self.spec["encoder"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.spec["seed"])

    @property
    def name(self) -> EncoderName:
        """Its row's name, taken apart."""
        named = self.spec["settings"].get("named_store")
        stores = (self.encoder.partition("+")[0],) if named else ()
        return parse_encoder(self.encoder, stores=stores)


def find_cells(config: ExplainConfig) -> list[TrainedCell]:
    """The cells to look into, encoder by encoder, seeds ascending.

    Args:
        config: Folders and choices.

    Raises:
        ConfigError: A folder holds no cell with weights, a choice fits none, or cells do not share
            their data.
    """
    found = [cell for folder in config.cells for cell in _cells_of(folder)]
    backbones = sorted({cell.spec["backbone"] for cell in found})
    if config.backbone is None and len(backbones) > 1:
        raise ConfigError(
            f"`cells` holds trainings of {', '.join(backbones)}; name one of them in `backbone`"
        )
    backbone = _one_of("backbone", config.backbone or backbones[0], backbones)
    found = [cell for cell in found if cell.spec["backbone"] == backbone]
    names = list(dict.fromkeys(cell.encoder for cell in found))
    wanted: Sequence[str] = config.encoders or [n for n in DEFAULT_ENCODERS if n in names] or names
    for name in wanted:
        _one_of("encoders", name, names)
    seeds = sorted({cell.seed for cell in found if cell.encoder in wanted})
    for seed in config.seeds:
        _one_of("seeds", seed, seeds)
    chosen: dict[tuple[str, int], TrainedCell] = {}
    for cell in found:
        if cell.encoder in wanted and cell.seed in (config.seeds or seeds):
            again = chosen.setdefault((cell.encoder, cell.seed), cell)
            if again is not cell:
                raise ConfigError(
                    f"`cells` holds {cell.encoder} with seed {cell.seed} twice, in "
                    f"{str(again.folder)!r} and {str(cell.folder)!r}; seeds of one recipe are "
                    "averaged, so name the folder of one"
                )
    order = [*dict.fromkeys(wanted)]
    cells = sorted(chosen.values(), key=lambda c: (order.index(c.encoder), c.seed))
    cells = [_with_inputs(cell, config) for cell in cells]
    _check_alike(cells)
    return cells


def load_data(cell: TrainedCell) -> InteractionDataModule:
    """The cell's data module, set up.

    Raises:
        ConfigError: There is no such table of interactions any more.
        DataError: It is not usable.
    """
    path = cell.spec["settings"]["interactions"]
    if not Path(path).is_file():
        raise ConfigError(
            f"the cells were trained on {path!r}, and there is no such file here; name it in "
            "`interactions`"
        )
    return read_data(cell.spec)


def load_model(cell: TrainedCell, data: InteractionDataModule) -> SequentialRecommender:
    """The cell's model with its best weights, in evaluation mode.

    Raises:
        DataError: The weights do not fit the model, as after a change of the data.
        StoreError: There is no feature store.
        StoreSpecError: The features are not those that the weights were trained on.
    """
    model = build_model(cell.name, cell.spec, data)
    try:
        # weights_only: nothing in the file is run.
        saved = torch.load(cell.folder / CHECKPOINT, weights_only=True, map_location="cpu")
        model.load_state_dict(saved["state_dict"])
    except LinkedOutError:
        raise  # the features' own sentence on what differs
    except (RuntimeError, KeyError, EOFError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise DataError(
            f"{str(cell.folder / CHECKPOINT)!r} does not fit the model that its cell.json "
            f"describes ({reason}); was it trained on these interactions and this version?"
        ) from error
    return model.eval()


def open_store(cell: TrainedCell) -> FeatureStore | None:
    """The features that the cell's encoder reads; None if it reads none.

    Raises:
        ConfigError: They are not where they were.
        StoreError: There is no feature store.
    """
    path = cell.spec["settings"].get("store")
    if path is None:
        return None
    if "://" not in path and not Path(path).exists():
        raise ConfigError(
            f"{cell.folder.name} was trained on the features {path!r}, and there is no such "
            "folder here; name it in `store`"
        )
    return FeatureStore.open(path)


def _cells_of(folder: str) -> list[TrainedCell]:
    path = Path(folder)
    files = [path / CHECKPOINT] if (path / CHECKPOINT).exists() else []
    files += sorted(path.glob(f"cells/*/{CHECKPOINT}"))
    cells = []
    for file in files:
        spec, result = (read_json(file.parent / n) for n in ("cell.json", "result.json"))
        whole = isinstance(spec, dict) and isinstance(result, dict) and not result.get("error")
        if whole and spec.get("engine", "native") == "native":
            cells.append(TrainedCell(folder=file.parent, spec=spec, result=result))
    if not cells:
        raise ConfigError(
            f"`cells` names {folder!r}, which holds no finished cell with its weights "
            f"({CHECKPOINT}); give a folder that `linkedout compare` wrote with "
            "keep_checkpoints and its native engine"
        )
    return cells


def _with_inputs(cell: TrainedCell, config: ExplainConfig) -> TrainedCell:
    settings = dict(cell.spec["settings"])
    if config.store and settings.get("store"):
        settings["store"] = config.store
    if config.interactions:
        settings["interactions"] = config.interactions
    spec = {**cell.spec, "settings": settings}
    return TrainedCell(folder=cell.folder, spec=spec, result=cell.result)


def _check_alike(cells: Sequence[TrainedCell]) -> None:
    first = cells[0]
    for cell in cells[1:]:
        for name in (*DATA_SETTINGS, "interactions", "split_seed"):
            mine, theirs = first.spec["settings"].get(name), cell.spec["settings"].get(name)
            if mine != theirs:
                raise ConfigError(
                    f"the cells do not share their data: `{name}` is {mine!r} in "
                    f"{first.folder.name} and {theirs!r} in {cell.folder.name}; explain them apart"
                )


def _one_of(name: str, value: Any, legal: Sequence[Any]) -> Any:
    if value not in legal:
        known = ", ".join(map(str, legal))
        raise ConfigError(f"`{name}` has {value!r}, but the cells there are of: {known}")
    return value
