"""``linkedout compare --engine recbole``: what settings mean and which are refused."""

from __future__ import annotations

import dataclasses
import os

import pytest
from compared_films import ENCODERS, SMALL, config_of

from linkedout_lightning import cli
from linkedout_lightning.compare import CompareConfig, compare
from linkedout_lightning.compare.plan import plan
from linkedout_lightning.errors import ConfigError, DataError
from recbole_adapters import comparing, settings
from recbole_adapters.compat import session
from recbole_adapters.slots import REFUSED, sequential_models, slots_of


def test_settings_reach_recbole_by_its_own_keys(films, tmp_path):
    config = config_of(
        films, tmp_path, encoders=("popularity", "id", "linkedout+id"), seeds=(0,), dim=32,
        recbole_settings={"hidden_size": 32},
        backbones=("SASRec", "gru4rec"), patience=0, eval_batch_size=99, monitor="HR@20",
        overrides={
            "SASRec": {"lr": 0.002}, "id/sasrec": {"recbole_settings": {"n_layers": 1}},
            "id": {"epochs": 5, "recbole_settings": {"hidden_dropout_prob": 0.1}},
        },
    )  # fmt: skip
    assert config.backbones == ("sasrec", "gru4rec")
    cells = {(c.encoder, c.backbone): c.settings for c in plan(config)}
    ids = cells["id", "sasrec"]["recbole"]
    expected = {
        "learning_rate": 0.002, "epochs": 5, "stopping_step": 300, "train_batch_size": 512,
        "eval_batch_size": 99, "MAX_ITEM_LIST_LENGTH": 10, "hidden_size": 32, "n_layers": 1,
        "hidden_dropout_prob": 0.1, "valid_metric": "Hit@20", "train_neg_sample_args": None,
    }  # fmt: skip
    assert {key: ids[key] for key in expected} == expected
    assert {"Hit", "NDCG", "MRR"} <= set(ids["metrics"])
    gru = cells["linkedout+id", "gru4rec"]
    assert (gru["recbole"]["embedding_size"], gru["recbole"]["hidden_size"]) == (32, 32)
    assert gru["section"]["encoder"] == "linkedout+id"
    assert "n_layers" not in gru["recbole"]
    assert cells["id", "gru4rec"]["section"] == {"encoder": "id", "mask_history": True}


def test_only_what_a_setting_touches_is_stale(films, tmp_path):
    def prints(**changes):
        config = config_of(films, tmp_path, seeds=(0,), **changes)
        return {c.encoder: c.fingerprint for c in plan(config)}

    def stale(**changes):
        now = prints(**changes)
        return [name for name, was in prints().items() if now[name] != was]

    assert stale(title="Another", accelerator="auto", keep_checkpoints=False) == []
    assert stale(epochs=3) == list(ENCODERS[1:])
    assert stale(rank=4) == ["linkedout", "linkedout+id", "random"]
    assert stale(mask_history=False) == list(ENCODERS)
    assert stale(overrides={"id": {"lr": 0.5}}) == ["id"]
    (tmp_path / "device.yaml").write_text(f"gpu_id: '1'\ndata_path: {tmp_path}\n")
    assert stale(recbole_config=("ml-100k", str(tmp_path / "device.yaml"))) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "recboll"}, "`engine` has 'recboll'; give one of: native, recbole"),
        ({"dataset": None, "recbole_config": ()}, "`dataset` is not given; name one"),
        ({"backbones": ("SASRek",)}, "did you mean SASRec"),
        ({"backbones": ("DIN",)}, "DIN cannot take an item encoder"),
        ({"backbones": ("sasrec", "SASRec")}, "`backbones` names something twice"),
        ({"interactions": "x.csv"}, "with the engine recbole give `dataset`"),
        ({"loss": "full"}, "`loss` is 'full', which the native engine reads"),
        ({"dropout": 0.2}, "give RecBole's own key in `recbole_settings`"),
        ({"recbole_settings": {"checkpoint_dir": "x"}}, "`out` sets in a comparison"),
        ({"overrides": {"id": {"recbole_settings": {"seed": 1}}}}, "`seeds` sets"),
        ({"overrides": {"id": {"dropout": 0.2}}}, "has 'dropout'; give one of: dim"),
        ({"recbole_config": ("linkedout",)}, "has a `linkedout:` section"),
        ({"recbole_config": ("nowhere.yaml",)}, "no configuration file 'nowhere.yaml'"),
        ({"accelerator": "tpu"}, "RecBole knows cpu and gpu"),
        ({"store": None}, "`store` is not given"),
    ],
)
def test_bad_value_gets_one_sentence(changes, message, films, tmp_path):
    with pytest.raises(ConfigError) as error:
        config_of(films, tmp_path, **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"dataset": "nowhere"}, DataError, "no dataset 'nowhere'"),
        (
            {"recbole_settings": {"eval_args": {"mode": "uni100", "order": "TO"}}},
            ConfigError,
            "ranks the whole catalogue: give full",
        ),
        (
            {"recbole_settings": {"eval_args": {"split": {"LS": "test_only"}, "order": "TO"}}},
            ConfigError,
            "give LS: valid_and_test",
        ),
        ({"recbole_settings": {"topk": "ten"}}, ConfigError, "`topk` is 'ten'"),
        ({"recbole_settings": SMALL, "dim": 8}, ConfigError, "for SASRec is the same"),
        ({"recbole_settings": {"learning_rate": 0.1}}, ConfigError, "`lr` is 0.01, and"),
        ({"store": "nowhere"}, ConfigError, "no such file or folder: 'nowhere'"),
    ],
)
def test_bad_input_is_told_before_anything_runs(changes, kind, message, films, tmp_path):
    with pytest.raises(kind, match=message):
        compare(config_of(films, tmp_path / "out", **changes), progress=False)
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_it_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["--dataset", "ml-100k"], "`dataset` is given, which the engine recbole reads"),
        (["--engine", "recbole"], "`dataset` is not given"),
        (["--engine", "recbole", "--dataset", "ml-100k", "--backbones", "sasrek"], "SASRec"),
        (["--encoders", "id"], "`interactions` is not given"),
    ):
        assert cli.main(["compare", *arguments, "--html", "false"]) == cli.EXIT_USAGE
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1


NEEDS_MORE_FILES = ("S3Rec", "GRU4RecKG")


@pytest.mark.parametrize(
    "model", sorted(set(sequential_models()) - set(REFUSED) - set(NEEDS_MORE_FILES))
)
def test_dim_is_the_width_of_the_item_vectors(model, world):
    from recbole_adapters.data import build_dataset, build_loaders
    from recbole_adapters.launcher import Request
    from recbole_adapters.running import build_model, read_config

    given = world.settings(model) | {"hidden_size": 8, "embedding_size": 8}
    given[settings.width_key(model)] = 24
    with session():
        config = read_config(Request(model, "tiny", config_dict=given))
        loaders = build_loaders(config, build_dataset(config), mask_history=False)
        built = build_model(model, config, loaders)
    for slot in slots_of(type(built)):
        assert getattr(built, slot).embedding_dim == 24


def test_each_field_of_the_native_engine_is_named_once():
    fields = {field.name: field for field in dataclasses.fields(CompareConfig)}
    assert set(comparing._NATIVE) < set(fields)
    assert os.path.isfile(settings.ready_files()["ml-100k"])
