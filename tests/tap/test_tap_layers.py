"""Which layers, and where a model keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tap_oracle as oracle
import torch
from torch import nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap import VideoLLMTap
from linkedout_lightning.tap.layers import find_decoder, resolve_layers

Tiny = Callable[[str], Path]


@pytest.mark.parametrize(
    ("layers", "blocks", "resolved"),
    [
        ("all", 3, (0, 1, 2, 3)),
        ([0, 3], 3, (0, 3)),
        ([-1, -4], 3, (3, 0)),
        ((2,), 3, (2,)),
        (1, 30, (30,)),
        (3, 30, (10, 20, 30)),
        (4, 30, (8, 15, 23, 30)),
        (30, 30, tuple(range(1, 31))),
    ],
)
def test_resolve(layers: Any, blocks: int, resolved: tuple[int, ...]) -> None:
    assert resolve_layers(layers, blocks) == resolved


@pytest.mark.parametrize("blocks", range(1, 40))
def test_counts_are_distinct_and_even(blocks: int) -> None:
    for count in range(1, blocks + 1):
        layers = resolve_layers(count, blocks)
        steps = [b - a for a, b in zip((0, *layers), layers, strict=False)]
        assert len(layers) == count
        assert layers[-1] == blocks
        assert min(steps) >= 1
        assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([36], "`layers` holds 36, but the model has 28 decoder layers; give values from 0 to 28"),
        ([-30], "holds -30"),
        ([1, -28], "names layer 1 twice"),
        (0, "asks for 0 evenly spaced"),
        (29, "give a count from 1 to 28"),
        ([], 'give "all"'),
        ("some", "`layers` is 'some'"),
        ([1.5], "list of integers"),
        (True, "list of integers"),
        ([True], "list of integers"),
        (None, "list of integers"),
    ],
)
def test_bad_layers_say_what_is_legal(layers: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_layers(layers, 28)


@pytest.mark.parametrize("family", ["llama", "gpt2", "idefics3", "smolvlm", "qwen2_5_vl"])
def test_decoder_is_found_by_structure(tiny_video_llm: Tiny, family: str) -> None:
    model, _ = oracle.load(tiny_video_llm(family))
    assert len(find_decoder(model)) == model.config.get_text_config().num_hidden_layers
    # In a wrapper that holds a whole causal model, and as the bare stack, too.
    wrapper = nn.Module()
    wrapper.language_model = model
    assert find_decoder(wrapper).blocks is find_decoder(model).blocks
    assert find_decoder(find_decoder(model).module).blocks is find_decoder(model).blocks


def test_no_decoder_is_said() -> None:
    with pytest.raises(ConfigError, match="no decoder blocks found in Linear"):
        find_decoder(nn.Linear(2, 2))


def test_encoder_decoders_are_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8, vocab_size=16)
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    with pytest.raises(ConfigError, match="encoder-decoder"):
        find_decoder(model)


def test_construction_validates(tiny_video_llm: Tiny) -> None:
    model, tokenizer = oracle.load(tiny_video_llm("llama"))
    for options, message in [
        ({"layers": [5]}, "has 4 decoder layers"),
        ({"groups": ["title"], "prompt": "hello"}, "has no {title}"),
        ({"groups": ["generated:4"], "padding_side": "right"}, "padding_side='left'"),
        ({"padding_side": "top"}, "`padding_side` is 'top'"),
        ({"prompt": "{title"}, "`prompt`"),
        ({"frames": 0}, "`frames` is 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            VideoLLMTap(model, processor=tokenizer, **options)
    with pytest.raises(ConfigError, match="no head"):
        VideoLLMTap(model.model, processor=tokenizer, groups=["generated:4"])
