"""What a write forces to the disk, as the system sees it."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from pathlib import Path

import pytest
from store_rows import rows

from linkedout_lightning.errors import StoreError
from linkedout_lightning.store import FeatureStore


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths given to fsync, in order."""
    paths: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return paths


def files(store: FeatureStore, *folders: str) -> set[str]:
    """Files but for the hint, which nothing depends on."""
    found = {str(file) for name in folders for file in (Path(store.path) / name).glob("*")}
    return {name for name in found if not name.endswith(".json")}


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")


@needs_proc
def test_every_write_is_forced_with_its_manifest_last(
    store: FeatureStore, forced: list[str]
) -> None:
    for write in (
        lambda: store.append(list("abcd"), *rows(4)),
        lambda: store.record_failures({"x": "empty"}),
        lambda: store.delete(["a"]),
        lambda: store.compact(keep=timedelta(days=1), purge=True),
    ):
        before = files(store, "data", "_versions", "_deletions")
        forced.clear()
        write()
        new = files(store, "data", "_versions", "_deletions") - before
        newest = min(files(store, "_versions"))
        # A delete that another commit follows at once, as in a compaction, is superseded by it.
        wanted = {n for n in new if not n.endswith(".manifest")} | {newest}
        assert wanted <= set(forced)
        first = [name for name in forced if Path(name).is_file()]
        assert first[-1] == newest
        assert {f"{store.path}/data", f"{store.path}/_versions"} <= set(forced)


@needs_proc
def test_a_compaction_frees_nothing_before_it_is_safe(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, mask = rows(6)
    for i in range(6):
        store.append([str(i)], features[i : i + 1], mask[i : i + 1])
    before = files(store, "data")

    def no_disk(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", no_disk)
    with pytest.raises(StoreError, match="cannot compact"):
        store.compact(keep=timedelta(0))
    assert before <= files(store, "data")


def test_what_others_freed_is_no_error(store: FeatureStore) -> None:
    late = FeatureStore.open(store.path)
    for i in range(4):
        store.append([str(i)], *rows(1))
    late.refresh()
    store.append(["9"], *rows(1))
    store.compact(keep=timedelta(0))
    late._durability.force(late._dataset)
    late.append(["z"], *rows(1))
    assert FeatureStore.open(store.path).item_ids == ["0", "1", "2", "3", "9", "z"]


@needs_proc
def test_only_what_is_new_is_forced(store: FeatureStore, forced: list[str]) -> None:
    store.append(["a"], *rows(1))
    again = FeatureStore.open(store.path)
    forced.clear()
    again.append(["b"], *rows(1))
    assert sum(name.endswith(".lance") for name in forced) == 1
