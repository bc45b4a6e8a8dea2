"""What an extraction will cost, from a small sample of its items; nothing is written."""

from __future__ import annotations

import copy
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from linkedout_lightning.machine import usable_cores
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap.costs import store_bytes
from linkedout_lightning.tap.cutting import (
    TEXT_BATCH,
    VIDEO_BATCH,
    VideoCutter,
    has_files,
    text_batches,
    text_lengths,
    videos_a_unit,
)
from linkedout_lightning.tap.forecast import Forecast, Kind, Line, Seconds, forecast
from linkedout_lightning.tap.pipeline import Clock, PrepareThreads
from linkedout_lightning.tap.planned import ExtractPlan
from linkedout_lightning.tap.progress import Progress
from linkedout_lightning.tap.rates import matrix_rate
from linkedout_lightning.tap.sampling import choose, shares
from linkedout_lightning.tap.sink import StoreSink
from linkedout_lightning.tap.stamps import stamp
from linkedout_lightning.tap.trial import Trial, TrialRun
from linkedout_lightning.tap.types import TapInput, TapOutput

if TYPE_CHECKING:
    from linkedout_lightning.tap.config import ExtractConfig
    from linkedout_lightning.tap.items import Item
    from linkedout_lightning.tap.job import Job
    from linkedout_lightning.video import DecodePool

_TEXT_BATCHES = 4  # of a trial, so that they differ in length
_COMMIT_ROWS, _COMMIT_BYTES = 512, 2**26
_BUSY = 1.5  # load a core
_FEW = 2  # times the workers: fewer items do not show how workers share a machine


def estimate(
    config: ExtractConfig, job: Job, *, items: int, loading: float, progress: bool
) -> ExtractPlan:
    """Run a sample of what is to be done, and work out what all of it will take.

    The sample goes through the parts one after the other, each with a clock: decoding in as many
    processes as the job has, batches as full as the job's. What starts up is left out (each
    worker's first video, the model's first batch). How the parts run side by side is then worked
    out by :func:`~linkedout_lightning.tap.forecast.forecast`. Features are appended to a store in
    a temporary folder, to see what may be stored and how long that takes.

    Args:
        config: The extraction; its ``plan`` is the size of the sample.
        job: What is to be done; its store is only looked at.
        items: How many items the table has.
        loading: Seconds that it took to get this far.
        progress: Show a progress bar.

    Returns:
        The plan; of a job with nothing to do one without figures.
    """
    tap, todo = job.tap, job.work.todo
    watched = [item for item in todo if has_files(item, tap.sources)]
    read = [item for item in todo if not has_files(item, tap.sources)]
    counts = shares([len(watched), len(read)], config.sample_size)
    chosen = [
        choose(kind, count, sources=tap.sources)
        for kind, count in zip((watched, read), counts, strict=True)
    ]
    cuda = tap.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(tap.device)
    trial, line = _try(config, job, chosen, counts=(len(watched), len(read)), progress=progress)
    memory = torch.cuda.max_memory_reserved(tap.device) if cuda else _resident()
    write = _writing(job, trial, rows=len(todo))
    kinds = [
        Kind(
            count=len(kind),
            unit=unit,
            decode=_of(trial.decode, sample),
            prepare=_of(trial.prepare, sample),
            model=_of(trial.model, sample),
            write=write,
        )
        for kind, sample, unit in zip(
            (watched, read),
            chosen,
            (videos_a_unit(config.batch_size), config.batch_size or TEXT_BATCH),
            strict=True,
        )
    ]
    sample = [item for kind in chosen for item in kind]
    return _plan(
        config,
        job,
        trial=trial,
        line=line,
        found=forecast(kinds, line),
        sample=sample,
        items=items,
        loading=loading,
        memory=memory,
        write=write,
    )


def _try(
    config: ExtractConfig,
    job: Job,
    chosen: Sequence[list[Item]],
    *,
    counts: tuple[int, int],
    progress: bool,
) -> tuple[Trial, Line]:
    """Run the sample: items with files, then those without."""
    tap, trial = job.tap, Trial()
    watched, read = chosen
    workers = config.workers or usable_cores()
    batches = _Batches(config, job)
    with ExitStack() as stack:
        bar = stack.enter_context(Progress(len(watched) + len(read), shown=progress))
        cuda = tap.device.type == "cuda"
        preparer = stack.enter_context(closing(PrepareThreads(tap, cuda=cuda, clock=Clock())))
        run = TrialRun(tap, preparer, trial)
        if watched:
            pool = stack.enter_context(_decoders(job, workers))
            unit = videos_a_unit(config.batch_size)
            for start in range(0, len(watched), unit):
                some = watched[start : start + unit]
                inputs = run.decode(some, pool, sources=tap.sources, workers=workers)
                for _ in run.run(batches.of_videos(inputs, most=counts[0])):
                    pass
                bar.advance(len(some), failed=sum(i.item_id in trial.failures for i in some))
        inputs = [TapInput(item.item_id, None, item.columns) for item in read]
        for _ in run.run(batches.of_texts(inputs, most=counts[1])):
            pass
        bar.advance(len(read))
    line = Line(
        workers=workers,
        threads=preparer.threads,
        cores=usable_cores(),
        model_cores=trial.busy / trial.wall if trial.wall else 1.0,
        starting=trial.starting,
    )
    return trial, line


