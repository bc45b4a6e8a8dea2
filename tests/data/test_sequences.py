from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linkedout_lightning.data.sequences import gather_ranges, windows

LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=8)


def ranges(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    stop = torch.tensor(lengths).cumsum(0)
    return stop - torch.tensor(lengths), stop


@settings(deadline=None)
@given(lengths=LENGTHS, width=st.none() | st.integers(1, 9))
def test_gather_equals_slicing(lengths: list[int], width: int | None) -> None:
    flat = torch.arange(1, sum(lengths) + 1) if sum(lengths) else torch.zeros(1, dtype=torch.int64)
    start, stop = ranges(lengths)
    found = gather_ranges(flat, start, stop, width)
    wide = width or max(1, *lengths)
    for row, (begin, end) in enumerate(zip(start.tolist(), stop.tolist(), strict=True)):
        kept = flat[begin:end].tolist()[-wide:]
        assert found[row].tolist() == [0] * (wide - len(kept)) + kept


@settings(deadline=None)
@given(lengths=LENGTHS, size=st.integers(1, 5))
def test_windows_hold_every_transition_once(lengths: list[int], size: int) -> None:
    start, stop = ranges(lengths)
    first, last = windows(start, stop, size)
    assert bool(((last - first) >= 2).all())
    assert bool(((last - first) <= size + 1).all())
    found = [
        (p, p + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True)
        for p in range(a, b - 1)
    ]  # fmt: skip
    expected = [
        (p, p + 1) for a, b in zip(start.tolist(), stop.tolist(), strict=True)
        for p in range(a, b - 1)
    ]  # fmt: skip
    assert found == expected
