"""The extraction job: item table and videos in, feature store out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.items import Item, read_items
from linkedout_lightning.tap.job import decide
from linkedout_lightning.tap.plan import (
    Work,
    shard_of,
    text_batches,
    text_lengths,
    video_batches,
)
from linkedout_lightning.tap.progress import Progress
from linkedout_lightning.tap.report import ExtractReport
from linkedout_lightning.tap.running import BatchRunner
from linkedout_lightning.tap.sink import StoreSink
from linkedout_lightning.tap.types import TapInput, TapOutput

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap
    from linkedout_lightning.video import FrameSampler

_VIDEO_BATCH, _TEXT_BATCH = 8, 32
_WINDOW = 4  # Batches whose videos are decoded before they are sorted by shape.
_FEW_PIECES = 16


def extract(
    config: ExtractConfig, *, progress: bool = True, tap: VideoLLMTap | None = None
) -> ExtractReport:
    """Extract what the store does not hold yet.

    Items that are in the store unchanged are skipped, changed ones are extracted anew, and an item
    that yields nothing is recorded with its reason. A job may be killed at any instant: the next
    one does the rest, with results equal bit for bit to those of a job that was not disturbed.
    Where nothing is left to do, the model's weights are not loaded.

    Args:
        config: What to do.
        progress: Show a progress bar.
        tap: A tap to use in place of loading ``config.model``; its own layers, groups and prompt
            hold.

    Returns:
        Counts, reasons of failures, and where the time went.

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
    items = read_items(
        config.items,
        config.videos,
        id_column=config.id_column,
        video_column=config.video_column,
        title_column=config.title_column,
    )[: config.limit]
    if config.shard is not None:
        items = shard_of(items, config.shard)
    job = decide(config, items, tap=tap, progress=progress)
    tap, work, store = job.tap, job.work, job.store
    seconds = {"load": time.monotonic() - started, "decode_wait": 0.0}
    runner = BatchRunner(tap)
    with (
        Progress(len(work.todo), shown=progress) as bar,
        StoreSink(store, fingerprints=work.fingerprints) as sink,
    ):
        _watch(config, work, runner, sampler=job.sampler, sink=sink, bar=bar, seconds=seconds)
        _read(config, work, runner, sink=sink, bar=bar)
    if work.todo and store.pieces > _FEW_PIECES:
        store.compact(keep=timedelta(0))
    seconds |= {
        "prepare": runner.prepare_seconds,
        "model": runner.model_seconds,
        "write": sink.seconds,
        "total": time.monotonic() - started,
    }
    failures = work.known_failures | sink.failures
    return ExtractReport(
        out=store.path,
        items=len(items),
        done=sink.done,
        skipped=work.skipped,
        failed=len(failures),
        failed_before=len(work.known_failures),
        reasons=dict(Counter(failures.values()).most_common(10)),
        failures=failures,
        seconds={part: round(spent, 3) for part, spent in seconds.items()},
        tokens=runner.tokens,
        store_items=len(store),
        bytes_per_item=job.spec.bytes_per_item,
        versions=job.spec.versions,
        notes=tuple(_notes(tap, items, job.spec.versions, store.spec.versions)),
    )


def _watch(
    config: ExtractConfig,
    work: Work,
    runner: BatchRunner,
    *,
    sampler: FrameSampler | None,
    sink: StoreSink,
    bar: Progress,
    seconds: dict[str, float],
) -> None:
    """Items with a video: decode ahead, sort a window by shape, run, commit the window."""
    videos = [item for item in work.todo if sampler is not None and item.video is not None]
    if not videos or sampler is None:
        return
    from linkedout_lightning.video import DecodePool

    batch_size = config.batch_size or _VIDEO_BATCH
    window = batch_size * _WINDOW
    with DecodePool(sampler, workers=config.workers, ahead=window) as pool:
        outcomes = pool.map(str(item.video) for item in videos)
        for start in range(0, len(videos), window):
            inputs, failures = [], {}
            for item in videos[start : start + window]:
                before = time.monotonic()
                outcome = next(outcomes)
                seconds["decode_wait"] += time.monotonic() - before
                if isinstance(outcome, VideoDecodeError):
                    failures[item.item_id] = outcome.reason
                else:
                    inputs.append(TapInput(item.item_id, outcome, item.columns))
            bar.advance(len(failures), failed=len(failures))
            lengths = text_lengths(runner.tap.prepare, [i.columns for i in inputs])
            batches = video_batches(inputs, lengths, batch_size=batch_size)
            outputs, bad = _run(batches, runner, bar)
            sink.add(TapOutput.cat(outputs) if outputs else None, failures | bad)


def _read(
    config: ExtractConfig, work: Work, runner: BatchRunner, *, sink: StoreSink, bar: Progress
) -> None:
    """Items without a video: text alone, sorted by length over the whole table."""
    sees = runner.tap.sees
    inputs = [
        TapInput(item.item_id, None, item.columns)
        for item in work.todo
        if item.video is None or not sees
    ]
    lengths = text_lengths(runner.tap.prepare, [i.columns for i in inputs])
    for batch in text_batches(inputs, lengths, batch_size=config.batch_size or _TEXT_BATCH):
        outputs, bad = _run(iter([batch]), runner, bar)
        sink.add(TapOutput.cat(outputs) if outputs else None, bad)


def _run(
    batches: Iterator[list[TapInput]], runner: BatchRunner, bar: Progress
) -> tuple[list[TapOutput], dict[str, str]]:
    outputs: list[TapOutput] = []
    failures: dict[str, str] = {}
    for batch in batches:
        some, bad = runner.run(batch)
        outputs += some
        failures |= bad
        bar.advance(len(batch), failed=len(bad))
    return outputs, failures


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
