"""What a native cell depends on: Lightning, this package's models and its data module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from linkedout_lightning.compare.files import absolute, content_digest
from linkedout_lightning.compare.tunables import (
    BACKBONES,
    LATER,
    NATIVE_DEFAULTS,
    OF_FEATURES,
    PRESETS,
    TUNABLE,
    one_of,
)
from linkedout_lightning.errors import ConfigError

if TYPE_CHECKING:
    from linkedout_lightning.compare.config import CompareConfig

__all__ = ["TUNABLE", "complete", "inputs", "protocol", "settings"]

DATA_SETTINGS = (
    "format",
    "preset",
    "split",
    "max_len",
    "min_len",
    "duplicates",
    "valid_share",
    "test_share",
    "cold_share",
    "user_column",
    "item_column",
    "time_column",
    "eval_batch_size",
)
"""Settings that are arguments of the data module, under the same names."""
DEFAULT_PRECISION = "32-true"


def complete(config: CompareConfig) -> dict[str, Any]:
    """The preset's values, or the defaults, for what was not given.

    Args:
        config: The comparison.

    Raises:
        ConfigError: A value contradicts the preset, or belongs to RecBole.
    """
    for name in ("dataset", "recbole_config", "recbole_settings"):
        if getattr(config, name):
            raise ConfigError(f"`{name}` is given, which the engine recbole reads; add `engine`")
    if not config.mask_history:
        raise ConfigError(
            "`mask_history` is false, which the engine recbole alone can do: the native ranking "
            "always leaves a user's history out"
        )
    if config.preset not in PRESETS:
        raise ConfigError(
            f"`preset` is {config.preset!r}; give microlens, or none (microlens-100k, with its "
            "files, is `linkedout_lightning.compare.presets.MicroLens100K`)"
        )
    if config.interactions is None:
        raise ConfigError(
            "`interactions` is not given; name a table of users, items and times, or take the "
            "engine recbole with `dataset`"
        )
    for name in config.backbones:
        one_of("backbones", name, BACKBONES)
    found = {}
    for name, value in (NATIVE_DEFAULTS | PRESETS[config.preset]).items():
        given = getattr(config, name)
        if given is None:
            found[name] = value
        elif config.preset and name in ("max_len", "min_len") and given != value:
            raise ConfigError(
                f"`{name}` is {given}, but the preset {config.preset!r} fixes it at {value}; "
                "drop one of the two"
            )
    return found


def inputs(config: CompareConfig) -> dict[str, Any]:
    """Digest of the interactions."""
    return {"interactions": content_digest(Path(str(config.interactions)))}


def settings(
    config: CompareConfig, encoder: str, backbone: str, store: str | None
) -> dict[str, Any]:
    """All that decides a cell's result.

    A key that finished cells do not have may stand here only while it is not at its default: every
    key is part of the fingerprint.
    """
    chosen = {name: getattr(config, name) for name in (*DATA_SETTINGS, "ks", "split_seed")}
    chosen |= {
        "interactions": str(Path(str(config.interactions)).absolute()),
        "store": absolute(store) if store else None,
    }
    name = config.encoder(encoder)
    if name.trains:
        chosen |= config.settings(encoder, backbone)
        for option in ("monitor", "accelerator", "keep_checkpoints"):
            chosen[option] = getattr(config, option)
        chosen["named_store"] = name.base in config.stores
        if config.precision != DEFAULT_PRECISION:
            chosen["precision"] = config.precision
        idle = {option for option, default in LATER.items() if chosen[option] == default}
        if not name.wants_features:
            idle |= set(OF_FEATURES)
            if chosen["output_norm"] != "none":
                # IDs once had none whatever this said: their cells are others.
                chosen["normed_ids"] = True
        if not name.knows_ids:
            idle.add("cold_calibration")  # its cold items are encoded as all others are
        if chosen["cold_calibration"] != "budget" or "cold_calibration" in idle:
            idle.add("cold_budget")
        chosen = {option: value for option, value in chosen.items() if option not in idle}
    return chosen


def protocol(config: CompareConfig) -> dict[str, Any]:
    """Split, ranking and settings."""
    names = ("preset", "split", "max_len", "min_len", "precision")
    return {
        **{name: getattr(config, name) for name in names},
        "data": Path(str(config.interactions)).name,
        "settings": {name: getattr(config, name) for name in TUNABLE},
        "ranking": "the whole catalogue, items of the user's history left out, ties against the "
        "model, one target a user, NDCG = 1/log2(rank + 1)",
        "choice": f"the epoch with the best validation {config.monitor}; the test is read once",
    }
