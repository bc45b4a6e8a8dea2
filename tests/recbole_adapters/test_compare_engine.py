"""``linkedout compare --engine recbole``: real cells on ml-100k, killed, resumed and recomputed."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from compared_films import ENCODERS, SMALL, config_of
from safetensors.torch import load_file

from linkedout_lightning.compare import CompareConfig, cell, compare
from linkedout_lightning.compare.plan import plan
from recbole_adapters import run, settings
from recbole_adapters.compat import session

# Nine processes that each import torch and RecBole: half a minute, more on a busy machine.
pytestmark = pytest.mark.timeout(900)


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
