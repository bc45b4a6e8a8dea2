from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from linkedout_lightning.data import Interactions, Split, cold_items, from_columns
from linkedout_lightning.data import leave_one_out as leave_one_out_split
from linkedout_lightning.data import temporal as temporal_split
from linkedout_lightning.data.splits import Questions
from linkedout_lightning.errors import ConfigError, DataError

ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 12), st.integers(0, 40)), min_size=3, max_size=80
)
Asked = dict[int, tuple[list[int], int, list[int]]]


def build(rows: list[tuple[int, int, int]]) -> Interactions:
    users, items, times = zip(*rows, strict=True)
    return Interactions.from_raw(from_columns([*map(str, users)], [*map(str, items)], times))


def by_user(data: Interactions) -> list[list[tuple[int, int]]]:
    """Item and time of each user's rows."""
    found: list[list[tuple[int, int]]] = [[] for _ in data.user_ids]
    rows = zip(data.user_index.tolist(), data.item_index.tolist(), data.timestamp, strict=True)
    for user, item, time in rows:
        found[user].append((item, int(time)))
    return found


def training(split: Split) -> list[list[int]]:
    pairs = zip(split.train_start.tolist(), split.train_stop.tolist(), strict=True)
    return [split.items[a:b].tolist() for a, b in pairs]


def asked(data: Interactions, split: Split, questions: Questions) -> Asked:
    return {
        int(user): (
            split.items[questions.input_start[q] : questions.input_stop[q]].tolist(),
            int(questions.target[q]),
            data.item_index[questions.history_start[q] : questions.history_stop[q]].tolist(),
        )
        for q, user in enumerate(questions.users)
    }


def counts(data: Interactions, sequences: list[list[int]]) -> list[int]:
    found = [0] * (data.num_items + 1)
    for item in (i for s in sequences for i in s):
        found[item] += 1
    return found


@settings(deadline=None)
@given(ROWS)
def test_leave_one_out(rows: list[tuple[int, int, int]]) -> None:
    data = build(rows)
    split = leave_one_out_split(data)
    users = [[i for i, _ in own] for own in by_user(data)]
    assert training(split) == [own[:-2] for own in users]
    assert split.train_counts.tolist() == counts(data, training(split))
    for back, questions in ((2, split.valid), (1, split.test)):
        expected = {
            u: (own[:-back], own[-back], own[:-back])
            for u, own in enumerate(users) if len(own) > back
        }  # fmt: skip
        assert asked(data, split, questions) == expected
        assert questions.skipped == len(users) - len(expected)


@settings(deadline=None)
@given(rows=ROWS, valid=st.floats(0.05, 0.4), test=st.floats(0.05, 0.4))
def test_temporal_never_looks_ahead(
    rows: list[tuple[int, int, int]], valid: float, test: float
) -> None:
    data = build(rows)
    try:
        split = temporal_split(data, valid_share=valid, test_share=test)
    except DataError:
        assume(False)
    users = by_user(data)
    # The instants, found from outside: the latest training row and the earliest asked one.
    everything = sorted(t for own in users for _, t in own)
    valid_at, test_at = (
        everything[int(len(everything) * (1 - share))] for share in (valid + test, test)
    )
    assert training(split) == [[i for i, t in own if t < valid_at] for own in users]
    assert split.train_counts.tolist() == counts(data, training(split))
    for instant, end, questions in (
        (valid_at, test_at, split.valid), (test_at, float("inf"), split.test)
    ):  # fmt: skip
        expected, skipped = {}, 0
        for user, own in enumerate(users):
            before = [i for i, t in own if t < instant]
            after = [i for i, t in own if instant <= t < end]
            if before and after:
                expected[user] = (before, after[0], before)
            skipped += bool(after) and not before
        assert asked(data, split, questions) == expected
        assert questions.skipped == skipped


def test_temporal_refuses_what_it_cannot_do() -> None:
    order = Interactions.from_raw(from_columns(list("uuuvvv"), list("abcabc")))
    with pytest.raises(ConfigError, match="only has an order"):
        temporal_split(order)
    with pytest.raises(DataError, match="leave a part empty"):
        temporal_split(build([(u, i, 7) for u in range(3) for i in range(5)]))
    with pytest.raises(ConfigError, match="less than 1"):
        temporal_split(build([(0, 1, 0)]), valid_share=0.5, test_share=0.5)


@settings(deadline=None)
@given(rows=ROWS, share=st.floats(0.1, 0.9), seed=st.integers(0, 3))
def test_cold_items_never_meet_training(
    rows: list[tuple[int, int, int]], share: float, seed: int
) -> None:
    data = build(rows)
    number = round(share * data.num_items)
    if not 0 < number < data.num_items:
        with pytest.raises(ConfigError, match="at least one item must be cold"):
            cold_items(data, share=share, seed=seed)
        return
    split = cold_items(data, share=share, seed=seed)
    warm = set(split.items.tolist())
    cold = set(data.item_index.tolist()) - warm
    assert len(cold) == number
    users = [[i for i, _ in own] for own in by_user(data)]
    keep = [[i for i in own[:-2] if i in warm] for own in users]
    assert training(split) == keep
    assert split.train_counts.tolist() == counts(data, keep)
    assert not any(split.train_counts[list(cold)])
    for back, questions in ((2, split.valid), (1, split.test)):
        expected = {}
        for user, own in enumerate(users):
            inputs = [i for i in own[:-back] if i in warm]
            if len(own) > back and inputs:
                expected[user] = (inputs, own[-back], own[:-back])
        assert asked(data, split, questions) == expected
        assert questions.skipped == len(users) - len(expected)


def test_cold_items_depend_on_the_seed_alone() -> None:
    data = build([(u, i, i) for u in range(9) for i in range(1, 40)])
    first, again, other = (cold_items(data, share=0.3, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.train_counts, again.train_counts)
    assert not torch.equal(first.train_counts, other.train_counts)
