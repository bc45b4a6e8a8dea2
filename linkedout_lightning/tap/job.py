"""Deciding what an extraction has to do, without the model's weights where that can be known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from linkedout_lightning.errors import DataError, StoreError
from linkedout_lightning.store import FeatureStore, StoreSpec
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.plan import Work, plan_work
from linkedout_lightning.tap.sink import store_spec

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap
    from linkedout_lightning.video import FrameSampler


@dataclass(frozen=True)
class Job:
    """What is to be done, and with what.

    Attributes:
        tap: The tap; without weights where there is no work.
        sampler: Where frames come from; None for a model that only reads text.
        spec: What the features are.
        store: Where they go; None if it is absent and was not to be made.
        work: The items.
    """

    tap: VideoLLMTap
    sampler: FrameSampler | None
    spec: StoreSpec
    store: FeatureStore | None
    work: Work


def decide(
    config: ExtractConfig,
    items: Sequence[Item],
    *,
    tap: VideoLLMTap | None = None,
    progress: bool = True,
    write: bool = True,
    weights: bool = True,
) -> Job:
    """Compare the items with the store, which is made if it is not there.

    Args:
        config: The extraction.
        items: Its items.
        tap: A tap to use in place of loading ``config.model``.
        progress: Let loading draw its bars.
        write: Make the store; without, an absent one is left absent and counts as empty.
        weights: The job's tap is to extract; without, its weights are loaded only where they must
            be to know what they are.

    Raises:
        ConfigError: An argument, or the model, is not usable.
        DataError: The prompt wants columns that the items do not have.
        StoreError: The store cannot be written.
        StoreSpecError: The store holds features of another model, prompt or sampler.
    """
    if tap is None:
        if (job := _nothing_left(config, items, progress=progress)) is not None:
            return job
        from linkedout_lightning.tap.opening import open_tap, outline_tap

        tap = None if weights else outline_tap(config, progress=progress)
        tap = tap or open_tap(config, progress=progress)
    _check_columns(config, tap, items)
    sampler = _sampler(config, tap)
    spec = store_spec(tap, sampler=sampler, dtype=config.store_dtype)
    store: FeatureStore | None = None
    if write:
        store = FeatureStore.create(config.out, spec, exist_ok=True)
    elif Path(config.out).is_dir() or "://" in config.out:
        store = FeatureStore.open(config.out)
        store.check_spec(spec)
    return Job(tap, sampler, spec, store, work_of(config, items, tap, store))


def _nothing_left(config: ExtractConfig, items: Sequence[Item], *, progress: bool) -> Job | None:
    """The job of a store that is complete, decided without weights; None: load the model.

    Only a specification that equals the store's in every field counts, so that what differs, or
    seems to, is judged by the model as it is loaded.
    """
    try:
        store = FeatureStore.open(config.out)
    except StoreError:
        return None
    known = store.fingerprints()
    if any(item.item_id not in known for item in items):
        return None
    from linkedout_lightning.tap.opening import outline_tap

    tap = outline_tap(config, progress=progress)
    if tap is None:
        return None
    _check_columns(config, tap, items)
    sampler = _sampler(config, tap)
    spec = store_spec(tap, sampler=sampler, dtype=config.store_dtype)
    if store.spec.differences(spec):
        return None
    work = work_of(config, items, tap, store)
    return None if work.todo else Job(tap, sampler, spec, store, work)


def work_of(
    config: ExtractConfig, items: Sequence[Item], tap: VideoLLMTap, store: FeatureStore | None
) -> Work:
    """What of some items is still to be done."""
    if store is None:
        return Work(list(items), 0, {})
    return plan_work(
        items, store, columns=tap.columns, sources=tap.sources, retry_failed=config.retry_failed
    )


def _sampler(config: ExtractConfig, tap: VideoLLMTap) -> FrameSampler | None:
    """The sampler of a model that sees, whether or not an item has a video today."""
    if not tap.sources:
        return None
    from linkedout_lightning.video import FrameSampler

    return FrameSampler(
        frames=tap.frames, size=config.size, backend=config.backend, timeout_s=config.timeout
    )


def _check_columns(config: ExtractConfig, tap: VideoLLMTap, items: Sequence[Item]) -> None:
    if config.items is None or not items:
        return
    there = items[0].columns
    if missing := [name for name in tap.columns if name not in there]:
        raise DataError(
            f"the prompt wants the columns {', '.join(missing)}, but {config.items!r} has "
            f"{', '.join(there) or 'none'} beside ids and videos; change `prompt`, or name the "
            "column of titles in `title_column`"
        )
