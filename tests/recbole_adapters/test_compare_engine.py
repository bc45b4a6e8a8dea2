"""``linkedout compare --engine recbole``: real cells on ml-100k, killed, resumed and recomputed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from linkedout_lightning import cli
from linkedout_lightning.compare import CompareConfig, cell, compare
from linkedout_lightning.compare.plan import plan
from linkedout_lightning.errors import ConfigError, DataError
from recbole_adapters import comparing, run, settings
from recbole_adapters.compat import session
from recbole_adapters.slots import REFUSED, sequential_models, slots_of

# Nine processes that each import torch and RecBole: half a minute, more on a busy machine.
pytestmark = pytest.mark.timeout(900)

SMALL = {"user_inter_num_interval": [0, 30], "hidden_size": 16, "inner_size": 16}
ENCODERS = ("popularity", "id", "linkedout", "linkedout+id", "random")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Features of the first 1,600 of ml-100k's 1,682 items, some of which nobody here has seen."""
    from small_world import write_store

    folder = tmp_path_factory.mktemp("films") / "features"
    write_store(folder, tuple(str(number) for number in range(1, 1601)))
    return folder


def config_of(films, out, **changes):
    given = {
        "engine": "recbole", "dataset": "ml-100k", "recbole_config": ("ml-100k",),
        "recbole_settings": SMALL, "store": str(films), "missing": "mean", "rank": 8,
        "max_len": 10, "epochs": 2, "lr": 0.01, "batch_size": 512, "encoders": ENCODERS,
        "backbones": ("sasrec",), "seeds": (0, 1), "bootstrap": 200, "accelerator": "cpu",
        "threads": 1, "jobs": 2, "html": False, "out": str(out),
    }  # fmt: skip
    return CompareConfig(**(given | changes))


@pytest.fixture(scope="module")
def matrix(films, tmp_path_factory):
    """A comparison that was killed half-way and started again; and what the first one had done."""
    folder = tmp_path_factory.mktemp("matrix")
    config = config_of(films, folder / "out")
    given = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(given))))
    command = [sys.executable, "-m", "linkedout_lightning.cli", "compare"]
    parent = subprocess.Popen([*command, "--config", str(folder / "config.yaml"), "--quiet"])
    cells = folder / "out" / "cells"
    deadline = time.monotonic() + 600
    try:
        while not list(cells.glob("*/result.json")):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    while left_over := _cell_processes(cells):
        assert time.monotonic() < deadline, left_over
        time.sleep(0.05)
    done = {path: path.stat().st_mtime_ns for path in cells.glob("*/result.json")}
    return compare(config, progress=False), done


def _cell_processes(cells):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(cells).encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def split(films, tmp_path_factory):
    """RecBole's own rows: counts of training, and each test user's target and history."""
    from recbole_adapters.data import build_dataset, build_loaders
    from recbole_adapters.launcher import Request
    from recbole_adapters.running import read_config

    [planned] = plan(config_of(films, tmp_path_factory.mktemp("split"), encoders=("popularity",)))
    with session():
        config = read_config(
            Request("SASRec", "ml-100k", config_dict=planned.settings["recbole"] | {"seed": 0})
        )
        dataset = build_dataset(config)
        loaders = build_loaders(config, dataset, mask_history=False)
    parts = [loader._dataset.inter_feat for loader in loaders]
    train, valid, test = (
        list(zip(part["user_id"].tolist(), part["item_id"].tolist(), strict=True)) for part in parts
    )
    seen = {}
    for user, item in train:
        seen.setdefault(user, []).append(item)
    for user, items in seen.items():
        row = parts[0]["user_id"].tolist().index(user)
        items.insert(0, int(parts[0]["item_id_list"][row][0]))
    counts = Counter(item for items in seen.values() for item in items)
    history = {user: set(items) for user, items in seen.items()}
    for user, item in valid:
        history[user].add(item)
    return dataset.item_num - 1, counts, dict(test), history


