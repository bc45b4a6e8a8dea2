from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_rows import equal_bits, make_spec, rows
from torch import Tensor

from linkedout_lightning.errors import (
    ConfigError,
    StoreError,
    UnknownItemError,
)
from linkedout_lightning.store import FeatureStore, StoreSpec


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_finite_bit_pattern_comes_back(tmp_path: Path, dtype: str) -> None:
    kind = getattr(torch, dtype)
    if dtype == "float32":
        bits = torch.randint(-(2**31), 2**31 - 1, (70000,), dtype=torch.int32)
    else:
        bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    values = bits.view(kind)
    values = values[torch.isfinite(values)]  # subnormals, both zeros and the extremes stay
    count = len(values) // 30
    features = values[: count * 30].view(count, 2, 3, 5)
    mask = torch.rand(count, 3) < 0.5
    ids = [f"i{i}" for i in range(count)]
    FeatureStore.create(tmp_path / "f", make_spec(dtype=dtype)).append(ids, features, mask)

    found = FeatureStore.open(tmp_path / "f").get(ids)

    assert equal_bits(found.features, features)
    assert torch.equal(found.mask, mask)


def test_get_keeps_the_order_asked_and_repeats(store: FeatureStore) -> None:
    features, mask = rows(50)
    ids = [f"i{i}" for i in range(50)]
    for start in range(0, 50, 7):
        part = slice(start, start + 7)
        store.append(ids[part], features[part], mask[part])
    asked = torch.randint(50, (200,)).tolist()
    found = store.get([ids[i] for i in asked])
    assert equal_bits(found.features, features[asked])
    assert torch.equal(found.mask, mask[asked])
    assert store.get([]).features.shape == (0, 2, 3, 5)


