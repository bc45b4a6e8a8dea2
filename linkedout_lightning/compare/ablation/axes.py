"""The axes: what of a recipe is changed, and to what.

A value is a set of changes of settings. Beside the settings of a comparison there is ``encoder``,
which replaces the base's own, its ID apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

Shape = Literal["depth", "pairs", "count", "rows"]


@dataclass(frozen=True)
class Value:
    """One value of an axis.

    Attributes:
        label: For people.
        changes: Settings that are different from the base's, by name.
        at: Where it stands on a numeric axis: a layer, two layers, a count.
    """

    label: str
    changes: Mapping[str, Any]
    at: tuple[int, ...] = ()


@dataclass(frozen=True)
class Axis:
    """One thing that is changed.

    Attributes:
        name: As the user gives it.
        title: For people.
        question: What its picture answers.
        values: What it is changed to; may hold what the base has.
        shape: How it is drawn.
    """

    name: str
    title: str
    question: str
    values: tuple[Value, ...]
    shape: Shape = "rows"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the values of an axis depend on.

    Attributes:
        layers: Layers of the store.
        slots: Token groups of the store.
        hidden_size: Width of its features.
        rank: Rank of the base.
        with_id: Whether the base has an ID vector.
        max_pairs: Most pairs of layers.
    """

    layers: tuple[int, ...]
    slots: tuple[str, ...]
    hidden_size: int
    rank: int
    with_id: bool
    max_pairs: int


