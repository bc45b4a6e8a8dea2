"""The tap against Hugging Face's own hidden states, pooled by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tap_oracle as oracle
import torch
from tap_oracle import PROMPT, frames, item
from tiny_models import IMAGE_FAMILIES, VIDEO_FAMILIES

from linkedout_lightning.tap import TapInput, VideoLLMTap

SEEING = [*VIDEO_FAMILIES, *IMAGE_FAMILIES]
GROUPS = ["visual", "visual:4", "text", "title", "last"]
BOUND = 1e-5
Tiny = Callable[[str], Path]


def tap_of(folder: Path, **options: object) -> VideoLLMTap:
    defaults = {"layers": "all", "groups": GROUPS, "prompt": PROMPT, "dtype": "float32"}
    return VideoLLMTap.from_pretrained(str(folder), **(defaults | options))


def check(tap: VideoLLMTap, folder: Path, groups: list[list[TapInput]], *, side: str) -> None:
    """One mixed batch through the tap; each group of like items through Hugging Face."""
    model, processor = oracle.load(folder)
    output = tap.extract(tap.prepare([i for group in groups for i in group]))
    assert output.features.dtype == torch.float32
    at = 0
    for group in groups:
        inputs = oracle.encode(processor, group, side=side)
        states = oracle.hidden_states(model, inputs)
        states = [states[k] for k in tap.layers]
        for row, i in enumerate(group):
            places = oracle.positions(model, processor, inputs["input_ids"][row].tolist(), i)
            for s, slot in enumerate(tap.slots):
                ours, name = output.features[at, :, s], f"{i.item_id} {slot}"
                some = any(places[slot])
                assert bool(output.mask[at, s]) == some, name
                theirs = oracle.pooled(states, row, places[slot])
                if some:
                    assert oracle.relative_error(ours, theirs) < BOUND, name
                else:
                    assert not ours.any(), name
            at += 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", SEEING)
def test_equals_hidden_states_pooled_by_hand(tiny_video_llm: Tiny, family: str, side: str) -> None:
    folder = tiny_video_llm(family)
    tap = tap_of(folder, padding_side=side)
    # Mixed lengths, 8 and 4 frames, without a video and without a title, all in one batch.
    groups = [
        [
            item("a", "A cat", frames(8)),
            item("b", "Two dogs run in the snow – éà", frames(8, seed=1)),
            item("c", None, frames(8, seed=2)),
        ],
        [item("d", "Ships", frames(4)), item("e", "A longer one", frames(4, seed=3))],
        [item("f", "No video at all"), item("g", "x")],
    ]
    check(tap, folder, groups, side=side)


def test_of_an_assembly_the_part_that_reads_is_tapped(tiny_video_llm: Tiny) -> None:
    folder = tiny_video_llm("qwen2_5_omni")
    tap = tap_of(folder)
    assert type(tap.model).__name__ == "Qwen2_5OmniThinkerForConditionalGeneration"
    # One video, as its processor enlarges every one to 100,000 pixels.
    check(tap, folder, [[item("a", "A cat", frames(4))], [item("b", "None at all")]], side="left")


def test_spans_of_a_pruned_video_are_spans_of_time(tiny_video_llm: Tiny) -> None:
    # VideoLLaMA3 drops the tokens of a frame that look as they did in the frame before.
    folder = tiny_video_llm("video_llama_3")
    tap = tap_of(folder)
    groups = [[item("a", "A cat", frames(8, still=0.75)), item("b", None, frames(8, seed=1))]]
    check(tap, folder, groups, side="left")
    model, processor = oracle.load(folder)
    rows = oracle.encode(processor, groups[0])["input_ids"].tolist()
    pruned, whole = (
        [len(step) for step in oracle.steps_of(model, oracle.places_of_ids(model, row), 8)]
        for row in rows
    )
    assert len(set(whole)) == 1
    assert len(set(pruned)) > 1


def test_a_newline_token_counts_as_visual_and_belongs_to_no_time(tiny_video_llm: Tiny) -> None:
    folder = tiny_video_llm("llava_onevision")
    tap = tap_of(folder, groups=["visual", "visual:8"])
    bucket = tap.prepare([item("a", "A cat", frames(8))]).buckets[0]
    visual, *spans = (bucket.weights[0] > 0).sum(dim=1).tolist()
    assert (visual, spans) == (33, [4] * 8)


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_only_model(tiny_video_llm: Tiny, side: str) -> None:
    folder = tiny_video_llm("llama")
    tap = tap_of(folder, padding_side=side)
    titles = ["A cat", "Two dogs run in the snow", "x", "Cafe\u0301 \u2013 \U0001f431 twice  blank"]
    check(tap, folder, [[item(str(n), t) for n, t in enumerate(titles)]], side=side)


def test_absolute_positions_ignore_padding(tiny_video_llm: Tiny) -> None:
    # Hugging Face numbers padding too unless told otherwise, so the rows go there one by one.
    folder = tiny_video_llm("gpt2")
    titles = ["A cat", "Two dogs run in the snow"]
    for side in ("left", "right"):
        groups = [[item(t, t)] for t in titles]
        check(tap_of(folder, padding_side=side), folder, groups, side=side)


def test_deepstack_is_where_hugging_face_has_it(tiny_video_llm: Tiny) -> None:
    # Qwen3-VL adds visual features between blocks: the input of block 1 is not hidden_states[1].
    folder = tiny_video_llm("qwen3_vl")
    model, processor = oracle.load(folder)
    entering: list[torch.Tensor] = []
    model.get_decoder().layers[1].register_forward_pre_hook(
        lambda _, args: entering.append(args[0])
    )
    states = oracle.hidden_states(model, oracle.encode(processor, [item("a", "A", frames(4))]))
    assert (entering[0] - states[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", [*SEEING, "llama"])
def test_last_layer_is_before_the_norm(tiny_video_llm: Tiny, family: str) -> None:
    folder = tiny_video_llm(family)
    model, processor = oracle.load(folder)
    shown = None if family == "llama" else frames(8)
    one = item("a", "A cat", shown)
    output = tap_of(folder, layers=[-1], groups=["last"]).encode([one])
    with torch.no_grad():
        normed = model.get_decoder().norm(output.features[0, 0, 0])
        inputs = oracle.encode(processor, [one])
        states = model(**inputs, output_hidden_states=True).hidden_states
    assert oracle.relative_error(normed, states[-1][0, -1].double()) < BOUND


def test_layers_come_in_the_order_asked_for(tiny_video_llm: Tiny) -> None:
    folder = tiny_video_llm("llama")
    one = [item("a", "A cat")]
    every = tap_of(folder).encode(one).features
    for layers, resolved in [
        ([-1, 0, 2], (4, 0, 2)),
        ([0], (0,)),
        ([-5], (0,)),
        (2, (2, 4)),
        (4, (1, 2, 3, 4)),
    ]:
        tap = tap_of(folder, layers=layers)
        assert tap.layers == resolved
        assert torch.equal(tap.encode(one).features, every[:, list(resolved)])


@pytest.mark.parametrize("family", [*SEEING, "llama"])
def test_batch_of_one_equals_batch_of_many(tiny_video_llm: Tiny, family: str) -> None:
    tap = tap_of(tiny_video_llm(family), groups=[*GROUPS, "generated:4"])
    items = [
        item("a", "A cat", frames(8)),
        item("b", "Two dogs run in the snow, and longer still", frames(8, seed=1)),
        item("c", "Ships", frames(4)),
        item("d", None, frames(8, height=48)),
        item("e", "Only text"),
        item("f", None),
        item("g", "z", frames(8, seed=4)),
    ]
    many = tap.extract(tap.prepare(items))
    for n, one in enumerate(items):
        alone = tap.extract(tap.prepare([one]))
        assert torch.equal(alone.mask[0], many.mask[n])
        difference = float((alone.features[0] - many.features[n]).abs().max())
        # As a share of the largest value where that is above one: float32 rounds in shares.
        assert difference <= 1e-4 * max(1.0, float(many.features[n].abs().max()))
    sorted_by_work = tap.encode(items, batch_size=3)
    assert sorted_by_work.item_ids == many.item_ids
    torch.testing.assert_close(sorted_by_work.features, many.features, rtol=1e-4, atol=1e-4)


def test_nothing_known_of_an_item_is_masked(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("idefics3"), groups=["visual", "last", "generated:2"])
    output = tap.encode([item("none", None), item("blank", "   "), item("some", "t")])
    assert output.mask.tolist() == [[False] * 3, [False] * 3, [False, True, True]]
    assert not output.features[:2].any()
    only_unknown = tap.encode([item("none", None)])
    assert not only_unknown.mask.any()
    assert len(tap.encode([])) == 0


def test_without_a_chat_template(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("smolvlm"), chat_template=False)
    batch = tap.prepare([item("a", "A cat", frames(8)), item("b", "B")])
    tokenizer = tap.prepare.tokenizer
    video, text = (tokenizer.decode(b.inputs["input_ids"][0]) for b in batch.buckets)
    assert video.endswith("About: A cat.")
    assert text == "About: B."
    title = tap.slots.index("title")
    chosen = batch.buckets[0].inputs["input_ids"][0][batch.buckets[0].weights[0, title] > 0]
    assert tokenizer.decode(chosen) == "A cat"
