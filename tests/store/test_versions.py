"""Past versions, large deletes and what a compaction frees."""

from __future__ import annotations

import copy
import pickle
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from store_rows import equal_bits, make_spec, rows

from linkedout_lightning.errors import StoreError, UnknownItemError
from linkedout_lightning.store import FeatureStore

AT_ONCE = timedelta(0)


def test_a_past_version_is_what_the_store_was(store: FeatureStore) -> None:
    features, mask = rows(6)
    store.append(list("abc"), features[:3], mask[:3], failures={"x": "broken"})
    then = store.version
    store.append(["b", "x"], features[3:5], mask[3:5], replace=True)
    store.delete(["a"])

    old = FeatureStore.open(store.path, version=then)
    for view in (old, pickle.loads(pickle.dumps(old)), copy.deepcopy(old), old.refresh()):
        assert view.version == view.pinned_version == then
        assert view.item_ids == list("abc")
        assert view.failures == {"x": "broken"}
        assert equal_bits(view.get(list("cab")).features, features[[2, 0, 1]])
    assert store.pinned_version is None
    assert store.item_ids == ["b", "c", "x"]
    listed = store.versions()
    assert [entry.version for entry in listed] == [1, 2, 3, 4]
    # Rows of the log: one that is replaced still counts, one that is deleted does not.
    assert [entry.rows for entry in listed] == [0, 4, 6, 5]
    age = datetime.now(UTC) - listed[0].timestamp
    assert timedelta(0) <= age < timedelta(minutes=10)


def test_a_past_version_is_for_reading(store: FeatureStore) -> None:
    store.append(["a"], *rows(1))
    old = FeatureStore.open(store.path, version=store.version)
    before = store.version
    for write in (
        lambda: old.append(["b"], *rows(1)),
        lambda: old.record_failures({"b": "x"}),
        lambda: old.delete(["a"]),
        lambda: old.compact(),
    ):
        with pytest.raises(StoreError, match=r"version 2 of .* open the store without `version`"):
            write()
    assert FeatureStore.open(store.path).version == before


def test_versions_that_are_not_there_name_those_that_are(store: FeatureStore) -> None:
    for i in range(5):
        store.append([str(i)], *rows(1))
    with pytest.raises(StoreError, match=r"no version 9; it has 1 to 6 \(a compaction"):
        FeatureStore.open(store.path, version=9)
    old = FeatureStore.open(store.path, version=3)
    store.compact(keep=AT_ONCE)
    words = rf"no version 3; it has {store.version} \("
    with pytest.raises(StoreError, match=words):
        FeatureStore.open(store.path, version=3)
    with pytest.raises(StoreError, match=words):
        old.get(["0"])


def test_a_compaction_says_what_it_did(store: FeatureStore) -> None:
    features, mask = rows(4)
    for i in range(4):
        store.append([str(i)], features[i : i + 1], mask[i : i + 1])
    store.append(["0"], features[:1], mask[:1], replace=True)
    kept = store.compact(keep=timedelta(days=1))
    assert (kept.pieces_before, kept.pieces, kept.superseded) == (5, 1, 1)
    assert (kept.versions_freed, kept.bytes_freed) == (0, 0)
    freed = store.compact(keep=AT_ONCE)
    assert freed.versions_freed == len(range(1, store.version)) > 4
    assert freed.bytes_freed > 0
    assert [entry.version for entry in store.versions()] == [store.version]
    again = store.compact(keep=AT_ONCE)
    assert (again.versions_freed, again.bytes_freed, again.superseded) == (0, 0, 0)


