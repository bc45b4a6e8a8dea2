"""Atomic files: RecBole's order from them is the true one, which it is not from plain times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from linkedout_lightning.errors import ConfigError, DataError
from recbole_adapters.atomic import write_inter

pytest.importorskip("recbole")


def rows(file: Path) -> list[list[str]]:
    return [line.split("\t") for line in file.read_text().splitlines()]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three users whose milliseconds lie closer than float32 can tell, in the wrong order."""
    generator = np.random.default_rng(0)
    lines = ["user,item,timestamp"]
    for user in "abc":
        steps = [f"{user},i{i},{1_700_000_000_000 + i * 1000}" for i in range(8)]
        lines += [steps[i] for i in generator.permutation(8)]
    path = tmp_path / "interactions.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def order_in_recbole(file: Path) -> list[list[str]]:
    from recbole_adapters.compat import session
    from recbole_adapters.data import build_dataset
    from recbole_adapters.launcher import Request
    from recbole_adapters.running import read_config

    with session():
        settings = {
            "data_path": str(file.parents[1]),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "train_neg_sample_args": None,
        }
        request = Request(model="GRU4Rec", dataset=file.parent.name, config_dict=settings)
        dataset = build_dataset(read_config(request))
        dataset.build()
        tokens = dataset.field2id_token[dataset.iid_field]
        last = dataset.inter_feat[dataset.item_list_length_field] == 7
        listed = dataset.inter_feat[f"{dataset.iid_field}_list"][last][:, :7]
        return [[str(tokens[i]) for i in row] for row in listed]


def test_recbole_s_order_is_the_true_one(table: Path, tmp_path: Path) -> None:
    file = write_inter(table, tmp_path / "data", "exact")
    true = [f"i{i}" for i in range(7)]
    assert order_in_recbole(file) == [true] * 3


def test_plain_times_are_out_of_order_in_recbole(table: Path, tmp_path: Path) -> None:
    """The fault that the writer answers is there."""
    file = tmp_path / "data" / "plain" / "plain.inter"
    file.parent.mkdir(parents=True)
    text = table.read_text().replace(",", "\t")
    file.write_text(
        text.replace("user\titem\ttimestamp", "user_id:token\titem_id:token\ttimestamp:float")
    )
    assert order_in_recbole(file) != [[f"i{i}" for i in range(7)]] * 3


def test_the_file_holds_the_rows_by_user_and_time(table: Path, tmp_path: Path) -> None:
    header, *body = rows(write_inter(table, tmp_path / "data", "exact", keep_last=3))
    assert header == ["user_id:token", "item_id:token", "timestamp:float"]
    assert len(body) == 9
    for user in "abc":
        of_user = [row[1] for row in body if row[0] == user]
        assert of_user == ["i5", "i6", "i7"]


def test_equal_times_stay_equal(tmp_path: Path) -> None:
    path = tmp_path / "ties.csv"
    path.write_text("user,item,timestamp\na,x,5\na,y,5\na,z,7\nb,x,6\n")
    assert [row[2] for row in rows(write_inter(path, tmp_path, "ties"))[1:]] == ["1", "1", "3", "2"]


def test_what_no_atomic_file_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tab.csv"
    path.write_text('user,item,timestamp\na,"x\ty",5\n')
    with pytest.raises(DataError, match="holds a tab"):
        write_inter(path, tmp_path, "tab")
    with pytest.raises(ConfigError, match="without a path"):
        write_inter(path, tmp_path, "a/b")
