"""A job killed at random instants, resumed each time: nothing torn, and not a bit different."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from clips import write_catalogue

from linkedout_lightning.store import FeatureStore

# Appends of a few rows each, so that a kill finds some of them done; and a store that is compacted
# under way, so that a kill meets that too.
JOB = """
import sys
from linkedout_lightning.tap import sink
from linkedout_lightning.tap.extract import ExtractConfig, extract
if __name__ == "__main__":
    sink._ROWS, sink._MANY_PIECES = 3, 4
    model, items, videos, out = sys.argv[1:]
    print("start", flush=True)
    report = extract(
        ExtractConfig(
            model=model, items=items, videos=videos, out=out, layers="all", frames=3, workers=1,
            batch_size=1, groups=("visual:2", "text", "last"), device="cpu",
        ),
        progress=False,
    )
    print(report.done, flush=True)
"""


def start(job: Path, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(job), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "start\n"
    return process


def kill_and_compare(folder: Path, model: Path, *, kills: int, videos: int, seed: int) -> None:
    chance = random.Random(seed)
    table, clips = write_catalogue(folder / "catalogue", videos=videos, texts=videos)
    job = folder / "job.py"
    job.write_text(JOB)

    path = folder / "undisturbed"
    undisturbed = start(job, model, table, clips, path)
    assert undisturbed.stdout is not None
    _wait_for_version(path, 1, undisturbed)
    begun = time.monotonic()
    undisturbed.stdout.readline()  # the job's figures, when it is done
    pace = (time.monotonic() - begun) / max(1, version(path))
    assert undisturbed.wait(600) == 0
    wanted = FeatureStore.open(path)

    path = folder / "killed"
    seen: set[str] = set()
    progress = []
    for _ in range(kills):
        process = start(job, model, table, clips, path)
        # Counted in commits, as a busy machine has no time: all kills together take about as long
        # as the job, so most of them meet it at work and the last ones near its end.
        commits = chance.randint(1, 2 * wanted.version // (kills + 1))
        _wait_for_version(path, version(path) + commits, process)
        time.sleep(chance.uniform(0, pace))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not version(path):
            continue
        store = FeatureStore.open(path)
        ids = set(store.item_ids)
        assert seen <= ids
        seen = ids
        progress.append(len(ids))
        assert_equal(store, wanted, sorted(ids))
    assert start(job, model, table, clips, path).wait(600) == 0
    store = FeatureStore.open(path)
    assert store.item_ids == wanted.item_ids
    assert store.failures == wanted.failures
    assert store.fingerprints() == wanted.fingerprints()
    assert_equal(store, wanted, wanted.item_ids)
    print("items after each kill:", progress)


def version(path: Path) -> int:
    """Newest version of a store, by the names of its manifests: they count down."""
    names = [int(file.stem) for file in path.glob("_versions/*.manifest")]
    return 2**64 - 1 - min(names) if names else 0


def _wait_for_version(path: Path, number: int, process: subprocess.Popen[str]) -> None:
    while version(path) < number and process.poll() is None:
        time.sleep(0.002)


def assert_equal(store: FeatureStore, wanted: FeatureStore, ids: list[str]) -> None:
    found, truth = store.get(ids), wanted.get(ids)
    assert torch.equal(found.features.view(torch.int16), truth.features.view(torch.int16))
    assert torch.equal(found.mask, truth.mask)


def test_two_kills(tiny_video_llm, tmp_path: Path) -> None:
    kill_and_compare(tmp_path, tiny_video_llm("idefics3"), kills=2, videos=10, seed=0)


@pytest.mark.slow
def test_ten_kills(tiny_video_llm, tmp_path: Path) -> None:
    kill_and_compare(tmp_path, tiny_video_llm("idefics3"), kills=10, videos=40, seed=1)
