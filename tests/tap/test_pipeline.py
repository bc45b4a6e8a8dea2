"""Batches that come prepared, the look-ahead on a GPU, and a feed that ends early."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice

import pytest
import torch
from test_running import StandIn

from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.pipeline import Clock, Feed, PrepareThreads, WholeUnit
from linkedout_lightning.tap.running import BatchRunner
from linkedout_lightning.tap.types import TapBatch, TapInput
from linkedout_lightning.tap.units import Unit
from linkedout_lightning.video import DecodePool, FrameSampler


@dataclass
class Piece:
    items: list[TapInput]
    prepared: Future[TapBatch] | None = field(default_factory=Future)


def pieces(tap: StandIn, *, count: int, size: int) -> list[Piece]:
    found = []
    for start in range(0, count * size, size):
        piece = Piece([TapInput(str(i)) for i in range(start, start + size)])
        assert piece.prepared is not None
        piece.prepared.set_result(StandIn.prepare(tap, piece.items))
        found.append(piece)
    return found


class OnDevice(StandIn):
    """A stand-in whose features are fetched from a device when asked."""

    def __init__(self, fault, events: list[str]) -> None:
        super().__init__(fault)
        self.device = torch.device("cuda")
        self.events = events

    def prepare(self, items) -> TapBatch:
        return _Batch(super().prepare(items).item_ids, [])

    def extract(self, batch: TapBatch):
        self.events.append(f"begin {batch.item_ids[0]}")
        output = super().extract(batch)
        tap = self

        class Fetched(type(output)):  # type: ignore[misc]
            def cpu(self):
                tap.events.append(f"fetch {self.item_ids[0]}")
                return output

        return Fetched(output.item_ids, output.features, output.mask)


class _Batch(TapBatch):
    def to(self, device) -> TapBatch:
        return self


def prepared_on(tap: OnDevice, *, count: int, size: int) -> list[Piece]:
    found = pieces(tap, count=count, size=size)
    for piece in found:
        future: Future[TapBatch] = Future()
        future.set_result(tap.prepare(piece.items))
        piece.prepared = future
    return found


def test_on_a_gpu_the_next_batch_begins_before_the_last_is_fetched() -> None:
    events: list[str] = []
    tap = OnDevice(lambda ids: None, events)
    results = list(BatchRunner(tap).stream(prepared_on(tap, count=3, size=2)))  # type: ignore[arg-type]
    assert events == ["begin 0", "begin 2", "fetch 0", "begin 4", "fetch 2", "fetch 4"]
    assert [r.outputs[0].item_ids for r in results] == [["0", "1"], ["2", "3"], ["4", "5"]]
    assert [r.piece.items[0].item_id for r in results] == ["0", "2", "4"]


@pytest.mark.parametrize("kind", [StandIn, OnDevice])
def test_memory_that_runs_out_halves_prepared_batches(kind) -> None:
    def fault(ids) -> None:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    if kind is StandIn:
        tap = StandIn(fault)
        given = pieces(tap, count=3, size=4)
    else:
        tap = OnDevice(fault, [])
        given = prepared_on(tap, count=3, size=4)
    results = list(BatchRunner(tap).stream(given))  # type: ignore[arg-type]
    found = [i for r in results for output in r.outputs for i in output.item_ids]
    assert found == [str(i) for i in range(12)]
    assert not any(r.failures for r in results)
    # On the device the second batch had begun when the first one's failure was looked at.
    assert tap.sizes == ([4, 2, 2, 2, 2, 2, 2] if kind is StandIn else [4, 4, 2, 2, 2, 2, 2, 2])


def test_an_item_that_the_processor_refuses_costs_itself() -> None:
    class Picky(StandIn):
        def prepare(self, items) -> TapBatch:
            if any(item.item_id == "2" for item in items):
                raise ValueError("a frame of no pixels")
            return super().prepare(items)

    tap = Picky(lambda ids: None)
    piece = Piece([TapInput(str(i)) for i in range(4)])
    assert piece.prepared is not None
    piece.prepared.set_exception(ValueError("a frame of no pixels"))
    empty = Piece([], None)
    first, last = BatchRunner(tap).stream([piece, empty])  # type: ignore[arg-type]
    assert [i for output in first.outputs for i in output.item_ids] == ["0", "1", "3"]
    assert first.failures == {"2": "the model failed: ValueError: a frame of no pixels"}
    assert (last.outputs, last.failures) == ([], {})


def sampler(**options) -> FrameSampler:
    return FrameSampler(frames=2, backend="named_decoder:by_name", **options)


class Pairs(WholeUnit):
    """Two at a time, as they come."""

    def cut(self, items):
        for item in items:
            pair = [item, *islice(items, 1)]
            yield pair


def feeding(names: list[str], pool: DecodePool, threads: PrepareThreads) -> Feed:
    """A feed over files whose names say how decoding them goes."""
    items = [Item(name, name, {}) for name in names]
    units = [Unit(k, tuple(items[k : k + 3]), True) for k in range(0, len(items), 3)]
    return Feed(
        iter(units),
        cutter=Pairs(),
        preparer=threads,
        pool=pool,
        sources={"video"},
        clock=Clock(),
    )


def test_units_come_whole_and_in_order() -> None:
    tap = StandIn(lambda ids: None)
    threads = PrepareThreads(tap, cuda=False, clock=Clock())  # type: ignore[arg-type]
    names = [f"{word}-{i}" for i, word in enumerate(["fine", "crash", "fine", "fine", "fine"])]
    names += ["crash-5", "crash-6", "crash-7", "crash-8", "fine-9"]
    with DecodePool(sampler(), workers=2) as pool:
        found = list(feeding(names, pool, threads))
    threads.close()
    assert [[i.item_id for i in piece.items] for piece in found] == [
        ["fine-0", "fine-2"],
        ["fine-3", "fine-4"],
        [],
        [],
        ["fine-9"],
    ]
    assert [piece.last for piece in found] == [True, False, True, True, True]
    assert [sorted(piece.failures) for piece in found] == [
        ["crash-1"],
        [],
        ["crash-5"],
        ["crash-6", "crash-7", "crash-8"],
        [],
    ]
    assert "crash" in found[0].failures["crash-1"]


def test_a_batch_is_there_before_its_unit_is_decoded() -> None:
    tap = StandIn(lambda ids: None)
    threads = PrepareThreads(tap, cuda=False, clock=Clock())  # type: ignore[arg-type]
    with DecodePool(sampler(timeout_s=600), workers=1, ahead=3) as pool:
        feed = iter(feeding(["fine-0", "fine-1", "hang-2"], pool, threads))
        piece = next(feed)
        assert [i.item_id for i in piece.items] == ["fine-0", "fine-1"]
        assert not piece.last
        feed.close()  # type: ignore[attr-defined]
    threads.close()


def test_a_full_batch_is_the_last_piece_only_if_nothing_else_is_to_come() -> None:
    tap = StandIn(lambda ids: None)
    threads = PrepareThreads(tap, cuda=False, clock=Clock())  # type: ignore[arg-type]
    names = ["fine-0", "fine-1", "crash-2", "crash-3", "fine-4", "fine-5"]
    with DecodePool(sampler(), workers=1) as pool:
        found = list(feeding(names, pool, threads))
    threads.close()
    assert [(len(piece.items), sorted(piece.failures), piece.last) for piece in found] == [
        (2, [], False),
        (0, ["crash-2"], True),
        (2, ["crash-3"], True),
    ]
    assert found[1].prepared is None


def test_a_job_that_ends_early_does_not_wait_for_a_decoder() -> None:
    tap = StandIn(lambda ids: None)
    threads = PrepareThreads(tap, cuda=False, clock=Clock())  # type: ignore[arg-type]
    names = ["fine-0", "fine-1", "fine-2", *(f"hang-{i}" for i in range(3, 9))]
    before = time.monotonic()
    with DecodePool(sampler(timeout_s=600), workers=1) as pool:
        feed = iter(feeding(names, pool, threads))
        next(feed)
        feed.close()  # type: ignore[attr-defined]
    threads.close()
    # Far from a stopwatch: a decoder that hangs would have been waited for ten minutes.
    assert time.monotonic() - before < 300
    assert not [t for t in threading.enumerate() if t.name in ("feed", "prepare")]


def test_what_goes_wrong_in_the_feed_is_raised_where_it_is_used() -> None:
    tap = StandIn(lambda ids: None)
    threads = PrepareThreads(tap, cuda=False, clock=Clock())  # type: ignore[arg-type]

    def broken():
        yield Unit(0, (Item("a"),), False)
        raise OSError("the disk is gone")

    feed = Feed(
        broken(),
        cutter=WholeUnit(),
        preparer=threads,
        pool=None,
        sources=(),
        clock=Clock(),
    )
    pieces = iter(feed)
    assert [i.item_id for i in next(pieces).items] == ["a"]
    with pytest.raises(OSError, match="the disk is gone"):
        next(pieces)
    threads.close()
