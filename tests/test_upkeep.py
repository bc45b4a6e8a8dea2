"""``linkedout compact`` and ``linkedout delete``."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from linkedout_lightning import cli
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.store import FeatureStore, StoreSpec
from linkedout_lightning.upkeep import duration

SPEC = StoreSpec(model="m", layers=(1,), slots=("last",), hidden_size=2)


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Items 1 to 9 and 007 in ten appends, 1 twice, and a failure."""
    store = FeatureStore.create(tmp_path / "features", SPEC)
    for i in [*map(str, range(1, 10)), "007", "1"]:
        mask = torch.ones(1, 1, dtype=torch.bool)
        store.append([i], torch.full((1, 1, 1, 2), float(i)).half(), mask, replace=True)
    store.record_failures({"bad": "no video stream"})
    return store


def test_delete_by_hand(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("delete", store.path, "--items", "007", "3", "--dry-run") == 0
    assert "would delete 2 ids" in capsys.readouterr().out
    assert len(store.refresh()) == 10

    assert run("delete", store.path, "--items", "007", "3", "1", "bad") == 0
    said = capsys.readouterr().out
    assert "deleted 4 ids, 3 of them with features; 7 items are there" in said
    assert f"linkedout compact {store.path} --purge --keep 0" in said
    assert store.refresh().item_ids == list("2456789")
    assert store.failures == {}


def test_ids_that_are_not_there(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("delete", store.path, "--items", "3", "x") == 2
    assert "1 item id(s) are not in the feature store" in capsys.readouterr().err
    assert len(store.refresh()) == 10
    assert run("delete", store.path, "--items", "3", "x", "--missing", "ignore", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["deleted"], report["missing"], report["items"]) == (1, 1, 9)
    assert run("delete", store.path) == 2
    assert "`items`" in capsys.readouterr().err


def test_ids_from_a_file(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("\ufeff007\r\n\n 2 \n", encoding="utf-8")
    assert run("delete", store.path, "--from-file", listed, "--items", "4") == 0
    assert store.refresh().item_ids == list("1356789")
    monkeypatch.setattr(sys, "stdin", io.StringIO("5\n6\n"))
    assert run("delete", store.path, "--from-file", "-") == 0
    assert store.refresh().item_ids == list("13789")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_a_file_that_holds_no_ids(
    store: FeatureStore, tmp_path: Path, content: bytes | None, capsys
) -> None:
    if content is not None:
        (tmp_path / "ids").write_bytes(content)
    assert run("delete", store.path, "--from-file", tmp_path / "ids") == 2
    assert "`from_file`" in capsys.readouterr().err


def test_compact_frees_what_it_says(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = store.disk_usage()
    files = [file for file in Path(store.path).rglob("*") if file.is_file()]
    assert usage.total == sum(file.stat().st_size for file in files)
    assert (usage.superseded_rows, usage.deleted_rows, usage.loose) == (1, 0, 0)
    assert 0 < usage.past < usage.current

    assert run("compact", store.path, "--keep", "7d", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["pieces_before"], first["pieces"], first["superseded"]) == (12, 1, 1)
    assert first["versions_freed"] == 0
    assert first["bytes"] > first["bytes_before"] == usage.total
    assert run("compact", store.path, "--keep", "0") == 0
    said = capsys.readouterr().out
    assert "10 items" in said
    assert "pieces      1 -> 1" in said

    store.refresh()
    after = store.disk_usage()
    assert after.past == after.loose == after.superseded_rows == 0
    assert after.total < usage.total / 2
    assert [entry.version for entry in store.versions()] == [store.version]
    assert store.get(["1", "007"]).features[:, 0, 0, 0].tolist() == [1, 7]
    assert store.failures == {"bad": "no video stream"}


def test_what_lies_beside_the_table_is_kept_and_counted(store: FeatureStore) -> None:
    claims = Path(store.path) / "_claims" / "data"
    claims.mkdir(parents=True)
    (claims / "a.lance").write_bytes(b"12345")
    orphan = Path(store.path) / "data" / "b.lance"  # as a killed writer leaves it
    orphan.write_bytes(b"123")
    for file in (claims / "a.lance", orphan):
        os.utime(file, (1, 1))
    usage = store.disk_usage()
    assert (usage.beside, usage.loose) == (5, 3)
    store.compact(keep=timedelta(0))
    usage = store.disk_usage()
    assert (usage.beside, usage.loose) == (5, 0)
    orphan.write_bytes(b"123")  # a new one might be what somebody is writing
    store.compact(keep=timedelta(0))
    assert store.disk_usage().loose == 3
    assert run("compact", store.path, "--alone") == 0
    usage = store.refresh().disk_usage()
    assert (usage.beside, usage.loose) == (5, 0)


def test_what_is_no_store_is_one_sentence(tmp_path: Path, capsys) -> None:
    assert run("compact", tmp_path / "nothing") == 2
    assert "there is no feature store at" in capsys.readouterr().err
    assert run("compact", tmp_path, "--keep", "soon") == 2
    assert "'soon' is no span of time" in capsys.readouterr().err


def test_spans_of_time() -> None:
    week = timedelta(days=7)
    assert [duration(text) for text in ("0", "7d", "1w", " 168 h", "0.5m", "30s")] == [
        timedelta(0),
        week,
        week,
        week,
        timedelta(seconds=30),
        timedelta(seconds=30),
    ]
    for text in ("", "7", "d", "-1d", "7 days", "1e3s"):
        with pytest.raises(ConfigError, match="no span of time"):
            duration(text)


def test_rows_of_failures_and_features_are_told_apart(store: FeatureStore) -> None:
    """An item with features, and a failure of its newer video, shows both of its rows."""
    store.record_failures({"1": "truncated"})
    store.record_failures({"1": "truncated again"})
    store.delete(["2"])
    usage = store.disk_usage()
    assert usage.superseded_rows == store.compact(keep=timedelta(0)).superseded == 2


def test_a_reader_that_leaves_early_is_no_error(store: FeatureStore) -> None:
    command = f"exec {sys.executable} -m linkedout_lightning.cli inspect {store.path} --quiet"
    process = subprocess.Popen(
        ["/bin/sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == cli.EXIT_UNREAD
