"""What a model sees of the interactions: two tuples of index tensors.

``B`` batch, ``M`` inputs, ``N`` items. Item indices run from 1 to ``N``; 0 is padding and stands
on the left of a sequence.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TrainBatch(NamedTuple):
    """Sequences to learn from: position ``m`` of the inputs predicts position ``m`` of the targets.

    Attributes:
        items: ``(B, M + 1)`` int64, left-padded with 0 and trimmed to the longest in the batch.
    """

    items: Tensor

    @property
    def inputs(self) -> Tensor:
        """``(B, M)``: all but the last item."""
        return self.items[:, :-1]

    @property
    def targets(self) -> Tensor:
        """``(B, M)``: the item after each input, 0 where the input is padding.

        The first item of a sequence follows nothing: it is no target, although it stands behind a
        padding position of a left-padded row.
        """
        return self.items[:, 1:] * (self.items[:, :-1] != 0)


class EvalBatch(NamedTuple):
    """Users to rank the whole catalogue for.

    Attributes:
        users: ``(B,)`` int64, index into the data module's ``user_ids``.
        inputs: ``(B, M)`` int64, left-padded with 0.
        target: ``(B,)`` int64, the one item that the user chose next.
        history: ``(B, Hmax)`` int64, 0-padded: every item that must not compete with the target.
    """

    users: Tensor
    inputs: Tensor
    target: Tensor
    history: Tensor
