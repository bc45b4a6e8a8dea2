"""Which items a job does: those that are new or have changed, and its share of them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.stamps import unchanged

if TYPE_CHECKING:
    from linkedout_lightning.store import FeatureStore


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        todo: Items to extract, in the table's order.
        skipped: How many items are in the store already, unchanged.
        known_failures: Reasons of unchanged items that failed before and are not tried again.
    """

    todo: list[Item]
    skipped: int
    known_failures: dict[str, str]


def plan_work(
    items: Sequence[Item],
    store: FeatureStore,
    *,
    columns: Sequence[str],
    sources: Collection[str],
    retry_failed: bool = False,
) -> Work:
    """Find the items that are new or have changed.

    Args:
        items: The item table.
        store: What is there.
        columns: Columns that the prompt uses; a change in others does not matter.
        sources: Which files of an item the model sees.
        retry_failed: Try items again that failed before.
    """
    known, failures = store.fingerprints(), store.failures
    todo: list[Item] = []
    known_failures: dict[str, str] = {}
    skipped = 0
    for item in items:
        made_from = known.get(item.item_id)
        if made_from is None or not unchanged(made_from, item, columns=columns, sources=sources):
            todo.append(item)
        elif item.item_id not in failures:
            skipped += 1
        elif retry_failed:
            todo.append(item)
        else:
            known_failures[item.item_id] = failures[item.item_id]
    return Work(todo, skipped, known_failures)


def shard_of(items: Sequence[Item], shard: str) -> list[Item]:
    """The share of one of several jobs, by a hash of the id: new items move no others.

    Args:
        items: All items.
        shard: ``"i/n"``, the ``i``-th of ``n``, from 1.

    Raises:
        ConfigError: Anything else.
    """
    first, _, last = shard.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ConfigError(f"`shard` is {shard!r}; give 'i/n' with i from 1 to n, such as '1/4'")
    index, count = int(first) - 1, int(last)
    return [item for item in items if _hash(item.item_id) % count == index]


def _hash(item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "big")
