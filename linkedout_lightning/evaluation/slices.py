"""Slices of a catalogue by how often training meets its items."""

from __future__ import annotations

import torch
from torch import Tensor


def popularity_slices(counts: Tensor) -> dict[str, Tensor]:
    """Slices of a catalogue of N items, ``(N + 1,)`` bool each.

    Args:
        counts: ``(N + 1,)`` how often training meets each item; row 0 is padding.

    Returns:
        ``decile_1`` (most popular) to ``decile_10``, equally many *items* of those that training
        sees, ordered by their count (ties by index), and ``cold``, the others.

    Example:
        >>> slices = popularity_slices(torch.tensor([0, 5, 0, 9]))
        >>> slices["decile_1"].nonzero().flatten(), slices["cold"].nonzero().flatten()
        (tensor([3]), tensor([2]))
    """
    warm = (counts > 0).nonzero()[:, 0]
    by_popularity = warm[counts[warm].argsort(descending=True, stable=True)]
    slices = {}
    for number, part in enumerate(by_popularity.tensor_split(10), start=1):
        slices[f"decile_{number}"] = torch.zeros(len(counts), dtype=torch.bool)
        slices[f"decile_{number}"][part] = True
    slices["cold"] = counts == 0
    slices["cold"][0] = False
    return slices
