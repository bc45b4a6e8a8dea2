"""The `linkedout:` section: what YAML and people write in it, and what comes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from linkedout_lightning.errors import ConfigError
from recbole_adapters.options import ItemEncoderOptions


def test_no_section_and_encoder_id_leave_the_model_alone() -> None:
    assert not ItemEncoderOptions.from_section(None).replaces
    assert not ItemEncoderOptions.from_section({"encoder": "id"}).replaces
    assert ItemEncoderOptions.from_section({"store": "features"}).replaces


@pytest.mark.parametrize(
    ("key", "given", "wanted"),
    [
        ("temperature", "1e-3", 1e-3),  # what YAML 1.1 makes of 1e-3
        ("temperature", 2, 2.0),
        ("balance_weight", "0.01", 0.01),
        ("rank", "16", 16),
        ("rank", 16.0, 16),
        ("top_k", None, None),
        ("layers", [4, "8"], (4, 8)),
        ("layers", 12, (12,)),
        ("layers", (4, 8), (4, 8)),
        ("mask_history", "True", True),
        ("mask_history", False, False),
        ("id_fusion", "none", "none"),
        ("store", Path("folder") / "features", "folder/features"),
    ],
)
def test_values_as_yaml_gives_them(key: str, given: Any, wanted: Any) -> None:
    options = ItemEncoderOptions.from_section({"store": "features"} | {key: given})
    found = getattr(options, key)
    assert found == wanted
    assert type(found) is type(wanted)
    assert hash(options) == hash(dataclasses.replace(options))


def test_a_yaml_file_by_the_loader_of_anybody() -> None:
    text = "linkedout: {store: f, rank: 16, temperature: 1e-2, layers: [4, 8], mask_history: yes}"
    options = ItemEncoderOptions.from_section(yaml.safe_load(text)["linkedout"])
    assert (options.temperature, options.layers, options.mask_history) == (0.01, (4, 8), True)


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("rank", 0), ("rank", "many"), ("rank", 2.5), ("rank", True), ("rank", None),
        ("dim", -1), ("dim", [16]), ("queries", 0), ("top_k", 0), ("layers", []),
        ("layers", "all"), ("layers", [4.5]), ("temperature", 0), ("temperature", "warm"),
        ("temperature", float("nan")), ("balance_weight", -1), ("balance_weight", "inf"),
        ("id_dropout", 1), ("dropout", -0.1), ("whitening_power", 2), ("missing", "ignore"),
        ("missing", None), ("checkpoint", "pickle"), ("id_fusion", "sum"), ("compressor", "max"),
        ("output_norm", "batch"), ("mask_history", "maybe"), ("mask_history", 1),
        ("store", 3), ("seed", "x"), ("encoder", "nonsense"), ("encoder", None),
    ],
)  # fmt: skip
def test_unusable_values_are_named(key: str, given: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        ItemEncoderOptions.from_section({"store": "features"} | {key: given})
    message = str(raised.value)
    assert repr(given) in message
    assert key in message
    assert "give" in message
    assert "\n" not in message


def test_an_unknown_key_comes_with_a_guess() -> None:
    with pytest.raises(ConfigError, match="'fusr'; did you mean 'fuser'"):
        ItemEncoderOptions.from_section({"store": "features", "fusr": "moe"})
    with pytest.raises(ConfigError, match=r"give keys among: .*whitening_power"):
        ItemEncoderOptions.from_section({17: 1})


@pytest.mark.parametrize("section", ["features", ["store"], 3, True])
def test_a_section_that_is_none(section: Any) -> None:
    with pytest.raises(ConfigError, match="give a section such as linkedout"):
        ItemEncoderOptions.from_section(section)


@pytest.mark.parametrize("encoder", ["linkedout", "random", "mean+id", "layer:4"])
def test_features_need_a_store(encoder: str) -> None:
    with pytest.raises(ConfigError, match=r"`linkedout\.store` is not given; name the folder"):
        ItemEncoderOptions.from_section({"encoder": encoder})


def test_json_and_back() -> None:
    options = ItemEncoderOptions(store="f", layers=(4, 8), top_k=2, id_fusion="gate")
    assert ItemEncoderOptions.from_section(options.to_json()) == options
