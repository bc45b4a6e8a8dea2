"""A few items that stand for all."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Sequence
from itertools import pairwise

from linkedout_lightning.tap.items import Item

_LOOKED_AT = 20_000  # files whose size is asked for


def choose(
    items: Sequence[Item], count: int, *, sources: Collection[str], seed: int = 0
) -> list[Item]:
    """Draw a stratified sample: the items by the size of their files, one of each equal span.

    What decoding costs goes with the size, so a sample of all sizes says more than as many drawn
    blindly, and every item has the same chance.

    Args:
        items: All items of one kind.
        count: How many to draw.
        sources: Which of their files count.
        seed: Of the draws.

    Returns:
        ``count`` items, or all of them, in a random order.
    """
    chance = random.Random(seed)
    pool = list(items) if len(items) <= _LOOKED_AT else chance.sample(list(items), _LOOKED_AT)
    pool.sort(key=lambda item: _bytes(item, sources))
    count = min(count, len(pool))
    edges = [round(i * len(pool) / count) for i in range(count + 1)] if count else []
    chosen = [pool[chance.randrange(low, high)] for low, high in pairwise(edges)]
    chance.shuffle(chosen)
    return chosen


def shares(counts: Sequence[int], count: int, *, least: int = 4) -> list[int]:
    """How many of a sample go to each kind: in proportion, but some of each.

    Args:
        counts: Items of each kind.
        count: Size of the sample.
        least: Items of every kind that has so many.

    Example:
        >>> shares([900, 100, 0], 16)
        [14, 4, 0]
    """
    whole = max(1, sum(counts))
    return [min(n, max(round(count * n / whole), min(least, count))) for n in counts]


def _bytes(item: Item, sources: Collection[str]) -> int:
    total = 0
    for source in sources:
        path = getattr(item, source)
        if path is not None:
            try:
                total += os.stat(path).st_size
            except (OSError, ValueError):
                continue
    return total
