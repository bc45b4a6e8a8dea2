"""Compiled blocks give what plain ones give."""

from __future__ import annotations

import pytest
import torch
from tap_oracle import PROMPT, frames, item

from linkedout_lightning.tap import VideoLLMTap


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "idefics3", "qwen2_5_vl"])
def test_compiled_blocks_change_no_figure(tiny_video_llm, family: str) -> None:
    options = {"layers": [1, 3], "prompt": PROMPT, "dtype": "float32"}
    options["groups"] = ["text", "last"] if family == "llama" else ["visual", "text", "last"]
    shown = None if family == "llama" else frames(4)
    items = [item("a", "A cat", shown), item("b", "Two dogs run in the snow", shown)]
    plain = VideoLLMTap.from_pretrained(str(tiny_video_llm(family)), **options)
    compiled = VideoLLMTap.from_pretrained(str(tiny_video_llm(family)), **options, compile=True)
    for some in (items, items[:1]):
        wanted, found = plain.encode(some), compiled.encode(some)
        assert torch.equal(found.mask, wanted.mask)
        torch.testing.assert_close(found.features, wanted.features, rtol=1e-4, atol=1e-5)
    differing = {k for k, v in compiled.fingerprint().items() if plain.fingerprint().get(k) != v}
    assert differing == {"compile"}


def test_prompts_are_padded_to_few_lengths(tiny_video_llm) -> None:
    tap = VideoLLMTap.from_pretrained(str(tiny_video_llm("idefics3")), compile=True)
    lengths = set()
    for title in ("x", "A cat", "Two dogs run in the snow and do not stop at all"):
        batch = tap.prepare([item("a", title, frames(4)), item("b", "y")])
        lengths |= {bucket.inputs["input_ids"].shape[1] for bucket in batch.buckets}
    assert all(length % 64 == 0 for length in lengths)
    plain = VideoLLMTap.from_pretrained(str(tiny_video_llm("idefics3")))
    ids = plain.prepare([item("a", "x", frames(4))]).buckets[0].inputs["input_ids"]
    assert ids.shape[1] % 64
