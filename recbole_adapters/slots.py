"""Where each RecBole model keeps its item vectors, and the models that cannot take others."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from typing import Any

from linkedout_lightning.errors import ConfigError

SLOTS: dict[str, tuple[str, ...]] = {
    "HGN": ("item_embedding", "item_embedding_for_prediction"),
    "FPMC": ("IU_emb", "LI_emb", "IL_emb"),
    "RepeatNet": ("item_matrix",),
}
"""Attributes that hold item vectors, of models that have others than ``item_embedding``."""

STAYS_WITH_IDS: dict[str, str] = {
    "BERT4Rec": "`output_bias`, one learned number an item",
    "TransRec": "`bias`, one learned number an item",
    "RepeatNet": "`explore_recommendation_decoder.matrix_for_explore`, the weights by which new "
    "items are scored: the item encoder is seen on the input side alone",
    "NPE": "`embedding_seq_item`, a second table that RecBole's NPE never reads",
    "GRU4RecKG": "`entity_embedding`, the knowledge-graph vectors that it was given",
}
"""What of a model stays bound to item ids although its item vectors come from an encoder.

Parameters are in backticks, by their names in the model. All other models have none.
"""

REFUSED: dict[str, str] = {
    "DIN": "its item vectors are rows of one table that all columns share; there is no item table "
    "to take the place of",
    "DIEN": "its item vectors are rows of one table that all columns share; there is no item table "
    "to take the place of",
    "KSR": "RecBole 1.2.1 cannot train it at all, as it multiplies its float32 states with the "
    "float64 relation vectors that it was given",
}
"""Models that an item encoder cannot be put into, and why."""


@cache
def sequential_models() -> dict[str, str]:
    """Names of RecBole's sequential models and the modules that hold them."""
    package = importlib.import_module("recbole.model.sequential_recommender")
    files = {name for _, name, _ in pkgutil.iter_modules(package.__path__)}
    return {
        name: f"{package.__name__}.{name.lower()}"
        for name, value in vars(package).items()
        if isinstance(value, type) and name.lower() in files
    }


def find_model(name: str) -> type[Any]:
    """A sequential model of RecBole by its name.

    Args:
        name: As RecBole spells it, such as ``SASRec``; case does not matter.

    Raises:
        ConfigError: No such model, or not a sequential one.
    """
    known = sequential_models()
    spelled = {spelling.lower(): spelling for spelling in known}.get(name.lower())
    if spelled is None:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ConfigError(
            f"`model` is {name!r}, which is no sequential model of RecBole; {hint}"
            f"give one of: {', '.join(sorted(known))}"
        )
    found: type[Any] = getattr(importlib.import_module(known[spelled]), spelled)
    return found


def check_adaptable(model: type[Any]) -> None:
    """Refuse models that cannot take an item encoder.

    Raises:
        ConfigError: The model is no sequential one, or one of :data:`REFUSED`.
    """
    from recbole.model.abstract_recommender import SequentialRecommender

    if not (isinstance(model, type) and issubclass(model, SequentialRecommender)):
        raise ConfigError(
            f"`model` is {model!r}, which is no sequential model of RecBole; item encoders take "
            "the place of the item table of sequential models alone"
        )
    for name in (cls.__name__ for cls in model.__mro__):
        if name in REFUSED:
            raise ConfigError(f"{name} cannot take an item encoder: {REFUSED[name]}")


def slots_of(model: type[Any]) -> tuple[str, ...]:
    """Names of the attributes of a model that hold item vectors.

    A class of one's own may name them in ``item_slots``; a subclass has its parent's.
    """
    for cls in model.__mro__:
        if "item_slots" in vars(cls):
            return tuple(vars(cls)["item_slots"])
        if cls.__name__ in SLOTS:
            return SLOTS[cls.__name__]
    return ("item_embedding",)


def stays_with_ids(model: type[Any]) -> str | None:
    """What of a model stays bound to item ids, for people; None: nothing."""
    found = (
        STAYS_WITH_IDS[cls.__name__] for cls in model.__mro__ if cls.__name__ in STAYS_WITH_IDS
    )
    return next(found, None)
