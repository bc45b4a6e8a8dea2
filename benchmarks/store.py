"""The feature store against the disk's own speed, in one run.

The yardstick is a plain file: the same bytes written with ``fsync``, and read through a memory map.
Every figure is the median of repeats that alternate between the two, and the ratios are what to
look at: a machine has good and bad minutes, and both sides share them. On a busy machine CPU time
says more than the clock. "Cold" reads begin with the files dropped from the page cache.

    python benchmarks/store.py --folder DISK_TO_MEASURE --out benchmarks/results/store.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.store import FeatureStore, StoreSpec

LAYERS, SLOTS, WIDTH = 4, 1, 1536
GATHER, COMMIT = 512, 512

WRITER = """
import sys, torch
from linkedout_lightning.store import FeatureStore
path, name, commits, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = FeatureStore.open(path)
features = torch.randn(rows, *store.spec.shape).half()
mask = torch.ones(rows, store.spec.shape[1], dtype=torch.bool)
print("ready", flush=True)
sys.stdin.readline()
for i in range(commits):
    store.append([f"{name}-{i}-{j}" for j in range(rows)], features, mask)
"""


def spec() -> StoreSpec:
    slots = tuple(f"slot:{i}" for i in range(SLOTS))
    return StoreSpec(model="bench", layers=tuple(range(LAYERS)), slots=slots, hidden_size=WIDTH)


def make_rows(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(count, LAYERS, SLOTS, WIDTH, generator=generator).half()
    return features, torch.ones(count, SLOTS, dtype=torch.bool)


class Spent(NamedTuple):
    """Seconds on the clock, and of the CPU in all of this process's threads."""

    clock: float
    cpu: float


def timed(do: Callable[[], object]) -> Spent:
    start, cpu = time.perf_counter(), time.process_time()
    do()
    return Spent(time.perf_counter() - start, time.process_time() - cpu)


def clock(do: Callable[[], object]) -> float:
    return timed(do).clock


def median(spent: Sequence[Spent]) -> Spent:
    return Spent(*(statistics.median(part) for part in zip(*spent, strict=True)))


def row_of(what: str, spent: dict[str, list[Spent]], nbytes: int) -> dict[str, Any]:
    """Medians of two ways, and their ratios."""
    store, plain = median(spent["store"]), median(spent["plain"])
    return {
        "what": what,
        "repeats": len(spent["store"]),
        "store_ms": round(1e3 * store.clock, 2),
        "plain_ms": round(1e3 * plain.clock, 2),
        "times_the_plain_way": round(store.clock / plain.clock, 2),
        "store_cpu_ms": round(1e3 * store.cpu, 2),
        "plain_cpu_ms": round(1e3 * plain.cpu, 2),
        "store_mb_s": round(nbytes / store.clock / 1e6, 1),
        "plain_mb_s": round(nbytes / plain.clock / 1e6, 1),
    }


