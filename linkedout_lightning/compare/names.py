"""The encoders that a comparison knows by name, and what each row stands for."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from linkedout_lightning.errors import ConfigError

Kind = Literal["floor", "baseline", "method", "control", "fusion", "features", "ceiling"]

FLOORS = {"popularity": "Popularity", "cooccurrence": "Item co-occurrence"}
IDS = {"id": "ID", "id-dropout": "ID with item dropout"}
CONTROLS = {"random": "Random features", "shuffled": "Shuffled features", "last": "Last layer only"}
FUSIONS = {
    "mean": "Mean of layers",
    "concat": "Concatenated layers",
    "weighted-sum": "Weighted sum of layers",
    "dff": "DFF",
    "mlp": "Wide MLP",
}
EVERY_LAYER = "layer:*"
"""Stands for one row `layer:<k>` for each layer of the store."""
PATTERN = "popularity, cooccurrence, id, id-dropout, linkedout, random, shuffled, last, \
layer:<k>, layer:*, mean, concat, weighted-sum, dff, mlp, a name in `stores`; with +id those that \
read features"

_MEANING = {
    "popularity": "the most popular items of the training data, the same list for everybody",
    "cooccurrence": "items that follow the user's last items in the training data, counted",
    "id": "one learned vector an item, nothing else; the baseline",
    "id-dropout": "the same with a share of the items' vectors hidden in each training step",
    "linkedout": "layers of the frozen model, compressed and fused by a gate an item",
    "random": "normal noise of the same shape in place of the features, through the same encoder",
    "shuffled": "the features dealt out to the wrong items, through the same encoder",
    "last": "the last layer copied to every layer's place: the same encoder, equal parameters",
    "mean": "the same experts, their plain mean in place of the gate",
    "concat": "the same experts side by side, one linear map",
    "weighted-sum": "the same experts, one learned weight a layer for all items",
    "dff": "weighted sum of layers, ReLU, and a sigmoid gate with the ID (arXiv 2512.21863)",
    "mlp": "one MLP over the tokens of all layers, with the parameters of LinkedOut's experts and "
    "gate",
}


@dataclass(frozen=True)
class EncoderName:
    """An encoder's name taken apart.

    Attributes:
        name: As given, for example ``"linkedout+id"``.
        base: Without ``+id``.
        with_id: Whether a learned ID vector is concatenated.
        kind: Its part in the comparison.
        label: For people.
        meaning: What the row stands for, one phrase.
    """

    name: str
    base: str
    with_id: bool
    kind: Kind
    label: str
    meaning: str

    @property
    def wants_features(self) -> bool:
        """Whether it reads a feature store."""
        return self.kind != "floor" and self.base not in IDS

    @property
    def knows_ids(self) -> bool:
        """Whether a learned ID vector is part of it."""
        return self.with_id or self.base in (*IDS, "dff")

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.kind != "floor"


def parse_encoder(name: str, *, stores: Collection[str] = ()) -> EncoderName:
    """Take an encoder's name apart.

    Args:
        name: For example ``"linkedout+id"`` or ``"layer:16"``.
        stores: Names of further feature stores, each of which is an encoder's name too.

    Raises:
        ConfigError: There is no such encoder.

    Example:
        >>> parse_encoder("layer:16+id").label
        'ID + layer 16 only'
        >>> parse_encoder("mlp").kind
        'fusion'
    """
    base, plus, suffix = name.partition("+")
    with_id = suffix == "id"
    if (plus and not with_id) or (with_id and base in (*FLOORS, *IDS, "dff")):
        raise ConfigError(f"`encoders` holds {name!r}; give names among: {PATTERN}")
    kind: Kind
    meaning = _MEANING.get(base, "")
    if base in stores:
        kind = "ceiling" if base == "oracle" else "features"
        label = "Oracle" if base == "oracle" else base
        meaning = f"the features of the store {base!r} through the same encoder"
        if base == "oracle":
            meaning = "the true attributes as features: what perfect features would give"
    elif base in FLOORS:
        kind, label = "floor", FLOORS[base]
    elif base in IDS:
        kind, label = ("baseline" if base == "id" else "control"), IDS[base]
    elif base == "linkedout":
        kind, label = "method", "LinkedOut"
    elif base in CONTROLS:
        kind, label = "control", CONTROLS[base]
    elif base in FUSIONS:
        kind, label = "fusion", FUSIONS[base]
    elif base == EVERY_LAYER:
        kind, label, meaning = "control", "Each layer alone", "one row a layer of the store"
    elif match := re.fullmatch(r"layer:(-?\d+)", base):
        kind, label = "control", f"Layer {match[1]} only"
        meaning = f"the expert of layer {match[1]} alone, no fusion"
    else:
        named = f", or one of the stores {', '.join(stores)}" if stores else ""
        raise ConfigError(f"`encoders` holds {name!r}; give names among: {PATTERN}{named}")
    if with_id:
        spoken = label if label[:2].isupper() or base in stores else label[0].lower() + label[1:]
        label = f"ID + {'LinkedOut' if base == 'linkedout' else spoken}"
        meaning += "; concatenated with a learned ID vector"
    return EncoderName(name, base, with_id, kind, label, meaning)
