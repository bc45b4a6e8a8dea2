"""The extraction job: item table and videos in, feature store out."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Protocol

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.cutting import VIDEO_BATCH, VideoCutter, videos_a_unit
from linkedout_lightning.tap.estimate import estimate
from linkedout_lightning.tap.items import Item, read_items
from linkedout_lightning.tap.job import Job, decide
from linkedout_lightning.tap.joining import joined
from linkedout_lightning.tap.pipeline import Feed, PrepareThreads, WholeUnit
from linkedout_lightning.tap.plan import shard_of
from linkedout_lightning.tap.planned import ExtractPlan
from linkedout_lightning.tap.progress import Progress
from linkedout_lightning.tap.pruning import gone_from
from linkedout_lightning.tap.report import ExtractReport
from linkedout_lightning.tap.running import BatchRunner
from linkedout_lightning.tap.sink import StoreSink
from linkedout_lightning.tap.stamps import stamp
from linkedout_lightning.tap.tally import Tally
from linkedout_lightning.tap.types import TapOutput
from linkedout_lightning.tap.units import Unit

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap
    from linkedout_lightning.video import DecodePool


class Engine(Protocol):
    """Does what a job has to do, and fills in the tally."""

    def __call__(self, config: ExtractConfig, job: Job, run: Tally, *, progress: bool) -> None: ...


def extract(
    config: ExtractConfig, *, progress: bool = True, tap: VideoLLMTap | None = None
) -> ExtractReport | ExtractPlan:
    """Extract what the store does not hold yet.

    Items that are in the store unchanged are skipped, changed ones are extracted anew, and an item
    that yields nothing is recorded with its reason. A job may be killed at any instant: the next
    one does the rest, with results equal bit for bit to those of a job that was not disturbed.
    Several jobs on one store, on any machines that reach it, share the work as they go; when one
    dies the others do its part, and each ends when all of it is done. Where nothing is left to do,
    the model's weights are not loaded.

    Args:
        config: What to do.
        progress: Show a progress bar.
        tap: A tap to use in place of loading ``config.model``; its own layers, groups and prompt
            hold.

    Returns:
        Counts, reasons of failures, and where the time went; with ``config.plan`` what it would
        cost.

    Raises:
        ConfigError: An argument, or the model, is not usable.
        DataError: The item table is not usable.
        StoreError: The store cannot be written.
        StoreSpecError: The store holds features of another model, prompt or sampler.

    Example::

        report = extract(
            ExtractConfig(model="HuggingFaceTB/SmolVLM2-256M-Video-Instruct", out="features",
                          items="items.csv", videos="videos")
        )
    """
    started = time.monotonic()
    if config.engine != "local" and tap is not None:
        raise ConfigError(
            f"a `tap` stays in this process; with engine={config.engine!r} give `model` alone"
        )
    items = read_items(
        config.items,
        config.videos,
        covers=config.covers,
        id_column=config.id_column,
        video_column=config.video_column,
        cover_column=config.cover_column,
        title_column=config.title_column,
    )[: config.limit]
    if config.shard is not None:
        items = shard_of(items, config.shard)
    job = decide(
        config,
        items,
        tap=tap,
        progress=progress,
        write=not config.plan,
        weights=config.engine == "local" or bool(config.plan),
    )
    if config.plan:
        return estimate(
            config, job, items=len(items), loading=time.monotonic() - started, progress=progress
        )
    assert job.store is not None
    gone = gone_from(items, job.store) if config.prune else []
    run = Tally(job.tap, job.work)
    loaded = time.monotonic()
    if job.work.todo:
        _engine(config)(config, job, run, progress=progress)
    if gone:
        job.store.delete(gone)
    run.clock.add("total", started)
    run.clock.seconds["load"] = loaded - started + run.clock.of("load")
    return _report(job, run, items, pruned=len(gone))


def _engine(config: ExtractConfig) -> Engine:
    if config.engine == "local":
        return _share
    from linkedout_lightning.tap.engines.driving import share_on_ray

    return share_on_ray


def _share(config: ExtractConfig, job: Job, run: Tally, *, progress: bool) -> None:
    """Do what nobody else does, until all is done."""
    tap, store = job.tap, job.store
    assert store is not None
    cuda = tap.device.type == "cuda"
    with ExitStack() as stack:
        claims, source, units = stack.enter_context(joined(config, job, run))
        stamps: dict[str, str] = {}
        bar = stack.enter_context(Progress(len(run.work.todo), shown=progress))
        sink = stack.enter_context(StoreSink(store, fingerprints=stamps, background=True))
        threads = stack.enter_context(closing(PrepareThreads(tap, cuda=cuda, clock=run.clock)))
        pool = stack.enter_context(_decoders(config, job)) if any(u.watch for u in units) else None
        runner = BatchRunner(tap)
        cutter = VideoCutter(
            copy.deepcopy(tap.prepare),
            batch_size=config.batch_size or VIDEO_BATCH,
            batch_tokens=config.batch_tokens,
        )
        left = True
        while left:
            for watch in (True, False) if pool is not None else (False,):
                feed = Feed(
                    _stamped(source.take_free(watch=watch), tap, stamps),
                    cutter=cutter if watch else WholeUnit(),
                    preparer=threads,
                    pool=pool if watch else None,
                    sources=tap.sources,
                    clock=run.clock,
                )
                outputs: list[TapOutput] = []
                failures: dict[str, str] = {}
                for done in runner.stream(feed):
                    outputs += done.outputs
                    failures |= done.failures | done.piece.failures
                    claims.show_life()
                    bar.advance(
                        len(done.piece.items) + len(done.piece.failures),
                        failed=len(done.failures) + len(done.piece.failures),
                        tokens=runner.tokens,
                    )
                    if done.piece.last:
                        number = done.piece.unit.number
                        output = TapOutput.cat(outputs) if outputs else None
                        sink.add(output, failures, then=partial(source.complete, [number]))
                        outputs, failures = [], {}
            sink.flush()
            bar.others(source.by_others)
            left = source.wait(bar.waiting)
        bar.others(source.by_others)
        run.done, run.failures, run.tokens = sink.done, sink.failures, runner.tokens
        run.clock.seconds |= {
            "transfer": runner.transfer_seconds,
            "model": runner.model_seconds,
            "write": sink.seconds,
            "prepare": run.clock.of("prepare") + runner.prepare_seconds,
        }


def _stamped(units: Iterator[Unit], tap: VideoLLMTap, stamps: dict[str, str]) -> Iterator[Unit]:
    """Note what items are made from before they are decoded: a later change is seen as one."""
    for unit in units:
        for item in unit.items:
            stamps[item.item_id] = stamp(item, columns=tap.columns, sources=tap.sources)
        yield unit


def _decoders(config: ExtractConfig, job: Job) -> DecodePool:
    from linkedout_lightning.video import DecodePool

    assert job.sampler is not None
    ahead = videos_a_unit(config.batch_size)
    return DecodePool(job.sampler, workers=config.workers, ahead=ahead)


def _report(job: Job, run: Tally, items: Sequence[Item], *, pruned: int) -> ExtractReport:
    store = job.store
    assert store is not None
    failures = job.work.known_failures | run.failures
    if run.by_others:
        mine = {item.item_id for item in items}
        failures = {item: why for item, why in store.failures.items() if item in mine}
    return ExtractReport(
        out=store.path,
        items=len(items),
        done=run.done,
        by_others=run.by_others,
        skipped=job.work.skipped,
        pruned=pruned,
        failed=len(failures),
        failed_before=len(failures) - len(run.failures),
        reasons=dict(Counter(failures.values()).most_common(10)),
        failures=failures,
        seconds={part: round(spent, 3) for part, spent in run.clock.seconds.items()},
        tokens=run.tokens,
        store_items=len(store),
        bytes_per_item=job.spec.bytes_per_item,
        versions=job.spec.versions,
        notes=(*run.notes, *_notes(job.tap, items, job.spec.versions, store.spec.versions)),
    )


def _notes(
    tap: VideoLLMTap, items: Sequence[Item], now: dict[str, str], then: dict[str, str]
) -> Iterator[str]:
    without = sum(item.video is None for item in items)
    if not tap.sees and without < len(items):
        yield "this model only reads text: the videos were left out"
    elif tap.sees and without:
        yield f"{without} items have no video file: their text was used alone"
    for name in sorted(now.keys() & then.keys()):
        if now[name] != then[name]:
            yield f"the store was begun with {name} {then[name]}, now it is {now[name]}"


__all__ = ["ExtractConfig", "ExtractReport", "extract"]
