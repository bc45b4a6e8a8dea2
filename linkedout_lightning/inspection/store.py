"""What a feature store holds, in a bounded amount of memory whatever its size."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from linkedout_lightning.inspection.command import InspectConfig
from linkedout_lightning.inspection.rows import RowSearch
from linkedout_lightning.inspection.statistics import layer_statistics, near_duplicates, pooled
from linkedout_lightning.store import FeatureStore, StoreBatch

if TYPE_CHECKING:
    from linkedout_lightning.store import DiskUsage

_READ = 8 * 2**30  # Bytes of features that are read where nothing else is asked for.
_BATCH = 32 * 2**20  # Bytes of features that are held at once, as stored.
_SAMPLE = 256 * 2**20  # Bytes of the sample's pooled vectors.
_REASONS = 20


def store_facts(config: InspectConfig, *, progress: bool = False) -> dict[str, Any]:
    """Everything that ``linkedout inspect`` says of a store, as JSON-able values.

    Args:
        config: The store, and how much of it to read.
        progress: Show a bar.

    Raises:
        StoreError: There is no store, or it has no such version.
    """
    store = FeatureStore.open(config.path, version=config.version)
    failures, spec = store.failures, store.spec
    reasons = Counter(failures.values())
    facts: dict[str, Any] = {
        "path": store.path,
        "items": len(store),
        "failures": {
            "count": len(failures),
            "with_older_features": sum(item_id in store for item_id in failures),
            "distinct_reasons": len(reasons),
            "reasons": dict(reasons.most_common(_REASONS)),
        },
        "versions": _versions(store),
        "pieces": store.pieces,
        "bytes": _bytes(store.disk_usage(), len(store), spec.bytes_per_item),
        "spec": spec.to_json(),
    }
    if len(store):
        facts |= _read(store, config, progress=progress)
    return facts


def _versions(store: FeatureStore) -> dict[str, Any]:
    listed = store.versions()
    return {
        "shown": store.version,
        "count": len(listed),
        "oldest": listed[0].version,
        "newest": listed[-1].version,
        "oldest_written": listed[0].timestamp.isoformat(timespec="seconds"),
        "newest_written": listed[-1].timestamp.isoformat(timespec="seconds"),
    }


def _bytes(usage: DiskUsage, items: int, bytes_per_item: int) -> dict[str, Any]:
    return {
        "on_disk": usage.total,
        **asdict(usage),
        # Rows of failures take no space; without looking, all replaced ones may hold features.
        "unseen_in_current": min(
            (usage.deleted_rows + usage.superseded_rows) * bytes_per_item, usage.current
        ),
        "per_item": bytes_per_item,
        "features": items * bytes_per_item,
    }


def _read(store: FeatureStore, config: InspectConfig, *, progress: bool) -> dict[str, Any]:
    spec = store.spec
    layers, _, width = spec.shape
    most = max(2, _SAMPLE // (layers * width * 4))
    sampled = _drawn(store.item_ids, min(config.sample, most))
    vectors = torch.cat([pooled(b.features, b.mask) for b in _batches(store, sampled)])

    wanted = _READ // spec.bytes_per_item if config.rows is None else config.rows or len(store)
    everything = wanted >= len(store)
    chosen = None if everything else _drawn(store.item_ids, wanted)
    search = RowSearch(vectors, spec.layers, listed=config.listed)
    filled = torch.zeros(len(spec.slots))
    seen: list[str] = []
    for batch in _shown(_batches(store, chosen), min(wanted, len(store)), progress):
        search.add(*batch)
        filled += batch.mask.sum(0)
        seen += batch.item_ids

    groups = search.duplicates()
    # Of equal rows one stands for all, and rows of zeros for none: they are counted above.
    again = {seen[place] for group in groups for place in group[1:]}
    alone = [n for n, i in enumerate(sampled) if i not in again and vectors[n].any()]
    pairs, nearest = near_duplicates(vectors[alone], cosine=config.near, listed=config.listed)
    return {
        "sample": len(sampled),
        "layers": layer_statistics(vectors, spec.layers),
        "slots": dict(zip(spec.slots, (filled / max(1, search.looked_at)).tolist(), strict=True)),
        "rows": {
            "looked_at": search.looked_at,
            "all": everything,
            "dead": {
                name: {"count": count, "examples": search.examples[name]}
                for name, count in search.counts.items()
            },
            "duplicates": {
                "groups": len(groups),
                "items": sum(map(len, groups)),
                "examples": [_of(seen, group) for group in groups[: config.listed]],
            },
            "near_duplicates": {
                "cosine": config.near,
                "among": len(alone),
                "pairs": pairs,
                "examples": [
                    {"items": [sampled[alone[a]], sampled[alone[b]]], "cosine": cosine}
                    for a, b, cosine in nearest
                ],
            },
        },
    }


def _of(item_ids: Sequence[str], places: Sequence[int]) -> list[str]:
    return [item_ids[place] for place in places]


def _drawn(item_ids: Sequence[str], count: int) -> list[str]:
    """Some items at random, the same ones every time."""
    if count >= len(item_ids):
        return list(item_ids)
    return sorted(random.Random(0).sample(item_ids, count))


def _batches(store: FeatureStore, item_ids: Sequence[str] | None) -> Iterator[StoreBatch]:
    size = max(1, _BATCH // store.spec.bytes_per_item)
    return store.iter_batches(item_ids, batch_size=size)


def _shown(batches: Iterator[StoreBatch], total: int, progress: bool) -> Iterator[StoreBatch]:
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="inspect", unit="item", disable=not progress) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.item_ids))
