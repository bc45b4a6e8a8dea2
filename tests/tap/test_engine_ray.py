"""Extraction on Ray, for real: two workers with the model, two that decode, some of them killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from clips import write_catalogue

from linkedout_lightning.errors import StoreError
from linkedout_lightning.store import FeatureStore

# Ray alone takes tens of seconds to start two workers; several times that on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VIDEOS, TEXTS = 40, 30
# The later videos wait for the test, so that whoever is to be killed is killed in the middle.
DECODER = """
import os, time
from pathlib import Path
from linkedout_lightning.video.backends.pyav import decode as plain

def decode(path, settings):
    while int(Path(path).stem[1:]) >= 20 and not os.path.exists(os.environ["TEST_GO_ON"]):
        time.sleep(0.05)
    return plain(path, settings)
"""
BROKEN = {"v1", "v4", "empty"}


@pytest.fixture(scope="module")
def command(tiny_video_llm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """``linkedout extract`` of a catalogue in units of four videos, so that there are many."""
    folder = tmp_path_factory.mktemp("catalogue")
    (folder / "waiting_decoder.py").write_text(DECODER)
    table, videos = write_catalogue(folder, videos=VIDEOS, texts=TEXTS)
    words = f"--model {tiny_video_llm('idefics3')} --items {table} --videos {videos} --layers all"
    words += " --backend waiting_decoder:decode --frames 3 --batch-size 1 --device cpu --workers 1"
    words += " --store-dtype float32 --timeout 600 --json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TEST_GO_ON", str(folder / "go-on"))
        yield [sys.executable, "-m", "linkedout_lightning.cli", "extract", *words.split()]


@pytest.fixture
def start(command: list[str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a job; what is left of it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def started_with(out: Path, *, engine: str) -> subprocess.Popen[str]:
        words = ["--out", str(out), "--engine", engine]
        if engine == "ray":
            words += ["--engine-options", "actors=2", "decoders=2", "object_store_mb=200"]
        process = subprocess.Popen(
            [*command, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield started_with
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def report_of(process: subprocess.Popen[str], *, said: str | None = None) -> dict:
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 3, errors[-3000:]
    assert errors == "" if said is None else said in errors
    return json.loads(out)


def hold() -> Path:
    """Let the later videos wait until the file that this returns is there."""
    go_on = Path(os.environ["TEST_GO_ON"])
    go_on.unlink(missing_ok=True)
    return go_on


@pytest.fixture(scope="module")
def wanted(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    out = tmp_path_factory.mktemp("plain") / "features"
    hold().touch()
    ran = subprocess.run([*command, "--out", str(out)], check=False)
    assert ran.returncode == 3
    return FeatureStore.open(out)


def assert_same(path: Path, wanted: FeatureStore) -> None:
    store = FeatureStore.open(path)
    assert store.item_ids == wanted.item_ids
    assert store.failures == wanted.failures
    assert store.fingerprints() == wanted.fingerprints()
    found, truth = store.get(wanted.item_ids), wanted.get(wanted.item_ids)
    assert torch.equal(found.mask, truth.mask)
    # The same batches, so the same bits: of one machine, with as many threads.
    assert torch.equal(found.features, truth.features)


def wait_for(out: Path, count: int, process: subprocess.Popen[str]) -> int:
    """Wait until so many items are in the store."""
    while process.poll() is None:
        try:
            if (there := len(FeatureStore.open(out))) >= count:
                return there
        except StoreError:
            pass
        time.sleep(0.02)
    pytest.fail(f"it ended before: {process.communicate()[1][-3000:]}")


def workers(process: subprocess.Popen[str], stage: str) -> list[psutil.Process]:
    """Processes of a job's workers, by their stage."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline() and stage in child.cmdline()[0] and "ray::" in child.cmdline()[0]:
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_workers_are_killed_and_replaced(start, wanted: FeatureStore, tmp_path: Path) -> None:
    out, go_on = tmp_path / "features", hold()
    process = start(out, engine="ray")
    wait_for(out, 4, process)
    for stage in ("DecodeStage", "TapStage"):
        found = workers(process, stage)
        assert len(found) == 2
        found[0].kill()
    assert len(FeatureStore.open(out)) < len(wanted)
    go_on.touch()
    report = report_of(process, said="A worker died or was killed")
    assert_same(out, wanted)
    assert report["exit_code"] == 3
    assert (report["done"], report["skipped"]) == (len(wanted), 0)
    assert report["failures"].keys() == wanted.failures.keys() == BROKEN
    assert any("by Ray 2" in note for note in report["notes"])
    assert {"load", "decode", "prepare", "model", "write", "total"} <= report["seconds"].keys()

    # Nothing is left: neither Ray nor the weights are asked.
    again = report_of(start(out, engine="ray"))
    assert (again["done"], again["skipped"], again["failed_before"]) == (0, len(wanted), 3)
    assert not any("Ray" in note for note in again["notes"])


def test_a_driver_is_killed(start, wanted: FeatureStore, tmp_path: Path) -> None:
    out, go_on = tmp_path / "features", hold()
    process = start(out, engine="ray")
    wait_for(out, 8, process)
    family = workers(process, "Stage")
    assert len(family) == 4
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    go_on.touch()
    there = len(FeatureStore.open(out))
    failed = len(FeatureStore.open(out).failures)
    assert 8 <= there < len(wanted)
    # What the killed one had claimed is free at once, here for a job without an engine.
    report = report_of(start(out, engine="local"))
    assert (report["done"], report["skipped"]) == (len(wanted) - there, there)
    assert report["failed_before"] == failed
    assert_same(out, wanted)
