"""A part of a store's token slots, with the surface of a store.

Letters: n items asked for, L layers, S slots, D LLM hidden size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from inspect import signature
from typing import Any

from torch import Tensor

from linkedout_lightning.encoders.sources import FeatureStoreLike
from linkedout_lightning.errors import ConfigError


class SlotsView:
    """A store that shows some of its slots, in the order asked.

    Layers need no such view: an encoder's ``use_layers`` picks them, and reads no others.

    Args:
        store: The store.
        slots: Names of its slots.

    Raises:
        ConfigError: A slot that the store does not have, one twice, or none.

    Example:
        >>> import torch
        >>> from linkedout_lightning.encoders.sources import TensorStore
        >>> store = TensorStore(torch.randn(5, 4, 2, 8), slots=("visual", "text"))
        >>> SlotsView(store, ["text"]).get(["1", "3"])[0].shape
        torch.Size([2, 4, 1, 8])
    """

    def __init__(self, store: FeatureStoreLike, slots: Sequence[str]) -> None:
        stored = tuple(store.spec.slots)
        if not slots or not set(slots) <= set(stored) or len(set(slots)) < len(slots):
            raise ConfigError(
                f"`slots` is {list(slots)}; give different ones of the store's: {', '.join(stored)}"
            )
        self._store = store
        self._places = [stored.index(slot) for slot in slots]
        self._takes_layers = "layers" in signature(store.get).parameters
        self.spec = SlotsSpec(store.spec, tuple(slots))

    @property
    def item_ids(self) -> Collection[str]:
        """Those of the store."""
        return self._store.item_ids

    def get(
        self, item_ids: Sequence[str], *, layers: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features ``(n, L, S, D)`` and mask ``(n, S)`` of these slots, in the order asked.

        Args:
            item_ids: n ids.
            layers: Names of the layers to keep, in that order; None: all.
        """
        if layers is None:
            features, mask = self._store.get(item_ids)
        elif self._takes_layers:
            store: Any = self._store
            features, mask = store.get(item_ids, layers=layers)
        else:
            features, mask = self._store.get(item_ids)
            features = features[:, [list(self.spec.layers).index(layer) for layer in layers]]
        return features[:, :, self._places], mask[:, self._places]


class SlotsSpec:
    """A store's specification with other slots; all else is the store's own.

    Args:
        spec: The store's specification.
        slots: Names of the slots shown.
    """

    def __init__(self, spec: Any, slots: tuple[str, ...]) -> None:
        self._spec, self.slots = spec, slots
        self.layers: Sequence[int] = spec.layers
        self.hidden_size: int = spec.hidden_size

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # a copy asks before there is a `_spec`
            raise AttributeError(name)
        return getattr(self._spec, name)
