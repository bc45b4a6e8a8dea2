"""Where frozen features come from: a store, or tensors at hand with the surface of one.

Letters: n items asked for, N items, L layers, S slots, D LLM hidden size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError


class StoreSpecLike(Protocol):
    """What is read of a store's specification."""

    @property
    def layers(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def slots(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def hidden_size(self) -> int: ...  # noqa: D102


class FeatureStoreLike(Protocol):
    """What is needed of a store; :class:`linkedout_lightning.FeatureStore` is one.

    A ``get`` that takes ``layers=``, the names of the layers to keep, is asked for no others.
    """

    @property
    def spec(self) -> StoreSpecLike: ...  # noqa: D102
    @property
    def item_ids(self) -> Collection[str]: ...  # noqa: D102

    def get(self, item_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features ``(n, L, S, D)`` and mask ``(n, S)`` in the order asked."""
        ...


@dataclass(frozen=True)
class TensorSpec:
    """Names of the axes of tensors that stand in for a store.

    Attributes:
        layers: Names of the L axis.
        slots: Names of the S axis.
        hidden_size: D.
        assumed: Which of these names were made up, as the caller gave none.
    """

    layers: tuple[int, ...]
    slots: tuple[str, ...]
    hidden_size: int
    assumed: tuple[str, ...] = ()


class TensorStore:
    """Features that the caller holds, with the surface of a store.

    Args:
        features: ``(N, L, S, D)`` floating; kept as it is, no copy.
        mask: ``(N, S)`` bool; None: every slot is valid.
        item_ids: N ids, by default ``"1"`` to ``str(N)``.
        layers: Names of the L axis, by default 0 to L−1.
        slots: Names of the S axis, by default ``slot:0`` and on.

    Raises:
        DataError: A wrong shape or dtype.
        ConfigError: Names that are too few, too many or repeated.
    """

    def __init__(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        *,
        item_ids: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        slots: Sequence[str] | None = None,
    ) -> None:
        if features.dim() != 4 or 0 in features.shape or not features.is_floating_point():
            raise DataError(
                f"features are {features.dtype} of shape {tuple(features.shape)}; give a floating "
                "tensor (N, L, S, D): items, layers, token slots, hidden size"
            )
        count, depth, width, hidden = features.shape
        mask = torch.ones(count, width, dtype=torch.bool) if mask is None else mask
        if mask.shape != (count, width) or mask.dtype != torch.bool:
            raise DataError(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; expected bool of shape "
                f"({count}, {width}), True where a slot holds a token"
            )
        ids = [str(i) for i in range(1, count + 1)] if item_ids is None else list(item_ids)
        self.spec = TensorSpec(
            layers=tuple(range(depth) if layers is None else layers),
            slots=tuple((f"slot:{s}" for s in range(width)) if slots is None else slots),
            hidden_size=hidden,
            assumed=tuple(n for n, v in (("layers", layers), ("slots", slots)) if v is None),
        )
        for name, given, wanted in (
            ("item_ids", len(ids), count),
            ("layers", len(self.spec.layers), depth),
            ("slots", len(self.spec.slots), width),
        ):
            if given != wanted:
                raise ConfigError(f"`{name}` holds {given} names; the features have {wanted}")
        self._rows = {item: row for row, item in enumerate(ids)}
        if len(self._rows) != count:
            raise ConfigError(f"`item_ids` repeats {count - len(self._rows)} of its {count} ids")
        self._features, self._mask = features.detach(), mask.to(features.device)

    @property
    def item_ids(self) -> list[str]:
        """The ids, in the order of the tensors' rows."""
        return list(self._rows)

    def get(
        self, item_ids: Sequence[str], *, layers: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features ``(n, L, S, D)`` and mask ``(n, S)`` in the order asked.

        Args:
            item_ids: n ids.
            layers: Names of the layers to keep, in that order; None: all.
        """
        device = self._features.device
        rows = torch.tensor([self._rows[i] for i in item_ids], device=device)
        if layers is None:
            return self._features[rows], self._mask[rows]
        places = torch.tensor([self.spec.layers.index(name) for name in layers], device=device)
        return self._features[rows.unsqueeze(1), places], self._mask[rows]
