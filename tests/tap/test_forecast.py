"""The time of a job from the seconds of its parts, against a simulation of the parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from linkedout_lightning.tap.forecast import Kind, Line, forecast
from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.sampling import choose, shares


def simulated(kind: Kind, line: Line) -> float:
    """Event by event: workers, then one processor thread and the model, unit by unit."""
    free = np.zeros(line.workers)
    prepared = modelled = 0.0
    for start in range(0, kind.count, kind.unit):
        of = np.arange(start, min(start + kind.unit, kind.count)) % len(kind.decode)
        for seconds in kind.decode[of]:
            worker = free.argmin()
            free[worker] += seconds
        decoded = free.max() if line.workers > 1 else free[0]
        prepared = max(prepared, decoded) + kind.prepare[of].sum()
        modelled = max(modelled, prepared) + kind.model[of].sum()
    return modelled


@pytest.mark.parametrize("slow", ["decode", "prepare", "model"])
@pytest.mark.parametrize("workers", [1, 4])
def test_the_time_is_that_of_a_simulated_line(slow: str, workers: int) -> None:
    chance = np.random.default_rng(0)
    seconds = {
        part: chance.gamma(2, 1 if part == slow else 0.1, 400) for part in ("prepare", "model")
    }
    decode = chance.gamma(2, workers if slow == "decode" else 0.1 * workers, 400)
    kind = Kind(count=400, unit=32, decode=decode, **seconds)
    # So many cores that the parts do not disturb each other.
    line = Line(workers=workers, threads=1, cores=1000, model_cores=1)
    found = forecast([kind], line)
    assert found.seconds == pytest.approx(simulated(kind, line), rel=0.1)
    assert found.bottleneck == slow
    assert found.low < found.seconds < found.high


def test_parts_that_share_the_cores_take_the_sum_of_their_work() -> None:
    ones = np.ones(10)
    kind = Kind(count=100, unit=8, decode=ones, prepare=ones, model=ones)
    line = Line(workers=2, threads=1, cores=2, model_cores=2)
    found = forecast([kind], line)
    assert found.parts["cores"] == pytest.approx(100 * (1 + 1 + 2) / 2)
    assert (found.bottleneck, found.seconds) == ("cores", pytest.approx(200))
    assert found.low == found.high == found.seconds
    late = forecast([kind], replace(line, starting=7))
    assert (late.seconds, late.low, late.high) == (207, 207, 207)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    chance = np.random.default_rng(3)
    line = Line(workers=1, threads=1, cores=1000, model_cores=1)
    zeros, held, rounds = np.zeros(16), 0, 300
    for _ in range(rounds):
        decode = chance.gamma(4, 0.25, 16)
        found = forecast(
            [Kind(count=1000, unit=1, decode=decode, prepare=zeros, model=zeros)], line
        )
        held += found.low <= 1000 <= found.high
    assert 0.9 <= held / rounds <= 0.98


def test_nothing_to_do_takes_no_time() -> None:
    none = np.zeros(0)
    line = Line(workers=1, threads=1, cores=1, model_cores=1)
    found = forecast([Kind(count=0, unit=8, decode=none, prepare=none, model=none)], line)
    assert (found.seconds, found.low, found.high, found.bottleneck) == (0, 0, 0, "nothing")


def test_kinds_follow_each_other() -> None:
    ones = np.ones(4)
    watch = Kind(count=40, unit=4, decode=ones, prepare=0 * ones, model=0 * ones)
    read = Kind(count=30, unit=4, decode=0 * ones, prepare=0 * ones, model=ones)
    line = Line(workers=1, threads=1, cores=100, model_cores=1)
    assert forecast([watch, read], line).seconds == pytest.approx(70)


def test_a_sample_has_all_sizes_and_every_item_its_chance(tmp_path) -> None:
    items = []
    for number in range(100):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(b"x" * (number + 1))
        items.append(Item(str(number), str(path)))
    seen = set()
    for seed in range(60):
        chosen = choose(items, 10, sources=["video"], seed=seed)
        assert sorted(int(item.item_id) // 10 for item in chosen) == list(range(10))
        seen |= {item.item_id for item in chosen}
    assert len(seen) > 95
    assert choose(items, 10, sources=["video"]) == choose(items, 10, sources=["video"])
    assert len(choose(items, 1000, sources=["video"])) == 100
    assert choose([], 5, sources=["video"]) == []


def test_shares_of_kinds() -> None:
    assert shares([1000, 1000], 16) == [8, 8]
    assert shares([1000, 2], 16) == [16, 2]
    assert shares([0, 5], 16) == [0, 5]
    assert shares([10, 10], 1) == [1, 1]
