"""What LinkedOutItemEncoder refuses, by name and at once."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from encoder_catalogue import Catalogue, build

from linkedout_lightning.encoders import LinkedOutItemEncoder
from linkedout_lightning.errors import ConfigError, DataError, NonFiniteError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` is 0"),
        ({"rank": 0}, "`rank` is 0"),
        ({"dropout": 1.0}, "`dropout` is 1.0"),
        ({"balance_weight": -1.0}, "`balance_weight` -1.0"),
        ({"compressor": "conv"}, "`compressor` is 'conv'; give one of latent, mlp, mean"),
        ({"compressor": "mlp", "new_slots": None}, "no slot is named 'generated…' or 'last'"),
        (
            {"compressor": "mlp", "new_slots": ["text"]},
            "no slot 'text'; the store has slot:0, slot:1",
        ),
        ({"fuser": "sum"}, "`fuser` is 'sum'; give one of moe"),
        ({"fuser": "layer:7"}, "hold the layers 0, 1, 2"),
        ({"use_layers": [5]}, "`use_layers` is [5]; the store has layers 0, 1, 2"),
        ({"use_layers": []}, "`use_layers` is []"),
        ({"top_k": 4}, "`top_k` is 4; give 1 to 3"),
        ({"id_fusion": "sum"}, "`id_fusion` is 'sum'; give one of none, add"),
        ({"id_fusion": "add", "id_dropout": 1.0}, "`id_dropout` is 1.0"),
        ({"output_norm": "l2"}, "`output_norm` is 'l2'; give one of none, layer, unit"),
        ({"missing": "skip"}, "`missing` is 'skip'; give one of error, zero, mean"),
        ({"item_ids": ["a", "b"]}, "`item_ids` holds 2 names; the features have 60"),
        ({"item_ids": ["a"] * 60}, "`item_ids` repeats 59"),
        ({"layers": [1, 2]}, "`layers` holds 2 names; the features have 3"),
        ({"train_items": torch.zeros(60, dtype=torch.bool)}, "`train_item_ids` is empty"),
        ({"train_items": torch.ones(60)}, "give bool of shape (60,)"),
        ({"train_items": torch.ones(62, dtype=torch.bool)}, "give bool of shape (60,), or (61,)"),
        ({"train_items": torch.ones(61, dtype=torch.bool)}, "True in row 0, which is the padding"),
    ],
)
def test_a_bad_option_is_named_at_once(
    catalogue: Catalogue, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(catalogue, **options)


def test_bad_tensors_are_named(catalogue: Catalogue) -> None:
    with pytest.raises(DataError, match=r"give a floating tensor \(N, L, S, D\)"):
        LinkedOutItemEncoder.from_features(torch.zeros(5, 3, 8))
    with pytest.raises(DataError, match=r"expected bool of shape \(60, 2\)"):
        LinkedOutItemEncoder.from_features(catalogue.features, catalogue.mask[:, :1])
    encoder = build(catalogue)
    with pytest.raises(DataError, match=r"item index 61 is out of range; the encoder has 60 items"):
        encoder(torch.tensor([61]))
    with pytest.raises(DataError, match=r"item index -1"):
        encoder(torch.tensor([-1]))
    with pytest.raises(DataError, match=r"item indices are torch.float32"):
        encoder(torch.tensor([1.0]))
    with pytest.raises(DataError, match=r"expected \(n, 3, 2, 24\) as in the store"):
        encoder.encode_features(torch.zeros(5, 2, 2, 24))
    bad = catalogue.features[:1].clone()
    bad[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError):
        encoder.encode_features(bad)
    with pytest.raises(ConfigError, match="'concat' has no weight a layer"):
        build(catalogue, fuser="concat").gates(torch.tensor([1]))


def test_nan_features_name_the_item(catalogue: Catalogue) -> None:
    features = catalogue.features.clone()
    row = int((~catalogue.train & catalogue.mask[:, 0]).nonzero()[0])
    features[row, 1, 0, 3] = torch.inf
    with pytest.raises(NonFiniteError, match=f"items {row + 1}"):
        build(catalogue._replace(features=features)).prepare()