class _Batches:
    """Batches as full as a job's, from few items: some come several times."""

    def __init__(self, config: ExtractConfig, job: Job) -> None:
        self._config, self._tap = config, job.tap
        self._cut = VideoCutter(
            copy.deepcopy(job.tap.prepare),
            batch_size=config.batch_size or VIDEO_BATCH,
            batch_tokens=config.batch_tokens,
        )

    def of_videos(self, inputs: list[TapInput], *, most: int) -> Iterator[list[TapInput]]:
        return self._cut(_repeated(inputs, min(videos_a_unit(self._config.batch_size), most)))

    def of_texts(self, inputs: list[TapInput], *, most: int) -> Iterator[list[TapInput]]:
        batch_size = self._config.batch_size or TEXT_BATCH
        many = _repeated(inputs, min(_TEXT_BATCHES * batch_size, most))
        lengths = text_lengths(self._tap.prepare, [item.columns for item in many])
        return text_batches(
            many, lengths, batch_size=batch_size, batch_tokens=self._config.batch_tokens
        )


def _repeated(inputs: list[TapInput], count: int) -> list[TapInput]:
    times = -(-count // len(inputs)) if inputs else 0
    return (inputs * times)[: max(count, len(inputs))]


def _decoders(job: Job, workers: int) -> DecodePool:
    from linkedout_lightning.video import DecodePool

    assert job.sampler is not None
    return DecodePool(job.sampler, workers=workers)


def _writing(job: Job, trial: Trial, *, rows: int) -> float:
    """Seconds an item of a commit as large as the job's; sorts out what cannot be stored."""
    outputs = [output for output in trial.outputs if len(output)]
    if not outputs:
        return 0.0
    output = TapOutput.cat(outputs)
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.create(Path(folder, "store"), job.spec)
        with StoreSink(store) as sink:
            sink.add(output)
        trial.failures |= sink.failures
        if not len(store):
            return 0.0
        some = store.refresh().get(store.item_ids)
        rows = min(rows, _COMMIT_ROWS, max(1, _COMMIT_BYTES // job.spec.bytes_per_item))
        which = torch.arange(rows) % len(some.mask)
        start = time.perf_counter()
        store.append(
            [f"row {n}" for n in range(rows)],
            some.features[which],
            some.mask[which],
            fingerprints={f"row {n}": "x" * 64 for n in range(rows)},
        )
        return (time.perf_counter() - start) / rows


def _plan(
    config: ExtractConfig,
    job: Job,
    *,
    trial: Trial,
    line: Line,
    found: Forecast,
    sample: list[Item],
    items: int,
    loading: float,
    memory: int,
    write: float,
) -> ExtractPlan:
    tap, todo = job.tap, len(job.work.todo)
    layers, slots, hidden = job.spec.shape
    row = store_bytes(layers, slots, hidden, itemsize=job.spec.torch_dtype.itemsize)
    notes = [
        len(item.item_id) + len(stamp(item, columns=tap.columns, sources=tap.sources))
        for item in sample
    ]
    good = 1 - len(trial.failures) / max(1, len(sample))
    now = _bytes_of(config.out)
    tokens = list(trial.tokens.values()) or [0]
    flops = list(trial.flops.values())
    means = {
        "decode": float(_of(trial.decode, sample).mean()) if sample else 0.0,
        "prepare": float(_of(trial.prepare, sample).mean()) if sample else 0.0,
        "model": float(_of(trial.model, sample).mean()) if sample else 0.0,
        "write": write,
    }
    dtype = next(tap.model.parameters()).dtype
    return ExtractPlan(
        out=str(config.out),
        device=str(tap.device),
        items=items,
        todo=todo,
        skipped=job.work.skipped,
        sampled=len(sample),
        failed=len(trial.failures),
        reasons=dict(Counter(trial.failures.values()).most_common(10)),
        seconds=loading + found.seconds,
        interval=(loading + found.low, loading + found.high),
        loading=loading,
        starting=line.starting,
        parts=found.parts,
        per_item=means,
        bottleneck=found.bottleneck,
        workers=line.workers,
        threads=line.threads,
        cores=line.cores,
        model_cores=line.model_cores,
        batch=float(np.mean(trial.batches)) if trial.batches else 0.0,
        memory=memory,
        memory_by_formula=trial.estimated_memory,
        store_now=now,
        store_end=now + round(todo * good * (row + float(np.mean(notes or [0])))),
        bytes_per_item=row,
        tokens=(float(np.mean(tokens)), float(np.percentile(tokens, 95))),
        flops_per_item=sum(flops) / max(1, len(sample)),
        peak_flops=matrix_rate(tap.device, dtype) if flops else 0.0,
        notes=tuple(_notes(job, trial, line, sample)),
    )


def _notes(job: Job, trial: Trial, line: Line, sample: list[Item]) -> Iterator[str]:
    if job.work.known_failures:
        yield (
            f"{len(job.work.known_failures)} items failed before and are not tried again; set "
            "retry_failed to count them in"
        )
    if 0 < len(trial.decode) < _FEW * line.workers:
        yield (
            f"{len(trial.decode)} videos were sampled for {line.workers} workers: whether so many "
            f"get in each other's way shows from {_FEW * line.workers} on"
        )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if trial.batches and load > _BUSY * line.cores:
        yield (
            f"other programs keep this machine busy (load {load:.0f} on {line.cores} cores): the "
            "times are those of a machine so busy, and may be far from the job's"
        )
    if len(sample) == len(job.work.todo) > 0:
        yield "the sample is everything: running it would have taken little longer"


def _of(found: dict[str, float], sample: Sequence[Item]) -> Seconds:
    """Values of a sample, 0 where an item did not get so far."""
    return np.array([found.get(item.item_id, 0.0) for item in sample], dtype=np.float64)


def _resident() -> int:
    """Most memory that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _bytes_of(folder: str) -> int:
    """Bytes of a store on this machine; 0 where there is none, or none to look into."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