def drop(folder: Path) -> None:
    """Drop the files below a folder from the page cache; needs no rights."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def compared(
    what: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    *,
    repeats: int,
    before: Callable[[], object] = lambda: None,
    nbytes: int,
) -> dict[str, Any]:
    """Medians of two ways in turn, as seconds, MB/s and their ratio."""
    seconds: dict[str, list[Spent]] = {"store": [], "plain": []}
    for _ in range(repeats):
        for name, way in (("store", ours), ("plain", plain)):
            before()
            seconds[name].append(timed(way))
    row = row_of(what, seconds, nbytes)
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def filled(folder: Path, chunks: Sequence[tuple[list[str], Any, Any]]) -> Iterator[Spent]:
    store = FeatureStore.create(folder, spec())
    for ids, features, mask in chunks:
        yield timed(lambda i=ids, f=features, m=mask: store.append(i, f, m))


def written(
    file: Path, chunks: Sequence[tuple[list[str], Any, Any]], *, sync: bool
) -> Iterator[Spent]:
    with file.open("wb", buffering=0) as out:
        for _, features, _ in chunks:

            def write(features: torch.Tensor = features) -> None:
                out.write(features.numpy().data)
                if sync:
                    os.fsync(out.fileno())

            yield timed(write)


def appends(folder: Path, chunks: Sequence[tuple[list[str], Any, Any]]) -> list[dict[str, Any]]:
    """Commit by commit, in turn: store, file with fsync, file without."""
    ways = {
        "store": filled(folder / "store", chunks),
        "plain": written(folder / "plain.bin", chunks, sync=True),
        "plain without fsync": written(folder / "unsafe.bin", chunks, sync=False),
    }
    seconds: dict[str, list[Spent]] = {name: [] for name in ways}
    for turn in zip(*ways.values(), strict=True):
        for name, spent in zip(ways, turn, strict=True):
            seconds[name].append(spent)
    (folder / "unsafe.bin").unlink()
    row = row_of(
        f"append of {COMMIT} items, in {len(chunks)} commits", seconds, chunks[0][1].nbytes
    )
    row["plain_without_fsync_ms"] = round(1e3 * median(seconds["plain without fsync"]).clock, 2)
    print(json.dumps(row), file=sys.stderr, flush=True)
    return [row]


def reads(folder: Path, items: int, *, repeats: int) -> list[dict[str, Any]]:
    store = FeatureStore.open(folder / "store")
    store.compact(keep=timedelta(0))
    ids = [f"i{n}" for n in range(items)]
    shape = (items, LAYERS, SLOTS, WIDTH)
    size = spec().bytes_per_item
    random = np.random.default_rng(0)

    def gather() -> None:
        store.get([ids[n] for n in random.integers(items, size=GATHER)])

    def plain_gather() -> None:
        # Opened anew, as pages that a map has touched cannot be dropped.
        features = np.memmap(folder / "plain.bin", np.float16, "r", shape=shape)
        torch.from_numpy(features[random.integers(items, size=GATHER)])

    def plain_preads() -> None:
        # The fastest way from a cold disk: a map reads ahead what nobody wants, one page at a time.
        wanted = np.sort(random.integers(items, size=GATHER)).tolist()
        descriptor = os.open(folder / "plain.bin", os.O_RDONLY)
        with ThreadPoolExecutor(16) as pool:
            read = list(pool.map(lambda n: os.pread(descriptor, size, n * size), wanted))
        os.close(descriptor)
        torch.frombuffer(bytearray(b"".join(read)), dtype=torch.float16)

    def scan() -> None:
        for _ in store.iter_batches(batch_size=2048):
            pass

    def plain_scan() -> None:
        features = np.memmap(folder / "plain.bin", np.float16, "r", shape=shape)
        for start in range(0, items, 2048):
            np.array(features[start : start + 2048])

    order = random.permutation(items)
    catalogue = [ids[n] for n in order]

    def materialise() -> None:
        store.get(catalogue)

    def plain_materialise() -> None:
        features = np.memmap(folder / "plain.bin", np.float16, "r", shape=shape)
        torch.from_numpy(features[order])

    def cold() -> None:
        drop(folder)

    whole = items * size
    some = f"gather of {GATHER} random items"
    gather()
    return [
        compared(f"{some}, warm", gather, plain_gather, repeats=3 * repeats, nbytes=GATHER * size),
        compared(
            f"{some}, cold (plain: 16 threads of pread)",
            gather,
            plain_preads,
            repeats=repeats,
            before=cold,
            nbytes=GATHER * size,
        ),
        compared("sequential scan, warm", scan, plain_scan, repeats=repeats, nbytes=whole),
        compared(
            "sequential scan, cold", scan, plain_scan, repeats=repeats, before=cold, nbytes=whole
        ),
        compared(
            "all items in the order of a catalogue (for training), warm",
            materialise,
            plain_materialise,
            repeats=repeats,
            nbytes=whole,
        ),
    ]


def many_small(folder: Path, *, commits: int, generator: torch.Generator) -> dict[str, Any]:
    """What thousands of tiny appends cost a reader, and what a compaction gives back."""
    store = FeatureStore.create(folder / "small", spec())
    features, mask = make_rows(16, generator)
    seconds = [
        clock(lambda i=i: store.append([f"{i}-{j}" for j in range(16)], features, mask))
        for i in range(commits)
    ]
    random = np.random.default_rng(0)
    ids = store.item_ids

    def look() -> dict[str, float]:
        opened: list[FeatureStore] = []
        opening = statistics.median(
            clock(lambda: opened.append(FeatureStore.open(folder / "small"))) for _ in range(3)
        )
        gather = statistics.median(
            clock(lambda: opened[-1].get([ids[n] for n in random.integers(len(ids), size=GATHER)]))
            for _ in range(7)
        )
        return {
            "pieces": opened[-1].pieces,
            "open_ms": round(1e3 * opening, 2),
            "gather_ms": round(1e3 * gather, 2),
        }

    before = look()
    spent = clock(lambda: store.compact(keep=timedelta(0)))
    return {
        "what": f"{commits} appends of 16 items",
        "first_appends_ms": round(1e3 * statistics.median(seconds[: commits // 10]), 2),
        "last_appends_ms": round(1e3 * statistics.median(seconds[-commits // 10 :]), 2),
        "before_compaction": before,
        "compaction_s": round(spent, 3),
        "after_compaction": look(),
    }


def writers(folder: Path, *, count: int, commits: int) -> dict[str, Any]:
    """The same appends from several processes at once and from one."""
    result: dict[str, Any] = {"what": f"{count} processes x {commits} appends of {COMMIT} items"}
    for number in (1, count):
        path = folder / f"writers-{number}"
        store = FeatureStore.create(path, spec())
        jobs = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), f"w{n}", str(commits), str(COMMIT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(number)
        ]
        for job in jobs:
            assert job.stdout is not None
            job.stdout.readline()
        start = time.perf_counter()
        for job in jobs:
            assert job.stdin is not None
            job.stdin.write("go\n")
            job.stdin.flush()
        codes = [job.wait() for job in jobs]
        spent = time.perf_counter() - start
        rows = len(store.refresh())
        name = "together" if number > 1 else "alone"
        result[name] = {
            "items_per_s": round(rows / spent, 1),
            "mb_s": round(rows * spec().bytes_per_item / spent / 1e6, 1),
            "lost": number * commits * COMMIT - rows,
            "exit_codes": codes,
        }
        shutil.rmtree(path)
    result["together_to_alone"] = round(
        result["together"]["items_per_s"] / result["alone"]["items_per_s"], 2
    )
    return result


def deletes(folder: Path, items: int) -> dict[str, Any]:
    store = FeatureStore.open(folder / "store")
    gone = [f"i{n}" for n in range(0, items, 5)]
    spent = clock(lambda: store.delete(gone))
    keep = timedelta(0)
    purged = clock(lambda: store.compact(keep=keep, purge=True))
    left = store.disk_usage().total / (len(store) * spec().bytes_per_item)
    return {
        "what": f"delete of {len(gone)} of {items} items, then a compaction that purges",
        "delete_ms": round(1e3 * spent, 2),
        "purge_s": round(purged, 3),
        "bytes_on_disk_to_bytes_of_features": round(left, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=20_480)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to be measured")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/store.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(arguments.seed)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        base, mask = make_rows(COMMIT, generator)
        chunks = [
            ([f"i{n}" for n in range(start, start + COMMIT)], base + start / 1e4, mask)
            for start in range(0, arguments.items, COMMIT)
        ]
        items = COMMIT * len(chunks)
        rows = appends(folder, chunks)
        del chunks
        rows += reads(folder, items, repeats=arguments.repeats)
        small = many_small(folder, commits=200, generator=generator)
        print(json.dumps(small), file=sys.stderr, flush=True)
        together = writers(folder, count=4, commits=8)
        print(json.dumps(together), file=sys.stderr, flush=True)
        removed = deletes(folder, items)
    finally:
        shutil.rmtree(folder)
    results = {
        "what": "medians of repeats in turn with the plain way: one file, written with fsync and "
        "read through a memory map",
        "environment": environment()
        | {"load_average": os.getloadavg(), "seed": arguments.seed, "threads": 1},
        "items": items,
        "bytes_per_item": spec().bytes_per_item,
        "against_plain_files": rows,
        "small_appends": small,
        "writers": together,
        "deletes": removed,
    }
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
