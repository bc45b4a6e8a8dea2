"""A trained model on disk: weights as safetensors, everything else as JSON, no features.

A folder holds ``model.safetensors``, ``run.json`` (model, configuration, figures, versions) and
``items.json`` (the catalogue's tokens, so that a dataset that has changed is noticed).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from linkedout_lightning.errors import ConfigError, DataError
from recbole_adapters.catalogue import Catalogue
from recbole_adapters.compat import RECBOLE
from recbole_adapters.data import Loaders
from recbole_adapters.launcher import Request, write_atomically
from recbole_adapters.options import SECTION

WEIGHTS, DESCRIPTION, ITEMS = "model.safetensors", "run.json", "items.json"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that was loaded by path.

    Attributes:
        model: The model, in evaluation mode.
        config: RecBole's configuration.
        loaders: Its data.
        catalogue: Its items.
        figures: What the run that saved it gave.
    """

    model: nn.Module
    config: Any
    loaders: Loaders
    catalogue: Catalogue
    figures: dict[str, Any]


def describe(
    request: Request, config: Any, model: Any, figures: Mapping[str, Any], catalogue: Catalogue
) -> None:
    """Write what a folder needs beside its weights.

    Args:
        request: The run.
        config: RecBole's configuration.
        model: The trained model.
        figures: What came out.
        catalogue: The items.
    """
    settings = dict(config.file_config_dict) | dict(config.variable_config_dict)
    settings.pop("model", None), settings.pop("dataset", None)
    write_atomically(
        request.folder / DESCRIPTION,
        {
            "format": 1,
            "model": config["model"],
            "dataset": config["dataset"],
            "settings": _json(settings),
            "figures": dict(figures),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("linkedout-lightning", "torch", "recbole")
            },
        },
    )
    write_atomically(request.folder / ITEMS, list(catalogue.item_ids))
    del model


def load(
    path: str | os.PathLike[str],
    *,
    store: str | None = None,
    config_dict: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load a trained model in any process.

    Args:
        path: The run's folder.
        store: Where its feature store lies now; None: where it lay.
        config_dict: Settings that changed, such as ``data_path`` or ``device``.

    Raises:
        ConfigError: The folder holds no run of this package.
        DataError: The dataset has other items than the model was trained on.
    """
    from recbole_adapters.compat import session
    from recbole_adapters.data import build_dataset, build_loaders
    from recbole_adapters.options import ItemEncoderOptions
    from recbole_adapters.running import build_model, read_config
    from recbole_adapters.trainer import load_weights

    folder = Path(path)
    found = _read(folder)
    settings = found["settings"] | dict(config_dict or {})
    if store is not None:
        settings[SECTION] = dict(settings.get(SECTION) or {}) | {"store": store}
    request = Request(model=found["model"], dataset=found["dataset"], config_dict=settings)
    with session():
        config = read_config(request)
        options = ItemEncoderOptions.from_section(config[SECTION])
        dataset = build_dataset(config)
        loaders = build_loaders(config, dataset, mask_history=options.mask_history)
        catalogue = Catalogue.of(loaders.train._dataset)
        tokens = tuple(json.loads((folder / ITEMS).read_text(encoding="utf-8")))
        if tokens != catalogue.item_ids:
            raise DataError(
                f"the model in {str(folder)!r} knows {len(tokens)} items, the dataset "
                f"{config['dataset']!r} now has {len(catalogue.item_ids)} or numbers them "
                "otherwise; name the dataset of the training by `data_path`"
            )
        model = build_model(request.model, config, loaders)
        load_weights(model, folder / WEIGHTS)
    return Loaded(model.eval(), config, loaders, catalogue, found["figures"])


def save(folder: str | os.PathLike[str], model: nn.Module) -> None:
    """Write a model's weights into the folder of a run, in place of those there.

    Args:
        folder: The run's folder.
        model: The model.
    """
    from recbole_adapters.trainer import save_weights

    _read(Path(folder))
    save_weights(model, Path(folder) / WEIGHTS)


def _read(folder: Path) -> dict[str, Any]:
    absent = [name for name in (WEIGHTS, DESCRIPTION, ITEMS) if not (folder / name).is_file()]
    if absent:
        raise ConfigError(
            f"{str(folder)!r} holds no trained model: {', '.join(absent)} is not there; name the "
            "folder that `linkedout recbole` or `recbole_adapters.run` wrote"
        )
    found: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if found.get("format") != 1:
        raise ConfigError(f"{str(folder)!r} is of format {found.get('format')!r}; this reads 1")
    used = found["versions"].get("recbole")
    if used != RECBOLE:
        raise ConfigError(f"{str(folder)!r} was trained by RecBole {used}; {RECBOLE} is needed")
    return found


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
