"""The rank of every evaluated row's target, unrounded, from RecBole's own scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from linkedout_lightning.errors import NonFiniteError


class RowRanks(NamedTuple):
    """One entry for each row of an evaluation, in the order of the dataset.

    Attributes:
        users: ``(E,)`` int64, RecBole's user ids.
        targets: ``(E,)`` int64, RecBole's item ids.
        ranks: ``(E,)`` int64, 1 is best; ties count against the model.
    """

    users: Tensor
    targets: Tensor
    ranks: Tensor


def ranks_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Ranks of targets in rows of masked scores.

    Args:
        scores: ``(B, V)``; minus infinity where an item does not compete.
        targets: ``(B,)`` int64.

    Returns:
        ``(B,)`` int64.

    Raises:
        NonFiniteError: A score is NaN, with which every comparison is false and would count as a
            hit, or a target's is not finite.

    Example:
        >>> ranks_of(torch.tensor([[-float("inf"), 0.3, 0.9, 0.3]]), torch.tensor([3]))
        tensor([3])
    """
    own = scores.gather(1, targets[:, None])
    if bool(scores.isnan().any()) or not bool(own.isfinite().all()):
        raise NonFiniteError("the model gives scores that are NaN, or infinite for a target")
    return (scores >= own).sum(1)


class RankLog:
    """Collects the ranks of one evaluation."""

    def __init__(self) -> None:
        self._users: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._ranks: list[Tensor] = []

    def add(self, users: Tensor, targets: Tensor, scores: Tensor) -> None:
        """One batch: users ``(B,)``, targets ``(B,)``, masked scores ``(B, V)``."""
        self._ranks.append(ranks_of(scores, targets.to(scores.device)).cpu())
        self._users.append(users.cpu())
        self._targets.append(targets.cpu())

    def rows(self) -> RowRanks | None:
        """The rows so far, in the order of their batches; None if there were none."""
        if not self._ranks:
            return None
        return RowRanks(*(torch.cat(c) for c in (self._users, self._targets, self._ranks)))

    @staticmethod
    def join(parts: Sequence[RowRanks | None], order: Tensor | None) -> RowRanks | None:
        """The rows of several processes as one.

        Args:
            parts: What each has; None for one without rows.
            order: ``(E,)``, where each row stands among the parts put one after another.
        """
        found = [part for part in parts if part is not None]
        if not found:
            return None
        columns = [torch.cat(column) for column in zip(*found, strict=True)]
        return RowRanks(*(column if order is None else column[order] for column in columns))
