"""Oracles: plain loops over the same weights; encoders that count how often they are asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linkedout_lightning.data import EvalBatch, TrainBatch
from linkedout_lightning.encoders import IDItemEncoder, LinkedOutItemEncoder
from linkedout_lightning.sequence import SequentialRecommender

N, DIM, LENGTH = 30, 8, 6
COUNTS = torch.arange(N + 1) % 7 + 1
LOSSES = pytest.mark.parametrize("loss", ["full", "in_batch", "sampled"])


class CountingEncoder(IDItemEncoder):
    """Writes down what it was asked for."""

    def __init__(self) -> None:
        super().__init__(N, dim=DIM, init_std=0.5)
        self.asked: list[Tensor] = []
        self.tables = 0

    def forward(self, item_index: Tensor) -> Tensor:
        self.asked.append(item_index)
        return super().forward(item_index)

    def all_items(self) -> Tensor:
        self.tables += 1
        return super().all_items()


def _model(encoder: nn.Module | None = None, **options: object) -> SequentialRecommender:
    torch.manual_seed(0)
    options = {"max_len": LENGTH, "dropout": 0.0, "item_counts": COUNTS, **options}
    return SequentialRecommender(encoder or CountingEncoder(), **options)


def _train_batch(users: int = 5) -> TrainBatch:
    torch.manual_seed(1)
    items = torch.randint(1, N + 1, (users, LENGTH + 1))
    for user in range(users):
        items[user, : user % LENGTH] = 0
    return TrainBatch(items)


def _loss(model: SequentialRecommender, batch: TrainBatch) -> Tensor:
    model.log = lambda *a, **k: None  # there is no trainer
    return model.training_step(batch, 0)


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "nextitnet"])
def test_full_training_loss_is_the_mean_over_positions_one_by_one(backbone):
    model, batch = _model(backbone=backbone), _train_batch()
    table, terms = model.item_table(), []
    for row in batch.items:
        sequence = row[row != 0]
        inputs = sequence[None, :-1]
        states = model.backbone(table[inputs], torch.ones_like(inputs, dtype=torch.bool))[0]
        for state, wanted in zip(states, sequence[1:], strict=True):
            terms.append(F.cross_entropy((table @ state)[1:], wanted - 1))
    torch.testing.assert_close(_loss(model, batch), torch.stack(terms).mean())


@LOSSES
def test_a_step_encodes_each_item_that_it_needs_once(loss):
    encoder = CountingEncoder()
    model, batch = _model(encoder, loss=loss, negatives=4), _train_batch()
    _loss(model, batch)
    if loss == "full":
        assert encoder.tables == 1
        assert not encoder.asked
    else:
        (asked,) = encoder.asked
        assert encoder.tables == 0
        assert len(asked) == len(asked.unique())
        assert set(batch.items.unique().tolist()) <= set(asked.tolist())
        assert len(asked) <= len(batch.items.unique()) + (4 if loss == "sampled" else 0)


@LOSSES
def test_padding_and_trimming_do_not_change_the_loss(loss):
    model, batch = _model(loss=loss), _train_batch()
    batch = TrainBatch(torch.cat([torch.zeros(5, 3, dtype=torch.int64), batch.items[:, 3:]], 1))
    trimmed = TrainBatch(batch.items[:, 3:])
    torch.manual_seed(5)
    whole = _loss(model, batch)
    torch.manual_seed(5)
    torch.testing.assert_close(whole, _loss(model, trimmed))


@LOSSES
def test_gradients_reach_encoder_and_backbone_and_never_padding(loss):
    model = _model(loss=loss)
    _loss(model, _train_batch()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name
    assert model.item_encoder.weight.grad[0].abs().max() == 0


@LOSSES
@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "nextitnet"])
def test_training_learns_a_rule(loss, backbone):
    """Item i is always followed by i + 1."""
    torch.manual_seed(0)
    options = {"backbone": backbone, "loss": loss, "negatives": 64}
    model = _model(IDItemEncoder(N, dim=16), item_counts=torch.ones(N + 1), **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    model.log = lambda *a, **k: None
    for _ in range(80):
        start = torch.randint(0, N, (64, 1))
        items = (start + torch.arange(LENGTH + 1)) % N + 1
        loss_value = model.training_step(TrainBatch(items), 0)
        optimizer.zero_grad()
        loss_value.backward()
        optimizer.step()
    inputs = (torch.arange(N)[:, None] + torch.arange(LENGTH)) % N + 1
    scores = model.eval().scores(inputs).scatter(1, inputs, -torch.inf)
    best = scores[:, 1:].argmax(1) + 1
    assert (best == inputs[:, -1] % N + 1).float().mean() > 0.9


def test_auxiliary_loss_of_the_encoder_is_added():
    class Balanced(CountingEncoder):
        def auxiliary_loss(self) -> Tensor:
            return self.weight.new_tensor(2.5)

    batch, balanced, plain = _train_batch(), Balanced(), CountingEncoder()
    plain.load_state_dict(balanced.state_dict())
    torch.testing.assert_close(_loss(_model(balanced), batch), _loss(_model(plain), batch) + 2.5)


def test_scores_are_the_same_with_and_without_the_evaluations_table():
    model = _model().eval()
    inputs = _train_batch().items[:, :-1]
    one_by_one = model.scores(inputs)
    model.on_validation_epoch_start()
    torch.testing.assert_close(model.scores(inputs), one_by_one)
    assert one_by_one.shape == (5, N + 1)


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "nextitnet"])
def test_scores_under_autocast_are_not_rounded_to_ties(backbone):
    model = _model(backbone=backbone).eval()
    inputs = _train_batch(50).items[:, :-1]
    with torch.autocast("cpu", torch.bfloat16):
        scores = model.scores(inputs)
        states = model.encode_sequences(inputs).float()
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, states @ model.item_table().float().T)


def test_users_without_history_score_every_item_equally():
    model = _model().eval()
    for inputs in (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.int64)):
        assert (model.scores(inputs) == 0).all()


def test_evaluation_ranks_as_a_plain_sort_does_and_encodes_the_catalogue_once():
    encoder = CountingEncoder()
    model = _model(encoder).eval()
    torch.manual_seed(3)
    inputs = torch.randint(1, N + 1, (12, 4))
    target = torch.randint(1, N + 1, (12,))
    users = torch.arange(12).flip(0)
    expected = []
    for row, (scores, wanted) in enumerate(zip(model.scores(inputs), target, strict=True)):
        scores = scores.clone()
        scores[0] = -torch.inf
        seen = inputs[row][inputs[row] != wanted]
        scores[seen] = -torch.inf
        expected.append(int((scores.argsort(descending=True) == wanted).nonzero()) + 1)
    encoder.tables, encoder.asked = 0, []
    model.log = lambda *a, **k: None
    model.on_test_epoch_start()
    for part in (slice(0, 5), slice(5, 12), slice(12, 12)):  # the last one empty, as under DDP
        model.test_step(EvalBatch(users[part], inputs[part], target[part], inputs[part]), 0)
    model.on_test_epoch_end()
    assert encoder.tables == 1
    assert not encoder.asked
    assert model._table is None
    assert model.test_ranks.users.tolist() == list(range(12))
    assert model.test_ranks.ranks.tolist() == expected[::-1]


def test_non_finite_scores_stop_the_evaluation():
    model = _model().eval()
    with torch.no_grad():
        model.item_encoder.weight[3, 0] = torch.nan
    model.on_validation_epoch_start()
    one = torch.tensor([[1]])
    with pytest.raises(ValueError, match="scores must be finite"):
        model.validation_step(EvalBatch(one[0], one, one[0], one), 0)


def test_linkedout_encoder_trains_every_expert_and_the_gate():
    encoder = LinkedOutItemEncoder.from_features(torch.randn(N, 3, 2, 12), dim=DIM, rank=6)
    model = _model(encoder, loss="in_batch")
    _loss(model, _train_batch()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


def test_the_optimiser_decays_everything_and_warms_up():
    model = _model(lr=1e-2, encoder_lr=1e-3, weight_decay=0.3, warmup_steps=4)
    model._trainer = type("T", (), {"precision": "32-true", "gradient_clip_val": 5.0})()
    found = model.configure_optimizers()
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.3}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    rates = []
    for _ in range(5):
        rates.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert torch.tensor(rates).allclose(
        torch.tensor([0.25, 0.5, 0.75, 1.0, 1.0])[:, None] * torch.tensor([1e-2, 1e-3])
    )


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="unknown loss 'bpr'; give one of full, in_batch, sampled"):
        _model(loss="bpr")
    with pytest.raises(ValueError, match=r"Linear is no item encoder: it lacks dim"):
        _model(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"`item_counts` must be \(N \+ 1,\) = \(31,\)"):
        _model(item_counts=torch.ones(N), loss="in_batch")
    with pytest.raises(ValueError, match="`lr` must be positive"):
        _model(lr=0.0)
    with pytest.raises(ValueError, match="exceed max_len=6"):
        _model().scores(torch.ones(1, 7, dtype=torch.int64))


def test_a_backbone_of_ones_own():
    class LastItem(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * mask[..., None]

    model = _model(backbone=LastItem())
    scores = model.scores(torch.tensor([[0, 4, 9]]))
    table = model.item_table()
    torch.testing.assert_close(scores, table[9:10] @ table.T)
    assert "backbone" not in model.hparams
