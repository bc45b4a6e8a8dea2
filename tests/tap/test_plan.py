from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.cutting import text_batches
from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.plan import Work, plan_work, shard_of
from linkedout_lightning.tap.stamps import stamp
from linkedout_lightning.tap.types import TapInput


@given(
    lengths=st.lists(st.integers(0, 9000), max_size=60),
    size=st.integers(1, 9),
    done=st.integers(0, 20),
)
def test_the_rest_of_a_job_is_cut_in_the_same_places(lengths, size, done) -> None:
    items = [TapInput(str(i)) for i in range(len(lengths))]
    whole = list(text_batches(items, lengths, batch_size=size))
    left = {item.item_id for batch in whole[done:] for item in batch}
    rest = [i for i in range(len(items)) if str(i) in left]
    again = list(
        text_batches([items[i] for i in rest], [lengths[i] for i in rest], batch_size=size)
    )
    assert again == whole[done:]
    assert sorted(i.item_id for b in whole for i in b) == sorted(i.item_id for i in items)
    for batch in whole:
        longest = max(lengths[int(item.item_id)] for item in batch)
        assert len(batch) == 1 or longest * len(batch) <= 16384
        assert len(batch) <= size


@given(ids=st.lists(st.text(), unique=True), count=st.integers(1, 5))
def test_shares_are_disjoint_and_complete(ids, count) -> None:
    items = [Item(i) for i in ids]
    shares = [shard_of(items, f"{n}/{count}") for n in range(1, count + 1)]
    assert sorted(i.item_id for share in shares for i in share) == sorted(ids)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_shards_that_cannot_be(shard: str) -> None:
    with pytest.raises(ConfigError, match="'i/n'"):
        shard_of([], shard)


def test_only_new_changed_and_asked_for_items_are_planned() -> None:
    items = [Item(i, None, {"title": i}) for i in "abcd"]
    columns, sources = ("title",), ("video",)
    stamps = {i.item_id: stamp(i, columns=columns, sources=sources) for i in items}
    known = {"a": stamps["a"], "b": "old", "c": stamps["c"]}
    store = SimpleNamespace(fingerprints=lambda: known, failures={"c": "broken", "b": "too"})

    def plan(**options: bool) -> Work:
        return plan_work(items, store, columns=columns, sources=sources, **options)  # type: ignore[arg-type]

    work = plan()
    assert [i.item_id for i in work.todo] == ["b", "d"]
    assert work.skipped == 1
    assert work.known_failures == {"c": "broken"}

    again = plan(retry_failed=True)
    assert [i.item_id for i in again.todo] == ["b", "c", "d"]
    assert again.known_failures == {}
