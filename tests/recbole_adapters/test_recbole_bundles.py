"""RecBole's SASRec and GRU4Rec as bundles: the ranker gives RecBole's own scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_world import ITEM_IDS, World
from torch import Tensor

from linkedout_lightning import Ranker
from linkedout_lightning.cli import main
from recbole_adapters import load, run
from recbole_adapters.compat import session
from recbole_adapters.saving import Loaded

CASES = {
    "plain": {},
    "content": {"rank": 8, "queries": 1},
    "hybrid": {"rank": 8, "queries": 1, "id_fusion": "concat"},
    "projected": {"rank": 8, "queries": 1, "dim": 12},
}


def scored_rows(loaded: Loaded) -> tuple[list[list[str]], Tensor]:
    """Histories of the test rows, and RecBole's scores ``(rows, N)`` of all items."""
    histories, scores = [], []
    with session(), torch.no_grad():
        for batch in loaded.loaders.test:
            rows = batch[0]
            scores.append(loaded.model.full_sort_predict(rows)[:, 1 : len(ITEM_IDS) + 1])
            items, lengths = rows["item_id_list"], rows["item_length"]
            for row, length in zip(items, lengths.tolist(), strict=True):
                histories.append([loaded.catalogue.item_ids[i - 1] for i in row[:length].tolist()])
    return histories, torch.cat(scores)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
@pytest.mark.parametrize("case", CASES)
def test_a_bundle_scores_as_recbole_does(
    model: str, case: str, world: World, tmp_path: Path, capsys
) -> None:
    section = {"store": str(world.store), **CASES[case]} if CASES[case] else None
    settings = world.settings(**({"linkedout": section} if section else {}))
    folder = tmp_path / "run"
    run(model, "tiny", config_dict=settings, out=folder, verbose=False)
    words = ["export", str(folder), "--out", str(tmp_path / "b"), "--formats", "torch.export"]
    assert main([*words, "--quiet"]) == 0
    loaded, ranker = load(folder), Ranker.load(tmp_path / "b")
    histories, expected = scored_rows(loaded)
    found = ranker.recommend(histories, len(ITEM_IDS), exclude_seen=False)
    column = {item: place for place, item in enumerate(loaded.catalogue.item_ids)}
    for ids, scores, row in zip(found.ids, found.scores, expected, strict=True):
        theirs = row[[column[item] for item in ids]]
        torch.testing.assert_close(torch.tensor(scores), theirs, atol=1e-5, rtol=1e-5)
        assert sorted(ids) == sorted(ITEM_IDS)
    assert (ranker._snapshot.newcomers is not None) == bool(section)
    if section:
        ranker.add_from_store(world.store, [ITEM_IDS[0]], replace=True)


def test_other_models_say_which_there_are(world: World, tmp_path: Path, capsys) -> None:
    run("NARM", "tiny", config_dict=world.settings(), out=tmp_path / "run", verbose=False)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "b")]) == 2
    assert "SASRec and GRU4Rec" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
