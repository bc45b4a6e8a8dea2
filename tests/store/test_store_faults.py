"""Killed, concurrent and hindered writers, as processes of their own."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from small_disk import remount, small_disk
from torch import Tensor

from linkedout_lightning.errors import StoreError
from linkedout_lightning.store import FeatureStore, StoreSpec

SPEC = StoreSpec(model="m", layers=(0, 1), slots=("a", "b"), hidden_size=64)

# Item "<writer>-<i>" holds the number i everywhere, so that a torn or foreign row shows.
WRITER = """
import sys
import torch
from linkedout_lightning.store import FeatureStore, StoreSpec
path, name, first, last, size = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
spec = StoreSpec(model="m", layers=(0, 1), slots=("a", "b"), hidden_size=64)
store = FeatureStore.create(path, spec, exist_ok=True)
done = set(store.item_ids)
todo = [i for i in range(first, last) if f"{name}-{i}" not in done]
print("ready", flush=True)
for start in range(0, len(todo), size):
    part = todo[start : start + size]
    values = torch.tensor(part, dtype=torch.float16)[:, None, None, None].expand(-1, 2, 2, 64)
    mask = torch.ones(len(part), 2, dtype=torch.bool)
    store.append([f"{name}-{i}" for i in part], values, mask)
    print(part[-1], flush=True)
    if store.pieces > 40:
        store.compact()
"""


def writer(path: Path, name: str, count: int, size: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, "0", str(count), str(size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def check_rows(store: FeatureStore) -> None:
    for batch in store.iter_batches(batch_size=256):
        wanted = torch.tensor([int(i.split("-")[1]) for i in batch.item_ids], dtype=torch.float16)
        assert torch.equal(batch.features, wanted[:, None, None, None].expand_as(batch.features))
        assert batch.mask.all()


def test_processes_create_and_append_at_once(tmp_path: Path) -> None:
    jobs = [writer(tmp_path / "s", name, 300, 10) for name in "abc"]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    store = FeatureStore.open(tmp_path / "s")
    assert set(store.item_ids) == {f"{n}-{i}" for n in "abc" for i in range(300)}
    check_rows(store)


def kill_and_resume(path: Path, kills: int, *, seed: int) -> None:
    chance = random.Random(seed)
    FeatureStore.create(path, SPEC)
    seen: set[str] = set()
    for _ in range(kills):
        job = writer(path, "w", 2000, 1)
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.3))
        job.send_signal(signal.SIGKILL)
        told = [int(line) for line in job.stdout.read().split("\n") if line]
        assert job.wait() == -signal.SIGKILL
        store = FeatureStore.open(path)
        ids = set(store.item_ids)
        assert seen <= ids, "rows that had been there are gone"
        assert {f"w-{i}" for i in told} <= ids, "rows that had been acknowledged are gone"
        check_rows(store)
        seen = ids
    job = writer(path, "w", 2000, 500)
    assert job.wait(60) == 0
    store = FeatureStore.open(path)
    assert set(store.item_ids) == {f"w-{i}" for i in range(2000)}
    check_rows(store)
    store.compact()
    check_rows(store)


def test_killed_writers_harm_nothing(tmp_path: Path) -> None:
    kill_and_resume(tmp_path / "s", 2, seed=0)


@pytest.mark.slow
def test_killed_writers_harm_nothing_many_times(tmp_path: Path) -> None:
    kill_and_resume(tmp_path / "s", 12, seed=1)


def test_a_full_disk_is_named_and_the_store_stays_readable(tmp_path: Path) -> None:
    """A limit on file sizes fails a write as a full disk does, and needs no rights."""
    store = FeatureStore.create(tmp_path / "s", SPEC)
    store.append(["w-1"], torch.ones(1, 2, 2, 64).half(), torch.ones(1, 2, dtype=torch.bool))
    program = """
import resource, signal, sys, torch
from linkedout_lightning.errors import StoreError
from linkedout_lightning.store import FeatureStore
store = FeatureStore.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
count = 2000
try:
    store.append([f"w-{i + 5}" for i in range(count)], torch.ones(count, 2, 2, 64).half(),
                 torch.ones(count, 2, dtype=torch.bool))
except StoreError as error:
    print(error)
assert store.get(["w-1"]).features.eq(1).all()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, store.path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "cannot write the feature store" in done.stdout
    assert "a file may not grow any more" in done.stdout
    again = FeatureStore.open(store.path)
    assert again.item_ids == ["w-1"]
    again.append(["w-2"], torch.full((1, 2, 2, 64), 2.0).half(), torch.ones(1, 2).bool())
    check_rows(FeatureStore.open(store.path))


def _five_times(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.repeat(5, 1, 1, 1), torch.ones(5 * len(values), 2).bool()


def test_a_small_disk_runs_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size=2 * 2**20) as disk:
        store = FeatureStore.create(disk / "s", SPEC)
        ones = torch.ones(1000, 2, 2, 64).half()
        store.append([f"a-{i}" for i in range(1000)], ones, torch.ones(1000, 2).bool())
        store.append([f"b-{i}" for i in range(1000)], ones, torch.ones(1000, 2).bool())
        with pytest.raises(StoreError, match="disk is full"):
            store.append([f"c-{i}" for i in range(5000)], *_five_times(ones))
        assert len(FeatureStore.open(disk / "s")) >= 1000
        assert store.get(["a-0"]).features.eq(1).all()
        remount(disk, "ro")
        reader = FeatureStore.open(disk / "s")
        assert reader.get(["a-7"]).features.eq(1).all()
        with pytest.raises(StoreError, match="read-only"):
            reader.append(["z"], ones[:1], torch.ones(1, 2).bool())
        with pytest.raises(StoreError, match="read-only"):
            FeatureStore.create(disk / "t", SPEC)


def test_a_full_disk_is_freed_of_the_past(tmp_path: Path) -> None:
    """Merging needs room; what frees some is done first, and holds where there is too little."""
    with small_disk(tmp_path / "disk", size=4 * 2**20) as disk:
        store = FeatureStore.create(disk / "s", SPEC)
        rows = torch.ones(500, 2, 2, 64).half(), torch.ones(500, 2, dtype=torch.bool)
        for name in "abcd":
            store.append([f"{name}-{i}" for i in range(500)], *rows)
        store.delete([f"{name}-{i}" for name in "abc" for i in range(500)])

        def fill() -> None:
            for name in range(20):
                store.append([f"{name}-{i}" for i in range(500)], *rows)

        with pytest.raises(StoreError, match="disk is full"):
            fill()
        there = FeatureStore.open(disk / "s").item_ids
        with pytest.raises(StoreError, match=r"cannot compact .* disk is full"):
            store.compact(keep=timedelta(0))
        store.refresh()
        assert store.item_ids == there
        assert store.disk_usage().loose == store.disk_usage().past == 0
        store.append([f"z-{i}" for i in range(500)], *rows)
