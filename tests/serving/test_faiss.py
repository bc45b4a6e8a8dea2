"""The indexes of faiss against the exact search."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bundles import IDS, histories

from linkedout_lightning import Ranker
from linkedout_lightning.errors import ConfigError

pytest.importorskip("faiss")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("index", "options"), [("flat", {}), ("ivf", {"lists": 6, "probes": 6})])
def test_all_lists_give_the_exact_answer(bundle: Path, index, options, dtype: str) -> None:
    users = histories(100)
    expected = Ranker.load(bundle, dtype=dtype).recommend(users, 10, deny=["v3", "v5"])
    ranker = Ranker.load(bundle, index, dtype=dtype, index_options=options)
    found = ranker.recommend(users, 10, deny=["v3", "v5"])
    assert found.ids == expected.ids
    for mine, theirs in zip(found.scores, expected.scores, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_int8_codes_find_most_of_it(bundle: Path, index) -> None:
    users = histories(100)
    expected = Ranker.load(bundle).recommend(users, 10)
    options = {"lists": 6, "probes": 6} if index == "ivf" else {}
    found = Ranker.load(bundle, index, dtype="int8", index_options=options).recommend(users, 10)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(found.ids, expected.ids, strict=True)]
    assert sum(shared) / len(shared) > 0.9


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_changes_and_merges_keep_it_exact(bundle: Path, index, monkeypatch) -> None:
    monkeypatch.setattr("linkedout_lightning.serving.snapshot._MERGE_LEAST", 20)
    options = {"lists": 6, "probes": 6} if index == "ivf" else {}
    rankers = [Ranker.load(bundle), Ranker.load(bundle, index, index_options=options)]
    users, chance = histories(40), torch.Generator().manual_seed(0)
    for step in range(6):
        new = [f"n{step}-{number}" for number in range(9)]
        vectors = torch.randn(9, 16, generator=chance)
        gone = IDS[step * 7 : step * 7 + 5]
        for ranker in rankers:
            ranker.add_items(new, vectors)
            ranker.remove_items(gone)
        first, second = (ranker.recommend(users, 10) for ranker in rankers)
        assert first.ids == second.ids
    assert rankers[1]._snapshot.index.kind == index
    assert len(rankers[1]._snapshot.base) > len(IDS)  # it was merged at least once


def test_few_probes_look_at_less(bundle: Path) -> None:
    few = Ranker.load(bundle, "ivf", index_options={"lists": 50, "probes": 1})
    found = few.recommend(histories(20), 100)
    assert any(len(ids) < 100 for ids in found.ids)
    assert all(len(set(ids)) == len(ids) for ids in found.ids)


@pytest.mark.parametrize("options", [{"lists": 0}, {"lists": 10_000}, {"probes": 0}])
def test_lists_and_probes_out_of_range(bundle: Path, options) -> None:
    with pytest.raises(ConfigError, match=r"give 1 to"):
        Ranker.load(bundle, "ivf", index_options=options)


def test_options_belong_to_ivf(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="ivf"):
        Ranker.load(bundle, "exact", index_options={"probes": 3})
