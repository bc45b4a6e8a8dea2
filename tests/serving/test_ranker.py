"""The rules of a ranker, and inputs that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bundles import DIM, IDS, LAYERS, features, histories, make_model, write_bundle

from linkedout_lightning import Ranker
from linkedout_lightning.errors import ConfigError, DataError, NonFiniteError, UnknownItemError


def test_unknown_ids_are_passed_over_and_reported(bundle: Path) -> None:
    ranker = Ranker.load(bundle)
    found = ranker.recommend([["v1", "nobody", "v2", ""]], 5)
    assert found.unknown == [["nobody", ""]]
    assert found.fallback == [False]
    assert found.ids == ranker.recommend([["v1", "v2"]], 5).ids


def test_without_a_known_item_popular_ones_come(bundle: Path) -> None:
    found = Ranker.load(bundle).recommend([[], ["nobody"], ["v1"]], 3, deny=["v211"])
    assert found.fallback == [True, True, False]
    assert found.ids[0] == found.ids[1] == ["v210", "v209", "v208"]  # counts grow with the number
    assert found.scores[0] == sorted(found.scores[0], reverse=True)
    chosen = Ranker.load(bundle).recommend([[]], 3, candidates=["v5", "v7", "none"])
    assert chosen.ids == [["v7", "v5"]]


def test_without_counts_nothing_is_known_of_popularity(tmp_path: Path) -> None:
    ranker = Ranker.load(write_bundle(make_model(), tmp_path / "b", counts=None))
    assert ranker.recommend([[]], 3).ids == [[]]
    assert ranker.recommend([[]], 3).fallback == [True]


def test_candidates_are_ranked_as_in_the_whole(bundle: Path) -> None:
    ranker, users, few = Ranker.load(bundle), histories(30), IDS[3:40]
    whole = ranker.recommend(users, len(IDS))
    found = ranker.recommend(users, 7, candidates=[*few, "nobody"], deny=[few[0]])
    for ids, all_ids in zip(found.ids, whole.ids, strict=True):
        assert ids == [i for i in all_ids if i in few and i != few[0]][:7]
    assert ranker.recommend(users[:1], 5, candidates=[]).ids == [[]]


def test_denied_items_never_come(bundle: Path) -> None:
    ranker, users = Ranker.load(bundle), histories(30)
    whole = ranker.recommend(users, len(IDS))
    deny = IDS[::2]
    found = ranker.recommend(users, 12, deny=[*deny, "nobody"])
    for ids, all_ids in zip(found.ids, whole.ids, strict=True):
        assert ids == [i for i in all_ids if i not in deny][:12]


def test_no_more_items_than_there_are(bundle: Path) -> None:
    ranker = Ranker.load(bundle)
    assert len(ranker.recommend([IDS[:3]], 10**9).ids[0]) == len(IDS) - 3
    assert ranker.recommend([IDS], 5).ids == [[]]
    assert len(ranker.recommend([IDS], 5, exclude_seen=False).ids[0]) == 5
    assert ranker.recommend([], 5).ids == []


def test_similar_items_by_cosine_and_by_layer(bundle: Path) -> None:
    ranker = Ranker.load(bundle)
    snapshot = ranker._snapshot
    vectors = snapshot.base.candidates.all()
    cosines = torch.cosine_similarity(vectors[4], vectors, dim=1)
    cosines[4] = -1
    found = ranker.similar(["v5", "v6"], 3)
    assert found.ids[0] == [IDS[row] for row in cosines.topk(3).indices.tolist()]
    assert found.scores[0] == pytest.approx(cosines.topk(3).values.tolist(), abs=1e-6)
    seen = snapshot.base.experts[:, 1]
    cosines = torch.cosine_similarity(seen[4], seen, dim=1)
    cosines[4] = -1
    by_layer = ranker.similar(["v5"], 3, layer=4)
    assert by_layer.ids[0] == [IDS[row] for row in cosines.topk(3).indices.tolist()]


def test_gates_are_the_encoder_s(model, bundle: Path) -> None:
    gates = Ranker.load(bundle).gates("v5")
    with torch.no_grad():
        expected = model.item_encoder.gates(torch.tensor([5]))[0]
    assert list(gates) == [2, 4, 8]
    assert list(gates.values()) == pytest.approx(expected.tolist())


def test_columns(bundle: Path) -> None:
    assert Ranker.load(bundle).columns("v5") == {"title": "Title 4"}


def test_what_is_there(bundle: Path) -> None:
    ranker = Ranker.load(bundle)
    assert len(ranker) == len(IDS)
    assert "v5" in ranker
    assert 5 not in ranker
    assert ranker.item_ids == IDS
    assert ranker.info()["items"] == len(IDS)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_k_is_a_whole_number_from_1(bundle: Path, k) -> None:
    with pytest.raises(ConfigError, match="from 1"):
        Ranker.load(bundle).recommend([["v1"]], k)


@pytest.mark.parametrize(
    ("histories", "named"),
    [("v1", "'v1'"), (["v1"], "place 0"), ([["v1"], 3], "place 1"), ([["v1", 5]], "int"), (3, "3")],
)
def test_histories_are_lists_of_ids(bundle: Path, histories, named: str) -> None:
    with pytest.raises(DataError, match=named):
        Ranker.load(bundle).recommend(histories)


def test_loading_says_what_it_takes(bundle: Path) -> None:
    for options in ({"index": "hnsw"}, {"dtype": "float64"}, {"runtime": "jax"}):
        with pytest.raises(ConfigError, match="give one of"):
            Ranker.load(bundle, **options)


def test_an_item_that_is_not_there(bundle: Path) -> None:
    ranker = Ranker.load(bundle)
    for ask in (ranker.gates, ranker.columns, lambda i: ranker.similar([i])):
        with pytest.raises(UnknownItemError, match="nobody"):
            ask("nobody")


def test_layers_that_are_not_there(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2, 4, 8"):
        Ranker.load(bundle).similar(["v1"], layer=3)
    plain = Ranker.load(write_bundle(make_model(), tmp_path / "b"))
    with pytest.raises(ConfigError, match="layers"):
        plain.similar(["v1"], layer=2)


def test_additions_that_are_refused(ranker: Ranker) -> None:
    good = torch.randn(1, DIM)
    for arguments, error in (
        ({"item_ids": ["n"]}, ConfigError),
        ({"item_ids": ["n"], "vectors": good, "features": features(1)}, ConfigError),
        ({"item_ids": ["v1"], "vectors": good}, ConfigError),
        ({"item_ids": ["n", "n"], "vectors": good}, DataError),
        ({"item_ids": ["n", "m"], "vectors": good}, DataError),
        ({"item_ids": [""], "vectors": good}, DataError),
        ({"item_ids": ["n"], "vectors": good[:, 1:]}, DataError),
        ({"item_ids": ["n"], "vectors": good * float("nan")}, NonFiniteError),
        ({"item_ids": ["n"], "features": features(1) * float("inf")}, NonFiniteError),
        ({"item_ids": ["n"], "features": features(1)[:, 1:]}, DataError),
        ({"item_ids": ["n"], "features": features(1), "mask": torch.ones(1, 9)}, DataError),
        ({"item_ids": ["n"], "vectors": good, "columns": {"title": "x"}}, DataError),
    ):
        with pytest.raises(error):
            ranker.add_items(**arguments)
    assert ranker.item_ids == IDS


def test_a_model_of_ids_takes_vectors_only(tmp_path: Path) -> None:
    ranker = Ranker.load(write_bundle(make_model("gru4rec", "id"), tmp_path / "b"))
    with pytest.raises(ConfigError, match="ids alone"):
        ranker.add_items(["n"], features=torch.randn(1, LAYERS, 2, 24))
    ranker.add_items(["n"], torch.randn(1, DIM))
    assert "n" in ranker
    assert ranker.gates("n") is None
