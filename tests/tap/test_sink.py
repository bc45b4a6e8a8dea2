from __future__ import annotations

from pathlib import Path

import pytest
import torch

from linkedout_lightning.errors import StoreError
from linkedout_lightning.store import FeatureStore, StoreSpec
from linkedout_lightning.tap.sink import StoreSink
from linkedout_lightning.tap.types import TapOutput

SPEC = StoreSpec(model="m", layers=(1,), slots=("a", "b"), hidden_size=3)


def output(*ids: str, value: float = 1.0) -> TapOutput:
    features = torch.full((len(ids), 1, 2, 3), value)
    return TapOutput(list(ids), features, torch.ones(len(ids), 2, dtype=torch.bool))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "s", SPEC)


def test_what_cannot_be_kept_becomes_a_failure(store: FeatureStore) -> None:
    batch = output("good", "nan", "large", "void")
    batch.features[1, 0, 0, 0] = float("nan")
    batch.features[2, 0, 1, 2] = 1e6
    batch.mask[3] = False
    with StoreSink(store, fingerprints={"good": "1", "nan": "2", "gone": "3"}) as sink:
        sink.add(batch, {"gone": "no such file"})
    assert sink.done == 1
    assert store.item_ids == ["good"]
    assert store.failures == sink.failures
    assert store.failures["nan"] == "the model's states hold NaN or infinity"
    assert store.failures["large"] == "a value of 1e+06 does not fit float16; store float32"
    assert store.failures["void"].startswith("no video, no cover and no text")
    assert store.failures["gone"] == "no such file"
    assert store.fingerprints() == {"good": "1", "nan": "2", "gone": "3", "large": "", "void": ""}
    assert store.pieces == 1


def test_appends_are_few_and_hold_whole_batches(store: FeatureStore) -> None:
    with StoreSink(store, rows=4) as sink:
        sizes = []
        for number in range(5):
            sink.add(output(f"{number}a", f"{number}b", f"{number}c"))
            sizes.append(len(FeatureStore.open(store.path)))
    assert sizes == [0, 6, 6, 12, 12]
    assert len(store) == 15
    assert store.pieces == 3


def test_an_interrupt_keeps_what_was_finished(store: FeatureStore) -> None:
    def job() -> None:
        with StoreSink(store) as sink:
            sink.add(output("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job()
    assert store.item_ids == ["a"]


def test_a_store_that_fails_is_not_asked_again(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(*args, **kwargs) -> None:
        calls.append(args)
        raise StoreError("the disk is full")

    monkeypatch.setattr(FeatureStore, "append", full)
    with pytest.raises(StoreError, match="disk is full"), StoreSink(store, rows=1) as sink:
        sink.add(output("a"))
    assert len(calls) == 1


def test_many_pieces_are_merged(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linkedout_lightning.tap.sink._MANY_PIECES", 5)
    with StoreSink(store, rows=1) as sink:
        for number in range(20):
            sink.add(output(str(number), value=number))
    assert store.pieces <= 6
    found = FeatureStore.open(store.path).get([str(n) for n in range(20)]).features
    assert found[:, 0, 0, 0].tolist() == list(range(20))
