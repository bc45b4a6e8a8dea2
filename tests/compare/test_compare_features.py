"""The controls: what they share with the real features, and what they do not."""

from __future__ import annotations

import pytest
import torch
from made_up import write_store

from linkedout_lightning.compare.features import RandomFeatures, ShuffledFeatures, build_encoder
from linkedout_lightning.compare.names import parse_encoder
from linkedout_lightning.encoders import parameter_counts
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.store import FeatureStore

IDS = [f"i{number}" for number in range(60)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return FeatureStore.open(write_store(tmp_path_factory.mktemp("store") / "features"))


def encoder_of(name, store, inputs, tmp_path, **changes):
    settings = inputs.config(tmp_path, **changes).settings("linkedout", "sasrec")
    torch.manual_seed(0)
    return build_encoder(
        parse_encoder(name, stores=("named",)),
        store=None if name in ("id", "id-dropout") else store,
        item_ids=IDS,
        train_items=torch.tensor([False] + [True] * 50 + [False] * 10),
        settings=settings | {"named_store": name == "named"},
        seed=1,
    )


def test_noise_is_of_the_item_whatever_else_is_asked_for(store):
    noise = RandomFeatures(store, seed=3)
    all_of_it, mask = noise.get(IDS)
    assert all_of_it.shape == (60, 3, 2, 12)
    assert torch.equal(noise.get(["i7", "i3", "i7"])[0], all_of_it[[7, 3, 7]])
    assert torch.equal(mask, store.get(IDS).mask)
    assert all_of_it.mean().abs() < 0.1
    assert all_of_it.std() == pytest.approx(1, abs=0.05)
    assert not torch.equal(RandomFeatures(store, seed=4).get(IDS)[0], all_of_it)


def test_shuffling_keeps_the_set_of_features_and_moves_them(store):
    shuffled, real = ShuffledFeatures(store, IDS, seed=3).get(IDS)[0], store.get(IDS).features
    assert torch.equal(shuffled.sum(0).float(), real.sum(0).float()) or torch.allclose(
        shuffled.float().sum(0), real.float().sum(0), atol=1e-2
    )
    same = (shuffled == real).flatten(1).all(1)
    assert int(same.sum()) < 6
    rows = {tuple(row) for row in real.flatten(1).tolist()}
    assert {tuple(row) for row in shuffled.flatten(1).tolist()} == rows


def test_controls_have_exactly_the_parameters_of_what_they_control(store, inputs, tmp_path):
    counts = {
        name: parameter_counts(encoder_of(name, store, inputs, tmp_path))
        for name in (
            "linkedout",
            "random",
            "shuffled",
            "last",
            "named",
            "linkedout+id",
            "random+id",
        )
    }
    for name in ("random", "shuffled", "last", "named"):
        assert counts[name] == counts["linkedout"]
    assert counts["random+id"] == counts["linkedout+id"]


@pytest.mark.parametrize("norm", ["none", "layer", "unit"])
def test_ids_have_the_norm_of_the_row(norm, inputs, tmp_path):
    for name in ("id", "id-dropout"):
        encoder = encoder_of(name, None, inputs, tmp_path, output_norm=norm)
        assert encoder.output_norm.name == norm


def test_last_sees_the_last_layer_alone(store, inputs, tmp_path):
    assert encoder_of("last", store, inputs, tmp_path).layers == (12, 12, 12)
    assert encoder_of("layer:8", store, inputs, tmp_path).layers == (8,)
    assert encoder_of("linkedout", store, inputs, tmp_path).layers == (4, 8, 12)


def test_wide_mlp_has_the_parameters_of_linkedout_to_half_a_hidden_unit(store, inputs, tmp_path):
    for suffix in ("", "+id"):
        ours, wide = (
            parameter_counts(encoder_of(f"{base}{suffix}", store, inputs, tmp_path))["total"]
            for base in ("linkedout", "mlp")
        )
        unit = 3 * 2 * 8 + 1 + 16  # layers x slots x rank inputs, a bias, dim outputs
        assert abs(ours - wide) <= unit / 2


def test_layers_and_slots_that_are_read_can_be_chosen(store, inputs, tmp_path):
    encoder = encoder_of("linkedout", store, inputs, tmp_path, layers=(12, 4), slots=("text",))
    assert encoder.layers == (12, 4)
    assert encoder.slots == ("text",)
    features = store.get(IDS[:3]).features
    tokens = encoder._table.tokens(encoder.whitening).take(torch.tensor([1, 2, 3]), torch.float32)
    expected = encoder.whitening(features[:, [2, 0]][:, :, [1]], torch.ones(3, 1, dtype=bool))
    torch.testing.assert_close(tokens[0], expected)
    last = encoder_of("last", store, inputs, tmp_path, layers=(4, 8), slots=("text", "visual"))
    assert last.layers == (8, 8)
    assert encoder_of("random", store, inputs, tmp_path, slots=("text",)).slots == ("text",)
    with pytest.raises(ConfigError, match=r"`slots` is .*'title'.*visual, text"):
        encoder_of("linkedout", store, inputs, tmp_path, slots=("title",))


@pytest.mark.parametrize(
    ("name", "id_fusion", "found"),
    [
        ("linkedout+id", "concat", "ConcatIDs"),
        ("linkedout+id", "gate", "GateIDs"),
        ("linkedout+id", "none", "NoneType"),
        ("linkedout", "add", "NoneType"),
        ("mean+id", "add", "AddIDs"),
        ("dff", "concat", "GateIDs"),
        ("dff", "none", "NoneType"),
    ],
)
def test_the_ids_join_as_asked(name, id_fusion, found, store, inputs, tmp_path):
    encoder = encoder_of(name, store, inputs, tmp_path, id_fusion=id_fusion)
    assert type(encoder.id_fusion).__name__ == found


@pytest.mark.parametrize(
    "name", ["id", "id-dropout", "mean", "concat", "weighted-sum", "dff", "mlp", "mlp+id"]
)
def test_every_row_has_an_encoder(name, store, inputs, tmp_path):
    encoder = encoder_of(name, store, inputs, tmp_path)
    assert encoder.all_items().shape == (61, 16)
    known_ids = parse_encoder(name).knows_ids
    assert (name.startswith("id") or encoder.ids is not None) == known_ids