def test_superseded_rows_go_in_blocks(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linkedout_lightning.store.compaction._ROWS_A_DELETE", 3)
    ids = [str(i) for i in range(10)]
    store.append(ids, *rows(10, seed=1))
    features, mask = rows(10, seed=2)
    store.append(ids, features, mask, replace=True)
    assert store.compact(keep=AT_ONCE).superseded == 10
    assert store._dataset.count_rows() == 10
    assert equal_bits(store.get(ids).features, features)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_hundred_thousand_ids_go_in_one_commit(tmp_path: Path, dtype: str) -> None:
    spec = make_spec(layers=(1,), slots=("last",), hidden_size=1, dtype=dtype)
    store = FeatureStore.create(tmp_path / "f", spec)
    # Quotes, commas and other scripts: ids are data, never part of a statement.
    ids = [f'it\'s; --,"{i}" ü' for i in range(120_000)]
    values = torch.arange(len(ids)).float().remainder(1000).to(spec.torch_dtype)
    values, mask = values.view(-1, 1, 1, 1), torch.ones(len(ids), 1, dtype=torch.bool)
    store.append(ids, values, mask)
    store.append(ids[:50_000], values[:50_000], mask[:50_000], replace=True)
    store.record_failures({"bad": "empty"})
    before = store.version

    assert store.not_among(ids[100_000:]) == sorted([*ids[:100_000], "bad"])
    assert store.not_among([*ids, "bad", "unknown"]) == []
    store.delete(store.not_among(ids[100_000:]))

    for view in (store, FeatureStore.open(store.path)):
        assert view.version == before + 1
        assert view.item_ids == sorted(ids[100_000:])
        assert view.failures == {}
    assert equal_bits(store.get(ids[-2:]).features, values[-2:])
    with pytest.raises(UnknownItemError, match="1 item id"):
        store.delete([*ids[100_000:], "bad"])
    assert len(store) == 20_000


def test_a_purge_writes_pieces_anew(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "f", make_spec(hidden_size=64))
    ids = [str(i) for i in range(4000)]
    features = torch.randn(4000, 2, 3, 64).half()
    mask = torch.ones(4000, 3, dtype=torch.bool)
    store.append(ids, features, mask)
    store.delete(ids[:40])

    def size() -> int:
        return sum(file.stat().st_size for file in (tmp_path / "f" / "data").iterdir())

    before = size()
    store.compact(keep=AT_ONCE)
    assert size() == before  # one part in a hundred does not pay for writing the rest anew
    store.compact(keep=AT_ONCE, purge=True)
    assert size() == pytest.approx(before * 0.99, rel=0.005)
    assert equal_bits(store.get(ids[40:]).features, features[40:])


def test_deletes_and_appends_meet(store: FeatureStore) -> None:
    """One process deletes what another, that has not looked since, appends to and compacts."""
    features, mask = rows(8)
    store.append(list("abcd"), features[:4], mask[:4])
    other = FeatureStore.open(store.path)
    store.delete(["a", "b"])
    other.append(["e"], features[4:5], mask[4:5])
    other.delete(["c"])
    store.compact(keep=AT_ONCE)
    with pytest.raises(UnknownItemError):
        other.delete(["a"])
    for view in (store, other.refresh(), FeatureStore.open(store.path)):
        assert view.item_ids == ["d", "e"]
        assert equal_bits(view.get(["e", "d"]).features, features[[4, 3]])


def test_writes_survive_that_their_version_is_freed(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process compacts between this one's look at the store and its write."""
    features, mask = rows(6)
    store.append(list("abcd"), features[:4], mask[:4])
    for write in (
        lambda late: late.append(["e"], features[4:5], mask[4:5]),
        lambda late: late.delete(["a"]),
        lambda late: late.record_failures({"x": "empty"}),
        lambda late: late.compact(keep=AT_ONCE),
    ):
        late = FeatureStore.open(store.path)
        look = late.refresh

        def overtaken(late: FeatureStore = late, look=look) -> FeatureStore:
            look()
            store.append(["b"], features[5:], mask[5:], replace=True)
            store.compact(keep=AT_ONCE)
            late.refresh = look  # type: ignore[method-assign]
            return late

        late.refresh = overtaken  # type: ignore[method-assign]
        write(late)
        store.refresh()
    assert store.item_ids == list("bcde")
    assert store.failures == {"x": "empty"}
    found = store.get(list("bcde")).features
    assert equal_bits(found, features[[5, 2, 3, 4]])


def test_a_copy_made_in_the_middle_of_writing_is_a_store(
    store: FeatureStore, tmp_path: Path
) -> None:
    """A backup copies files in the order of their names, while appends go on."""
    features, mask = rows(20)
    store.append(["0"], features[:1], mask[:1])
    copy, count = tmp_path / "copy", 1
    for file in sorted(Path(store.path).rglob("*")):
        if file.is_file():
            target = copy / file.relative_to(store.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            store.append([str(count)], features[count : count + 1], mask[count : count + 1])
            count += 1
    backup = FeatureStore.open(copy)
    assert equal_bits(backup.get(["0"]).features, features[:1])
    backup.append(["new"], features[:1], mask[:1])
    assert "new" not in store.refresh()


def test_a_version_with_a_name_stays(store: FeatureStore) -> None:
    for i in range(3):
        store.append([str(i)], *rows(1))
    store.tag("trained-1", version=2)
    store.tag("all")
    store.append(["9"], *rows(1))
    store.compact(keep=AT_ONCE)
    listed = {entry.version: entry.names for entry in store.versions()}
    assert listed == {2: ("trained-1",), 4: ("all",), store.version: ()}
    assert store.disk_usage().past > store.disk_usage().loose == 0
    for version in (2, "trained-1"):
        assert FeatureStore.open(store.path, version=version).item_ids == ["0"]
    named = FeatureStore.open(store.path, version="all")
    assert pickle.loads(pickle.dumps(named)).item_ids == list("012")
    with pytest.raises(
        StoreError, match=r"no version 'x'; it has 2, 4, \d+, with names 'trained-1'"
    ):
        FeatureStore.open(store.path, version="x")
    with pytest.raises(StoreError, match="cannot name a version 'all'"):
        store.tag("all")
    with pytest.raises(StoreError, match="cannot name a version 'a b'"):
        store.tag("a b")
    with pytest.raises(StoreError, match="no version 3"):
        store.tag("three", version=3)
    store.untag("trained-1")
    with pytest.raises(StoreError, match="'trained-1'"):
        store.untag("trained-1")
    store.compact(keep=AT_ONCE)
    assert [entry.version for entry in store.versions()] == [4, store.version]
