"""A store in an object store, played by moto's server; see `object_server.py`."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch
from object_server import NEEDS_SERVER
from store_rows import equal_bits, make_spec, rows

from linkedout_lightning import cli
from linkedout_lightning.errors import StoreError
from linkedout_lightning.store import FeatureStore

pytestmark = [pytest.mark.slow, NEEDS_SERVER]

WRITER = """
import sys, torch
from linkedout_lightning.store import FeatureStore
path, name = sys.argv[1:]
store = FeatureStore.open(path)
for i in range(12):
    values = torch.full((5, *store.spec.shape), float(i)).half()
    store.append([f"{name}-{i}-{j}" for j in range(5)], values, torch.ones(5, 3).bool())
"""


def test_everything_that_a_folder_does(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"{bucket}/features"
    with pytest.raises(StoreError, match="there is no feature store at 's3://bucket/features'"):
        FeatureStore.open(path)
    store = FeatureStore.create(path, make_spec())
    with pytest.raises(StoreError, match="one exists"):
        FeatureStore.create(path, make_spec())
    features, mask = rows(6)
    store.append(list("abcd"), features[:4], mask[:4], failures={"x": "no video stream"})
    then = store.version
    store.append(["b", "e"], features[4:], mask[4:], replace=True)
    store.delete(["a"])
    again = FeatureStore.open(path)
    assert again.item_ids == list("bcde")
    assert again.failures == {"x": "no video stream"}
    assert equal_bits(again.get(list("edcb")).features, features[[5, 3, 2, 4]])
    old = FeatureStore.open(path, version=then)
    assert equal_bits(old.get(["b"]).features, features[1:2])
    assert cli.main(["inspect", path, "--quiet"]) == 0
    assert "items       4" in capsys.readouterr().out
    assert cli.main(["delete", path, "--items", "c", "x"]) == 0
    assert cli.main(["compact", path, "--keep", "0", "--alone"]) == 0
    store.refresh()
    assert store.item_ids == list("bde")
    assert store.disk_usage().past == store.disk_usage().loose == 0
    with pytest.raises(StoreError, match="no version"):
        FeatureStore.open(path, version=then)


def test_writers_at_once_lose_nothing(bucket: str) -> None:
    path = f"{bucket}/shared"
    store = FeatureStore.create(path, make_spec())
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in "abcd"]
    while any(writer.poll() is None for writer in writers):
        store.refresh().compact(keep=timedelta(minutes=10))
        time.sleep(0.3)
    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]
    store.refresh()
    wanted = {f"{n}-{i}-{j}" for n in "abcd" for i in range(12) for j in range(5)}
    assert set(store.item_ids) == wanted
    for batch in store.iter_batches():
        numbers = torch.tensor([float(item_id.split("-")[1]) for item_id in batch.item_ids]).half()
        assert torch.equal(batch.features[:, 0, 0, 0], numbers)


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    with pytest.raises(StoreError, match="'s3://nobucket/f': there is no such bucket"):
        FeatureStore.create("s3://nobucket/f", make_spec())


def test_nobody_s_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="no credentials for the object store"):
        FeatureStore.open(f"{bucket}/features")
