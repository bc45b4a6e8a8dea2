"""Independent jobs on one store: they share the work, and one that is killed costs nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from clips import write_catalogue

from linkedout_lightning.store import FeatureStore

WORKERS = 3
UNIT = 4  # items: batches of one, four of them a unit

# Workers are forks of a process that has loaded the model, so that many can be started. Lance must
# not be used before a fork; nothing here does.
PROGRAM = """
import json, os, sys
import torch
from linkedout_lightning.tap import sink
from linkedout_lightning.tap.extract import ExtractConfig, extract
from linkedout_lightning.tap.tap import VideoLLMTap

model, items, videos = sys.argv[1:]
sink._ROWS = 1  # every unit is appended by itself
torch.set_num_threads(1)
tap = VideoLLMTap.from_pretrained(model, layers="all", groups=["visual:2", "text", "last"])
plain = tap.extract


def work(out, log):
    def logged(batch):
        with open(log, "ab", buffering=0) as file:
            for item_id in batch.item_ids:
                file.write(f"{os.getpid()} {item_id}\\n".encode())
        return plain(batch)

    tap.extract = logged
    report = extract(
        ExtractConfig(
            model=model, items=items, videos=videos, out=out, frames=3, workers=1, batch_size=1,
            device="cpu",
        ),
        tap=tap, progress=False,
    )
    with open(log + ".reports", "a") as file:
        file.write(json.dumps([os.getpid(), report.done, report.by_others]) + "\\n")


for line in sys.stdin:
    if line.split()[0] == "wait":
        pid, status = os.waitpid(int(line.split()[1]), 0)
        print(status, flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(*line.split())
            code = 0
        finally:
            os._exit(code)
    print(pid, flush=True)
"""


@dataclass
class Forks:
    process: subprocess.Popen[str]

    def ask(self, line: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, out: Path, log: Path) -> int:
        return self.ask(f"{out} {log}")

    def wait(self, pid: int) -> int:
        return self.ask(f"wait {pid}")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_catalogue(tmp_path_factory.mktemp("catalogue"), videos=36, texts=70)


@pytest.fixture(scope="module")
def forks(tiny_video_llm, catalogue, tmp_path_factory: pytest.TempPathFactory):
    program = tmp_path_factory.mktemp("program") / "workers.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), str(tiny_video_llm("idefics3")), *map(str, catalogue)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    yield Forks(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert forks.wait(forks.start(folder / "features", folder / "log")) == 0
    return FeatureStore.open(folder / "features")


def runs(log: Path) -> dict[str, list[int]]:
    """Which processes took each item through the model."""
    found: dict[str, list[int]] = {}
    for line in log.read_text().splitlines():
        pid, item_id = line.split()
        found.setdefault(item_id, []).append(int(pid))
    return found


def assert_same(path: Path, wanted: FeatureStore) -> None:
    store = FeatureStore.open(path)
    assert store.item_ids == wanted.item_ids
    assert store.failures == wanted.failures
    assert store.fingerprints() == wanted.fingerprints()
    found, truth = store.get(wanted.item_ids), wanted.get(wanted.item_ids)
    assert torch.equal(found.features.view(torch.int16), truth.features.view(torch.int16))
    assert torch.equal(found.mask, truth.mask)


def test_jobs_share_the_work(forks: Forks, undisturbed: FeatureStore, tmp_path: Path) -> None:
    out, log = tmp_path / "features", tmp_path / "log"
    workers = [forks.start(out, log) for _ in range(WORKERS)]
    assert [forks.wait(pid) for pid in workers] == [0] * WORKERS
    assert_same(out, undisturbed)
    done = runs(log)
    assert Counter(len(pids) for pids in done.values()) == {1: len(done)}
    reports = [json.loads(line) for line in Path(f"{log}.reports").read_text().splitlines()]
    assert sum(done for _, done, _ in reports) == len(undisturbed)
    assert len({pid for pids in done.values() for pid in pids}) > 1


def kill_one(
    forks: Forks, wanted: FeatureStore, folder: Path, *, chance: random.Random
) -> tuple[int, int, int]:
    """Items done before the kill, items done twice, and how many the dead one had done."""
    folder.mkdir()
    out, log = folder / "features", folder / "log"
    workers = [forks.start(out, log) for _ in range(WORKERS)]
    victim = chance.choice(workers)
    # Counted in items of all of them, as time says little on a busy machine.
    until = chance.randint(0, len(wanted) - 1)
    while (count := log.read_text().count("\n") if log.exists() else 0) < until:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.02))
    os.kill(victim, signal.SIGKILL)
    killed = forks.wait(victim)
    others = [pid for pid in workers if pid != victim]
    assert [forks.wait(pid) for pid in others] == [0, 0]
    survived = runs(log)
    # The others have done its part without being told; one more job finds nothing to do.
    assert_same(out, wanted)
    before = log.read_text()
    assert forks.wait(forks.start(out, log)) == 0
    assert log.read_text() == before
    twice = {item_id: pids for item_id, pids in survived.items() if len(pids) > 1}
    if killed == 0:
        assert not twice
    for pids in twice.values():
        assert len(pids) == 2
        assert pids[0] == victim  # nobody takes what a living one is at
    # What it had not appended: a unit on its way to the disk, and the one in the model.
    assert len(twice) <= 2 * UNIT
    return count, len(twice), sum(victim in pids for pids in survived.values())


def test_one_of_three_is_killed(forks: Forks, undisturbed: FeatureStore, tmp_path: Path) -> None:
    chance = random.Random(3)
    for number in range(2):
        kill_one(forks, undisturbed, tmp_path / str(number), chance=chance)


@pytest.mark.slow
def test_one_of_three_is_killed_at_twenty_instants(
    forks: Forks, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    chance = random.Random(20)
    seen = [
        kill_one(forks, undisturbed, tmp_path / str(number), chance=chance) for number in range(20)
    ]
    print("items begun at the kill, done twice, done by the killed one:", seen)
    assert sum(victim > 0 for _, _, victim in seen) >= 10