def test_what_was_done_before_the_kill_was_not_done_again(matrix, monkeypatch):
    result, done = matrix
    assert 1 <= len(done) < 9
    for path, changed in done.items():
        assert path.stat().st_mtime_ns == changed
    assert result.exit_code == 0
    assert {(c["encoder"], c["seed"]) for c in result["cells"]} == {
        ("popularity", 0), *((name, seed) for name in ENCODERS[1:] for seed in (0, 1))
    }  # fmt: skip
    assert {(c["engine"], c["backbone"]) for c in result["cells"]} == {
        ("recbole", "sasrec"), ("recbole", "none")
    }  # fmt: skip
    started = []
    monkeypatch.setattr(
        "linkedout_lightning.compare.run.run_cells",
        lambda cells, **options: started.extend(cells) or {},
    )
    compare(_config_in(result), progress=False)
    assert started == []


def _config_in(result):
    content = yaml.safe_load((result.out.parent / "config.yaml").read_text())
    for name in ("encoders", "backbones", "seeds", "ks", "recbole_config"):
        content[name] = tuple(content[name])
    return CompareConfig(**content)


def test_figures_are_those_of_a_naive_loop_over_the_ranks(matrix, split):
    items, counts, targets, _ = split
    result, _ = matrix
    order = sorted(counts, key=lambda item: (-counts[item], item))
    size, larger = divmod(len(order), 10)
    decile, place = {}, 0
    for number in range(1, 11):
        length = size + (number <= larger)
        decile |= dict.fromkeys(order[place : place + length], f"decile_{number}")
        place += length
    assert result["data"]["items"] == items
    assert result["data"]["cold_items"] == items - len(counts)
    for found in result["cells"]:
        kept = load_file(result.out / found["folder"] / "ranks.safetensors")
        ranks = dict(zip(kept["users"].tolist(), kept["ranks"].tolist(), strict=True))
        assert ranks.keys() == targets.keys()
        groups = {"": list(ranks)}
        for user, target in targets.items():
            groups.setdefault(decile.get(target, "cold"), []).append(user)
        for name, users in groups.items():
            figures = found["slices"][name] if name else found["metrics"]
            assert not name or figures["users"] == len(users)
            for k in (10, 20):
                hits = [ranks[user] for user in users if ranks[user] <= k]
                for metric, value in (
                    ("HR", len(hits)),
                    ("NDCG", sum(1 / math.log2(rank + 1) for rank in hits)),
                    ("MRR", sum(1 / rank for rank in hits)),
                ):
                    assert figures[f"{metric}@{k}"] == pytest.approx(value / len(users), abs=1e-12)


def test_popularity_ranks_recbole_s_rows_with_the_history_left_out(matrix, split):
    items, counts, targets, history = split
    result, _ = matrix
    kept = load_file(result.out / "cells" / "popularity" / "ranks.safetensors")
    for user, rank in zip(kept["users"].tolist(), kept["ranks"].tolist(), strict=True):
        target = targets[user]
        rivals = set(range(1, items + 1)) - history[user] - {target}
        assert rank == 1 + sum(counts[item] >= counts[target] for item in rivals)


def test_recbole_s_own_evaluator_agrees_to_its_rounding(matrix):
    result, _ = matrix
    for found in result["cells"]:
        own = json.loads((result.out / found["folder"] / "result.json").read_text())
        if found["backbone"] == "none":
            continue
        for theirs, ours in (("hit", "HR"), ("ndcg", "NDCG"), ("mrr", "MRR")):
            for k in (10, 20):
                test, valid = own["recbole"]["test_result"], own["recbole"]["best_valid_result"]
                assert found["metrics"][f"{ours}@{k}"] == pytest.approx(
                    test[f"{theirs}@{k}"], abs=5.1e-5
                )
                assert found["best_val"][f"{ours}@{k}"] == pytest.approx(
                    valid[f"{theirs}@{k}"], abs=5.1e-5
                )


