"""Each batch dealt out among processes, so that together they see what one process sees.

RecBole gives each process batches of its own and pads the last, so that some rows are counted
twice. Here every process forms the batches of a process alone, with the same random numbers, and
keeps each ``world``-th row: no row is lost or doubled, and negatives are those of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Shared:
    """Put in front of one of RecBole's loaders by :func:`shared`.

    Attributes:
        rank: This process.
        world: Processes that share the batches.
    """

    rank: int
    world: int
    sample_size: int
    step: int

    def collate_fn(self, index: list[int]) -> Any:
        """This process's part of a batch; None if it has none."""
        # Whole first: negatives and masks are drawn in turn, and every process must draw them all.
        batch = super().collate_fn(index)  # type: ignore[misc]
        if self.rank >= len(index):
            return None
        if not isinstance(batch, tuple):
            return self._rows(batch, of=len(index))
        return self._evaluated(*batch, of=len(index))

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():  # type: ignore[misc]
            if batch is not None or not self._evaluates():
                yield batch

    def order(self) -> Tensor:
        """Where each sample of the loader stands once the processes' are put one after another."""
        samples = torch.arange(self.sample_size)
        dealt = [samples[samples % self.step % self.world == rank] for rank in range(self.world)]
        return torch.argsort(torch.cat(dealt))

    def _evaluates(self) -> bool:
        from recbole.data.dataloader import TrainDataLoader

        return not isinstance(self, TrainDataLoader)

    def _rows(self, interaction: Any, *, of: int) -> Any:
        # Negatives stand in whole copies of the batch behind it: row, row + B, row + 2 B, ...
        kept = torch.arange(len(interaction)) % of % self.world == self.rank
        return _chosen(interaction, kept)

    def _evaluated(self, interaction: Any, place: Any, row: Any, item: Any, *, of: int) -> Any:
        if row is None:  # labelled rows, without targets to rank
            return self._rows(interaction, of=of), None, None, None
        kept = row % self.world == self.rank
        target, item = row[kept] // self.world, item[kept]
        if isinstance(place, Tensor):  # which sample each row of the interaction belongs to
            own = place % self.world == self.rank
            return _chosen(interaction, own), place[own] // self.world, target, item
        if place is not None:  # the history's rows and items
            past, taken = place
            own = past % self.world == self.rank
            place = (past[own] // self.world, taken[own])
        return self._rows(interaction, of=of), place, target, item


def shared(kind: type[Any], *, rank: int, world: int) -> type[Any]:
    """The class of a loader that gives one process's part of each batch.

    Args:
        kind: RecBole's class.
        rank: The process.
        world: How many share.
    """
    if world == 1:
        return kind
    return type(kind.__name__, (Shared, kind), {"rank": rank, "world": world})


def _chosen(interaction: Any, rows: Tensor) -> Any:
    from recbole.data.interaction import Interaction

    return Interaction({name: column[rows] for name, column in interaction.interaction.items()})
