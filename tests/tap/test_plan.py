from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.plan import fingerprint, plan_work, shard_of, text_batches
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


def test_a_fingerprint_follows_what_is_used(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"12")
    item = Item("a", str(video), {"title": "x", "tags": "y"})

    def now(item: Item = item, watch: bool = True) -> str:
        return fingerprint(item, columns=("title",), watch=watch)

    first, blind = now(), now(watch=False)
    assert now() == first
    assert now(Item("a", str(video), {"title": "x", "tags": "z"})) == first
    assert now(Item("a", str(video), {"title": "w", "tags": "y"})) != first
    os.utime(video, ns=(1, 1))
    second = now()
    assert second != first
    assert now(watch=False) == blind
    video.write_bytes(b"123")
    os.utime(video, ns=(1, 1))
    assert now() not in (first, second)
    video.unlink()
    assert now().startswith("video:unreadable")
    assert fingerprint(Item("a"), columns=("title",), watch=True) == "nothing"


def test_only_new_changed_and_asked_for_items_are_planned() -> None:
    items = [Item(i, None, {"title": i}) for i in "abcd"]
    stamps = {i.item_id: fingerprint(i, columns=("title",), watch=True) for i in items}
    known = {"a": stamps["a"], "b": "old", "c": stamps["c"]}
    store = SimpleNamespace(fingerprints=lambda: known, failures={"c": "broken", "b": "too"})

    work = plan_work(items, store, columns=("title",), watch=True)  # type: ignore[arg-type]
    assert [i.item_id for i in work.todo] == ["b", "d"]
    assert work.skipped == 1
    assert work.known_failures == {"c": "broken"}
    assert work.fingerprints == {"b": stamps["b"], "d": stamps["d"]}

    again = plan_work(items, store, columns=("title",), watch=True, retry_failed=True)  # type: ignore[arg-type]
    assert [i.item_id for i in again.todo] == ["b", "c", "d"]
    assert again.known_failures == {}
