"""Which settings are tried, and how the trials are drawn.

Random search: in few trials it looks at more values of what matters than a grid does (Bergstra and
Bengio, 2012), every trial is independent of the others, and the budget of a row is its number of
trials, which is the same for all rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from linkedout_lightning.compare.files import digest
from linkedout_lightning.compare.names import parse_encoder

OF_ALL: dict[str, tuple[Any, ...]] = {
    "lr": (3e-4, 5e-4, 1e-3, 2e-3),
    "dim": (64, 128, 256),
    "dropout": (0.1, 0.2, 0.3, 0.5),
    "weight_decay": (0.0, 0.01, 0.1),
    "loss": ("in_batch", "full"),
}
"""Settings of every row's training and sequence model."""
OF_IDS: dict[str, tuple[Any, ...]] = {
    "item_dropout": (0.0, 0.1, 0.2, 0.4),
    "output_norm": ("none", "layer"),
}
"""Settings of the row ``id``; with item dropout above 0 it is the row ``id-dropout``."""
OF_FEATURES: dict[str, tuple[Any, ...]] = {
    "rank": (128, 256),
    "queries": (1, 2, 4),
    "whitening_power": (0.5, 1.0),
    "output_norm": ("none", "layer"),
    "expert_dropout": (0.0, 0.1, 0.2),
}
"""Settings of a row that reads features."""
OF_BOTH: dict[str, tuple[Any, ...]] = {
    "id_dropout": (0.0, 0.1, 0.2, 0.4),
    "id_fusion": ("concat", "add", "gate"),
}
"""Settings of a row with features and an ID vector."""
OF_ROWS = frozenset({*OF_IDS, *OF_FEATURES, *OF_BOTH})
"""Settings that not all rows have."""
DEFAULTS: dict[str, Any] = {"item_dropout": 0.0}
"""What the first trial has where the settings of a comparison have another default."""

Space = dict[str, tuple[Any, ...]]


def space_of(encoder: str, values: Mapping[str, Sequence[Any]]) -> tuple[Space, Space]:
    """What is tried of a row: what all rows share, and what is its own.

    Args:
        encoder: The row.
        values: The user's values of settings; one for all rows if no row has it as its own. A list
            of one value fixes a setting. ``row/setting`` is for one row alone.
    """
    name = parse_encoder(encoder)
    own: Space = {}
    if name.base == "id":
        own |= OF_IDS
    if name.wants_features:
        own |= OF_FEATURES
        own |= OF_BOTH if name.knows_ids else {}
    of_all = {k: tuple(v) for k, v in values.items() if k not in OF_ROWS and "/" not in k}
    shared = OF_ALL | of_all
    given = dict(values) | {k: values[f"{encoder}/{k}"] for k in own if f"{encoder}/{k}" in values}
    return shared, {k: tuple(given.get(k, v)) for k, v in own.items()}


def draw(shared: Space, own: Space, *, trials: int, seed: int, row: str) -> list[dict[str, Any]]:
    """Settings of each trial but the first, which has the base's.

    The k-th trial of all rows has the same shared settings, so that no row is luckier with them.

    Args:
        shared: Values that all rows choose among.
        own: Values of the row.
        trials: How many trials, the first included.
        seed: Of the draws.
        row: The row's name; its own settings are drawn apart from other rows'.

    Returns:
        Settings by name; fewer trials than asked for where they would repeat one another.
    """
    apart = np.random.default_rng([seed, int(digest(row)[:8], 16)])
    found: dict[str, dict[str, Any]] = {}
    for some in islice(_without_replacement(shared, seed=seed), trials - 1):
        some |= {name: values[int(apart.integers(len(values)))] for name, values in own.items()}
        found[digest(some)] = some
    return list(found.values())


def _without_replacement(space: Space, *, seed: int) -> Iterator[dict[str, Any]]:
    """All combinations in a random order, then once more from the front."""
    sizes = [len(values) for values in space.values()]
    order = np.random.default_rng(seed).permutation(math.prod(sizes))
    for index in cycle(order):
        places = np.unravel_index(index, sizes)
        yield {name: space[name][int(at)] for name, at in zip(space, places, strict=True)}
