"""Generated tokens against a greedy loop by hand: no cache, one item at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tap_oracle as oracle
import torch
from tap_oracle import PROMPT, frames, item
from tiny_models import IMAGE_FAMILIES, VIDEO_FAMILIES
from torch import Tensor

from linkedout_lightning.tap import TapInput, VideoLLMTap

SEEING = [*VIDEO_FAMILIES, *IMAGE_FAMILIES]
TOKENS = 6
Tiny = Callable[[str], Path]


def greedy(model: Any, inputs: dict[str, Any], tokens: int) -> tuple[list[int], list[Tensor]]:
    """Tokens chosen one by one by full forward passes, and the states of the whole text."""
    inputs = {k: v for k, v in inputs.items() if k != "offset_mapping"}
    chosen: list[int] = []
    for _ in range(tokens):
        with torch.no_grad():
            best = model(**inputs).logits[0, -1].argmax()
        chosen.append(int(best))
        for name, value in (("input_ids", best), ("attention_mask", 1), ("mm_token_type_ids", 0)):
            if name in inputs:
                more = torch.as_tensor(value).reshape(1, 1)
                inputs[name] = torch.cat([inputs[name], more.to(inputs[name])], dim=1)
    return chosen, oracle.hidden_states(model, inputs)


def options(**more: Any) -> dict[str, Any]:
    return {"layers": "all", "prompt": PROMPT, "groups": ["last", f"generated:{TOKENS}"]} | more


@pytest.mark.parametrize("family", [*SEEING, "llama"])
def test_equals_a_greedy_loop(tiny_video_llm: Tiny, family: str) -> None:
    model, processor = oracle.load(tiny_video_llm(family))
    model.generation_config.eos_token_id = 10**6  # never, also not the tokenizer's
    seeing = family != "llama"
    with torch.no_grad():
        # Random weights may choose a visual token, which a forward pass without a cache would
        # want a picture for.
        head = model.get_output_embeddings().weight
        head[oracle.visual_ids(model)] = 0
    items: list[TapInput] = [
        item("a", "A cat", frames(8) if seeing else None),
        item("b", "Two dogs run in the snow", frames(8, seed=1) if seeing else None),
        item("c", "Text alone"),
    ]
    output = VideoLLMTap(model, processor=processor, **options()).encode(items)
    assert output.mask.all()
    for row, i in enumerate(items):
        chosen, states = greedy(model, oracle.encode(processor, [i]), TOKENS)
        length = states[0].shape[1]
        expected = oracle.pooled(states, 0, [list(range(length - TOKENS, length))])
        assert oracle.relative_error(output.features[row, :, 1], expected) < 1e-5, chosen
        last = oracle.pooled(states, 0, [[length - TOKENS - 1]])
        assert oracle.relative_error(output.features[row, :, 0], last) < 1e-5


def test_tokens_after_the_end_do_not_count(tiny_video_llm: Tiny) -> None:
    model, processor = oracle.load(tiny_video_llm("llama"))
    model.generation_config.eos_token_id = None
    items = [item("a", "A cat"), item("b", "Two dogs run in the snow"), item("c", "Ships")]
    loops = [greedy(model, oracle.encode(processor, [i]), TOKENS) for i in items]
    # One row ends at its second token, another perhaps elsewhere or never.
    model.generation_config.eos_token_id = [loops[0][0][1], 10**6]
    ends = model.generation_config.eos_token_id
    output = VideoLLMTap(model, processor=processor, **options()).encode(items)
    counts = []
    for row, (chosen, states) in enumerate(loops):
        counted = next((n + 1 for n, token in enumerate(chosen) if token in ends), TOKENS)
        start = states[0].shape[1] - TOKENS
        expected = oracle.pooled(states, 0, [list(range(start, start + counted))])
        assert oracle.relative_error(output.features[row, :, 1], expected) < 1e-5
        counts.append(counted)
    assert min(counts) <= 2 < max(counts)


def test_no_more_decoding_than_asked_for(tiny_video_llm: Tiny) -> None:
    model, processor = oracle.load(tiny_video_llm("llama"))
    calls: list[int] = []
    heads: list[int] = []
    blocks = model.get_decoder().layers
    blocks[1].register_forward_hook(lambda *_: calls.append(2))
    blocks[2].register_forward_hook(lambda *_: calls.append(3))
    model.lm_head.register_forward_hook(lambda *_: heads.append(1))
    tap = VideoLLMTap(model, processor=processor, **options(layers=[2]))
    tap.encode([item("a", "A cat")])
    assert calls.count(2) == TOKENS + 1  # the prefill, and a step for each token
    assert calls.count(3) == TOKENS  # the last step ended after layer 2
    assert len(heads) == TOKENS
    calls.clear()
    VideoLLMTap(model, processor=processor, **options(groups=["last"])).encode([item("a", "x")])
    assert len(heads) == TOKENS
    assert calls == [2, 3][: len(calls)]


def test_the_models_sampling_settings_do_not_matter(tiny_video_llm: Tiny) -> None:
    model, processor = oracle.load(tiny_video_llm("llama"))
    tap = VideoLLMTap(model, processor=processor, **options())
    plain = tap.encode([item("a", "A cat")]).features
    model.generation_config.update(
        do_sample=True, temperature=5.0, top_k=3, repetition_penalty=1.5, no_repeat_ngram_size=1
    )
    assert torch.equal(tap.encode([item("a", "A cat")]).features, plain)
