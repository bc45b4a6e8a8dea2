"""What an item encoder is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class ItemEncoder(Protocol):
    """Item indices in, vectors out; index 0 is padding and has the zero vector.

    Any ``nn.Module`` with these members works wherever this package takes an item encoder.

    Attributes:
        dim: Width of an item vector.
        num_items: N, without the padding; indices run from 1 to N.

    Example:
        >>> from linkedout_lightning.encoders import IDItemEncoder
        >>> isinstance(IDItemEncoder(10, dim=4), ItemEncoder)
        True
    """

    dim: int
    num_items: int

    def __call__(self, item_index: Tensor) -> Tensor:
        """``(…)`` integers 0 to N, any shape, to ``(…, dim)``; nothing is deduplicated."""
        ...

    def all_items(self) -> Tensor:
        """``(N + 1, dim)``, differentiable; row 0 is zero."""
        ...
