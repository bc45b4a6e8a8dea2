"""The extraction job: item table and videos in, feature store out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from linkedout_lightning.errors import ConfigError, DataError, VideoDecodeError
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap.items import Item, read_items
from linkedout_lightning.tap.plan import (
    Work,
    plan_work,
    shard_of,
    text_batches,
    text_lengths,
    video_batches,
)
from linkedout_lightning.tap.report import ExtractReport
from linkedout_lightning.tap.running import BatchRunner
from linkedout_lightning.tap.sink import StoreSink, store_spec
from linkedout_lightning.tap.types import TapInput, TapOutput

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap
    from linkedout_lightning.video import FrameSampler

_VIDEO_BATCH, _TEXT_BATCH = 8, 32
_WINDOW = 4  # Batches whose videos are decoded before they are sorted by shape.
_FEW_PIECES = 16


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Watch each item's video once and keep several layers of what the model saw.

    Args:
        model: Language model: a name on the hub, or a folder.
        out: Folder of the feature store; made if it is not there, continued if it is.
        items: Table of items: CSV, TSV, JSON lines (also .gz), RecBole's .item or Parquet. Without
            it every video of the folder is an item.
        videos: Folder of videos. With a table, <id>.<ext> in it is an item's video.
        id_column: Column of item ids; by default one with a usual name.
        video_column: Column of video paths; by default one with a usual name, if there is one.
        title_column: Column to offer to the prompt as {title}.
        revision: Branch, tag or commit of the model on the hub.
        gguf_file: Name of a GGUF file in the model's folder, for text models.
        layers: "all", a number of evenly spaced ones, or a list; k is the output of the k-th
            block, 0 the embeddings, negatives count from the end.
        groups: Which tokens are averaged into each slot: visual, visual:8 (8 spans of time), text,
            title, last, generated:16. By default visual, text and last, or for a model that only
            reads text, text and last.
        prompt: Template with columns of the table in braces, such as "Title: {title}".
        frames: Frames of each video.
        size: Shorter side of the frames that the model's processor gets, or height and width;
            none for the video's own size.
        backend: Decoder: auto, pyav, decord, torchcodec.
        dtype: The model's numbers: auto (as in its files), bfloat16, float16, float32.
        store_dtype: The store's numbers: float16, bfloat16, float32.
        attention: Attention implementation: sdpa, flash_attention_2, eager; none for the model's
            own choice.
        device: cpu, cuda, cuda:1, mps, or auto.
        batch_size: Items that go through the model at once; by default 8 videos or 32 texts. If
            memory runs out, it is halved.
        workers: Processes that decode; by default one a core.
        timeout: Seconds that decoding one video may take.
        limit: Only the first so many items of the table.
        shard: "i/n" does the i-th of n shares; several such jobs may write one store at once.
        retry_failed: Try items again that failed before.
    """

    model: str
    out: str
    items: str | None = None
    videos: str | None = None
    id_column: str | None = None
    video_column: str | None = None
    title_column: str | None = None
    revision: str | None = None
    gguf_file: str | None = None
    layers: int | tuple[int, ...] | Literal["all"] = 4
    groups: tuple[str, ...] | None = None
    prompt: str = "{title}"
    frames: int = 8
    size: int | tuple[int, int] | None = 384
    backend: str = "auto"
    dtype: str = "auto"
    store_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    attention: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    timeout: float = 60.0
    limit: int | None = None
    shard: str | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` is {value}; give 1 or more")
        if self.shard is not None:
            shard_of([], self.shard)


def extract(
    config: ExtractConfig, *, progress: bool = True, tap: VideoLLMTap | None = None
) -> ExtractReport:
    """Extract what the store does not hold yet.

    Items that are in the store unchanged are skipped, changed ones are extracted anew, and an item
    that yields nothing is recorded with its reason. A job may be killed at any instant: the next
    one does the rest, with results equal bit for bit to those of a job that was not disturbed.

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
    if tap is None:
        tap = _load(config)
    _check_columns(config, tap, items)
    sampler = _sampler(config, tap)
    spec = store_spec(tap, sampler=sampler, dtype=config.store_dtype)
    store = FeatureStore.create(config.out, spec, exist_ok=True)
    work = plan_work(
        items,
        store,
        columns=tap.columns,
        watch=tap.sees,
        retry_failed=config.retry_failed,
    )
    seconds = {"load": time.monotonic() - started, "decode_wait": 0.0}
    runner = BatchRunner(tap)
    with (
        _Progress(len(work.todo), shown=progress) as bar,
        StoreSink(store, fingerprints=work.fingerprints) as sink,
    ):
        _watch(config, work, runner, sampler=sampler, sink=sink, bar=bar, seconds=seconds)
        _read(config, work, runner, sink=sink, bar=bar)
    if work.todo and store.pieces > _FEW_PIECES:
        store.compact()
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
        bytes_per_item=spec.bytes_per_item,
        versions=spec.versions,
        notes=tuple(_notes(tap, items, spec.versions, store.spec.versions)),
    )


def _watch(
    config: ExtractConfig,
    work: Work,
    runner: BatchRunner,
    *,
    sampler: FrameSampler | None,
    sink: StoreSink,
    bar: _Progress,
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
    config: ExtractConfig, work: Work, runner: BatchRunner, *, sink: StoreSink, bar: _Progress
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
    batches: Iterator[list[TapInput]], runner: BatchRunner, bar: _Progress
) -> tuple[list[TapOutput], dict[str, str]]:
    outputs: list[TapOutput] = []
    failures: dict[str, str] = {}
    for batch in batches:
        some, bad = runner.run(batch)
        outputs += some
        failures |= bad
        bar.advance(len(batch), failed=len(bad))
    return outputs, failures


def _load(config: ExtractConfig) -> VideoLLMTap:
    from linkedout_lightning.tap.loading import load_pretrained
    from linkedout_lightning.tap.tap import VideoLLMTap

    loaded = load_pretrained(
        config.model,
        revision=config.revision,
        dtype=config.dtype,
        attn_implementation=config.attention,
        gguf_file=config.gguf_file,
    )
    only_reads = not hasattr(loaded.processor, "tokenizer")
    tap = VideoLLMTap(
        loaded.model,
        processor=loaded.processor,
        layers=config.layers,
        groups=config.groups or (("text", "last") if only_reads else ("visual", "text", "last")),
        prompt=config.prompt,
        frames=config.frames,
        model_name=loaded.name,
        revision=loaded.revision,
    )
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return tap.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"`device` is {config.device!r}, which is of no use: {error}") from error


def _sampler(config: ExtractConfig, tap: VideoLLMTap) -> FrameSampler | None:
    """The sampler of a model that sees, whether or not an item has a video today."""
    if not tap.sees:
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


class _Progress:
    """A bar with rate, time left and failures, or nothing."""

    def __init__(self, total: int, *, shown: bool) -> None:
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(
            total=total, desc="extract", unit="item", disable=not (shown and total), smoothing=0.1
        )
        self._failed = 0

    def advance(self, count: int, *, failed: int = 0) -> None:
        self._failed += failed
        if self._failed:
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update(count)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