def test_a_cell_says_what_it_is_made_of(matrix):
    result, _ = matrix
    cells = {(c["encoder"], c["seed"]): c for c in result["cells"]}
    for (name, _), found in cells.items():
        if name == "popularity":
            continue
        parts = dict(found["parameters_by_part"])
        assert parts.pop("total") == found["parameters"] == sum(parts.values())
        assert [point["epoch"] for point in found["curve"]] == [1, 2]
        assert all(0 < point["train_seconds"] < point["seconds"] for point in found["curve"])
        assert sum(point["seconds"] for point in found["curve"]) <= found["seconds"]
        assert found["best_epoch"] in (1, 2)
        assert set(found["seconds_by_part"]) == {"fit", "epoch", "evaluation", "data"}
        assert found["peak_mb"] > 50
        assert (result.out / found["checkpoint"]).name == "model.safetensors"
    ids, fused = cells["id", 0], cells["linkedout", 0]
    items = result["data"]["items"]
    assert ids["parameters_by_part"]["encoder/ids"] == (items + 1) * 16
    assert ids["gates"] is None
    assert ids["alignment"] is None
    assert fused["gates"]["layers"] == [4, 8, 12]
    assert fused["alignment"]["missing"] == "mean"
    assert 0 < fused["alignment"]["without_features"] < 82
    for name in ("id", "linkedout"):
        rest = {part: cells[name, 0]["parameters_by_part"][part] for part in ("backbone",)}
        assert rest == {"backbone": cells["random", 1]["parameters_by_part"]["backbone"]}


def test_report_says_whose_protocol_it_is(matrix):
    result, _ = matrix
    protocol = result["protocol"]
    assert (protocol["engine"], protocol["mask_history"]) == ("recbole", True)
    assert protocol["recbole"]["sasrec"]["learning_rate"] == 0.01
    text = (result.out / "report.md").read_text()
    for phrase in (
        "RecBole 1.2.1", "LS valid_and_test", "one row a prefix, at most 10 inputs",
        "had before left out (RecBole's own protocol keeps them in)",
        "SASRec: hidden_size 16, loss CE, adam at 0.01", "(rule: mean)", "## SASRec",
    ):  # fmt: skip
        assert phrase in text, phrase
    assert result["environment"]["versions"]["recbole"] == "1.2.1"
    tests = {(c["encoder"], c["reference"]) for c in result["comparisons"]}
    assert {("linkedout", "random"), ("linkedout", "id"), ("linkedout+id", "linkedout")} <= tests


def test_the_unmasked_id_cell_is_plain_recbole(films, tmp_path):
    config = config_of(
        films, tmp_path / "out", encoders=("id",), seeds=(3,), mask_history=False,
        keep_checkpoints=False,
    )  # fmt: skip
    [planned] = plan(config)
    planned.folder.mkdir(parents=True)
    found = cell.run_cell(planned.to_json(), planned.folder)
    assert not (planned.folder / "model.safetensors").exists()
    content = settings.read_files(settings.find_files(("ml-100k",))) | SMALL
    content |= {"epochs": 2, "learning_rate": 0.01, "train_batch_size": 512, "seed": 3}
    content |= {"MAX_ITEM_LIST_LENGTH": 10, "train_neg_sample_args": None, "use_gpu": False}
    content |= {"show_progress": False}
    plain = run("SASRec", "ml-100k", config_dict=content, out=tmp_path / "plain", verbose=False)
    for theirs, ours in (("hit", "HR"), ("ndcg", "NDCG"), ("mrr", "MRR")):
        for k in (10, 20):
            assert (
                found["recbole"]["test_result"][f"{theirs}@{k}"]
                == (plain["test_result"][f"{theirs}@{k}"])
            )
            assert found["metrics"][f"{ours}@{k}"] == pytest.approx(
                plain["test_result"][f"{theirs}@{k}"], abs=5.1e-5
            )
    assert [p["train_loss"] for p in found["curve"]] == [p["train_loss"] for p in plain["curve"]]


def test_a_store_of_other_items_fails_its_cell_by_one_sentence(films, tmp_path):
    from small_world import write_store

    write_store(tmp_path / "others", tuple(f"film-{number}" for number in range(5)))
    [planned] = plan(
        config_of(tmp_path / "others", tmp_path / "out", encoders=("linkedout",), seeds=(0,))
    )
    planned.folder.mkdir(parents=True)
    (planned.folder / "cell.json").write_text(json.dumps(planned.to_json()))
    assert cell.main([str(planned.folder / "cell.json")]) == 1
    error = json.loads((planned.folder / "result.json").read_text())["error"]
    assert error.startswith("DataError: no item of the dataset has features in the store")
    assert "film-0" in error


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
