"""Items that come and go: in memory and on disk, among readers and beside other processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from bundles import DIM, IDS, features, histories, make_model, write_bundle

from linkedout_lightning import Ranker
from linkedout_lightning.errors import ConfigError, UnknownItemError
from linkedout_lightning.serving import Bundle, BundleError
from linkedout_lightning.serving.manifest import MANIFEST


def test_an_added_item_is_recommended_at_once(ranker: Ranker) -> None:
    users = histories(5)
    state = ranker.recommend(users, 1)
    best = ranker._snapshot.take(torch.tensor([ranker._snapshot.row(ids[0]) for ids in state.ids]))
    ranker.add_items(["big"], 100 * best.mean(0, keepdim=True))
    found = ranker.recommend(users, 1)
    assert sum(ids == ["big"] for ids in found.ids) >= 3
    assert ranker.recommend([["big"]], 3).unknown == [[]]
    ranker.remove_items(["big"])
    assert ranker.recommend(users, 1).ids == state.ids
    assert ranker.recommend([["big"]], 3).unknown == [["big"]]


def test_rankers_with_and_without_merges_answer_alike(own: Path, monkeypatch) -> None:
    """Against a ranker of a bundle that was exported with just these items."""
    chance = torch.Generator().manual_seed(0)
    loose, merging = Ranker.load(own), Ranker.load(own)
    for step in range(5):
        new = [f"n{step}-{number}" for number in range(7)]
        vectors = torch.randn(7, DIM, generator=chance)
        gone = [IDS[step * 3], *([f"n{step - 1}-2"] if step else [])]
        for ranker, least in ((loose, 10**6), (merging, 5)):
            monkeypatch.setattr("linkedout_lightning.serving.snapshot._MERGE_LEAST", least)
            monkeypatch.setattr("linkedout_lightning.serving.snapshot._MERGE_SHARE", 0)
            ranker.add_items(new, vectors)
            ranker.remove_items(gone)
    assert loose._snapshot.added is not None
    assert len(merging._snapshot.base) != len(IDS)
    assert sorted(loose.item_ids) == sorted(merging.item_ids)
    users = [*histories(20), ["n4-3", "v99"], ["n2-1"]]
    first, second = loose.recommend(users, 15), merging.recommend(users, 15)
    assert first.ids == second.ids
    assert first.unknown == second.unknown
    assert loose.similar(["n4-3"], 5).ids == merging.similar(["n4-3"], 5).ids


def test_replacing_gives_another_vector(ranker: Ranker) -> None:
    vector = torch.randn(1, DIM)
    with pytest.raises(ConfigError, match="'v7'"):
        ranker.add_items(["v7"], vector)
    ranker.add_items(["v7"], vector, replace=True)
    assert len(ranker) == len(IDS)
    row = ranker._snapshot.row("v7")
    assert torch.equal(ranker._snapshot.take(torch.tensor([row])), vector)
    assert ranker.item_ids.count("v7") == 1


def test_removal_takes_all_or_nothing(ranker: Ranker) -> None:
    with pytest.raises(UnknownItemError):
        ranker.remove_items(["v1", "nobody"])
    assert "v1" in ranker
    with pytest.raises(ConfigError, match="no item would be left"):
        ranker.remove_items(IDS)


def test_what_was_durable_is_there_again(own: Path) -> None:
    ranker = Ranker.load(own)
    columns = {"title": ["A new one", None], "language": ["en", "de"]}
    ranker.add_items(["n1", "n2"], features=features(2, seed=9), columns=columns, durable=True)
    ranker.add_items(["n3"], torch.randn(1, DIM))  # in memory alone
    ranker.remove_items(["v5", "n2"], durable=True)
    ranker.add_items(["v6"], features=features(1, seed=8), replace=True, durable=True)
    again = Ranker.load(own)
    assert set(again.item_ids) == {*IDS, "n1"} - {"v5"}
    assert again.columns("n1") == {"title": "A new one", "language": "en"}
    ranker.remove_items(["n3"])
    users = histories(20)
    assert again.recommend(users, 9).ids == ranker.recommend(users, 9).ids
    assert again.gates("n1") == pytest.approx(ranker.gates("n1"))
    again.add_items(["v5"], torch.randn(1, DIM), durable=True)  # back from the dead
    assert "v5" in Ranker.load(own)


def test_many_additions_stay_few_files(own: Path, monkeypatch) -> None:
    monkeypatch.setattr("linkedout_lightning.serving.bundle._MANY_SEGMENTS", 4)
    ranker = Ranker.load(own)
    for number in range(15):
        ranker.add_items([f"n{number}"], torch.full((1, DIM), float(number)), durable=True)
        if number % 3 == 0:
            ranker.remove_items([f"n{number}"], durable=True)
    assert len(Bundle.open(own).manifest.segments) <= 4
    assert len(list((own / "items").iterdir())) < 20
    again = Ranker.load(own)
    assert set(again.item_ids) == {*IDS, *(f"n{n}" for n in range(15) if n % 3)}
    row = torch.tensor([again._snapshot.row("n13")])
    assert torch.equal(again._snapshot.take(row), torch.full((1, DIM), 13.0))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_additions_take_the_bundle_s_numbers(tmp_path: Path, dtype: str) -> None:
    path = write_bundle(make_model(), tmp_path / "b", dtype=dtype)
    ranker = Ranker.load(path)
    ranker.add_items(["n"], features=features(1, seed=9), durable=True)
    again = Ranker.load(path)
    assert again.info()["dtype"] == dtype
    assert again.recommend([["n", "v3"]], 9).ids == ranker.recommend([["n", "v3"]], 9).ids
    in_memory = Ranker.load(path, dtype="float32")
    in_memory.add_items(["m"], features=features(1, seed=8), durable=True)
    assert "m" in Ranker.load(path)


def test_a_ranker_takes_over_what_others_did(own: Path) -> None:
    ranker, other = Ranker.load(own), Ranker.load(own)
    assert ranker.refresh() is False
    other.add_items(["n"], torch.randn(1, DIM), durable=True)
    ranker.add_items(["m"], torch.randn(1, DIM), durable=True)  # joins, does not overwrite
    assert ranker.refresh() is True
    assert {"n", "m"} <= set(ranker.item_ids)
    assert {"n", "m"} <= set(Ranker.load(own).item_ids)


def test_another_bundle_in_the_same_place_is_not_added_to(own: Path) -> None:
    ranker = Ranker.load(own)
    write_bundle(make_model("gru4rec"), own, overwrite=True)
    with pytest.raises(BundleError, match="another model"):
        ranker.add_items(["n"], torch.randn(1, DIM), durable=True)
    assert "n" not in ranker
    ranker.swap()
    ranker.add_items(["n"], torch.randn(1, DIM), durable=True)


def test_a_swap_that_fails_changes_nothing(ranker: Ranker, tmp_path: Path) -> None:
    before = ranker.recommend(histories(3), 5)
    with pytest.raises(BundleError):
        ranker.swap(tmp_path / "nothing")
    assert ranker.recommend(histories(3), 5) == before


def dying(action: str, bundle: Path, out: Path, count: int) -> None:
    script = Path(__file__).with_name("dying.py")
    command = [sys.executable, str(script), action, str(bundle), str(out), str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, env=environment, timeout=250).returncode == 0


def test_processes_add_at_once_and_nothing_is_lost(own: Path, tmp_path: Path) -> None:
    dying("together", own, tmp_path, 3)
    found = set(Ranker.load(own).item_ids)
    assert found == {*IDS, *(f"n{number}-{step}" for number in range(3) for step in range(6))}


def test_an_addition_that_is_ended_leaves_the_old_or_the_new(bundle: Path, tmp_path: Path) -> None:
    dying("add", bundle, tmp_path, 12)
    codes = [int((tmp_path / f"{step}.code").read_text()) for step in range(12)]
    assert set(codes) == {0, 9}
    for step, code in enumerate(codes):
        found = Ranker.load(tmp_path / str(step))
        assert set(found.item_ids) in ({*IDS}, {*IDS, "n"})
        assert code or "n" in found
        found.add_items(["m"], torch.ones(1, DIM), durable=True)
        assert "m" in Ranker.load(tmp_path / str(step))


def test_an_export_that_is_ended_leaves_the_old_or_the_new(bundle: Path, tmp_path: Path) -> None:
    dying("export", bundle, tmp_path, 24)
    kinds = {}
    for step in range(24):
        code = int((tmp_path / f"{step}.code").read_text())
        opened, items, *_ = Bundle.read(tmp_path / str(step))
        assert len(items) == len(IDS)
        kinds.setdefault(code, set()).add(opened.manifest.sequence["kind"])
    assert kinds[0] == {"gru4rec"}
    assert "sasrec" in kinds[9]


def test_readers_never_see_a_torn_state(tmp_path: Path) -> None:
    """While items come and go and bundles are swapped, each answer is that of one whole state."""
    paths = [write_bundle(make_model(kind), tmp_path / kind) for kind in ("sasrec", "gru4rec")]
    users, k = histories(4, seed=1), 20
    pair = torch.randn(2, DIM) * 50
    expected = set()
    for path in paths:
        for with_pair in (False, True):
            ranker = Ranker.load(path)
            if with_pair:
                ranker.add_items(["p1", "p2"], pair)
            expected.add(str(ranker.recommend(users, k).ids))
    ranker, done, wrong = Ranker.load(paths[0]), threading.Event(), []
    answers = [0] * 3

    def read(place: int) -> None:
        try:
            while not done.is_set():
                found = ranker.recommend(users, k)
                answers[place] += 1
                if str(found.ids) not in expected:
                    wrong.append(found.ids)
        except Exception as error:
            wrong.append(error)

    readers = [threading.Thread(target=read, args=(place,)) for place in range(3)]
    for reader in readers:
        reader.start()
    for step in range(30):
        ranker.add_items(["p1", "p2"], pair)
        ranker.remove_items(["p1", "p2"])
        if step % 5 == 0:
            ranker.swap(paths[step // 5 % 2])
    while min(answers) < 5 and not wrong:
        pass
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert len(expected) == 4


def test_a_reader_keeps_answering_from_a_folder_that_is_gone(own: Path) -> None:
    ranker = Ranker.load(own)
    before = ranker.recommend(histories(3), 5)
    shutil.rmtree(own)
    assert ranker.recommend(histories(3), 5) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_bundle_says_so(own: Path) -> None:
    ranker = Ranker.load(own)
    for path in (own, own / "items"):
        path.chmod(0o555)
    try:
        with pytest.raises(BundleError, match="cannot be changed"):
            ranker.add_items(["n"], torch.randn(1, DIM), durable=True)
    finally:
        for path in (own, own / "items"):
            path.chmod(0o755)
    assert "n" not in ranker
    assert (own / MANIFEST).is_file()
