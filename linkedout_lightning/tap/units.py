"""What is extracted and committed together; imports no torch, as workers that decode do not."""

from __future__ import annotations

from dataclasses import dataclass

from linkedout_lightning.tap.items import Item


@dataclass(frozen=True)
class Unit:
    """Items that are extracted and committed together, always the same ones.

    Attributes:
        number: Its place among the units.
        items: The items.
        watch: Whether files must be decoded for them.
    """

    number: int
    items: tuple[Item, ...]
    watch: bool
