"""From what a training left on disk to a bundle's parts: `linkedout export` begins here."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.serving.exporting import Exportable, take_apart

_RECBOLE = ("run.json", "items.json", "model.safetensors")
_COUNTED = ("users", "items", "interactions", "train_items")


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Where the inputs of a training lie now.

    Args:
        interactions: The table of interactions (of RecBole: its ``data_path``); None: where it was.
        store: The feature store; None: where it was.
    """

    interactions: str | None = None
    store: str | None = None


def read_source(path: Path, *, moved: Moved, layers: bool, encoder: str | None) -> Exportable:
    """A trained model's parts.

    Args:
        path: A checkpoint that `linkedout fit`, `compare` or `demo` left, the folder of one, the
            folder of a whole comparison, or the folder of a RecBole run.
        moved: Where its inputs lie now.
        layers: Whether to keep items as each layer alone sees them.
        encoder: Of a whole comparison, the encoder to take; None: the best LinkedOut one.

    Raises:
        ConfigError: There is no such thing, or nothing says how the model was made.
        DataError: The interactions are not those of the training.
    """
    if not path.exists():
        raise ConfigError(f"`checkpoint` is {str(path)!r}, but there is no such file or folder")
    folder = path if path.is_dir() else path.parent
    if (folder / "results.json").is_file() and (path.is_dir() or encoder):
        folder = path = find_checkpoint(folder, encoder).parent
    elif encoder is not None:
        raise ConfigError(
            f"`encoder` is {encoder!r}, but {str(path)!r} is one model and no comparison; leave it "
            "out, or name the folder with results.json"
        )
    if all((folder / name).is_file() for name in _RECBOLE):
        return _recbole(folder, moved=moved, layers=layers)
    checkpoint = folder / "best.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise ConfigError(
            f"{str(path)!r} holds no trained model: neither best.ckpt nor a RecBole run's "
            f"{', '.join(_RECBOLE)}"
        )
    return _native(checkpoint, _description(checkpoint), moved=moved, layers=layers)


def find_checkpoint(folder: Path, encoder: str | None) -> Path:
    """The best checkpoint of a comparison, by its validation.

    Args:
        folder: The folder with results.json.
        encoder: Whose; None: the best of those whose name begins with linkedout.

    Raises:
        ConfigError: There is none.
    """
    from linkedout_lightning.compare.files import read_json

    results = read_json(folder / "results.json")
    cells = results.get("cells") if isinstance(results, dict) else None
    trained = [
        cell
        for cell in (cells if isinstance(cells, list) else [])
        if isinstance(cell, dict) and cell.get("checkpoint") and cell.get("best_value") is not None
    ]
    wanted = [
        cell
        for cell in trained
        if (cell["encoder"] == encoder if encoder else cell["encoder"].startswith("linkedout"))
    ]
    if not wanted:
        there = sorted({cell["encoder"] for cell in trained})
        raise ConfigError(
            f"{str(folder)!r} has no checkpoint of {encoder or 'a LinkedOut encoder'}; give "
            f"`encoder` as one of: {', '.join(there) or 'none was kept'}"
        )
    best = max(wanted, key=lambda cell: cell["best_value"])
    return folder / str(best["checkpoint"])


def _description(checkpoint: Path) -> tuple[Path, dict[str, Any]]:
    """The ``cell.json`` that a checkpoint belongs to, and what it says."""
    from linkedout_lightning.compare.files import read_json

    found = checkpoint.parent / "cell.json"
    if not found.is_file():
        # The demo's best.ckpt is a copy of a cell's.
        size, digest = checkpoint.stat().st_size, digest_of(checkpoint)
        for other in sorted(checkpoint.parent.glob("cells/*/best.ckpt")):
            if other.stat().st_size == size and digest_of(other) == digest:
                found = other.parent / "cell.json"
    spec = read_json(found)
    if not isinstance(spec, dict) or not isinstance(spec.get("settings"), dict):
        raise ConfigError(
            f"nothing beside {str(checkpoint)!r} says how the model was made: a cell.json as "
            "`linkedout fit` and `compare` leave it; give the checkpoint in its own folder, or "
            "call export_bundle with the model"
        )
    return found.parent, spec


