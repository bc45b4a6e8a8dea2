from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linkedout_lightning.data import Interactions, from_columns
from linkedout_lightning.errors import ConfigError, DataError

Row = tuple[str, str, int]
ROWS = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdefgh"), st.integers(0, 5)),
    min_size=1,
    max_size=60,
)


def build(rows: list[Row], duplicates: str = "drop") -> Interactions:
    users, items, times = (list(column) for column in zip(*rows, strict=True))
    return Interactions.from_raw(from_columns(users, items, times), duplicates=duplicates)


def sequences(data: Interactions) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for user, item in zip(data.user_index.tolist(), data.item_index.tolist(), strict=True):
        found.setdefault(data.user_ids[user], []).append(data.item_ids[item - 1])
    return found


def by_hand(rows: list[Row], drop: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    kept = list(dict.fromkeys(rows)) if drop else rows
    for user in dict.fromkeys(row[0] for row in rows):
        own = sorted((row for row in kept if row[0] == user), key=lambda row: row[2])
        found[user] = [row[1] for row in own]
    return found


@settings(deadline=None)
@given(rows=ROWS, duplicates=st.sampled_from(["drop", "keep"]))
def test_equals_sorting_by_hand(rows: list[Row], duplicates: str) -> None:
    data = build(rows, duplicates)
    assert sequences(data) == by_hand(rows, duplicates == "drop")
    assert data.user_ids == list(dict.fromkeys(row[0] for row in rows))
    assert data.item_ids == list(dict.fromkeys(row[1] for row in rows))
    assert data.report.rows_read == len(rows)
    assert data.report.duplicates == len(rows) - len(set(rows))
    assert data.report.repeats == len(set(rows)) - len({row[:2] for row in rows})
    back = [
        (a, b) for u in data.user_ids for own in [[r[2] for r in rows if r[0] == u]]
        for a, b in pairwise(own) if b < a
    ]  # fmt: skip
    assert data.report.unsorted == len(back)
    assert len(data) == data.report.rows == sum(map(len, sequences(data).values()))


@settings(deadline=None)
@given(rows=ROWS, min_len=st.integers(1, 5), extra=st.none() | st.integers(0, 4))
def test_preparation_equals_slicing_by_hand(
    rows: list[Row], min_len: int, extra: int | None
) -> None:
    keep = None if extra is None else min_len + extra
    whole = by_hand(rows, drop=True)
    expected = {u: s[-keep:] if keep else s for u, s in whole.items() if len(s) >= min_len}
    if not expected:
        with pytest.raises(DataError, match="smaller min_len"):
            build(rows).prepared(min_len=min_len, keep_last=keep)
        return
    data = build(rows).prepared(min_len=min_len, keep_last=keep)
    assert sequences(data) == expected
    report = data.report
    assert set(data.item_ids) == {i for s in expected.values() for i in s}
    assert report.short_users == len(whole) - len(expected)
    assert report.short_user_rows + report.truncated_rows + report.rows == sum(
        map(len, whole.values())
    )
    assert report.vanished_items == len({r[1] for r in rows}) - data.num_items
    assert (report.users, report.items) == (len(expected), data.num_items)


def test_missing_values_are_dropped_and_counted() -> None:
    raw = from_columns(["u", None, "u", "u"], ["a", "b", None, "c"], [1.0, 1.0, 1.0, None])  # type: ignore[list-item]
    data = Interactions.from_raw(raw)
    assert sequences(data) == {"u": ["a"]}
    assert data.report.missing_values == 3
    assert "3 rows with an empty" in str(data.report)


def test_row_order_is_kept_without_time() -> None:
    data = Interactions.from_raw(from_columns(list("uvu"), list("baa")))
    assert sequences(data) == {"u": ["b", "a"], "v": ["a"]}
    assert (data.report.unsorted, data.report.duplicates) == (0, 0)


def test_ties_keep_the_order_of_the_file() -> None:
    assert sequences(build([("u", i, 0) for i in "hgfedcba"])) == {"u": list("hgfedcba")}


def test_bounds() -> None:
    start, stop = build([("u", "a", 0), ("v", "a", 0), ("u", "b", 1)]).bounds()
    assert torch.equal(start, torch.tensor([0, 2]))
    assert torch.equal(stop, torch.tensor([2, 3]))


def test_bad_arguments() -> None:
    data = build([("u", "a", 0)])
    with pytest.raises(ConfigError, match="min_len"):
        data.prepared(min_len=5, keep_last=3)
    with pytest.raises(ConfigError, match="'drop' or 'keep'"):
        build([("u", "a", 0)], "first")


def test_report_reads_well() -> None:
    data = build([("u", "a", 1), ("u", "b", 0), ("u", "b", 0), ("v", "c", 0)]).prepared(min_len=2)
    assert str(data.report).splitlines() == [
        "memory: 4 rows read, 2 kept (1 users, 2 items)",
        "  1 duplicate rows dropped",
        "  1 rows out of time order, sorted",
        "  1 users too short (1 rows) dropped",
        "  1 items vanished with the dropped rows",
    ]
    assert data.report.as_dict()["short_users"] == 1
