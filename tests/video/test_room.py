"""Decoding ahead is bounded in bytes, never stands still, and leaks end with their process."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from broken_decoders import pid_of

from linkedout_lightning.errors import ConfigError, VideoDecodeError
from linkedout_lightning.video import DecodePool, FrameSampler
from linkedout_lightning.video.room import Room, Task

BROKEN = "broken_decoders:by_name"
WIDE = 2 * 512 * 512 * 3

pytestmark = pytest.mark.timeout(60)


def pool(**options):
    return DecodePool(FrameSampler(2, backend=BROKEN, timeout_s=20), **options)


def _settled(value, seconds=10.0):
    """The value once it has not changed for a while."""
    last, since = value(), time.monotonic()
    deadline = since + seconds
    while time.monotonic() < deadline and time.monotonic() - since < 0.7:
        time.sleep(0.02)
        if value() != last:
            last, since = value(), time.monotonic()
    return last


@pytest.mark.parametrize(("ahead_mb", "fit"), [(1, 0), (2, 1), (4, 2), (100, 7)])
def test_frames_ahead_take_no_more_than_their_bound(ahead_mb, fit):
    with pool(workers=3, ahead=8, ahead_mb=ahead_mb) as decode:
        results = decode.map(["wide"] * 30)
        for _ in range(3):
            assert next(results).data.nbytes == WIDE
            assert _settled(lambda: decode.held_bytes) == fit * WIDE
        rest = list(results)
        assert [outcome.data.nbytes for outcome in rest] == [WIDE] * 27
        assert decode.held_bytes == 0


def test_waiting_for_room_does_not_count_as_decoding():
    sampler = FrameSampler(2, backend=BROKEN, timeout_s=1.0)
    with DecodePool(sampler, workers=2, ahead=4, ahead_mb=1) as decode:
        results = decode.map(["wide"] * 4)
        next(results)
        time.sleep(2.5)
        assert [outcome.data.nbytes for outcome in results] == [WIDE] * 3


def test_small_results_go_on_beside_large_ones():
    names = list(itertools.islice(itertools.cycle(["wide", "fine", "crash", "fine"]), 24))
    with pool(workers=3, ahead=6, ahead_mb=2) as decode:
        outcomes = list(decode.map(names))
    failed = [isinstance(outcome, VideoDecodeError) for outcome in outcomes]
    assert failed == [name == "crash" for name in names]


def test_two_maps_over_one_pool_do_not_block_each_other():
    """All workers hold results of a map that nobody consumes, and another map begins."""
    with pool(workers=2, ahead=6, ahead_mb=2) as decode:
        idle = decode.map(["wide"] * 8)
        next(idle)
        assert _settled(lambda: decode.held_bytes) == WIDE
        assert len(list(decode.map(["wide"] * 8))) == 8
        assert len(list(idle)) == 7
        assert decode.held_bytes == 0


def test_a_map_left_early_gives_its_room_back():
    with pool(workers=2, ahead=6, ahead_mb=4) as decode:
        results = decode.map(["wide"] * 8)
        next(results)
        assert _settled(lambda: decode.held_bytes) == 2 * WIDE
        results.close()
        assert _settled(lambda: decode.held_bytes) == 0
        assert len(list(decode.map(["wide"] * 5))) == 5


def test_a_pool_closes_while_results_wait_for_room():
    with pool(workers=2, ahead=6, ahead_mb=1) as decode:
        next(decode.map(["wide"] * 8))
        time.sleep(0.3)
        begun = time.monotonic()
    assert time.monotonic() - begun < 8
    assert not [t for t in threading.enumerate() if t.name.startswith("decode-")]


def test_an_impossible_bound_is_refused():
    with pytest.raises(ConfigError, match="ahead_mb"):
        pool(ahead_mb=0)


def test_room_admits_in_any_order_what_fits():
    room = Room(100)
    first, second = Task("a"), Task("b")
    room.admit(first, 60)
    room.admit(second, 40)
    assert room.held == 100
    room.release(first)
    room.release(first)
    assert room.held == 40


def test_a_worker_that_leaks_is_replaced_before_it_refuses_good_videos():
    """20 MiB stay after each video; the limit of 100 MiB would be reached with the fifth."""
    sampler = FrameSampler(2, backend=BROKEN, memory_mb=100)
    with DecodePool(sampler, workers=1) as decode:
        outcomes = list(decode.map(["leak"] * 12))
        assert all(len(outcome) == 2 for outcome in outcomes)
        assert 3 <= decode.restarts <= 11
        before = decode.restarts
        pids = [pid_of(outcome) for outcome in decode.map(["pid"] * 12)][1:]
        assert len(set(pids)) == 1
        assert decode.pids == [pids[0]]
        assert decode.restarts <= before + 1
