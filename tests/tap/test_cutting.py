"""Batches of a unit's videos, as they arrive."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from linkedout_lightning.tap.cutting import VideoCutter
from linkedout_lightning.tap.types import TapInput
from linkedout_lightning.video import Frames

TOKENS_A_FRAME = 10


class Preparer:
    """A word is a token, and so is a tenth of a frame."""

    template = SimpleNamespace(fill=lambda columns: SimpleNamespace(text=columns["title"]))

    def tokenizer(self, texts, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [text.split() for text in texts]}

    def __call__(self, items):
        return SimpleNamespace(tokens=TOKENS_A_FRAME * sum(len(i.frames.data) for i in items))


def video(name: str, *, frames: int, words: int) -> TapInput:
    data = np.zeros((frames, 4, 4, 3), dtype=np.uint8)
    seen = Frames(data, np.arange(frames) / 2, fps=2.0, duration=frames / 2, backend="test")
    return TapInput(name, seen, {"title": " ".join(["word"] * words)})


def cutter(*, batch_size: int = 2, batch_tokens: int = 1000) -> VideoCutter:
    return VideoCutter(Preparer(), batch_size=batch_size, batch_tokens=batch_tokens)  # type: ignore[arg-type]


def names(batches) -> list[list[str]]:
    return [[item.item_id for item in batch] for batch in batches]


def test_a_batch_is_cut_when_it_is_full() -> None:
    items = [video(str(i), frames=1, words=9 - i) for i in range(5)]
    arrivals = iter(items)
    batches = cutter().cut(arrivals)
    assert names([next(batches)]) == [["0", "1"]]
    assert next(arrivals).item_id == "2"


def test_shapes_do_not_mix_and_what_is_left_comes_last() -> None:
    items = [video(f"{i}", frames=1 + i % 2, words=9 - i) for i in range(5)]
    assert names(cutter().cut(items)) == [["0", "2"], ["1", "3"], ["4"]]


def test_the_longest_text_decides_how_many_fit() -> None:
    short = [video(f"s{i}", frames=1, words=1) for i in range(3)]
    # Two of 10 + 40 tokens have room in 100, three have not.
    long = video("long", frames=1, words=40)
    assert names(cutter(batch_size=8, batch_tokens=100)([*short, long])) == [
        ["long", "s0"],
        ["s1", "s2"],
    ]
    assert names(cutter(batch_size=8, batch_tokens=100)(short)) == [["s0", "s1", "s2"]]


@pytest.mark.parametrize("seed", range(5))
def test_batches_do_not_depend_on_when_items_arrive(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = [
        video(str(i), frames=int(rng.integers(1, 4)), words=int(rng.integers(1, 60)))
        for i in range(40)
    ]
    by_shape: dict[int, list[TapInput]] = {}
    for item in sorted(items, key=lambda item: -len(item.columns["title"].split())):
        assert item.frames is not None
        by_shape.setdefault(len(item.frames.data), []).append(item)
    wanted = []
    for frames, found in by_shape.items():
        longest = TOKENS_A_FRAME * frames + len(found[0].columns["title"].split())
        size = max(1, min(4, 150 // longest))
        wanted += names(found[k : k + size] for k in range(0, len(found), size))
    assert sorted(names(cutter(batch_size=4, batch_tokens=150)(items))) == sorted(wanted)