def _native(
    checkpoint: Path, described: tuple[Path, dict[str, Any]], *, moved: Moved, layers: bool
) -> Exportable:
    import torch

    from linkedout_lightning.compare.files import read_json
    from linkedout_lightning.compare.names import parse_encoder
    from linkedout_lightning.compare.training import build_model, describe, read_data

    folder, spec = described
    settings = dict(spec["settings"])
    for name in ("interactions", "store"):
        # A model of ids has no store that could have moved.
        if getattr(moved, name) is not None and settings.get(name) is not None:
            settings[name] = str(Path(getattr(moved, name)).absolute())
    spec = {**spec, "settings": settings}
    stores = [spec["encoder"].partition("+")[0]] if settings.get("named_store") else []
    data = read_data(spec)
    result = read_json(folder / "result.json")
    result = result if isinstance(result, dict) else {}
    _same_data(result.get("data"), describe(data), settings["interactions"])
    model = build_model(parse_encoder(spec["encoder"], stores=stores), spec, data)
    try:
        # weights_only: nothing in the file is run.
        weights = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, EOFError, TypeError) as error:
        words = " ".join(str(error).split())[:200]
        raise DataError(f"{str(checkpoint)!r} is no checkpoint of this package: {words}") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        words = " ".join(str(error).split())[:300]
        raise DataError(
            f"{str(checkpoint)!r} does not fit the model that {str(folder / 'cell.json')!r} "
            f"describes: {words}"
        ) from None
    source = {
        "engine": "native",
        **{name: spec[name] for name in ("encoder", "backbone", "seed", "fingerprint")},
        "checkpoint": digest_of(checkpoint),
        "metrics": result.get("metrics", {}),
    }
    parts = take_apart(
        model.eval(), data.item_ids, counts=data.train_counts, layers=layers, source=source
    )
    if spec["encoder"].partition("+")[0] in ("random", "shuffled"):
        # Features of a new item would be real ones, which this control has never seen.
        return replace(parts, newcomers=None, features=None)
    return parts


def _same_data(then: Any, now: Mapping[str, Any], path: str) -> None:
    if not isinstance(then, dict):
        return
    differing = [name for name in _COUNTED if name in then and then[name] != now[name]]
    if differing:
        listed = ", ".join(f"{name} {then[name]} then, {now[name]} now" for name in differing)
        raise DataError(
            f"{path!r} is not what the model was trained on ({listed}): its items would get the "
            "vectors of others; name the right table in `interactions`"
        )


def _recbole(folder: Path, *, moved: Moved, layers: bool) -> Exportable:
    adapters = import_module("recbole_adapters.exporting")
    parts = adapters.exportable(
        folder, store=moved.store, data_path=moved.interactions, layers=layers
    )
    return cast(Exportable, parts)


def with_columns(
    parts: Exportable, table: str, columns: Sequence[str] | None
) -> tuple[Exportable, int]:
    """The parts with texts of an item table.

    Args:
        parts: The parts.
        table: A table of items, as `linkedout extract` reads it.
        columns: Its columns to keep; None: all of them.

    Returns:
        The parts, and how many of their items the table does not have.

    Raises:
        ConfigError: There is no such table or column.
    """
    from linkedout_lightning.tap.items import read_items

    texts = {item.item_id: item.columns for item in read_items(table)}
    there = list(next(iter(texts.values()), {}))
    unknown = [name for name in columns or () if name not in there]
    if unknown:
        raise ConfigError(
            f"`columns` has {', '.join(unknown)}; {table!r} has {', '.join(there) or 'none'}"
        )
    kept = {
        name: [texts.get(item, {}).get(name) or None for item in parts.item_ids]
        for name in (there if columns is None else columns)
    }
    missing = sum(item not in texts for item in parts.item_ids)
    return replace(parts, columns={**parts.columns, **kept}), missing


def digest_of(path: Path) -> str:
    """SHA-256 of a file, as bundles name the checkpoint that they came from."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
