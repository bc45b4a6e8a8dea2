"""The strength of cold items' calibration: counted as plain rankings are, within its budget."""

from __future__ import annotations

import lightning as pl
import pytest
import torch
from torch.utils.data import DataLoader

from linkedout_lightning.data import EvalBatch
from linkedout_lightning.encoders import IDItemEncoder, LinkedOutItemEncoder
from linkedout_lightning.encoders.calibration import calibrated
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.evaluation.ranks import target_ranks
from linkedout_lightning.sequence import SequentialRecommender
from linkedout_lightning.sequence.cold import ColdChoice

N, WARM, DIM, K = 60, 40, 8, 10


def recommender(seed: int = 0, **options: object) -> SequentialRecommender:
    """Items 41 to 60 are cold; the IDs of the others are long."""
    torch.manual_seed(seed)
    encoder = LinkedOutItemEncoder.from_features(
        torch.randn(N, 2, 1, 16), train_items=torch.arange(N) < WARM, dim=DIM, rank=8,
        id_fusion="concat",
    )  # fmt: skip
    with torch.no_grad():
        encoder.ids.weight[1:] = torch.randn(N, DIM) * 2 + 1
        encoder.ids.no_id.normal_(std=0.1)
    options = {"max_len": 5, "ks": (K, 20), "cold_calibration": "budget", **options}
    return SequentialRecommender(encoder, **options).eval()


