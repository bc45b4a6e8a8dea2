"""What a configuration refuses, and what it fills in."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

from linkedout_lightning.compare.config import BACKBONES, LOSSES, SPLITS, TUNABLE, CompareConfig
from linkedout_lightning.compare.names import parse_encoder
from linkedout_lightning.errors import ConfigError


def config(**changes):
    return CompareConfig(**({"interactions": "x.csv", "store": "s"} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoders": ("idd",)}, "`encoders` holds 'idd'"),
        ({"encoders": ("id+id",)}, "`encoders` holds 'id\\+id'"),
        ({"encoders": ("linkedout+title",)}, "`encoders` holds"),
        ({"encoders": ()}, "`encoders` is empty"),
        ({"encoders": ("id", "id")}, "`encoders` names something twice: id, id"),
        ({"encoders": ("linkedout",), "store": None}, "`store` is not given"),
        ({"stores": {"random": "x"}}, "`stores` uses the name 'random'"),
        ({"backbones": ("bert4rec",)}, "give one of: sasrec, gru4rec"),
        ({"seeds": (0, -1)}, "`seeds` is"),
        ({"preset": "movielens"}, "`preset` is 'movielens'"),
        ({"preset": "microlens", "max_len": 50}, "the preset 'microlens' fixes it at 10"),
        ({"split": "random"}, "`split` has 'random'"),
        ({"loss": "bpr"}, "`loss` has 'bpr'"),
        ({"lr": 0}, "`lr` is 0; give a number from"),
        ({"dropout": 1.0}, "`dropout` is 1.0; give a number from 0 to 0.99"),
        ({"epochs": 2.5}, "`epochs` is 2.5; give an integer from 1"),
        ({"jobs": True}, "`jobs` is True"),
        ({"monitor": "HR@5"}, "`monitor` has 'HR@5'; give one of: HR@10"),
        ({"overrides": {"oracle": {"lr": 0.1}}}, "`overrides` has 'oracle'"),
        ({"overrides": {"id": {"learning_rate": 0.1}}}, "has 'learning_rate'; give one of: dim"),
        ({"overrides": {"id": {"lr": -1.0}}}, re.escape("`overrides['id'].lr` is -1.0")),
        ({"layers": ()}, r"`layers` is \(\); give a list of layers"),
        ({"slots": (1,)}, "give a list of slots of the store by their names"),
        ({"id_fusion": "sum"}, "`id_fusion` has 'sum'; give one of: none, add"),
        ({"overrides": {"id": 3}}, "give settings by name"),
        ({"simulation_note": "n"}, "`simulated` is false"),
    ],
)
def test_bad_value_gets_one_sentence_that_names_it(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_preset_fills_what_was_not_given_and_agrees_with_the_data_module():
    from linkedout_lightning.data.datamodule import PRESETS

    preset = config(preset="microlens")
    for name in ("max_len", "min_len", "duplicates"):
        assert getattr(preset, name) == getattr(PRESETS["microlens"], name)
    assert (preset.loss, preset.weight_decay) == ("in_batch", 0.1)
    assert config(preset="microlens", loss="full").loss == "full"
    plain = config()
    assert (plain.loss, plain.max_len, plain.split) == ("full", 50, "leave_one_out")


def test_names_agree_with_the_parts_that_they_choose():
    from linkedout_lightning.data.datamodule import SPLITS as DATA_SPLITS
    from linkedout_lightning.sequence.backbones import BACKBONES as KNOWN
    from linkedout_lightning.sequence.objective import LOSSES as KNOWN_LOSSES

    assert (BACKBONES, LOSSES, SPLITS) == (KNOWN, KNOWN_LOSSES, DATA_SPLITS)


def test_overrides_go_from_backbone_to_encoder_to_pair():
    chosen = config(
        encoders=("id",),
        backbones=("sasrec", "gru4rec"),
        overrides={
            "id": {"lr": 0.1, "dropout": 0.3},
            "gru4rec": {"lr": 0.2, "dim": 8},
            "id/gru4rec": {"dropout": 0.5},
        },
    )
    of_gru = chosen.settings("id", "gru4rec")
    assert (of_gru["lr"], of_gru["dim"], of_gru["dropout"]) == (0.1, 8, 0.5)
    assert chosen.settings("id", "sasrec")["dropout"] == 0.3
    assert set(of_gru) == set(TUNABLE)


def test_every_field_is_documented_for_the_command_line():
    documented = re.findall(r"^ {4}(\w+): ", inspect.getdoc(CompareConfig), re.M)
    assert [f.name for f in dataclasses.fields(CompareConfig) if f.name not in documented] == []


@pytest.mark.parametrize(
    ("name", "label", "kind", "features", "ids"),
    [
        ("popularity", "Popularity", "floor", False, False),
        ("id", "ID", "baseline", False, True),
        ("id-dropout", "ID with item dropout", "control", False, True),
        ("linkedout+id", "ID + LinkedOut", "method", True, True),
        ("random+id", "ID + random features", "control", True, True),
        ("layer:-1", "Layer -1 only", "control", True, False),
        ("dff", "DFF", "fusion", True, True),
        ("mlp", "Wide MLP", "fusion", True, False),
        ("mlp+id", "ID + wide MLP", "fusion", True, True),
        ("layer:*+id", "ID + each layer alone", "control", True, True),
        ("titles+id", "ID + titles", "features", True, True),
        ("oracle", "Oracle", "ceiling", True, False),
    ],
)
def test_encoder_names(name, label, kind, features, ids):
    parsed = parse_encoder(name, stores=("oracle", "titles"))
    assert (parsed.label, parsed.kind) == (label, kind)
    assert (parsed.wants_features, parsed.knows_ids) == (features, ids)
    assert parsed.trains == (kind != "floor")
    assert parsed.meaning


def test_a_star_stands_for_each_layer_of_the_store(inputs, tmp_path):
    from linkedout_lightning.compare.plan import plan, with_every_layer

    chosen = inputs.config(
        tmp_path,
        encoders=("id", "layer:*", "layer:8", "layer:*+id"),
        overrides={"layer:*": {"lr": 0.5}, "id": {"lr": 0.1}},
    )
    every = with_every_layer(chosen)
    assert every.encoders == (
        "id", "layer:4", "layer:8", "layer:12", "layer:4+id", "layer:8+id", "layer:12+id",
    )  # fmt: skip
    assert {cell.encoder: cell.settings["lr"] for cell in plan(every)} == {
        "id": 0.1, "layer:4": 0.5, "layer:8": 0.5, "layer:12": 0.5,
        "layer:4+id": 0.01, "layer:8+id": 0.01, "layer:12+id": 0.01,
    }  # fmt: skip
    few = with_every_layer(inputs.config(tmp_path, encoders=("layer:*",), layers=(12, 4)))
    assert few.encoders == ("layer:12", "layer:4")
