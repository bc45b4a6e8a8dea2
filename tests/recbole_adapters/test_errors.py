"""What cannot work is refused in one sentence, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from small_world import World

from linkedout_lightning.errors import ConfigError, DataError, LinkedOutError
from recbole_adapters import run
from recbole_adapters.distributed import Group, device_of, devices_of
from recbole_adapters.launcher import Request
from recbole_adapters.running import run_here

LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}


def refused(
    world: World, says: str, *, model: Any = "SASRec", dataset: Any = "tiny", **more: Any
) -> LinkedOutError:
    settings = world.settings() | more.pop("settings", {})
    with (
        patch("recbole_adapters.trainer.ExactTrainer.fit", side_effect=AssertionError("trained")),
        pytest.raises(LinkedOutError, match=says) as caught,
    ):
        run(model, dataset, config_dict=settings, out=world.runs / "x", verbose=False, **more)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return caught.value


@pytest.mark.parametrize("nproc", [0, -1, True, "2", 2.0, None])
def test_nproc_that_is_no_number_of_processes(nproc: Any, world: World) -> None:
    error = refused(world, "`nproc` is .*; give a number of processes from 1", nproc=nproc)
    assert isinstance(error, ConfigError)


def test_nproc_beyond_the_rows(world: World) -> None:
    few = world.settings(user_inter_num_interval="[0,7]")
    request = Request("SASRec", "tiny", config_dict=few, folder=world.runs, verbose=False)
    with pytest.raises(ConfigError, match="`nproc` is 400, but there are 50 rows to train on"):
        run_here(request, Group(0, 400, torch.device("cpu")))


def test_a_model_without_a_table_is_refused_before_recbole_reads_its_settings(
    world: World,
) -> None:
    full = {"linkedout": {"encoder": "identity"}, "eval_args": LEAVE_ONE_OUT}
    # With a full ranking RecBole itself would stop at DIN's own metrics first.
    refused(world, "DIN cannot take an item encoder", model="DIN", settings=full)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no configuration file"),
        (b"[1, 2]", "holds no keys"),
        (b"epochs", "holds no keys"),
        (b"", "holds no keys"),
        (b"a: [1\nb: }", "cannot read the configuration file .*: while parsing"),
        (b"\xff\xfe\x00", "cannot read the configuration file"),
    ],
)
def test_configuration_file(content: bytes | None, says: str, world: World, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    if content is not None:
        file.write_bytes(content)
    error = refused(world, says, config_files=[file])
    assert "my.yaml" in str(error)


def test_model_and_dataset(world: World) -> None:
    refused(world, "`model` is 'SASRek', .* did you mean SASRec", model="SASRek")
    refused(world, "`model` is 'LightGCN', which is no sequential model", model="LightGCN")
    refused(world, "dataset need to be specified", dataset=None)
    error = refused(world, "no dataset 'huge': .*huge.inter is not there", dataset="huge")
    assert isinstance(error, DataError)


@pytest.mark.parametrize("field", ["USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"])
@pytest.mark.parametrize("loaded", ["as it is", "with the column", "all"])
def test_wrong_column(field: str, loaded: str, world: World) -> None:
    columns = ["user_id", "item_id", "timestamp"]
    load_col = {"as it is": columns, "with the column": [*columns, "wrong"], "all": None}[loaded]
    settings = {field: "wrong", "load_col": load_col and {"inter": load_col}}
    refused(
        world,
        f"`{field}` is 'wrong', which is no column of .*: user_id, item_id, timestamp",
        settings=settings,
    )


def test_column_that_is_not_loaded(world: World) -> None:
    settings = {"load_col": {"inter": ["user_id", "item_id"]}}
    refused(world, "`load_col` does not load 'timestamp', which `TIME_FIELD`", settings=settings)


@pytest.mark.parametrize("section", [["store"], "features", 3, True])
def test_section_that_is_no_mapping(section: Any, world: World) -> None:
    refused(world, "`linkedout` is .*; give a section such as", settings={"linkedout": section})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"eval_args": LEAVE_ONE_OUT | {"mode": "uni5"}, "linkedout": {"encoder": "id",
          "mask_history": True}}, "`linkedout.mask_history` needs `eval_args.mode: full`"),
        ({"eval_args": LEAVE_ONE_OUT | {"order": "RO"}}, "has to be 'TO'"),
        ({"eval_args": LEAVE_ONE_OUT | {"split": {"LS": "last"}}}, "one of: valid_and_test"),
        ({"eval_args": LEAVE_ONE_OUT | {"split": {"RS": [1, 0, 0]}}}, "leaves the valid part"),
        ({"eval_args": LEAVE_ONE_OUT | {"split": {"AS": 1}}}, "give one of LS, RS and TS"),
        ({"eval_args": LEAVE_ONE_OUT | {"split": {"RS": [8, 1, 1], "LS": "x"}}}, "give one of LS"),
        ({"metrics": ["Recal"]}, "no metric named 'Recal'"),
        ({"valid_metric": "MRR@10"}, "`valid_metric` is 'MRR@10', which is not among"),
        ({"valid_metric": "MRR"}, "`valid_metric` is 'MRR', which is not among"),
        ({"valid_metric": "Hit@5"}, "`valid_metric` is 'Hit@5', which is not among"),
        ({"topk": [500], "valid_metric": "MRR@500"}, "`topk` is .500., but the dataset has 41"),
        ({"epochs": -1}, "`epochs` is -1; give a whole number of at least 0"),
        ({"epochs": "many"}, "`epochs` is 'many'"),
        ({"train_batch_size": 0}, "`train_batch_size` is 0"),
        ({"eval_step": 1.5}, "`eval_step` is 1.5"),
        ({"learning_rate": 0}, "`learning_rate` is 0"),
        ({"clip_grad_norm": 5}, "`clip_grad_norm` is 5"),
        ({"hidden_size": 15}, "RecBole cannot build SASRec: The hidden size .15."),
        ({"user_inter_num_interval": "[100,inf)"}, "the dataset 'tiny': "),
        ({"nproc": 2}, "`nproc` starts? RecBole's own processes"),
        ({"dataset_save_path": "x.pth"}, "a pickle, which would run whatever code it holds"),
    ],
)  # fmt: skip
def test_settings(settings: dict[str, Any], says: str, world: World) -> None:
    refused(world, says, settings=settings)


def test_gpus_that_are_not_there() -> None:
    class Settings(dict[str, Any]):
        external_config_dict: dict[str, Any]

    def settings(**given: Any) -> Settings:
        made = Settings({"gpu_id": "0", "use_gpu": True} | given)
        made.external_config_dict = given
        return made

    assert devices_of(settings()) == (torch.device("cpu"),)
    with (
        patch("torch.cuda.is_available", return_value=True),
        patch("torch.cuda.device_count", return_value=3),
    ):
        gpus = [torch.device("cuda", number) for number in range(3)]
        assert devices_of(settings()) == tuple(gpus)
        assert devices_of(settings(gpu_id="2,0")) == (gpus[2], gpus[0])
        assert devices_of(settings(use_gpu=False)) == (torch.device("cpu"),)
        assert devices_of(settings(gpu_id="")) == (torch.device("cpu"),)
        assert device_of(settings(use_gpu=False), 7, 8) == torch.device("cpu")
        assert device_of(settings(), 1, 2) == gpus[1]
        with pytest.raises(ConfigError, match=r"`nproc` is 4, but the configuration leaves 3 GPU"):
            device_of(settings(), 3, 4)
        with pytest.raises(ConfigError, match="`gpu_id` is '3', but the GPUs here are 0 to 2"):
            devices_of(settings(gpu_id="3"))


def test_processes_within_processes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    refused(world, "torchrun has started the processes already", nproc=2)
    monkeypatch.setenv("RANK", "first")
    refused(world, "which are no numbers; start with torchrun")
