"""An extraction that meets a full or a read-only disk: one sentence, and the work goes on later."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_disk import remount, small_disk

from linkedout_lightning import cli
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap import sink

ITEMS = 160
Run = Callable[[Path], int]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, tiny_video_llm) -> Run:
    """Extraction of a table of texts, committed a few rows at a time."""
    table = tmp_path_factory.mktemp("inputs") / "items.csv"
    lines = ["item_id,title", *(f"t{n},{'word ' * (1 + n % 7)}" for n in range(ITEMS))]
    table.write_text("\n".join(lines) + "\n")

    def run(out: Path) -> int:
        words = ["--model", tiny_video_llm("idefics3"), "--items", table, "--out", out]
        words += ["--layers", "all", "--groups", "text", "last", "--store-dtype", "float32"]
        words += ["--device", "cpu", "--batch-size", "8", "--quiet"]
        # So that some commits are there when the disk is full.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sink, "_ROWS", 16)
            return cli.main(["extract", *map(str, words)])

    return run


@pytest.fixture(scope="module")
def undisturbed(command: Run, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    out = tmp_path_factory.mktemp("undisturbed") / "features"
    assert command(out) == 0
    store = FeatureStore.open(out)
    assert len(store) == ITEMS
    return store


@pytest.fixture
def refused(command: Run, capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    def check(out: Path, *, because: str) -> None:
        capfd.readouterr()
        assert command(out) not in (0, 3)
        said = capfd.readouterr().err
        assert "Traceback" not in said
        last = said.strip().splitlines()[-1]
        assert last.startswith("linkedout extract: cannot ")
        assert because in last

    return check


def assert_part_of(store: FeatureStore, wanted: FeatureStore, *, same_batches: bool = True) -> None:
    ids = store.item_ids
    found, truth = store.get(ids).features, wanted.get(ids).features
    assert torch.equal(found, truth) if same_batches else torch.allclose(found, truth, atol=1e-4)
    assert store.failures == {}


def test_a_disk_that_runs_full_and_is_enlarged(
    command: Run, refused, undisturbed: FeatureStore, tmp_path: Path, capfd
) -> None:
    needed = undisturbed.disk_usage().current
    with small_disk(tmp_path / "disk", size=needed // 2) as disk:
        out = disk / "features"
        refused(out, because="the disk is full")
        store = FeatureStore.open(out)
        there = store.item_ids
        assert 0 < len(there) < ITEMS
        assert_part_of(store, undisturbed)
        refused(out, because="the disk is full")
        assert set(there) <= set(FeatureStore.open(out).item_ids)

        remount(disk, f"size={4 * needed}")
        assert command(out) == 0
        store.refresh()
        assert store.item_ids == undisturbed.item_ids
        assert_part_of(store, undisturbed)

        remount(disk, "ro")
        capfd.readouterr()
        assert command(out) == 0, "nothing is left to do, so nothing is written"
        assert f"already there   {ITEMS}" in capfd.readouterr().out


def test_a_read_only_disk(command: Run, refused, undisturbed: FeatureStore, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size=16 * 2**20) as disk:
        out = disk / "features"
        remount(disk, "ro")
        refused(out, because="the file system is read-only")
        remount(disk, "rw")
        store = FeatureStore.create(out, undisturbed.spec)
        part, stamps = undisturbed.item_ids[:40], undisturbed.fingerprints()
        store.append(part, *undisturbed.get(part), fingerprints=stamps)
        remount(disk, "ro")
        refused(out, because="the file system is read-only")
        assert FeatureStore.open(out).item_ids == part
        remount(disk, "rw")
        assert command(out) == 0
        assert len(store.refresh()) == ITEMS
        assert_part_of(store, undisturbed, same_batches=False)


def test_files_that_may_not_grow(
    command: Run, refused, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    """A limit on the size of files fails a write as a full disk does, and needs no rights."""
    out = tmp_path / "features"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = undisturbed.spec.bytes_per_item * 10
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        refused(out, because="a file may not grow any more")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    store = FeatureStore.open(out)
    assert len(store) < ITEMS
    assert command(out) == 0
    assert store.refresh().item_ids == undisturbed.item_ids
    assert_part_of(store, undisturbed)
