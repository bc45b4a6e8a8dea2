"""Decoding and preparing ahead of the model.

Decoding runs in processes of its own (:class:`~linkedout_lightning.video.DecodePool`), the model's
processor in threads (its work is in native code that lets other threads run), both ahead of the
model and bounded, so that memory is too. The order is that of the units.
"""

from __future__ import annotations

import contextlib
import copy
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from linkedout_lightning.tap.decoding import files_of, seen_of
from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.types import TapBatch, TapInput
from linkedout_lightning.tap.units import Unit

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap
    from linkedout_lightning.video import DecodePool, Frames

BATCHES_AHEAD = 2  # beyond one a preparing thread
_MOST_THREADS = 8
_Arrival: TypeAlias = "tuple[Item, Mapping[str, Frames] | str]"


class Cutter(Protocol):
    """Cuts a unit into batches, see :class:`~linkedout_lightning.tap.cutting.VideoCutter`."""

    def ordered(self, items: Sequence[Item]) -> Sequence[Item]:
        """The order in which items are to be decoded."""
        ...

    def cut(self, items: Iterable[TapInput]) -> Iterator[list[TapInput]]:
        """Batches of items that come one by one, in that order."""
        ...


class WholeUnit:
    """Takes a unit as one batch, as it was cut to be one: so it is with texts."""

    def ordered(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items as they are."""
        return items

    def cut(self, items: Iterable[TapInput]) -> Iterator[list[TapInput]]:
        """All of them."""
        if batch := list(items):
            yield batch


@dataclass(frozen=True)
class Piece:
    """One batch on its way to the model.

    Attributes:
        unit: The unit that it is of.
        items: Its items; none where a unit's last videos could not be decoded, as a batch is sent
            off when it is full.
        prepared: The processor's result; None without items.
        failures: Reasons of the unit's items that were not decoded, with its last piece.
        last: No other piece of the unit follows.
    """

    unit: Unit
    items: list[TapInput]
    prepared: Future[TapBatch] | None
    failures: dict[str, str]
    last: bool


@dataclass
class Clock:
    """Seconds by part; parts run at the same time, so they may add up to more than the whole."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, part: str, since: float) -> None:
        """Count the time from ``since`` (``time.monotonic()``) until now."""
        spent = time.monotonic() - since
        with self._lock:
            self.seconds[part] = self.seconds.get(part, 0.0) + spent

    def of(self, part: str) -> float:
        """Seconds of a part."""
        return self.seconds.get(part, 0.0)


class PrepareThreads:
    """Runs the model's processor in threads, each with a copy of its own.

    Fast tokenizers change their settings while they work and must not be shared by threads.

    Args:
        tap: Whose processor.
        cuda: The model is on a GPU: more threads, and pinned memory.
        clock: Where time is counted.
    """

    def __init__(self, tap: VideoLLMTap, *, cuda: bool, clock: Clock) -> None:
        # Beside a model on the CPU, one thread is ahead of it already.
        self.threads = min(_MOST_THREADS, max(1, (os.cpu_count() or 1) // 2)) if cuda else 1
        self._tap, self._cuda, self._clock = tap, cuda, clock
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(self.threads, "prepare")

    def submit(self, items: list[TapInput]) -> Future[TapBatch]:
        """Begin to prepare a batch."""
        return self._pool.submit(self._prepare, items)

    def close(self) -> None:
        """End the threads; what has not begun is given up."""
        self._pool.shutdown(cancel_futures=True)

    def _prepare(self, items: list[TapInput]) -> TapBatch:
        start = time.monotonic()
        if not hasattr(self._own, "prepare"):
            self._own.prepare = copy.deepcopy(self._tap.prepare)
        batch: TapBatch = self._own.prepare(items)
        if self._cuda:
            batch = batch.pin_memory()
        self._clock.add("prepare", start)
        return batch


class Feed:
    """Pieces in order, made by a thread that runs ahead.

    Args:
        units: Taken one by one, a bounded number ahead.
        cutter: Cuts a unit's items into batches; it is used by the feed's thread alone.
        preparer: Prepares them.
        pool: Decodes; None for units without files.
        sources: Which of an item's files are decoded, of ``"video"`` and ``"cover"``.
        clock: Where time is counted.
    """

    def __init__(
        self,
        units: Iterable[Unit],
        *,
        cutter: Cutter,
        preparer: PrepareThreads,
        pool: DecodePool | None,
        sources: Iterable[str],
        clock: Clock,
    ) -> None:
        self._units, self._cutter, self._preparer, self._pool = units, cutter, preparer, pool
        self._sources = frozenset(sources)
        self._clock = clock
        self._stop = threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue(preparer.threads + BATCHES_AHEAD)
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __iter__(self) -> Iterator[Piece]:
        self._thread.start()
        ended = False
        try:
            while (piece := self._get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
            ended = True
        finally:
            self._stop.set()
            if not ended and self._pool is not None:
                # The thread may be waiting for a decoder, for as long as one video may take.
                self._pool.close()
            self._thread.join()

    def _get(self) -> Any:
        start = time.monotonic()
        piece = self._queue.get()
        self._clock.add("wait", start)
        return piece

    def _put(self, piece: Any) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(piece, timeout=0.2)
                return

    def _run(self) -> None:
        try:
            with contextlib.closing(self._decoded()) as decoded:
                for unit, arrivals in decoded:
                    self._feed(unit, arrivals)
                    if self._stop.is_set():
                        return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _feed(self, unit: Unit, arrivals: Iterator[_Arrival]) -> None:
        failures: dict[str, str] = {}

        def decoded() -> Iterator[TapInput]:
            for item, seen in arrivals:
                if isinstance(seen, str):
                    failures[item.item_id] = seen
                else:
                    yield TapInput.of(item, seen)

        left = len(unit.items)
        for batch in self._cutter.cut(decoded()):
            left -= len(batch)
            last = left == len(failures)
            prepared = self._preparer.submit(batch)
            self._put(Piece(unit, batch, prepared, failures if last else {}, last))
            if last or self._stop.is_set():
                return
        self._put(Piece(unit, [], None, failures, last=True))

    def _decoded(self) -> Generator[tuple[Unit, Iterator[_Arrival]]]:
        if self._pool is None:
            for unit in self._units:
                yield unit, ((item, {}) for item in unit.items)
            return
        begun: deque[Unit] = deque()
        outcomes = self._pool.map(self._files(begun))
        with contextlib.closing(outcomes):  # type: ignore[type-var]
            for first in self._timed(outcomes):
                unit = begun.popleft()
                yield unit, self._arrivals(unit, chain((first,), self._timed(outcomes)))

    def _arrivals(self, unit: Unit, outcomes: Iterator[Any]) -> Iterator[_Arrival]:
        for item in unit.items:
            yield (
                item,
                seen_of({name: next(outcomes) for name in files_of(item, self._sources)}),
            )

    def _files(self, begun: deque[Unit]) -> Iterator[str]:
        for taken in self._units:
            unit = replace(taken, items=tuple(self._cutter.ordered(taken.items)))
            begun.append(unit)
            for item in unit.items:
                yield from files_of(item, self._sources).values()

    def _timed(self, outcomes: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.monotonic()
            outcome = next(outcomes, None)
            self._clock.add("decode", start)
            if outcome is None:
                return
            yield outcome
