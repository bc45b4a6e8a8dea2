"""What a module remembers of its last forward."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class LastLoss:
    """A loss of the last forward. It has a graph, so copies of the module start without it.

    ``deepcopy`` refuses tensors inside a graph, and an averaged model or RecBole's FLOP counter
    copies modules that were used.
    """

    loss: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> LastLoss:
        return LastLoss()

    def __reduce__(self) -> tuple[type[LastLoss], tuple[()]]:
        return LastLoss, ()
