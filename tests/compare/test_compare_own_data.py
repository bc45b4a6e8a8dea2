"""A stranger's table through ``linkedout compare``: its own headers, both splits, its faults."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from linkedout_lightning import cli
from linkedout_lightning.data import InteractionDataModule

HEADERS = ["--user_column", "Member", "--item_column", "Film", "--time_column", "Watched at"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Semicolons, headers of its own, dates, rows in no order."""
    chance = np.random.default_rng(0)
    rows = []
    for user in range(60):
        day = int(chance.integers(0, 200))
        for item in chance.choice(30, int(chance.integers(4, 9)), replace=False):
            day += int(chance.integers(1, 30))
            date = np.datetime64("2024-01-01T12:00:00") + np.timedelta64(day, "D")
            rows.append(f"member {user};film-{item:02d};{str(date).replace('T', ' ')};phone")
    chance.shuffle(rows)
    path = tmp_path_factory.mktemp("own") / "views.csv"
    path.write_text("\n".join(["Member;Film;Watched at;device", *rows]) + "\n")
    return path


def test_headers_and_the_temporal_split_reach_the_table(table: Path, tmp_path: Path) -> None:
    arguments = ["compare", "--interactions", str(table), *HEADERS, "--split", "temporal"]
    arguments += ["--encoders", "popularity", "--html", "false", "--quiet", "--out", str(tmp_path)]
    assert cli.main(arguments) == cli.EXIT_DONE
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["protocol"]["split"] == "temporal"
    data = InteractionDataModule(
        table, split="temporal",
        user_column="Member", item_column="Film", time_column="Watched at",
    )  # fmt: skip
    data.setup()
    assert results["data"]["test_users"] == data.report.test_users > 0
    assert results["data"]["train_rows"] == data.report.train_rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "'Member', 'Film', 'Watched at', 'device'; name it with user_column"),
        (["--user_column", "Nobody"], "Nobody"),
        ([*HEADERS[:4], "--time_column", "device"], "'phone', which is neither a number nor"),
        ([*HEADERS, "--min_len", "100"], "no user is long enough"),
        ([*HEADERS[:4], "--time_column", "row-order", "--split", "temporal"], "needs times"),
        ([*HEADERS, "--split", "temporal", "--test_share", "0.7"], "`test_share` is 0.7"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_once(
    table: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    given = ["--interactions", str(table), "--out", str(out), *arguments]
    assert cli.main(["compare", *given, "--encoders", "popularity,cooccurrence"]) == cli.EXIT_USAGE
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not list(out.glob("cells/*/result.json"))


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
def test_recbole_s_ml_100k_in_both_splits(split: str) -> None:
    found = importlib.util.find_spec("recbole")
    if found is None or found.origin is None:
        pytest.skip("RecBole is not installed")
    source = Path(found.origin).parent / "dataset_example" / "ml-100k"
    data = InteractionDataModule(source, split=split)
    data.setup()
    rows = np.loadtxt(source / "ml-100k.inter", dtype=np.int64, skiprows=1)
    assert data.report.rows == len(rows) == 100_000
    if split == "leave_one_out":
        assert data.report.test_users == len(np.unique(rows[:, 0])) == 943
        return
    users, _, _, times = rows.T
    at = np.sort(times)[90_000]
    # Asked is who has a row before the instant and one from it on.
    before, after = set(users[times < at]), set(users[times >= at])
    assert data.report.test_users == len(before & after)
    assert data.report.test_skipped == len(after - before)
