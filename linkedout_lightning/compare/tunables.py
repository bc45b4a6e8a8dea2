"""Settings of a comparison that overrides may change, their ranges, and published presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linkedout_lightning.encoders.calibration import CALIBRATIONS
from linkedout_lightning.errors import ConfigError

BACKBONES = ("sasrec", "gru4rec", "nextitnet")
SPLITS = ("leave_one_out", "temporal", "cold_items")
LOSSES = ("full", "in_batch", "sampled")

OF_ENCODER = (
    "dim",
    "rank",
    "compressor",
    "queries",
    "top_k",
    "temperature",
    "balance_weight",
    "id_dropout",
    "item_dropout",
    "expert_dropout",
    "whitening_power",
    "output_norm",
    "missing",
)
"""Settings of the item encoder, the same whatever engine trains it."""

OF_TRAINING = ("lr", "batch_size", "epochs", "patience")
"""Settings of the training that every engine has."""

LATER: dict[str, Any] = {
    "layers": None,
    "slots": None,
    "id_fusion": "concat",
    "cold_calibration": "none",
    "cold_budget": 0.01,
    "candidates": "all",
}
"""Settings that came after cells had been finished, and the values that those cells had: at these
they are no part of a cell, whose fingerprint stays what it was."""

OF_FEATURES = ("layers", "slots", "id_fusion", "cold_calibration", "cold_budget")
"""Those of them that mean nothing to an encoder without features."""

TUNABLE = (
    *OF_ENCODER,
    *OF_TRAINING,
    *LATER,
    "blocks",
    "heads",
    "gru_layers",
    "loss",
    "negatives",
    "weight_decay",
    "dropout",
    "gradient_clip",
)
"""Settings that `overrides` may change for an encoder, a backbone or one pair of them."""

PRESETS: dict[str | None, dict[str, Any]] = {
    None: {
        "split": "leave_one_out",
        "max_len": 50,
        "min_len": 3,
        "duplicates": "drop",
        "loss": "full",
        "weight_decay": 0.01,
    },
    # The authors' SASRec code: the last 13 items, at most 10 of them inputs.
    "microlens": {
        "split": "leave_one_out",
        "max_len": 10,
        "min_len": 5,
        "duplicates": "keep",
        "loss": "in_batch",
        "weight_decay": 0.1,
    },
}
NATIVE_DEFAULTS: dict[str, Any] = {
    "dim": 128,
    "lr": 1e-3,
    "batch_size": 512,
    "eval_batch_size": 1024,
    "epochs": 50,
    "patience": 5,
}
"""What the native engine takes where nothing is given; RecBole has its own."""

_ANY = float("inf")
RANGES: dict[str, tuple[float, float, type]] = {
    "dim": (1, _ANY, int),
    "rank": (1, _ANY, int),
    "queries": (1, _ANY, int),
    "top_k": (1, _ANY, int),
    "temperature": (1e-6, _ANY, float),
    "balance_weight": (0, _ANY, float),
    "id_dropout": (0, 0.99, float),
    "item_dropout": (0, 0.99, float),
    "expert_dropout": (0, 0.99, float),
    "cold_budget": (0, 1, float),
    "whitening_power": (0, 1, float),
    "blocks": (1, _ANY, int),
    "gru_layers": (1, _ANY, int),
    "heads": (1, _ANY, int),
    "negatives": (1, _ANY, int),
    "lr": (1e-12, _ANY, float),
    "weight_decay": (0, _ANY, float),
    "dropout": (0, 0.99, float),
    "gradient_clip": (0, _ANY, float),
    "batch_size": (1, _ANY, int),
    "eval_batch_size": (1, _ANY, int),
    "epochs": (1, _ANY, int),
    "patience": (0, _ANY, int),
    "valid_share": (0.001, 0.499, float),
    "test_share": (0.001, 0.499, float),
    "cold_share": (0.001, 0.999, float),
    "split_seed": (0, _ANY, int),
    "max_len": (1, _ANY, int),
    "min_len": (1, _ANY, int),
    "jobs": (1, _ANY, int),
    "threads": (0, _ANY, int),
    "devices": (1, _ANY, int),
    "bootstrap": (100, _ANY, int),
}
_CHOICES = {
    "split": SPLITS,
    "duplicates": ("drop", "keep"),
    "loss": LOSSES,
    "missing": ("error", "zero", "mean"),
    "output_norm": ("none", "layer", "unit"),
    "compressor": ("latent", "mlp", "mean"),
    "id_fusion": ("none", "add", "concat", "gate"),
    "cold_calibration": CALIBRATIONS,
    "candidates": ("all", "trained"),
}
_NAMES: dict[str, tuple[type, str]] = {
    "layers": (int, "layers of the store by their numbers"),
    "slots": (str, "slots of the store by their names"),
}


def check_settings(values: Mapping[str, Any], *, where: str) -> None:
    """Refuse settings out of range.

    Args:
        values: Settings by name; None stands for one that is not given.
        where: Put before a name in the message.

    Raises:
        ConfigError: The first value that is not usable.
    """
    for name, (low, high, kind) in RANGES.items():
        value = values.get(name)
        if value is None:
            continue
        right_type = isinstance(value, (int, float) if kind is float else int)
        if isinstance(value, bool) or not right_type or not low <= value <= high:
            limits = f"from {low}" if high == _ANY else f"from {low} to {high}"
            word = "an integer" if kind is int else "a number"
            raise ConfigError(f"`{where}{name}` is {value!r}; give {word} {limits}")
    for name, legal in _CHOICES.items():
        if values.get(name) is not None:
            one_of(f"{where}{name}", values[name], legal)
    for name, (member, what) in _NAMES.items():
        chosen = values.get(name)
        if chosen is not None and (
            not isinstance(chosen, (list, tuple))
            or not chosen
            or any(isinstance(c, bool) or not isinstance(c, member) for c in chosen)
        ):
            raise ConfigError(f"`{where}{name}` is {chosen!r}; give a list of {what}, or none")


def one_of(name: str, value: Any, legal: Any) -> None:
    """Refuse a value that is not among the legal ones, by one sentence."""
    if value not in legal:
        raise ConfigError(f"`{name}` has {value!r}; give one of: {', '.join(map(str, legal))}")
