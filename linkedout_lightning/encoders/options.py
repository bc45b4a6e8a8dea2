"""Options of the encoder, resolved against what the store and the catalogue hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError, UnknownItemError
from linkedout_lightning.fusion.fusers import single_layer

OUTPUT_NORMS = ("none", "layer", "unit")


class OutputNorm(nn.Module):
    """What binds the length of the item vectors.

    Args:
        name: ``none``, ``layer`` or ``unit``.
        dim: H.

    Raises:
        ConfigError: An unknown name.
    """

    def __init__(self, name: str, dim: int) -> None:
        super().__init__()
        if name not in OUTPUT_NORMS:
            raise ConfigError(f"`output_norm` is {name!r}; give one of {', '.join(OUTPUT_NORMS)}")
        self.name = name
        if name == "layer":
            self.norm = nn.LayerNorm(dim)
            with torch.no_grad():
                self.norm.weight.fill_(dim**-0.5)

    def forward(self, vectors: Tensor) -> Tensor:
        """``(n, H)`` to ``(n, H)``."""
        if self.name == "layer":
            normed: Tensor = self.norm(vectors)
            return normed
        return nn.functional.normalize(vectors, dim=-1) if self.name == "unit" else vectors


def recorded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder's arguments as JSON-able values, without its store and its catalogue.

    Args:
        arguments: ``locals()`` at the start of the constructor.

    Example:
        >>> recorded({"self": 0, "store": 1, "dim": 8, "token_dtype": torch.float32})
        {'dim': 8, 'token_dtype': 'float32'}
    """
    own = {"self", "__class__", "store", "item_ids", "train_item_ids"}
    found = {name: value for name, value in arguments.items() if name not in own}
    for name, value in found.items():
        if isinstance(value, torch.dtype):
            found[name] = str(value).removeprefix("torch.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found[name] = list(value)
    return found


def training_rows(item_ids: Sequence[str], train_item_ids: Iterable[str] | None) -> list[int]:
    """Catalogue rows of the training items, ascending.

    Raises:
        ConfigError: No items, ids that repeat, or no training item.
        UnknownItemError: Training ids that the catalogue lacks.

    Example:
        >>> training_rows(["a", "b", "c"], ["c", "a"])
        [0, 2]
    """
    row_of = {item: row for row, item in enumerate(item_ids)}
    if not row_of or len(row_of) != len(item_ids):
        raise ConfigError(
            f"`item_ids` holds {len(item_ids)} ids, {len(row_of)} different ones; give at least "
            "one, each once"
        )
    if train_item_ids is None:
        return list(range(len(item_ids)))
    wanted = list(dict.fromkeys(train_item_ids))
    unknown = [item for item in wanted if item not in row_of]
    if unknown:
        raise UnknownItemError(
            unknown, "`item_ids`, the catalogue that `train_item_ids` is part of"
        )
    if not wanted:
        raise ConfigError("`train_item_ids` is empty; leave it out if all items are trained on")
    return sorted(row_of[item] for item in wanted)


def pick_layers(
    stored: tuple[int, ...], use_layers: Sequence[int] | None, fuser: str
) -> tuple[int, ...]:
    """Positions on the store's layer axis that the experts read.

    Args:
        stored: Names of the store's layers.
        use_layers: Names wanted, in order, may repeat; None: all.
        fuser: ``last`` and ``layer:<k>`` keep one of them.

    Raises:
        ConfigError: A layer that the store does not have, or none.

    Example:
        >>> pick_layers((8, 16, 24), (24, 24), "moe"), pick_layers((8, 16, 24), None, "layer:16")
        ((2, 2), (1,))
    """
    wanted = stored if use_layers is None else tuple(use_layers)
    unknown = sorted(set(wanted) - set(stored))
    if unknown or not wanted:
        raise ConfigError(
            f"`use_layers` is {list(wanted)}; the store has layers {', '.join(map(str, stored))}"
        )
    positions = tuple(stored.index(layer) for layer in wanted)
    single = single_layer(fuser, wanted)
    return positions if single is None else (positions[single],)


def pick_pair(
    slots: tuple[str, ...],
    old: Sequence[int | str] | None,
    new: Sequence[int | str] | None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Slot positions of the old and the new group of the compressor ``mlp``.

    Args:
        slots: Names of the S axis.
        old: Names or positions; None: all slots that are not in the new group.
        new: Names or positions; None: the slots named ``generated…``, else the slot ``last``.

    Raises:
        ConfigError: A slot that is not there, or no new group to be found by name.

    Example:
        >>> pick_pair(("visual", "text", "generated:16"), None, None)
        ((0, 1), (2,))
    """

    def position(slot: int | str) -> int:
        if isinstance(slot, str) and slot in slots:
            return slots.index(slot)
        if isinstance(slot, int) and 0 <= slot < len(slots):
            return slot
        raise ConfigError(f"there is no slot {slot!r}; the store has {', '.join(slots)}")

    if new is None:
        found = [i for i, name in enumerate(slots) if name.startswith("generated")]
        found = found or [i for i, name in enumerate(slots) if name == "last"]
        if not found:
            raise ConfigError(
                "the compressor 'mlp' compares old with new tokens, and no slot is named "
                f"'generated…' or 'last' among {', '.join(slots)}; give `new_slots`, or take the "
                "compressor 'latent' or 'mean'"
            )
        second = tuple(found)
    else:
        second = tuple(map(position, new))
    if old is None:
        return tuple(i for i in range(len(slots)) if i not in second), second
    return tuple(map(position, old)), second