def test_gather_in_pieces_equals_gather_at_once(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, mask = rows(40)
    ids = [str(i) for i in range(40)]
    store.append(ids, features, mask)
    monkeypatch.setattr("linkedout_lightning.store.reading._GATHER_BYTES", 300)
    asked = torch.randint(40, (100,)).tolist()
    assert equal_bits(store.get([ids[i] for i in asked]).features, features[asked])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_some_layers_are_a_slice_of_all(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(layers=(2, 4, 9), dtype=dtype)
    store = FeatureStore.create(tmp_path / "some", spec)
    features = torch.randn(40, 3, 3, 5).to(spec.torch_dtype)
    mask = torch.rand(40, 3) < 0.7
    ids = [str(i) for i in range(40)]
    store.append(ids[:9], features[:9], mask[:9])
    store.append(ids[9:], features[9:], mask[9:])
    asked = torch.randint(40, (100,)).tolist()
    for block in (300, 2**20):
        monkeypatch.setattr("linkedout_lightning.store.reading._GATHER_BYTES", block)
        for layers, places in (
            ((9,), [2]), ((9, 2), [2, 0]), ((4, 4), [1, 1]), ((2, 4, 9), [0, 1, 2]),
        ):  # fmt: skip
            found = store.get([ids[i] for i in asked], layers=layers)
            assert equal_bits(found.features, features[asked][:, places])
            assert torch.equal(found.mask, mask[asked])
    assert store.get([], layers=[4]).features.shape == (0, 1, 3, 5)
    batches = list(store.iter_batches(batch_size=16, layers=[4]))
    assert equal_bits(torch.cat([b.features for b in batches]), features[:, 1:2])
    with pytest.raises(
        ConfigError, match=r"`layers` holds 1, -1; the store has the layers 2, 4, 9"
    ):
        store.get(ids, layers=[4, 1, -1])
    with pytest.raises(ConfigError, match="`layers` is empty"):
        store.get(ids, layers=[])


def test_replacing_shows_the_newest_once(store: FeatureStore) -> None:
    old, mask = rows(4, seed=1)
    new, _ = rows(2, seed=2)
    store.append(list("abcd"), old, mask, fingerprints=["1"] * 4)
    with pytest.raises(StoreError, match=r"2 of 2 items are already .*'b'.*replace=True"):
        store.append(["b", "c"], new, mask[:2])
    store.append(["b", "c"], new, mask[:2], fingerprints=["2", "2"], replace=True)

    for view in (store, FeatureStore.open(store.path)):
        assert len(view) == 4
        assert view.item_ids == list("abcd")
        assert equal_bits(view.get(list("abcd")).features, torch.stack([old[0], *new, old[3]]))
        assert view.fingerprints() == {"a": "1", "b": "2", "c": "2", "d": "1"}


def test_two_writers_of_one_id_leave_one_row(store: FeatureStore) -> None:
    first, second = rows(3, seed=1), rows(3, seed=2)
    other = FeatureStore.open(store.path)
    store.append(["a", "b", "c"], *first)
    # The other process looked before: what `append` checks is not what it meets.
    other.append(["c", "b", "x"], *second, replace=True)
    store.refresh()
    for view in (store, other, FeatureStore.open(store.path)):
        assert view.item_ids == ["a", "b", "c", "x"]
        assert len(view) == 4
        found = view.get(["a", "b", "c", "x"]).features
        assert equal_bits(
            found, torch.stack([first[0][0], second[0][1], second[0][0], second[0][2]])
        )
    store.compact(keep=timedelta(0))
    assert equal_bits(store.get(["a", "b", "c", "x"]).features, found)
    assert store._dataset.count_rows() == 4


def test_failures_are_kept_and_cleared_by_features(store: FeatureStore) -> None:
    features, mask = rows(2)
    store.record_failures({"a": "no video stream", "it's": "empty"}, fingerprints={"a": "f1"})
    assert FeatureStore.open(store.path).failures == {"a": "no video stream", "it's": "empty"}
    assert len(store) == 0
    assert "a" not in store
    assert store.fingerprints() == {"a": "f1", "it's": ""}
    store.append(["a"], features[:1], mask[:1], fingerprints=["f2"])
    assert store.failures == {"it's": "empty"}
    assert store.fingerprints() == {"a": "f2", "it's": ""}
    # The video changed and is broken now: what is known of it stays, and so does the reason.
    store.record_failures({"a": "truncated"}, fingerprints={"a": "f3"})
    again = FeatureStore.open(store.path)
    assert again.failures == {"it's": "empty", "a": "truncated"}
    assert equal_bits(again.get(["a"]).features, features[:1])
    again.compact(keep=timedelta(0))
    assert again.failures == {"it's": "empty", "a": "truncated"}
    assert again.fingerprints() == {"a": "f3", "it's": ""}
    again.delete(["it's", "a"])
    assert FeatureStore.open(store.path).failures == {}


def test_features_and_failures_share_a_commit(store: FeatureStore) -> None:
    before = store.version
    stamps = {"a": "1", "b": "2", "c": "3"}
    store.append(["a", "b"], *rows(2), fingerprints=stamps, failures={"c": "broken"})
    again = FeatureStore.open(store.path)
    assert again.version == before + 1
    assert again.item_ids == ["a", "b"]
    assert again.failures == {"c": "broken"}
    assert again.fingerprints() == stamps
    with pytest.raises(StoreError, match="'d' is given with features and as a failure"):
        store.append(["d"], *rows(1), failures={"d": "x"})
    with pytest.raises(StoreError, match="2 entries for 1 items"):
        store.append(["d"], *rows(1), fingerprints=["1", "2"])
    assert store.version == before + 1
    assert store.pieces == 1


def test_delete_removes_every_version_of_an_item(store: FeatureStore) -> None:
    features, mask = rows(5)
    store.append(list("abcde"), features, mask)
    store.append(["c"], features[:1], mask[:1], replace=True)
    store.delete(["c", "a"])
    for view in (store, FeatureStore.open(store.path)):
        assert view.item_ids == ["b", "d", "e"]
        assert equal_bits(view.get(["e", "b", "d"]).features, features[[4, 1, 3]])
    with pytest.raises(UnknownItemError):
        store.delete(["b", "c"])
    assert "b" in store


def test_a_spec_survives_json_and_a_later_format_is_named(store: FeatureStore) -> None:
    spec = make_spec(extra={"a": [1, 2]}, versions={"torch": "2"})
    assert StoreSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.differences(StoreSpec.from_json(json.loads(json.dumps(spec.to_json())))) == []
    with pytest.raises(StoreError, match=r"unknown fields: future"):
        StoreSpec.from_json({**spec.to_json(), "future": 1})
    with pytest.raises(ValueError, match="float8"):
        make_spec(dtype="float8")
    with pytest.raises(ValueError, match="JSON-able"):
        make_spec(extra={"a": object()})


def test_others_writes_are_seen_after_refresh(store: FeatureStore) -> None:
    features, mask = rows(4)
    other = FeatureStore.open(store.path)
    other.append(["a", "b"], features[:2], mask[:2])
    assert len(store) == 0
    before = store.version
    assert len(store.refresh()) == 2
    assert store.version > before
    other.delete(["a"])
    other.compact(keep=timedelta(0))
    other.append(["c"], features[2:3], mask[2:3])
    store.append(["d"], features[3:], mask[3:])
    assert store.item_ids == ["b", "c", "d"]
    assert equal_bits(store.get(["d", "c", "b"]).features, features[[3, 2, 1]])


def test_a_reader_survives_that_its_version_is_freed(store: FeatureStore) -> None:
    features, mask = rows(6)
    for i in range(6):
        store.append([str(i)], features[i : i + 1], mask[i : i + 1])
    reader = FeatureStore.open(store.path)
    store.append(["0"], features[:1] + 1, mask[:1], replace=True)
    store.compact(keep=timedelta(0))
    found = reader.get(["5", "0"])
    assert equal_bits(found.features, torch.stack([features[5], features[0] + 1]))
    assert reader.version == store.version


def test_a_copy_opens_the_same_store(store: FeatureStore) -> None:
    features, mask = rows(2)
    store.append(["a", "b"], features, mask)
    for twin in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
        assert equal_bits(twin.get(["b"]).features, features[1:])


def test_batches_go_through_everything(store: FeatureStore) -> None:
    features, mask = rows(10)
    ids = [str(9 - i) for i in range(10)]
    store.append(ids[:6], features[:6], mask[:6])
    store.append(ids[6:], features[6:], mask[6:])
    batches = list(store.iter_batches(batch_size=4))
    assert [b.item_ids for b in batches] == [ids[:4], ids[4:8], ids[8:]]
    assert equal_bits(torch.cat([b.features for b in batches]), features)
    asked = list(store.iter_batches(["3", "0", "3"], batch_size=2))
    assert [b.item_ids for b in asked] == [["3", "0"], ["3"]]
    assert torch.equal(asked[1].mask, mask[[6]])


def test_importing_the_store_leaves_lance_alone() -> None:
    program = "import sys, linkedout_lightning.store; sys.exit('lance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


_IDS = st.sampled_from(["a", "b", "c", "d'e", "ü", "7"])
_STEP = st.one_of(
    st.tuples(st.just("append"), st.lists(_IDS, min_size=1, max_size=4, unique=True)),
    st.tuples(st.just("fail"), st.lists(_IDS, min_size=1, max_size=2, unique=True)),
    st.tuples(st.just("delete"), st.lists(_IDS, min_size=1, max_size=2, unique=True)),
    st.tuples(st.just("compact"), st.just([])),
)


@settings(
    max_examples=int(os.environ.get("LINKEDOUT_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(steps=st.lists(st.tuples(st.integers(0, 1), _STEP), max_size=12))
def test_any_history_equals_a_dictionary(tmp_path_factory, steps) -> None:
    path = tmp_path_factory.mktemp("s") / "features"
    writers = [FeatureStore.create(path, make_spec()), FeatureStore.open(path)]
    features: dict[str, Tensor] = {}
    failures: dict[str, str] = {}
    for number, (writer, (action, ids)) in enumerate(steps):
        if action == "append":
            values, mask = rows(len(ids), seed=number)
            writers[writer].append(ids, values, mask, replace=True)
            features |= dict(zip(ids, values, strict=True))
            failures = {k: v for k, v in failures.items() if k not in ids}
        elif action == "fail":
            writers[writer].record_failures(dict.fromkeys(ids, f"reason {number}"))
            failures |= dict.fromkeys(ids, f"reason {number}")
        elif action == "delete":
            ids = [i for i in ids if i in features or i in failures]
            writers[writer].delete(ids)
            features = {k: v for k, v in features.items() if k not in ids}
            failures = {k: v for k, v in failures.items() if k not in ids}
        else:
            writers[writer].compact(keep=timedelta(0))
    for view in (*[w.refresh() for w in writers], FeatureStore.open(path)):
        assert view.failures == failures
        assert view.item_ids == sorted(features)
        asked = list(features)
        found = view.get(asked).features
        assert all(equal_bits(a, features[i]) for a, i in zip(found, asked, strict=True))
