"""What is refused before any work is done, in a sentence where RecBole has a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linkedout_lightning.errors import ConfigError, DataError

_LEAST = {
    "epochs": 0,
    "train_batch_size": 1,
    "eval_batch_size": 1,
    "stopping_step": 0,
    "MAX_ITEM_LIST_LENGTH": 1,
}
_WITHOUT_K = ("gauc", "auc", "mae", "rmse", "logloss")
_PARTS = ("train", "valid", "test")


def check_settings(config: Any) -> None:
    """Refuse values that RecBole only stumbles over once it trains.

    Args:
        config: RecBole's configuration.

    Raises:
        ConfigError: A number out of range, or a metric that is not computed.
    """
    for name, least in _LEAST.items():
        value = config[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"`{name}` is {value!r}; give a whole number of at least {least}")
    if isinstance(config["eval_step"], bool) or not isinstance(config["eval_step"], int):
        raise ConfigError(
            f"`eval_step` is {config['eval_step']!r}; give a number of epochs, or 0 for no "
            "validation"
        )
    rate = config["learning_rate"]
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1e6:
        raise ConfigError(f"`learning_rate` is {rate!r}; give a positive number, such as 1.0e-3")
    clip = config["clip_grad_norm"]
    if clip and not (isinstance(clip, Mapping) and "max_norm" in clip):
        raise ConfigError(f"`clip_grad_norm` is {clip!r}; give {{max_norm: 1.0}}")
    computed = {
        name if name in _WITHOUT_K else f"{name}@{k}"
        for name in (metric.lower() for metric in config["metrics"])
        for k in config["topk"]
    }
    if config["valid_metric"].lower() not in computed:
        raise ConfigError(
            f"`valid_metric` is {config['valid_metric']!r}, which is not among the `metrics` "
            f"{', '.join(config['metrics'])} at `topk` {', '.join(map(str, config['topk']))}"
        )
    split = config["eval_args"]["split"]
    kinds = {"LS": ("valid_and_test", "valid_only", "test_only"), "RS": None, "TS": None}
    if not isinstance(split, Mapping) or len(split) != 1 or not set(split) <= set(kinds):
        raise ConfigError(
            f"`eval_args.split` is {split!r}; give one of LS, RS and TS, such as "
            "{LS: valid_and_test} or {RS: [0.8, 0.1, 0.1]}"
        )
    if "LS" in split and split["LS"] not in (kinds["LS"] or ()):
        raise ConfigError(
            f"`eval_args.split` is {split!r}; give one of: {', '.join(kinds['LS'] or ())}"
        )


def check_files(config: Any) -> None:
    """Refuse a dataset that is not there, or lacks a column that the configuration names.

    Args:
        config: RecBole's configuration.

    Raises:
        DataError: There is no file, or it is empty.
        ConfigError: A column that is not there, or not loaded.
    """
    folder = Path(config["data_path"])
    named = config["benchmark_filename"]
    suffixes = [f".{part}.inter" for part in named] if named else [".inter"]
    files = [folder / f"{config['dataset']}{suffix}" for suffix in suffixes]
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise DataError(
            f"no dataset {config['dataset']!r}: {', '.join(absent)} is not there; name the folder "
            "above the dataset's own by `data_path`, or take ml-100k, which RecBole brings"
        )
    with files[0].open(encoding=config["encoding"] or "utf-8") as stream:
        header = stream.readline().rstrip("\r\n").split(config["field_separator"])
    columns = [column.partition(":")[0] for column in header]
    loaded = (config["load_col"] or {}).get("inter") if config["load_col"] else None
    for field in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"):
        name = config[field]
        if named and field == "TIME_FIELD":
            continue  # such rows are in order already
        if name not in columns:
            raise ConfigError(
                f"`{field}` is {name!r}, which is no column of {str(files[0])!r}; its columns are: "
                f"{', '.join(columns)}"
            )
        if loaded is not None and loaded != "*" and name not in loaded:
            raise ConfigError(
                f"`load_col` does not load {name!r}, which `{field}` names; add it to `inter`"
            )


def check_parts(config: Any, parts: Any, world: int) -> None:
    """Refuse a split that leaves nothing to train on or to measure.

    Args:
        config: RecBole's configuration.
        parts: RecBole's datasets for training, validation and test.
        world: Processes that share the rows.

    Raises:
        DataError: A part is empty.
        ConfigError: More processes than rows, or metrics at more items than there are.
    """
    # RecBole's own `LS: valid_only` and `LS: test_only` leave a part out on purpose.
    left_out = {"valid_only": "test", "test_only": "valid"}
    split = config["eval_args"]["split"].get("LS")
    for part, name in zip(parts, _PARTS, strict=True):
        if not len(part) and (split is None or name != left_out.get(split)):
            raise DataError(
                f"the split of {config['dataset']!r} leaves the {name} part empty; a user needs "
                "three rows at least to have one in each part"
            )
    rows = len(parts[0])
    if world > rows:
        raise ConfigError(f"`nproc` is {world}, but there are {rows} rows to train on; give less")
    items = parts[0].item_num - 1
    if max(config["topk"]) > items:
        raise ConfigError(
            f"`topk` is {config['topk']!r}, but the dataset has {items} items; give less"
        )
