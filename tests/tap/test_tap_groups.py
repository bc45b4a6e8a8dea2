"""Group names, spans of time and pooling, against loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.groups import average, parse_groups, pool, span_averages


def slots(*groups: str) -> list[str]:
    return [slot for group in parse_groups(groups) for slot in group.slots]


def test_slot_names() -> None:
    assert slots("visual", "visual:2", "text", "title", "last", "generated:16") == [
        "visual",
        "visual:2/0",
        "visual:2/1",
        "text",
        "title",
        "last",
        "generated:16",
    ]
    assert slots("visual:1") == ["visual:1/0"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "give a list"),
        ("visual", "give a list"),
        (["vision"], "'vision'; the groups are"),
        (["visual:0"], "count after the colon"),
        (["visual:99999999"], "count after the colon"),
        (["visual:-1"], "'visual:-1'; the groups are"),
        (["visual:x"], "'visual:x'"),
        (["text:2"], "'text:2'"),
        (["generated"], "'generated'"),
        (["last", "last"], "'last' twice"),
        (["visual:2", "visual:02"], "'visual:2' twice"),
        (["generated:2", "generated:3"], "several lengths"),
    ],
)
def test_bad_groups_say_what_is_legal(groups: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_groups(groups)


def test_average_of_nothing_is_zero() -> None:
    assert not average(torch.zeros(5, dtype=torch.bool)).any()
    assert average(torch.tensor([True, False, True])).tolist() == [0.5, 0.0, 0.5]


@given(
    steps=st.integers(1, 12),
    each=st.integers(1, 5),
    spans=st.integers(1, 12),
    gap=st.integers(0, 3),
)
def test_spans_are_time_averages(steps: int, each: int, spans: int, gap: int) -> None:
    # Oracle: play the video slowly, note which step is on at each instant, average a span's notes.
    chosen = torch.tensor([([False] * gap + [True] * each) for _ in range(steps)]).flatten()
    weights = span_averages(chosen, spans=spans, steps=steps)
    value = torch.arange(steps, dtype=torch.float64)
    ticks = torch.arange(steps * spans, dtype=torch.float64)
    playing = value[(ticks // spans).long()]
    expected = playing.reshape(spans, steps).mean(dim=1)
    token_value = torch.zeros(len(chosen))
    token_value[chosen] = value.repeat_interleave(each).float()
    torch.testing.assert_close((weights @ token_value).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights.sum(1), torch.ones(spans))
    assert not weights[:, ~chosen].any()


def test_spans_that_divide_the_tokens_are_plain_chunks() -> None:
    chosen = torch.ones(24, dtype=torch.bool)
    weights = span_averages(chosen, spans=4, steps=8)
    for span in range(4):
        expected = torch.zeros(24)
        expected[span * 6 : (span + 1) * 6] = 1 / 6
        torch.testing.assert_close(weights[span], expected)


def test_a_token_too_many_belongs_to_no_time() -> None:
    chosen = torch.tensor([False, *[True] * 33, False])
    weights = span_averages(chosen, spans=8, steps=8)
    for span in range(8):
        expected = torch.zeros(35)
        expected[1 + span * 4 : 5 + span * 4] = 1 / 4
        torch.testing.assert_close(weights[span], expected)


def test_runs_of_unequal_length_are_steps_of_equal_time() -> None:
    # Frames of 4, 1 and 3 tokens with text between them; two spans of one and a half frames.
    chosen = torch.tensor([True] * 4 + [False] + [True] + [False] * 2 + [True] * 3)
    first, second = span_averages(chosen, spans=2, steps=3)
    a, b, c = 1 / 4, 1.0, 1 / 3
    frames = torch.tensor([a, a, a, a, 0, b, 0, 0, c, c, c])
    cover = torch.tensor([2, 2, 2, 2, 0, 1, 0, 0, 0, 0, 0]) / 3
    torch.testing.assert_close(first, frames * cover)
    cover = torch.tensor([0, 0, 0, 0, 0, 1, 0, 0, 2, 2, 2]) / 3
    torch.testing.assert_close(second, frames * cover)


def test_tokens_that_do_not_divide_into_steps_count_one_by_one() -> None:
    weights = span_averages(torch.ones(36, dtype=torch.bool), spans=3, steps=8)
    assert (weights > 0).sum(1).tolist() == [12, 12, 12]
    fewer = span_averages(torch.ones(3, dtype=torch.bool), spans=3, steps=8)
    torch.testing.assert_close(fewer, torch.eye(3))
    assert not span_averages(torch.zeros(4, dtype=torch.bool), spans=3, steps=8).any()


def test_pool_against_a_loop_in_half_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(2, 7, 5, generator=generator).bfloat16()
    weights = torch.zeros(2, 3, 7)
    weights[0, 0, :4] = 1 / 4
    weights[0, 1, 6] = 1
    weights[1, 2, 2:5] = 1 / 3
    pooled = pool(state, weights)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled[0, 0], state[0, :4].float().mean(0))
    torch.testing.assert_close(pooled[0, 1], state[0, 6].float())
    torch.testing.assert_close(pooled[1, 2], state[1, 2:5].float().mean(0))
    assert not pooled[1, 0].any()


def test_unused_tokens_may_be_infinite() -> None:
    state = torch.ones(1, 3, 2)
    state[0, 0], state[0, 2] = torch.inf, torch.nan
    assert pool(state, torch.tensor([[[0.0, 1.0, 0.0]]])).tolist() == [[[1.0, 1.0]]]
