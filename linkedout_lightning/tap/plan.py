"""Which items a job does, in which order, in which batches.

Results must not depend on where a job was killed. A row's bits may depend on what shares its
batch (padding, and kernels that are chosen by size), so batches are fixed: the work is a list in a
fixed order, cut greedily from its front into units, and a unit is committed whole. What a killed
job leaves is the rest of that list, which is cut in the same places.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.items import Item

if TYPE_CHECKING:
    from linkedout_lightning.store import FeatureStore
    from linkedout_lightning.tap.preparing import Preparer
    from linkedout_lightning.tap.types import TapInput

# Tokens of a batch of texts with padding: 32 titles fit easily, 32 long documents would not.
_BATCH_TOKENS = 16384


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        todo: Items to extract, in the table's order.
        fingerprints: What each of them is made from, by id.
        skipped: How many items are in the store already, unchanged.
        known_failures: Reasons of unchanged items that failed before and are not tried again.
    """

    todo: list[Item]
    fingerprints: dict[str, str]
    skipped: int
    known_failures: dict[str, str]


def plan_work(
    items: Sequence[Item],
    store: FeatureStore,
    *,
    columns: Sequence[str],
    watch: bool,
    retry_failed: bool = False,
) -> Work:
    """Find the items that are new or have changed.

    Args:
        items: The item table.
        store: What is there.
        columns: Columns that the prompt uses; a change in others does not matter.
        watch: Whether the model sees videos.
        retry_failed: Try items again that failed before.
    """
    known, failures = store.fingerprints(), store.failures
    work = Work([], {}, 0, {})
    skipped = 0
    for item in items:
        stamp = fingerprint(item, columns=columns, watch=watch)
        if known.get(item.item_id) != stamp:
            again = True
        elif item.item_id in failures:
            again = retry_failed
            if not again:
                work.known_failures[item.item_id] = failures[item.item_id]
        else:
            again = False
            skipped += 1
        if again:
            work.todo.append(item)
            work.fingerprints[item.item_id] = stamp
    return Work(work.todo, work.fingerprints, skipped, work.known_failures)


def fingerprint(item: Item, *, columns: Sequence[str], watch: bool) -> str:
    """What an item is made from, at the cost of one ``stat``: file size and time, and its texts."""
    parts = []
    if watch and item.video is not None:
        try:
            status = os.stat(item.video)
            parts.append(f"video:{status.st_size}:{status.st_mtime_ns}")
        except (OSError, ValueError):
            parts.append("video:unreadable")
    texts = {name: item.columns[name] for name in sorted(columns) if item.columns.get(name)}
    if texts:
        content = json.dumps(texts, ensure_ascii=True).encode()
        parts.append(f"text:{hashlib.sha256(content).hexdigest()[:24]}")
    return " ".join(parts) or "nothing"


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


def text_lengths(builder: Preparer, items: Sequence[Mapping[str, str]]) -> list[int]:
    """Tokens of each item's filled prompt."""
    lengths: list[int] = []
    for start in range(0, len(items), 1024):
        texts = [builder.template.fill(columns).text for columns in items[start : start + 1024]]
        encoded = builder.tokenizer(texts, add_special_tokens=False)
        lengths += map(len, encoded["input_ids"])
    return lengths


def text_batches(
    items: Sequence[TapInput], lengths: Sequence[int], *, batch_size: int
) -> Iterator[list[TapInput]]:
    """Items of like length together, longest first: if memory does not do, that shows at once."""
    order = sorted(range(len(items)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        fitting = _BATCH_TOKENS // max(1, lengths[order[start]])
        stop = start + max(1, min(batch_size, fitting))
        yield [items[i] for i in order[start:stop]]
        start = stop


def video_batches(
    items: Sequence[TapInput], lengths: Sequence[int], *, batch_size: int
) -> Iterator[list[TapInput]]:
    """Items of equal frame shapes together, and of like text length within."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, item in enumerate(items):
        shape = item.frames.data.shape if item.frames is not None else ()
        by_shape.setdefault(tuple(shape), []).append(index)
    for indices in by_shape.values():
        indices.sort(key=lambda i: -lengths[i])
        for start in range(0, len(indices), batch_size):
            yield [items[i] for i in indices[start : start + batch_size]]


def _hash(item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "big")
