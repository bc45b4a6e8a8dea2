"""The calibration of cold items: its moments, what it leaves alone, and what it is good for."""

from __future__ import annotations

import pytest
import torch

from linkedout_lightning.encoders import IDItemEncoder, LinkedOutItemEncoder
from linkedout_lightning.encoders.calibration import ColdCalibration, calibrated
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.sequence import SequentialRecommender

N, DIM = 60, 8


@pytest.fixture
def encoder():
    """Items 41 to 60 are cold; the IDs of the others are long."""
    torch.manual_seed(0)
    built = LinkedOutItemEncoder.from_features(
        torch.randn(N, 2, 1, 16), train_items=torch.arange(N) < 40, dim=DIM, rank=8,
        id_fusion="concat",
    )  # fmt: skip
    with torch.no_grad():
        built.ids.weight[1:] = torch.randn(N, DIM) * 2 + 1
        built.ids.no_id.normal_(std=0.1)
    return built.eval()


def spread(vectors):
    return (vectors - vectors.mean(0)).square().sum(1).mean().sqrt()


def test_it_maps_mean_and_spread():
    torch.manual_seed(0)
    one, other = torch.randn(500, DIM) * 0.3 + 1, torch.randn(500, DIM) * 2 - 4
    mapped = ColdCalibration.between(one, other)(one)
    torch.testing.assert_close(mapped.mean(0), other.mean(0))
    torch.testing.assert_close(spread(mapped), spread(other))


def test_cold_items_get_the_measure_of_trained_ones_and_these_stay_as_they_are(encoder):
    table = encoder.all_items().detach()
    result = calibrated(encoder, table)
    assert torch.equal(result[:41], table[:41])
    hidden = encoder.ids.known.clone()
    encoder.ids.known[:] = False
    without = encoder.all_items().detach()
    encoder.ids.known.copy_(hidden)
    assert torch.equal(without[41:], table[41:])  # a cold item has no ID anyway
    for cold in range(41, N + 1):  # by its formula, one by one
        expected = table[1:41].mean(0) + (table[cold] - without[1:41].mean(0)) * (
            spread(table[1:41]) / spread(without[1:41])
        )
        torch.testing.assert_close(result[cold], expected)
    assert spread(result[41:]) > 2 * spread(table[41:])


def test_the_order_among_cold_items_stays(encoder):
    table = encoder.all_items().detach()
    states = torch.randn(20, DIM)
    before, after = (states @ t[41:].T for t in (table, calibrated(encoder, table)))
    assert torch.equal(before.argsort(1), after.argsort(1))


def test_what_the_encoder_knows_is_the_same_afterwards(encoder):
    known, table = encoder.ids.known.clone(), encoder.all_items().detach()
    calibrated(encoder, table)
    assert torch.equal(encoder.ids.known, known)
    assert torch.equal(encoder.all_items(), table)


def test_encoders_with_nothing_to_calibrate_give_their_table_back():
    features, some = torch.randn(N, 2, 1, 16), torch.arange(N) < 40
    for encoder in (
        IDItemEncoder(N, dim=DIM, train_items=some),
        LinkedOutItemEncoder.from_features(features, train_items=some, dim=DIM, rank=8),
        LinkedOutItemEncoder.from_features(features, dim=DIM, rank=8, id_fusion="add"),
    ):
        table = encoder.eval().all_items()
        assert calibrated(encoder, table) is table


def test_content_without_spread_is_not_blown_up():
    same = torch.ones(10, DIM)
    mapped = ColdCalibration.between(same, torch.randn(10, DIM))(same)
    assert mapped.isfinite().all()


def test_the_recommender_ranks_with_it_and_reads_inputs_without_it(encoder):
    torch.manual_seed(1)
    plain = SequentialRecommender(encoder, max_len=5).eval()
    with_it = SequentialRecommender(encoder, max_len=5, cold_calibration="moments").eval()
    with_it.backbone.load_state_dict(plain.backbone.state_dict())
    inputs = torch.randint(1, N + 1, (30, 5))
    torch.testing.assert_close(with_it.encode_sequences(inputs), plain.encode_sequences(inputs))
    with torch.no_grad():
        before, after = plain.scores(inputs), with_it.scores(inputs)
        with_it.on_test_epoch_start()
        torch.testing.assert_close(with_it.scores(inputs), after)
    torch.testing.assert_close(after[:, 1:41], before[:, 1:41])
    # A third of the items are cold: they are now found among a user's best about as often.
    shares = [(s[:, 1:].topk(5).indices >= 40).float().mean().item() for s in (before, after)]
    assert shares[0] < 0.1
    assert 0.2 < shares[1] < 0.5
    assert plain.candidate_table().equal(plain.item_table())
    with pytest.raises(ConfigError, match="`cold_calibration` is 'norm'; give one of none"):
        SequentialRecommender(encoder, cold_calibration="norm")
