"""A ranker gives what the trained module's own evaluation gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bundles import IDS, features, histories, make_model, reference, write_bundle

from linkedout_lightning import Ranker, SequentialRecommender
from linkedout_lightning.evaluation.ranks import target_ranks


def same(found, expected, *, tolerance: float = 2e-6) -> None:
    """The same ids in the same order; neighbours whose scores differ by rounding may change."""
    ids, scores = expected
    assert len(found.ids) == len(ids)
    for mine, theirs, values, wanted in zip(found.ids, ids, found.scores, scores, strict=True):
        assert values == pytest.approx(wanted, abs=tolerance, rel=tolerance)
        score_of = dict(zip(theirs, wanted, strict=True))
        for a, b, score in zip(mine, theirs, wanted, strict=True):
            assert a == b or score_of.get(a, score) == pytest.approx(score, abs=tolerance)


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "nextitnet"])
@pytest.mark.parametrize("encoder", ["linkedout", "id", "linkedout+id"])
def test_a_thousand_users_get_the_module_s_ranking(
    backbone: str, encoder: str, tmp_path: Path
) -> None:
    calibration = "moments" if encoder == "linkedout+id" else "none"
    model = make_model(backbone, encoder, cold_calibration=calibration)
    ranker = Ranker.load(write_bundle(model, tmp_path / "b"))
    users = histories(1000)
    same(ranker.recommend(users, 10), reference(model, users, 10))


def test_ranks_of_targets_are_those_of_the_evaluation(
    model: SequentialRecommender, bundle: Path
) -> None:
    """The evaluation's own code on one side, places in full lists on the other."""
    users = histories(200, seed=3, longest=6)
    targets = [next(i for i in IDS[5:] if i not in history) for history in users]
    inputs = torch.zeros(200, 6, dtype=torch.long)
    for row, history in enumerate(users):
        inputs[row, -len(history) :] = torch.tensor([IDS.index(i) + 1 for i in history])
    wanted = torch.tensor([IDS.index(target) + 1 for target in targets])
    with torch.no_grad():
        ranks = target_ranks(model.scores(inputs), wanted, inputs)
    found = Ranker.load(bundle).recommend(users, len(IDS))
    places = [ids.index(target) + 1 for ids, target in zip(found.ids, targets, strict=True)]
    assert places == ranks.tolist()


def test_seen_items_come_if_asked_for(model: SequentialRecommender, bundle: Path) -> None:
    users = histories(50, seed=1)
    found = Ranker.load(bundle).recommend(users, 20, exclude_seen=False)
    same(found, reference(model, users, 20, mask=False))


def test_a_user_alone_gets_what_the_user_gets_in_a_batch(bundle: Path) -> None:
    ranker, users = Ranker.load(bundle), histories(40, seed=2)
    together = ranker.recommend(users, 10)
    for user, history in enumerate(users):
        alone = ranker.recommend([history], 10)
        assert alone.ids[0] == together.ids[user]
        assert alone.scores[0] == pytest.approx(together.scores[user], abs=1e-6)


def test_onnx_runtime_ranks_alike(model: SequentialRecommender, with_formats: Path) -> None:
    users = histories(200, seed=4)
    ranker = Ranker.load(with_formats, runtime="onnx")
    same(ranker.recommend(users, 10), reference(model, users, 10), tolerance=1e-5)


@pytest.mark.parametrize("encoder", ["linkedout", "linkedout+id"])
@pytest.mark.parametrize("calibration", ["none", "moments"])
def test_a_new_item_gets_the_vector_of_a_cold_one(
    encoder: str, calibration: str, tmp_path: Path
) -> None:
    """Item v1 is cold: added again from its features, it must stand where it stands."""
    model = make_model("gru4rec", encoder, cold_calibration=calibration)
    ranker = Ranker.load(write_bundle(model, tmp_path / "b"))
    ranker.add_items(["twin"], features=features()[:1])
    found = ranker.recommend(histories(30, seed=5), len(IDS) + 1, exclude_seen=False)
    for ids, scores in zip(found.ids, found.scores, strict=True):
        score_of = dict(zip(ids, scores, strict=True))
        assert score_of["twin"] == pytest.approx(score_of["v1"], abs=1e-5)
    before, after = (
        ranker.recommend([[item, "v9"]], 10, deny=["v1", "twin"]) for item in ("v1", "twin")
    )
    assert before.ids == after.ids  # and as a part of a history it is the same too
    assert before.scores[0] == pytest.approx(after.scores[0], abs=1e-5)
