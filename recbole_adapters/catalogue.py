"""Which items a RecBole dataset has, and how they meet a feature store's.

``N`` items, without RecBole's padding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.encoders.sources import FeatureStoreLike
from linkedout_lightning.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The items of a dataset, in the order of RecBole's internal ids.

    Attributes:
        item_ids: Tokens of the items 1 to N.
        train_items: ``(N + 1,)`` bool, items that occur in training, as target or as input.
        field: Name of the item column.
    """

    item_ids: tuple[str, ...]
    train_items: Tensor
    field: str

    @classmethod
    def of(cls, dataset: Any) -> Catalogue:
        """That of a split dataset's training part.

        Args:
            dataset: RecBole's ``SequentialDataset`` that the training loader reads.
        """
        field = dataset.iid_field
        tokens = tuple(str(token) for token in dataset.field2id_token[field][1:])
        seen = torch.zeros(len(tokens) + 1, dtype=torch.bool)
        rows = dataset.inter_feat
        for column in (field, field + dataset.config["LIST_SUFFIX"]):
            if column in rows:
                seen[torch.as_tensor(rows[column]).flatten()] = True
        seen[0] = False
        return cls(tokens, seen, field)


@dataclass(frozen=True)
class Alignment:
    """How the items of a dataset and those of a store meet.

    Attributes:
        items: Items of the dataset.
        with_features: Of these, items that the store has.
        without_features: Of these, items that it lacks.
        unused: Items of the store that the dataset does not have.
        missing: The rule for items without features: error, zero or mean.
        examples: A few items without features.
    """

    items: int
    with_features: int
    without_features: int
    unused: int
    missing: str
    examples: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)

    def summary(self) -> str:
        """One line for people."""
        line = f"{self.with_features} of {self.items} items have features"
        if self.without_features:
            line += f", {self.without_features} have none (rule: {self.missing})"
        if self.unused:
            line += f"; {self.unused} items of the store are not in the dataset"
        return line


def align(catalogue: Catalogue, store: FeatureStoreLike, *, where: str, missing: str) -> Alignment:
    """Count how a dataset and a store meet, and refuse a store of other items.

    Args:
        catalogue: The dataset's items.
        store: The features.
        where: Names the store in errors.
        missing: Rule for items without features.

    Raises:
        DataError: No item has features, or the rule is ``error`` and an item has none.
    """
    stored = set(store.item_ids)
    absent = [item for item in catalogue.item_ids if item not in stored]
    found = len(catalogue.item_ids) - len(absent)
    if not found:
        raise DataError(
            f"no item of the dataset has features in {where}: the column {catalogue.field!r} holds "
            f"items such as {_few(catalogue.item_ids)}, the store such as {_few(sorted(stored))}; "
            + _other_spelling(catalogue.item_ids, stored)
        )
    if absent and missing == "error":
        raise DataError(
            f"{len(absent)} of {len(catalogue.item_ids)} items of the dataset have no features in "
            f"{where}, such as {_few(absent)}; extract them, or set `missing: zero` or "
            "`missing: mean`"
        )
    return Alignment(
        items=len(catalogue.item_ids),
        with_features=found,
        without_features=len(absent),
        unused=len(stored) - found,
        missing=missing,
        examples=tuple(absent[:5]),
    )


def check_width(width: int | None, wanted: int, *, encoder: str) -> int:
    """The width to build an encoder with.

    Raises:
        ConfigError: A copy of the model's own table cannot have another width.
    """
    if width is not None and width != wanted and encoder == "identity":
        raise ConfigError(
            f"`linkedout.dim` is {width}, but encoder 'identity' copies a table of width {wanted}"
        )
    return wanted if width is None else width


def _other_spelling(tokens: Iterable[str], stored: Iterable[str]) -> str:
    """The way out: the same items written otherwise, or a store of other items."""
    by_core = {_core(item): item for item in stored}
    pairs = [(by_core[core], t) for t in tokens if (core := _core(t)) in by_core]
    if not pairs:
        return "name the store of these items, or the item column by ITEM_ID_FIELD"
    item, token = pairs[0]
    return (
        f"the store's {item!r} is written {token!r} in the dataset, and so with "
        f"{len(pairs)} of its items: write them alike, for example by extracting again"
    )


def _core(item: str) -> str:
    """What is left of an id without case, surroundings, file suffix and padding of numbers."""
    core = re.sub(r"\.(0+|[a-z]\w{1,4})$", "", item.strip().lower())
    return core.lstrip("0") or core


def _few(names: Any) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:3])
    return shown or "none"
