"""Floors that need no training: what is popular, and what was met by the same users.

``B`` users, ``N`` items, ``E`` rows, ``P`` pairs.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError


class Scorer(Protocol):
    """Scores the whole catalogue for a batch of users."""

    def scores(self, inputs: Tensor, history: Tensor | None = None) -> Tensor:
        """``(B, N + 1)`` float; column 0 is padding."""
        ...


class Popularity:
    """Everyone gets what was met most often in training.

    Args:
        train_counts: ``(N + 1,)`` how often training meets each item.

    Example:
        >>> Popularity(torch.tensor([0, 5, 2])).scores(torch.tensor([[1], [2]]))
        tensor([[0., 5., 2.],
                [0., 5., 2.]])
    """

    def __init__(self, train_counts: Tensor) -> None:
        if train_counts.ndim != 1 or len(train_counts) < 2:
            raise DataError(f"counts must be (N + 1,), got {tuple(train_counts.shape)}")
        self.counts = train_counts.float()

    def scores(self, inputs: Tensor, history: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """``(B, N + 1)``: the counts, once a user."""
        return self.counts.expand(len(inputs), -1)


class CoOccurrence:
    """Items that followed the user's items in the training sequences of others.

    ``score(j) = sum over the distinct inputs i of n(i, j) / n(i)``, where ``n(i, j)`` counts the
    pairs of ``i`` before ``j`` in one training sequence, at any distance alike, and ``n(i)`` the
    occurrences of ``i`` in training.

    Args:
        items: ``(E,)`` flat items that the training sequences are cut from.
        start: ``(S,)`` ranges in ``items``.
        stop: ``(S,)``.
        num_items: ``N``.
        window: Longest distance of a pair; None for the whole sequence, whose cost is quadratic.

    Example:
        >>> items = torch.tensor([1, 2, 3, 1, 2])
        >>> floor = CoOccurrence(items, torch.tensor([0, 3]), torch.tensor([3, 5]), num_items=3)
        >>> floor.scores(torch.tensor([[0, 1]]))
        tensor([[0.0000, 0.0000, 1.0000, 0.5000]])
    """

    def __init__(
        self,
        items: Tensor,
        start: Tensor,
        stop: Tensor,
        *,
        num_items: int,
        window: int | None = None,
    ) -> None:
        lengths = stop - start
        longest = int(lengths.max()) - 1 if len(lengths) else 0
        if window is not None and window < 1:
            raise ConfigError(f"`window` must be at least 1 or None, got {window}")
        width = num_items + 1
        owner = torch.repeat_interleave(torch.arange(len(start)), lengths)
        first = lengths.cumsum(0) - lengths
        row = start[owner] + torch.arange(len(owner)) - first[owner]
        flat = items[row]  # (E',) only rows of training, sequence by sequence
        pairs = torch.zeros(0, dtype=torch.int64)
        counts = torch.zeros(0, dtype=torch.int64)
        for distance in range(1, min(longest, window or longest) + 1):
            same = owner[distance:] == owner[:-distance]
            keys = flat[:-distance][same] * width + flat[distance:][same]
            # Merged as we go, so that memory is bounded by the distinct pairs.
            pairs, place = torch.unique(torch.cat([pairs, keys]), return_inverse=True)
            counts = torch.zeros_like(pairs).index_add_(
                0, place, torch.cat([counts, torch.ones_like(keys)])
            )
        self.num_items = num_items
        self._next = pairs % width  # (P,) the later item of a pair, grouped by the earlier one
        self._stop = torch.bincount(pairs // width, minlength=width).cumsum(0)
        self._start = torch.cat([self._stop.new_zeros(1), self._stop[:-1]])
        occurrences = torch.bincount(flat, minlength=width)
        self._weight = counts.float() / occurrences[pairs // width]

    def scores(self, inputs: Tensor, history: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """``(B, N + 1)`` float32 from inputs ``(B, M)``; 0 is padding, repeats count once."""
        met = inputs.sort(dim=1).values
        met[:, 1:].masked_fill_(met[:, 1:] == met[:, :-1], 0)
        user, column = met.nonzero(as_tuple=True)
        item = met[user, column]
        lengths = self._stop[item] - self._start[item]
        owner = torch.repeat_interleave(torch.arange(len(item)), lengths)
        first = lengths.cumsum(0) - lengths
        pair = self._start[item][owner] + torch.arange(len(owner)) - first[owner]
        scores = torch.zeros(len(met), self.num_items + 1)
        cell = user[owner] * (self.num_items + 1) + self._next[pair]
        scores.view(-1).index_add_(0, cell, self._weight[pair])
        return scores