def users(count: int = 300, *, highest: int = N) -> EvalBatch:
    inputs = torch.randint(1, N + 1, (count, 5))
    inputs[: count // 3, :2] = 0
    target = torch.randint(1, highest + 1, (count,))
    return EvalBatch(torch.arange(count), inputs, target, inputs)


def measured(model: SequentialRecommender, *batches: EvalBatch) -> dict[str, float]:
    """Figures of one validation by a real trainer."""
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    [figures] = trainer.validate(model, DataLoader(batches, batch_size=None), verbose=False)
    return dict(figures)


@torch.no_grad()
def hit_rates(model: SequentialRecommender, batch: EvalBatch, strength: float) -> list[float]:
    """Of trained and of cold targets, by a whole ranking with that strength."""
    table = calibrated(model.item_encoder, model.item_table(), strength)
    ranks = target_ranks(
        model.encode_sequences(batch.inputs) @ table.T, batch.target, batch.history
    )
    hits, cold = (ranks <= K).double(), batch.target > WARM
    return [hits[~cold].mean().item(), hits[cold].mean().item()]


def test_every_strength_is_counted_as_a_ranking_of_its_own():
    model, batch = recommender(), users()
    model.cold_trade_off.budget = 0.2
    halves = [
        EvalBatch(*(field[part] for field in batch)) for part in (slice(100), slice(100, 300))
    ]
    measured(model, *halves)
    choice = model.cold_choice
    assert (choice.trained_users, choice.cold_users) == (
        (batch.target <= WARM).sum(), (batch.target > WARM).sum(),
    )  # fmt: skip
    expected = [hit_rates(model, batch, strength) for strength in choice.strengths]
    assert choice.trained == pytest.approx([trained for trained, _ in expected])
    assert choice.cold == pytest.approx([cold for _, cold in expected])
    assert expected[0][0] > 1.3 * expected[-1][0]  # the calibration costs something here
    assert expected[0][1] < 0.5 * expected[-1][1]  # and gives something
    within = [t for t, (trained, _) in zip(choice.strengths, expected, strict=True)
              if trained >= 0.8 * expected[0][0]]  # fmt: skip
    assert 0 < choice.strength == max(within) < 1
    assert model.calibration_strength == pytest.approx(choice.strength)
    table = calibrated(model.item_encoder, model.item_table(), model.calibration_strength)
    assert model.candidate_table().equal(table)


def test_a_dearer_strength_ends_the_search_though_a_larger_one_is_cheap_again():
    users, strengths = torch.tensor([200, 10]), (0.0, 0.25, 0.5, 0.75, 1.0)
    for hits, expected in (
        ([100, 95, 89, 99, 90], 0.25),
        ([100, 95, 91, 99, 90], 1.0),
        ([100, 89, 91, 99, 90], 0.0),
        ([0, 0, 0, 0, 0], 0.0),  # nothing is known of the price
    ):
        both = torch.tensor([hits, [1, 2, 3, 4, 5]])
        assert ColdChoice.of(both, users, strengths, k=10, budget=0.1).strength == expected


def test_the_validation_itself_does_not_see_the_strength_and_does_not_depend_on_it():
    plain, model, batch = recommender(cold_calibration="none"), recommender(), users()
    model.backbone.load_state_dict(plain.backbone.state_dict())
    for repeat in range(2):
        model.cold_trade_off.budget = (1.0, 0.0)[repeat]
        figures = [measured(each, batch) for each in (plain, model)]
        assert figures[0] == figures[1]
        assert model.calibration_strength == (1.0, 0.0)[repeat]


def test_the_strength_travels_with_the_weights():
    model, batch = recommender(), users()
    model.cold_trade_off.budget = 0.2
    measured(model, batch)
    other = recommender()
    assert other.calibration_strength == 0
    other.load_state_dict(model.state_dict())
    assert other.calibration_strength == model.calibration_strength > 0
    assert other.candidate_table().equal(model.candidate_table())


@pytest.mark.parametrize("now", ["none", "moments", "budget"])
@pytest.mark.parametrize("then", ["none", "moments", "budget"])
def test_weights_of_one_calibration_serve_another(then, now):
    other, model = recommender(seed=1, cold_calibration=then), recommender(cold_calibration=now)
    if then == "budget":
        other.cold_step.fill_(7)
    model.load_state_dict(other.state_dict())
    strength = {"none": 0.0, "moments": 1.0, "budget": 0.7 if then == "budget" else 0.0}[now]
    assert model.calibration_strength == strength
    assert model.item_encoder.ids.weight.equal(other.item_encoder.ids.weight)
    assert ("cold_step" in model.state_dict()) == (now == "budget")


def test_a_validation_that_fails_half_way_leaves_strength_and_counts_alone(monkeypatch):
    model, batch = recommender(), users()
    model.cold_trade_off.budget = 0.2
    measured(model, batch)
    found = model.cold_choice
    assert 0 < found.strength == model.calibration_strength
    with monkeypatch.context() as patch:
        patch.setattr(model, "on_validation_batch_end", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            measured(model, batch)
    assert model.calibration_strength == found.strength
    assert model._lift is not None
    model.setup("test")
    assert model._lift is model._candidates is model._table is None
    measured(model, batch)
    assert model.cold_choice == found


def test_no_precision_rounds_the_strength():
    model = recommender()
    model.cold_step.fill_(3)
    assert model.to(torch.bfloat16).calibration_strength == 0.3


def test_a_fit_with_nothing_to_measure_says_so():
    encoder = LinkedOutItemEncoder.from_features(
        torch.randn(N, 2, 1, 16), dim=DIM, rank=8, id_fusion="add"
    )
    model = SequentialRecommender(encoder, max_len=5, cold_calibration="budget")
    with pytest.warns(UserWarning, match="finds no item that lacks an ID"):
        model.on_fit_start()


def test_without_a_cold_target_the_price_alone_decides():
    model = recommender()
    measured(model, users(highest=WARM))
    assert model.cold_choice.cold is None
    assert model.cold_choice.cold_users == 0


def test_encoders_with_nothing_to_calibrate_stay_as_they_are():
    model = SequentialRecommender(
        IDItemEncoder(N, dim=DIM, train_items=torch.arange(N) < WARM), max_len=5,
        cold_calibration="budget",
    ).eval()  # fmt: skip
    measured(model, users())
    assert model.cold_choice is None
    assert model.calibration_strength == 0
    assert model.candidate_table().equal(model.item_table())


def test_a_budget_is_a_share():
    with pytest.raises(ConfigError, match="`cold_budget` is 2; give the share"):
        recommender(cold_budget=2)
