"""What an engine's workers do that hold the model.

A plain object that takes and gives Arrow tables and knows no engine. A unit goes through the steps
that it goes through in :mod:`linkedout_lightning.tap.extract`: it is cut into the same batches,
which makes the features the same, and committed whole. A unit is reported when it is in the store,
so that the store alone says what is done.
"""

from __future__ import annotations

import copy
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.cutting import VIDEO_BATCH, VideoCutter
from linkedout_lightning.tap.engines.rows import Decoded, Done, decoded_of, done_rows
from linkedout_lightning.tap.pipeline import BATCHES_AHEAD, Clock, Piece, PrepareThreads
from linkedout_lightning.tap.running import BatchRunner
from linkedout_lightning.tap.sink import StoreSink, store_spec
from linkedout_lightning.tap.types import TapBatch, TapInput, TapOutput
from linkedout_lightning.tap.units import Unit

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap
    from linkedout_lightning.video import FrameSampler


@dataclass(frozen=True)
class _Loaded:
    tap: VideoLLMTap
    store: FeatureStore
    runner: BatchRunner
    threads: PrepareThreads
    cut: VideoCutter
    ready: float


class TapStage:
    """Runs the model over decoded units and commits each to the store.

    Two calls at a time are welcome: while one has the model the other prepares, or writes. The
    model is loaded by a thread of its own from the start, and an error of that is raised by the
    first call.

    Args:
        config: The extraction, with paths that are good here.
        sampler: Where the frames come from.
    """

    def __init__(self, config: ExtractConfig, sampler: FrameSampler | None) -> None:
        self._config, self._sampler = config, sampler
        self._clock = Clock()
        self._cutting, self._model, self._writing = (threading.Lock() for _ in range(3))
        self._fresh = True
        self._free_since: float | None = None
        self._told: dict[str, float] = {}
        self._tokens = 0
        self._name = f"{socket.gethostname()}, process {os.getpid()}"
        loader = ThreadPoolExecutor(1, "load")
        self._loading: Future[_Loaded] = loader.submit(self._load)
        loader.shutdown(wait=False)

    def __call__(self, units: pa.Table) -> pa.Table:
        """Rows of decoded units, committed together, to rows of what became of them."""
        return done_rows(self.do(decoded_of(units)))

    def do(self, units: Sequence[Decoded]) -> list[Done]:
        """Extract units and append them in one commit.

        Raises:
            LinkedOutError: The model, or the store, is of no use; see
                :func:`linkedout_lightning.tap.extract.extract`.
        """
        loaded = self._loading.result()
        if self._are_there(units, loaded.store):
            return [self._done(unit, unit.failures, loaded) for unit in units]
        made = [(unit, *self._extracted(unit, loaded)) for unit in units]
        start = time.monotonic()
        stamps = {item: made_from for unit in units for item, made_from in unit.stamps.items()}
        count = sum(unit.count for unit in units)
        with (
            self._writing,
            StoreSink(loaded.store, fingerprints=stamps, rows=count + 1) as sink,
        ):
            for unit, output, failures in made:
                sink.add(output, failures | unit.failures)
        self._clock.add("write", start)
        return [
            self._done(
                unit, {i: sink.failures[i] for i in unit.stamps if i in sink.failures}, loaded
            )
            for unit in units
        ]

    def _load(self) -> _Loaded:
        from linkedout_lightning.tap.opening import open_tap

        config = self._config
        tap = open_tap(config, progress=False)
        store = FeatureStore.open(config.out)
        store.check_spec(store_spec(tap, sampler=self._sampler, dtype=config.store_dtype))
        threads = PrepareThreads(tap, cuda=tap.device.type == "cuda", clock=self._clock)
        cut = VideoCutter(
            copy.deepcopy(tap.prepare),
            batch_size=config.batch_size or VIDEO_BATCH,
            batch_tokens=config.batch_tokens,
        )
        return _Loaded(tap, store, BatchRunner(tap), threads, cut, time.time())

    def _are_there(self, units: Sequence[Decoded], store: FeatureStore) -> bool:
        """Whether a worker that was lost had committed units, before it could say so.

        Only units that a worker gets first are looked up: it may be there in another's place.
        """
        with self._writing:
            if not self._fresh:
                return False
            self._fresh = False
            store.refresh()
            known, failed = store.fingerprints(), store.failures
        stamps = {item.item_id: u.stamps[item.item_id] for u in units for item, _ in u.items}
        return bool(stamps) and all(
            known.get(item) == made_from and item not in failed
            for item, made_from in stamps.items()
        )

    def _extracted(self, unit: Decoded, loaded: _Loaded) -> tuple[TapOutput | None, dict[str, str]]:
        inputs = [TapInput.of(item, seen) for item, seen in unit.items]
        with self._cutting:
            batches = list(loaded.cut(inputs)) if unit.watch else [inputs]
        pieces = self._pieces(unit, [batch for batch in batches if batch], loaded.threads)
        outputs: list[TapOutput] = []
        failures: dict[str, str] = {}
        with self._model:
            if self._free_since is not None:
                self._clock.add("wait", self._free_since)
            for done in loaded.runner.stream(pieces):
                outputs += done.outputs
                failures |= done.failures
            self._free_since = time.monotonic()
        return (TapOutput.cat(outputs) if outputs else None), failures

    def _pieces(
        self, unit: Decoded, batches: Sequence[list[TapInput]], threads: PrepareThreads
    ) -> Iterator[Piece]:
        """Batches that are being prepared, some of them from now on."""
        ahead = threads.threads + BATCHES_AHEAD
        begun = deque((batch, threads.submit(batch)) for batch in batches[:ahead])
        return self._rest(Unit(unit.number, (), unit.watch), begun, batches[ahead:], threads)

    def _rest(
        self,
        unit: Unit,
        begun: deque[tuple[list[TapInput], Future[TapBatch]]],
        rest: Sequence[list[TapInput]],
        threads: PrepareThreads,
    ) -> Iterator[Piece]:
        coming = iter(rest)
        while begun:
            batch, prepared = begun.popleft()
            if (following := next(coming, None)) is not None:
                begun.append((following, threads.submit(following)))
            start = time.monotonic()
            wait([prepared])
            self._clock.add("wait", start)
            yield Piece(unit, batch, prepared, {}, last=not begun)

    def _done(self, unit: Decoded, failures: dict[str, str], loaded: _Loaded) -> Done:
        runner = loaded.runner
        with self._cutting:
            totals = dict(self._clock.seconds)
            totals["prepare"] = totals.get("prepare", 0.0) + runner.prepare_seconds
            totals |= {"transfer": runner.transfer_seconds, "model": runner.model_seconds}
            seconds = {part: spent - self._told.get(part, 0.0) for part, spent in totals.items()}
            tokens = runner.tokens - self._tokens
            self._told, self._tokens = totals, runner.tokens
        done = unit.count - len(failures)
        seconds["decode"] = unit.seconds
        return Done(unit.number, done, failures, tokens, seconds, self._name, loaded.ready)
