"""History masking against a reference of dictionaries over the raw file."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from linkedout_lightning.errors import ConfigError
from recbole_adapters.compat import session
from recbole_adapters.data import Loaders, build_dataset, build_loaders
from recbole_adapters.launcher import Request
from recbole_adapters.running import read_config, run_here

Raw = list[tuple[str, str, int]]


def made_up(seed: int, *, users: int = 25, items: int = 12) -> Raw:
    """Users of one to nine rows, items that return, times that tie, rows in no order."""
    draw = np.random.default_rng(seed)
    rows = [
        (f"u{user}", f"i{draw.integers(items)}", int(draw.integers(4)))
        for user in range(users)
        for _ in range(draw.integers(1, 10))
    ]
    return [rows[i] for i in draw.permutation(len(rows))]


def write(folder: Path, rows: Raw) -> None:
    (folder / "raw").mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"{user}\t{item}\t{time}" for user, item, time in rows]
    (folder / "raw" / "raw.inter").write_text("\n".join(lines) + "\n")


def loaders_of(folder: Path, **changes: Any) -> tuple[Any, Loaders]:
    settings: dict[str, Any] = {
        "data_path": str(folder),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": 3,  # shorter than the histories, which are masked whole
        "eval_batch_size": 7,
        "hidden_size": 8,
        "epochs": 1,
    }
    request = Request("SASRec", "raw", config_dict=settings | changes)
    with session():
        config = read_config(request)
        dataset = build_dataset(config)
        return dataset, build_loaders(config, dataset, mask_history=True)


def naive(rows: Raw, split: dict[str, Any]) -> dict[str, list[tuple[str, str, frozenset[str]]]]:
    """For each part of an evaluation: user, target, and the items to mask."""
    by_user: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for user, item, time in rows:  # ties stay in the order of the file
        by_user[user].append((time, item))
    found: dict[str, list[tuple[str, str, frozenset[str]]]] = {"valid": [], "test": []}
    for user, events in by_user.items():
        items = [item for _, item in sorted(events, key=lambda event: event[0])]
        count = len(items) - 1  # targets: each item but the first
        if split == {"LS": "valid_and_test"}:
            held = min(2, max(count - 1, 0))
            sizes = {"test": 1 if held else 0, "valid": 1 if held == 2 else 0}
        else:
            ratios = split["RS"]
            sizes = {"valid": int(ratios[1] * count), "test": int(ratios[2] * count)}
            train = count - sizes["valid"] - sizes["test"]
            for part, ratio in (("test", ratios[2]), ("valid", ratios[1])):
                if train <= 1:
                    break
                if 0 < ratio * count < 1:
                    sizes[part], train = sizes[part] + 1, train - 1
        end = len(items)
        for part in ("test", "valid"):
            for place in range(end - sizes[part], end):
                past = frozenset(items[:place]) - {items[place]}
                found[part].append((user, items[place], past))
            end -= sizes[part]
    return found


@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.8, 0.1, 0.1]}])
@pytest.mark.parametrize("seed", range(4))
def test_masks_are_those_of_the_reference(seed: int, split: dict[str, Any], tmp_path: Path) -> None:
    rows = made_up(seed)
    write(tmp_path, rows)
    arguments = {"split": split, "order": "TO", "group_by": "user", "mode": "full"}
    dataset, loaders = loaders_of(tmp_path, eval_args=arguments)
    users, items = (dataset.field2id_token[name] for name in ("user_id", "item_id"))
    expected = naive(rows, split)

    for part in ("valid", "test"):
        found = []
        for interaction, (row, item), positive_u, positive_i in getattr(loaders, part):
            assert torch.equal(positive_u, torch.arange(len(interaction)))
            for position in range(len(interaction)):
                masked = {items[i] for i in item[row == position].tolist()}
                user = users[interaction["user_id"][position]]
                found.append((user, items[positive_i[position]], frozenset(masked)))
        assert Counter(found) == Counter(expected[part])


def test_reference_differs_without_the_mask_and_agrees_with_it(tmp_path: Path) -> None:
    """The ranks of a run are those of its scores with the past taken out, and no others."""
    rows = made_up(1)
    write(tmp_path, rows)
    ranks = {}
    for masked in (False, True):
        settings = {
            "data_path": str(tmp_path),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "train_neg_sample_args": None,
            "MAX_ITEM_LIST_LENGTH": 3,
            "hidden_size": 8,
            "epochs": 1,
            "show_progress": False,
            "linkedout": {"encoder": "id", "mask_history": masked},
        }
        request = Request("SASRec", "raw", config_dict=settings, folder=tmp_path / str(masked))
        outcome = run_here(request)
        ranks[masked] = outcome.ranks
        if not masked:
            assert "history not masked" in outcome.run["protocol"]
            continue
        assert "history masked" in outcome.run["protocol"]
        expected = {
            (user, target): past
            for user, target, past in naive(rows, {"LS": "valid_and_test"})["test"]
        }
        model = outcome.model.eval()
        with session():
            dataset = build_dataset(outcome.config)
            test = build_loaders(outcome.config, dataset, mask_history=False).test
        names, tokens = (dataset.field2id_token[field] for field in ("user_id", "item_id"))
        numbers = dataset.field2token_id["item_id"]
        own = []
        with torch.no_grad():
            for interaction, _, _, targets in test:
                scores = model.full_sort_predict(interaction).view(len(interaction), -1)
                for user, target, row in zip(interaction["user_id"], targets, scores, strict=True):
                    past = expected[names[user], tokens[target]]
                    taken = {0, *(numbers[item] for item in past)}
                    better = [i for i, s in enumerate(row) if i not in taken and s >= row[target]]
                    own.append(len(better))
        assert outcome.ranks is not None
        assert outcome.ranks.ranks.tolist() == own
    assert (ranks[True].ranks <= ranks[False].ranks).all()
    assert (ranks[True].ranks < ranks[False].ranks).any()


def test_sampled_ranking_is_refused(tmp_path: Path) -> None:
    write(tmp_path, made_up(0))
    arguments = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni5"}
    with pytest.raises(
        ConfigError, match=r"`linkedout\.mask_history` needs `eval_args.mode: full`"
    ):
        loaders_of(tmp_path, eval_args=arguments)


def test_rows_of_the_users_own_making_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for part in ("train", "valid", "test"):
        (tmp_path / "raw" / f"raw.{part}.inter").write_text(
            "user_id:token\titem_id:token\titem_id_list:token_seq\nu1\ti3\ti1 i2\nu2\ti1\ti2 i3\n"
        )
    with pytest.raises(ConfigError, match="`benchmark_filename` brings rows of its own"):
        loaders_of(
            tmp_path,
            benchmark_filename=["train", "valid", "test"],
            alias_of_item_id=["item_id_list"],
            load_col={"inter": ["user_id", "item_id", "item_id_list"]},
        )