def evenly_spaced(members: Sequence[int], count: int) -> tuple[int, ...]:
    """``count`` of the members, evenly spaced, the last among them.

    Example:
        >>> evenly_spaced((4, 8, 12, 16, 20, 24), 3), evenly_spaced((1, 2, 3), 1)
        ((8, 16, 24), (3,))
    """
    total = len(members)
    return tuple(members[(2 * total * (i + 1) + count) // (2 * count) - 1] for i in range(count))


def build_axis(name: str, around: Surroundings, *, values: Sequence[Any] | None = None) -> Axis:
    """The axis of that name.

    Args:
        name: One of :data:`AXES`, or a setting.
        around: Store and base.
        values: Values of a setting.

    Returns:
        An axis without values if there is nothing to change, such as the pairs of one layer.
    """
    if values is not None:
        title = name.replace("_", " ").capitalize()
        chosen = tuple(Value(_said(value), {name: value}) for value in values)
        return Axis(name, title, f"What the setting {name} does.", chosen)
    title, question, shape, build = AXES[name]
    return Axis(name, title, question, tuple(build(around)), shape)


def _layers(around: Surroundings) -> list[Value]:
    values = [_of_layers((layer,), f"layer {layer}") for layer in around.layers]
    return [*values, _of_layers(around.layers, f"all {len(values)} layers")]


def _pairs(around: Surroundings) -> list[Value]:
    members = around.layers
    while len(members) > 2 and len(members) * (len(members) - 1) // 2 > around.max_pairs:
        members = evenly_spaced(around.layers, len(members) - 1)
    return [_of_layers(pair) for pair in combinations(members, 2)]


def _spread(around: Surroundings) -> list[Value]:
    total = len(around.layers)
    counts = sorted({c for c in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if c < total} | {total})
    return [_of_layers(evenly_spaced(around.layers, count), at=(count,)) for count in counts]


def _without(around: Surroundings) -> list[Value]:
    if len(around.layers) < 2:
        return []
    return [
        Value(
            f"without layer {layer}",
            {"layers": tuple(other for other in around.layers if other != layer)},
            (layer,),
        )
        for layer in around.layers
    ]


def _slots(around: Surroundings) -> list[Value]:
    slots = around.slots
    if len(slots) < 2:
        return []
    values = [Value(f"{slot} alone", {"slots": (slot,)}) for slot in slots]
    if len(slots) > 2:
        values += [
            Value(f"without {slot}", {"slots": tuple(other for other in slots if other != slot)})
            for slot in slots
        ]
    return [*values, Value(f"all {len(slots)} groups", {"slots": slots})]


def _compressors(around: Surroundings) -> list[Value]:
    values = [
        Value("latent queries", {"compressor": "latent"}),
        Value("one mean, one map", {"compressor": "mean"}),
    ]
    new = [slot for slot in around.slots if slot == "last" or slot.startswith("generated")]
    if new and len(new) < len(around.slots):  # it compares old tokens with new ones
        values.append(Value("old against new tokens", {"compressor": "mlp"}))
    return values


def _whitening(around: Surroundings) -> list[Value]:
    values = [
        Value("off (centred and rotated)", {"whitening_power": 0.0}),
        Value("half (power 0.5)", {"whitening_power": 0.5}),
        Value(f"full, rank {around.rank}", {"whitening_power": 1.0}),
    ]
    ranks = {around.rank // 4, around.rank // 2, 2 * around.rank}
    # A rank above the width of the features is cut to it, and would be the same row.
    largest = min(around.rank, around.hidden_size)
    ranks = {r for r in ranks if 1 <= r <= around.hidden_size and r != largest}
    return [*values, *(Value(f"rank {rank}", {"rank": rank}) for rank in sorted(ranks))]


def _gate(around: Surroundings) -> list[Value]:
    values = [Value("dense", {"top_k": None})]
    values += [Value(f"top {k}", {"top_k": k}) for k in (1, 2, 4) if k < len(around.layers)]
    return [
        *values,
        Value("temperature 0.5", {"temperature": 0.5}),
        Value("temperature 2", {"temperature": 2.0}),
        Value("balance loss 0.01", {"balance_weight": 0.01}),
    ]


def _id_dropout(around: Surroundings) -> list[Value]:
    if not around.with_id:
        return []
    return [Value(f"{share:g}", {"id_dropout": share}) for share in (0.0, 0.1, 0.2, 0.4, 0.6)]


def _controls(around: Surroundings) -> list[Value]:
    del around
    return [
        Value("ID alone", {"encoder": "id"}),
        Value("ID alone, with item dropout", {"encoder": "id-dropout"}),
        Value("random features", {"encoder": "random"}),
        Value("shuffled features", {"encoder": "shuffled"}),
        Value("last layer in every place", {"encoder": "last"}),
    ]


def _fixed(setting: str, **labels: str) -> Callable[[Surroundings], list[Value]]:
    def build(around: Surroundings) -> list[Value]:
        del around
        return [Value(label, {setting: _NAMED.get(name, name)}) for name, label in labels.items()]

    return build


_NAMED = {"weighted_sum": "weighted-sum"}  # a keyword has no hyphen

AXES: dict[str, tuple[str, str, Shape, Callable[[Surroundings], list[Value]]]] = {
    "layers": (
        "Layers, each alone",
        "Which depth of the model carries what the recommender needs, and whether all layers "
        "together are worth more than the best one.",
        "depth", _layers,
    ),
    "pairs": ("Pairs of layers", "Which two layers complete each other.", "pairs", _pairs),
    "spread": (
        "Evenly spaced layers",
        "How many layers are enough.",
        "count", _spread,
    ),
    "without": (
        "All layers but one",
        "Which layer is missed when it is gone; none, where the others know the same.",
        "depth", _without,
    ),
    "slots": ("Token groups", "Which tokens carry the knowledge.", "rows", _slots),
    "fusers": (
        "Fusers",
        "Whether a gate for each item is worth more than simpler ways to join layers, and than one "
        "MLP with equal parameters.",
        "rows",
        _fixed(
            "encoder", linkedout="mixture of experts", mean="mean of experts",
            concat="concatenation", weighted_sum="weighted sum", dff="DFF",
            mlp="wide MLP, equal parameters",
        ),
    ),
    "gate": ("The gate", "Dense or sparse, sharp or soft.", "rows", _gate),
    "compressors": (
        "Compressors", "How the tokens of a layer become one vector.", "rows", _compressors,
    ),
    "whitening": (
        "Whitening", "Whether isotropic tokens help, and how many dimensions.", "rows", _whitening,
    ),
    "id_fusion": (
        "ID fusion",
        "How a learned ID vector joins the features.",
        "rows",
        _fixed(
            "id_fusion", none="features alone", add="sum", concat="concatenation", gate="gate",
        ),
    ),
    "id_dropout": (
        "ID dropout",
        "How often to hide the ID in training, so that the features learn to speak for an item.",
        "rows", _id_dropout,
    ),
    "losses": (
        "Loss",
        "What the softmax runs over.",
        "rows",
        _fixed(
            "loss", full="full catalogue", in_batch="in-batch, corrected",
            sampled="sampled negatives",
        ),
    ),
    "controls": (
        "Controls",
        "What the recipe gives without features, or with features that know nothing.",
        "rows", _controls,
    ),
}  # fmt: skip
"""Title, question, shape and values of each axis by name."""

DEFAULT_AXES = tuple(name for name in AXES if name not in ("without", "gate"))


def _of_layers(layers: Sequence[int], label: str = "", at: tuple[int, ...] = ()) -> Value:
    label = label or _sentence(layers)
    return Value(label, {"layers": tuple(layers)}, at or tuple(layers))


def _sentence(layers: Sequence[int]) -> str:
    listed = ", ".join(map(str, layers))
    if len(layers) > 6:
        return f"{len(layers)} layers: {layers[0]}, {layers[1]}, … {layers[-1]}"
    return f"layer {listed}" if len(layers) == 1 else f"layers {listed}"


def _said(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
