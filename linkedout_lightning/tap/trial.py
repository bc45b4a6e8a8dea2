"""Running a few items the way a job does, with a clock on every part."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from linkedout_lightning.tap.costs import count_flops, memory_bytes
from linkedout_lightning.tap.decoding import files_of, seen_of
from linkedout_lightning.tap.pipeline import PrepareThreads
from linkedout_lightning.tap.rates import settle
from linkedout_lightning.tap.running import BatchRunner, Done
from linkedout_lightning.tap.sizes import loads_of, measure
from linkedout_lightning.tap.types import TapBatch, TapInput, TapOutput

if TYPE_CHECKING:
    from linkedout_lightning.tap.items import Item
    from linkedout_lightning.tap.tap import VideoLLMTap
    from linkedout_lightning.video import DecodePool


@dataclass
class Trial:
    """What a sample took.

    Attributes:
        decode: Seconds of one worker by item.
        prepare: Seconds of one thread by item.
        model: Seconds of the model by item, transfer included.
        tokens: Tokens by item.
        flops: Floating point operations by item, an even share of the batch's.
        failures: Reason by item that yielded nothing.
        outputs: Features of the others.
        batches: Sizes of the batches.
        starting: Seconds until every decoding process had done its first video.
        estimated_memory: The largest of the batches, by the formula.
        wall: Seconds in the model, and
        busy: how many of them the cores were busy, summed over the cores.
    """

    decode: dict[str, float] = field(default_factory=dict)
    prepare: dict[str, float] = field(default_factory=dict)
    model: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    outputs: list[TapOutput] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    starting: float = 0.0
    estimated_memory: int = 0
    wall: float = 0.0
    busy: float = 0.0


@dataclass(frozen=True)
class _Piece:
    items: list[TapInput]
    prepared: Future[TapBatch] | None


class TrialRun:
    """Runs items and notes what they take.

    Args:
        tap: The tap, on its device.
        preparer: Its processor, in the job's threads.
        trial: Where it is noted.
    """

    def __init__(self, tap: VideoLLMTap, preparer: PrepareThreads, trial: Trial) -> None:
        self.trial = trial
        self.runner = BatchRunner(tap)
        self._tap, self._preparer = tap, preparer
        self._sizes = measure(tap)
        self._warm = False

    def decode(
        self, items: Sequence[Item], pool: DecodePool, *, sources: Collection[str], workers: int
    ) -> list[TapInput]:
        """Decode items, as many at a time as there are workers; failures are noted."""
        paths = [path for item in items for path in files_of(item, sources).values()]
        if not self.trial.decode:
            # The workers' start is not an item's: each decodes one video unseen.
            start = time.perf_counter()
            list(pool.map(paths[:1] * workers))
            self.trial.starting = time.perf_counter() - start

        def one(item: Item) -> TapInput | str:
            start = time.perf_counter()
            files = files_of(item, sources)
            # One after the other, as a worker would.
            seen = seen_of(
                {name: outcome for name, file in files.items() for outcome in pool.map([file])}
            )
            self.trial.decode[item.item_id] = time.perf_counter() - start
            return seen if isinstance(seen, str) else TapInput.of(item, seen)

        with ThreadPoolExecutor(workers) as threads:
            outcomes = list(threads.map(one, items))
        inputs = [outcome for outcome in outcomes if isinstance(outcome, TapInput)]
        self.trial.failures |= {
            item.item_id: outcome
            for item, outcome in zip(items, outcomes, strict=True)
            if isinstance(outcome, str)
        }
        return inputs

    def run(self, batches: Iterable[list[TapInput]]) -> Iterator[int]:
        """Prepare and extract batches; yields how many items each had.

        An item that comes again, to fill a batch, counts in the means and not in the outputs.
        """
        times: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for batch in batches:
            if not self._warm:
                self._timed(batch)
                self._warm = True
            done, prepare, model = self._timed(batch, noted=True)
            for item in batch:
                times[item.item_id].append((prepare / len(batch), model / len(batch)))
            known = {i for output in self.trial.outputs for i in output.item_ids}
            self.trial.outputs += [_unseen(output, known) for output in done.outputs]
            self.trial.failures |= done.failures
            yield len(batch)
        for item_id, spent in times.items():
            self.trial.prepare[item_id] = sum(p for p, _ in spent) / len(spent)
            self.trial.model[item_id] = sum(m for _, m in spent) / len(spent)

    def _timed(
        self, batch: list[TapInput], *, noted: bool = False
    ) -> tuple[Done[_Piece], float, float]:
        """What became of a batch, and the seconds of the processor and of the model."""
        device = self._tap.device
        start = time.perf_counter()
        prepared = self._preparer.submit(batch)
        failed = prepared.exception() is not None  # waits; the runner says what is wrong
        ready, busy = time.perf_counter(), time.process_time()
        (done,) = self.runner.stream([_Piece(batch, prepared)])
        settle(device)
        end = time.perf_counter()
        if noted:
            self.trial.wall += end - ready
            self.trial.busy += time.process_time() - busy
            self.trial.batches.append(len(batch))
            if not failed:
                self._count(prepared.result())
        return done, ready - start, end - ready

    def _count(self, batch: TapBatch) -> None:
        """Tokens and operations of a batch."""
        loads = loads_of(batch, self._sizes, layers=len(self._tap.layers))
        views = list(zip(self._sizes, loads, strict=True))
        tokens = [0] * len(batch)
        for bucket in batch.buckets:
            counts = bucket.inputs["attention_mask"].sum(dim=1).tolist()
            for row, count in zip(bucket.rows.tolist(), counts, strict=True):
                tokens[row] += int(count)
        self.trial.tokens |= dict(zip(batch.item_ids, tokens, strict=True))
        flops = sum(count_flops(size, load).total for size, load in views)
        self.trial.flops |= dict.fromkeys(batch.item_ids, flops / len(batch))
        largest = max(memory_bytes(size, load) for size, load in views)
        self.trial.estimated_memory = max(self.trial.estimated_memory, largest)


def _unseen(output: TapOutput, known: Collection[str]) -> TapOutput:
    """The rows of items that were not there before, each once."""
    first = {item_id: row for row, item_id in reversed(list(enumerate(output.item_ids)))}
    rows = sorted(row for item_id, row in first.items() if item_id not in known)
    keep = torch.tensor(rows, dtype=torch.long)
    ids = [output.item_ids[row] for row in rows]
    return TapOutput(ids, output.features[keep], output.mask[keep])
