"""What a feature store refuses; nothing of it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from store_rows import make_spec, rows

from linkedout_lightning.errors import NonFiniteError, StoreError, StoreSpecError, UnknownItemError
from linkedout_lightning.store import FeatureStore


def test_unknown_ids_are_named(store: FeatureStore) -> None:
    store.append(["a"], *rows(1))
    with pytest.raises(UnknownItemError, match=r"2 item id.*'x', 'y'") as caught:
        store.get(["x", "a", "y", "x"])
    assert caught.value.item_ids == ["x", "y"]
    with pytest.raises(TypeError, match="sequence of ids"):
        store.get("a")


def test_nan_is_rejected_with_its_item(store: FeatureStore) -> None:
    features, mask = rows(3)
    features[1, 0, 2, 3] = float("nan")
    features[2, 1, 0, 0] = float("-inf")
    with pytest.raises(NonFiniteError, match=r"2 of 3 items.*'b', 'c'"):
        store.append(list("abc"), features, mask)
    assert len(FeatureStore.open(store.path)) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_large_numbers_are_finite_and_opposite_infinities_are_not(
    tmp_path: Path, dtype: str
) -> None:
    spec = make_spec(dtype=dtype)
    store = FeatureStore.create(tmp_path / "f", spec)
    features, mask = rows(4)
    features = features.to(spec.torch_dtype)
    features[:2] = torch.finfo(spec.torch_dtype).max
    store.append(list("abcd"), features, mask)
    assert torch.equal(store.get(list("abcd")).features, features)
    features[3, 0, 0, :2] = torch.tensor([float("inf"), -float("inf")])
    with pytest.raises(NonFiniteError, match=r"1 of 4 items.*'h'"):
        store.append(list("efgh"), features, mask)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, m: (f.float(), m), "dtype: float16 expected, torch.float32 given"),
        (lambda f, m: (f[:, :1], m), "layers: 2 expected, 1 given"),
        (
            lambda f, m: (f[:, :, :2, :4], m),
            "slots: 3 expected, 2 given; hidden_size: 5 expected, 4",
        ),
        (lambda f, m: (f[:2], m), "items: 3 expected, 2 given"),
        (lambda f, m: (f, m[:, :2]), r"mask: bool \(3, 3\) expected"),
        (lambda f, m: (f, m.float()), "mask: bool"),
        (lambda f, m: (f.flatten(2), m), "axes"),
    ],
)
def test_features_that_do_not_fit_are_refused(store: FeatureStore, change, words: str) -> None:
    with pytest.raises(StoreSpecError, match=words):
        store.append(list("abc"), *change(*rows(3)))
    assert len(store) == 0


def test_an_id_twice_in_one_append_is_refused(store: FeatureStore) -> None:
    with pytest.raises(StoreError, match="'b' twice"):
        store.append(list("abb"), *rows(3))


def test_create_again_needs_the_same_spec(store: FeatureStore) -> None:
    store.append(["a"], *rows(1))
    with pytest.raises(StoreError, match="one exists"):
        FeatureStore.create(store.path, make_spec())
    same = FeatureStore.create(store.path, make_spec(versions={"torch": "99"}), exist_ok=True)
    assert same.item_ids == ["a"]
    other = make_spec(layers=(2, 5), prompt="x", sampler={"frames": 9, "backend": {"name": "pyav"}})
    with pytest.raises(StoreSpecError) as caught:
        FeatureStore.create(store.path, other, exist_ok=True)
    message = str(caught.value)
    assert "layers: (2, 4) in the store, (2, 5) now" in message
    assert "prompt: '{title}' in the store, 'x' now" in message
    assert "sampler.frames: 8 in the store, 9 now" in message
    assert "backend" not in message


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    import lance
    import pyarrow as pa

    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("hello")
    for name in ("nothing", "empty", "file"):
        with pytest.raises(StoreError, match=r"no feature store|is a file"):
            FeatureStore.open(tmp_path / name)
    lance.write_dataset(pa.table({"a": [1]}), str(tmp_path / "other"))
    with pytest.raises(StoreError, match="not a feature store"):
        FeatureStore.open(tmp_path / "other")
    with pytest.raises(StoreError, match="is a file"):
        FeatureStore.create(tmp_path / "file", make_spec())
    assert (tmp_path / "file").read_text() == "hello"
