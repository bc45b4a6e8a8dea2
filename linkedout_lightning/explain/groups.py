"""Groups of items that figures are given for: all, categories, popularity deciles, cold ones.

Letters: N items, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.compare.tables import slice_label

ALL, CATEGORY, DECILE, COLD = "all", "category", "decile", "cold"


@dataclass(frozen=True)
class Groups:
    """Groups of a catalogue's items.

    Attributes:
        names: G names, unique.
        kinds: Of each group: all, category, decile or cold.
        members: ``(G, N)`` bool; row i of the catalogue is item index i + 1.
    """

    names: list[str]
    kinds: list[str]
    members: Tensor

    def of(self, *kinds: str) -> list[int]:
        """Positions of the groups of these kinds."""
        return [n for n, kind in enumerate(self.kinds) if kind in kinds]

    def to_json(self) -> list[dict[str, Any]]:
        """Name, kind, label and size of each."""
        counts = self.members.sum(1).tolist()
        return [
            {"name": name, "kind": kind, "label": label_of(name, kind), "items": count}
            for name, kind, count in zip(self.names, self.kinds, counts, strict=True)
        ]


def make_groups(
    categories: Sequence[str], slices: Mapping[str, Tensor], *, min_items: int
) -> Groups:
    """All items, the categories by size, and the popularity slices.

    Args:
        categories: Of each item, N; empty where it is not known.
        slices: Name to ``(N + 1,)`` bool, from the data module.
        min_items: Smaller categories are left out.

    Example:
        >>> slices = {"decile_1": torch.tensor([False, True, True, False])}
        >>> groups = make_groups(["a", "b", "a"], slices, min_items=2)
        >>> groups.names, groups.members.sum(1).tolist()
        (['all items', 'a', 'decile_1'], [3, 2, 2])
    """
    names, numbers = numbered(categories)
    known = numbers >= 0
    sizes = torch.bincount(numbers[known], minlength=len(names))
    big = [n for n in sizes.argsort(descending=True, stable=True).tolist() if sizes[n] >= min_items]
    taken = {"all items", *slices}
    chosen = [("all items", ALL, torch.ones(len(categories), dtype=torch.bool))]
    for n in big:
        name = names[n] if names[n] not in taken else f"category {names[n]}"
        chosen.append((name, CATEGORY, numbers == n))
    for name, mask in slices.items():
        if bool(mask[1:].any()):
            chosen.append((name, COLD if name == "cold" else DECILE, mask[1:].cpu()))
    group_names, kinds, members = zip(*chosen, strict=True)
    return Groups(list(group_names), list(kinds), torch.stack(list(members)))


def numbered(categories: Sequence[str]) -> tuple[list[str], Tensor]:
    """Names of the categories, sorted, and ``(N,)`` int64 of each item; -1 where not known.

    Example:
        >>> numbered(["b", "", "a"])
        (['a', 'b'], tensor([ 1, -1,  0]))
    """
    names = sorted({category for category in categories if category})
    place = {name: n for n, name in enumerate(names)}
    return names, torch.tensor([place.get(category, -1) for category in categories])


def label_of(name: str, kind: str) -> str:
    """A group's name for people."""
    return slice_label(name) if kind in (DECILE, COLD) else name


def group_means(values: Tensor, members: Tensor) -> Tensor:
    """Means by group.

    Args:
        values: ``(…, N, C)``.
        members: ``(G, N)`` bool, no group empty.

    Returns:
        ``(…, G, C)`` float64.

    Example:
        >>> group_means(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([[True, True, False]]))
        tensor([[2.]], dtype=torch.float64)
    """
    share = members.double()
    return (share / share.sum(1, keepdim=True)) @ values.double()
