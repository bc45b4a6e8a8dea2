"""A trained model on disk: weights as safetensors, everything else as JSON, no features.

A folder holds ``model.safetensors``, ``run.json`` (model, configuration, figures, versions) and
``items.json`` (the catalogue's tokens, so that a dataset that has changed is noticed).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from linkedout_lightning.compare.files import write_json
from linkedout_lightning.errors import ConfigError, DataError
from recbole_adapters.catalogue import Catalogue
from recbole_adapters.compat import RECBOLE
from recbole_adapters.data import Loaders
from recbole_adapters.launcher import Request
from recbole_adapters.options import SECTION
from recbole_adapters.slots import find_model

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

    def evaluate(self, part: str = "test") -> dict[str, float]:
        """RecBole's figures of the model as it is.

        Args:
            part: ``valid`` or ``test``.
        """
        from recbole_adapters.compat import session
        from recbole_adapters.distributed import Group
        from recbole_adapters.trainer import make_trainer

        group = Group(0, 1, self.config["device"])
        with session(), tempfile.TemporaryDirectory() as nowhere:
            trainer = make_trainer(
                self.config, self.model, folder=Path(nowhere), group=group, recbole_format=False
            )
            trainer.eval_collector.data_collect(self.loaders.train)
            found = trainer.evaluate(getattr(self.loaders, part), load_best_model=False)
        return {name: float(value) for name, value in found.items()}


def describe(
    request: Request,
    config: Any,
    figures: Mapping[str, Any],
    catalogue: Catalogue,
    *,
    own_encoder: bool = False,
) -> None:
    """Write what a folder needs beside its weights.

    Args:
        request: The run.
        config: RecBole's configuration.
        figures: What came out.
        catalogue: The items.
        own_encoder: The item encoder came from the caller and not from the configuration.
    """
    settings = dict(config.file_config_dict) | dict(config.variable_config_dict)
    settings.pop("model", None), settings.pop("dataset", None)
    # Another process may stand elsewhere.
    if "data_path" in settings:
        settings["data_path"] = os.path.abspath(settings["data_path"])
    section = settings.get(SECTION)
    if section and section.get("store"):
        settings[SECTION] = dict(section) | {"store": os.path.abspath(section["store"])}
    write_json(
        request.folder / DESCRIPTION,
        {
            "format": 1,
            "model": config["model"],
            "by_name": not own_encoder and _found_by_name(request.model),
            "dataset": config["dataset"],
            "settings": settings,
            "figures": dict(figures),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("linkedout-lightning", "torch", "recbole")
            },
        },
    )
    write_json(request.folder / ITEMS, list(catalogue.item_ids))


def load(
    path: str | os.PathLike[str],
    *,
    model: type[Any] | None = None,
    store: str | os.PathLike[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load a trained model in any process.

    Args:
        path: The run's folder.
        model: The class that was trained, where it was one of the user's own, or one that
            :func:`with_item_encoder` made with an encoder or options of its own.
        store: Where its feature store lies now; None: where it lay.
        config_dict: Settings that changed, such as ``data_path`` or ``use_gpu``.

    Raises:
        ConfigError: The folder holds no run of this package, or its class is not given.
        DataError: The dataset has other items than the model was trained on, or a file is damaged.
        StoreSpecError: The store holds other features than those of the training.
    """
    from recbole_adapters.compat import session
    from recbole_adapters.data import build_dataset, build_loaders
    from recbole_adapters.options import ItemEncoderOptions
    from recbole_adapters.running import build_model, read_config
    from recbole_adapters.trainer import load_weights

    folder = Path(path)
    found = _read(folder)
    if model is None and not found["by_name"]:
        raise ConfigError(
            f"{str(folder)!r} holds a {found['model']} of the caller's own class, which cannot be "
            "found by name; give the class: load(path, model=...)"
        )
    changes = dict(config_dict or {})
    if store is not None:
        section = found["settings"].get(SECTION) or {}
        changes[SECTION] = dict(section) | {"store": os.fspath(store)}
    with tempfile.TemporaryDirectory() as name, session():
        # By a file: RecBole runs the strings of a `config_dict` as Python code.
        settings = Path(name) / "settings.yaml"
        settings.write_text(json.dumps(found["settings"]), encoding="utf-8")
        request = Request(model or found["model"], found["dataset"], (str(settings),), changes)
        config = read_config(request)
        options = ItemEncoderOptions.from_section(config[SECTION])
        loaders = build_loaders(config, build_dataset(config), mask_history=options.mask_history)
        catalogue = Catalogue.of(loaders.train._dataset)
        _check_items(folder, catalogue, config["dataset"])
        built = build_model(request.model, config, loaders)
        load_weights(built, folder / WEIGHTS)
    return Loaded(built.eval(), config, loaders, catalogue, found["figures"])


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
        hint = "name the folder that `linkedout recbole` or `recbole_adapters.run` wrote"
        if (folder / "model.pth").is_file():
            hint = (
                "its model.pth is RecBole's own pickle, which this package does not load; train "
                "with `checkpoint: safetensors`"
            )
        raise ConfigError(
            f"{str(folder)!r} holds no trained model: {', '.join(absent)} is not there; {hint}"
        )
    found = _json(folder / DESCRIPTION)
    if not isinstance(found, dict) or found.get("format") != 1:
        kind = found.get("format") if isinstance(found, dict) else None
        raise ConfigError(f"{str(folder)!r} is of format {kind!r}; this reads 1")
    for name, kind in _HOLDS.items():
        if not isinstance(found.get(name), kind):
            raise DataError(
                f"{str(folder / DESCRIPTION)!r} is damaged: `{name}` is {found.get(name)!r}; train "
                "again, or restore the file"
            )
    used = found["versions"].get("recbole")
    if used != RECBOLE:
        raise ConfigError(f"{str(folder)!r} was trained by RecBole {used}; {RECBOLE} is needed")
    return found


_HOLDS: dict[str, type] = {
    "model": str,
    "by_name": bool,
    "dataset": str,
    "settings": dict,
    "figures": dict,
    "versions": dict,
}


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{str(file)!r} is damaged: {error}; train again, or restore it") from error


def _check_items(folder: Path, catalogue: Catalogue, dataset: str) -> None:
    tokens = _json(folder / ITEMS)
    if not isinstance(tokens, list):
        raise DataError(f"{str(folder / ITEMS)!r} is damaged: it holds no list of items")
    if tuple(tokens) != catalogue.item_ids:
        raise DataError(
            f"the model in {str(folder)!r} knows {len(tokens)} items, the dataset {dataset!r} now "
            f"has {len(catalogue.item_ids)} or numbers them otherwise; name the dataset of the "
            "training by `data_path`"
        )


def _found_by_name(model: str | type[Any]) -> bool:
    from recbole_adapters import adapted
    from recbole_adapters.slots import sequential_models

    if isinstance(model, str):
        return True
    name = model.__name__
    if name not in sequential_models():
        return False
    return model is find_model(name) or model is getattr(adapted, name, None)
