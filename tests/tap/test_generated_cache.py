"""Generated tokens go on from the prefill's cache: nothing is read or looked at twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tap_oracle import PROMPT, frames, item
from tiny_models import FAMILIES

from linkedout_lightning.tap import VideoLLMTap, View

TOKENS = 3
TOWERS = ("visual", "vision_tower", "vision_model", "video_tower")


def watch(tap: VideoLLMTap) -> tuple[list[int], list[str]]:
    """Tokens that the first block reads at each call, and the calls of vision towers."""
    read: list[int] = []
    seen: list[str] = []

    def note(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        state = args[0] if args else kwargs["hidden_states"]
        read.append(state.shape[1])

    tap.decoder.blocks[0].register_forward_hook(note, with_kwargs=True)
    for name, module in tap.model.named_modules():
        if name.rpartition(".")[2] in TOWERS:
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    return read, seen


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prefill_is_read_once(tiny_video_llm: Callable[[str], Path], family: str) -> None:
    tap = VideoLLMTap.from_pretrained(
        str(tiny_video_llm(family)), prompt=PROMPT, groups=["last", f"generated:{TOKENS}"]
    )
    read, seen = watch(tap)
    shown = (frames(4), frames(4, seed=1)) if tap.sees else (None, None)
    batch = tap.prepare([item("a", "A cat", shown[0]), item("b", "Two dogs", shown[1])])
    tap.extract(batch)
    assert read == [batch.buckets[0].inputs["input_ids"].shape[1], *[1] * TOKENS]
    assert len(seen) == tap.sees


def test_of_several_views_only_those_that_ask_go_on(
    tiny_video_llm: Callable[[str], Path],
) -> None:
    views = {
        "watch": View("{title}", groups=["visual"]),
        "ask": View("What is {title}?", groups=["last", f"generated:{TOKENS}"]),
        "read": View("{title}", sees="nothing", groups=["generated:1"]),
    }
    tap = VideoLLMTap.from_pretrained(str(tiny_video_llm("idefics3")), views=views)
    read, seen = watch(tap)
    batch = tap.prepare([item("a", "A cat", frames(4))])
    tap.extract(batch)
    watched, asked, told = (bucket.inputs["input_ids"].shape[1] for bucket in batch.buckets)
    assert read == [watched, asked, *[1] * TOKENS, told, 1]
    assert len(seen) == 2
