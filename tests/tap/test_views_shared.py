"""Several prompts about one video with the video read once, against each read by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tap_oracle import frames, relative_error
from tiny_models import IMAGE_FAMILIES, VIDEO_FAMILIES

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap import TapInput, VideoLLMTap, View
from linkedout_lightning.tap.prefix import check_equal

Tiny = Callable[[str], Path]
VIEWS = {
    "watch": View("What is {title} about?", groups=["visual:2", "text", "title", "last"]),
    "bare": View("", groups=["visual", "last"]),
    "describe": View("Describe it at length.", groups=["text", "last"]),
    "cover": View("{title}", sees="cover", groups=["visual", "last"]),
    "again": View("Cover of {title}", sees="cover", groups=["title"]),
    "read": View("{title} {tags}", sees="nothing", groups=["text", "last"]),
    "tell": View("{title}", groups=["generated:2"]),
}
ITEMS = [
    TapInput("all", frames(8), {"title": "A cat", "tags": "pets"}, cover=frames(1, seed=5)),
    TapInput("long", frames(8, seed=1), {"title": "Two dogs run far"}, cover=frames(1, seed=6)),
    TapInput("video", frames(8, seed=2)),
    TapInput("short", frames(4, seed=3), {"title": "Sea"}),
    TapInput("text", columns={"title": "Ships"}),
]


def taps(folder: Path, **options: Any) -> tuple[VideoLLMTap, VideoLLMTap]:
    options = {"layers": "all", "views": VIEWS, "dtype": "float32"} | options
    return (
        VideoLLMTap.from_pretrained(str(folder), **options),
        VideoLLMTap.from_pretrained(str(folder), share_prefix=True, **options),
    )


@pytest.mark.parametrize("family", [*IMAGE_FAMILIES, *VIDEO_FAMILIES])
def test_equals_each_view_by_itself(tiny_video_llm: Tiny, family: str) -> None:
    plain, shared = taps(tiny_video_llm(family))
    batch = plain.prepare(ITEMS)
    expected = plain.extract(batch)
    for _ in range(2):  # the first time both ways are run and compared
        output = shared.extract(batch)
        assert torch.equal(output.mask, expected.mask)
        for layer in range(len(plain.layers)):
            ours, theirs = output.features[:, layer], expected.features[:, layer]
            assert relative_error(ours, theirs.double()) < 1e-5


@pytest.mark.parametrize("family", ["idefics3", "smolvlm", "qwen2_5_vl"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_the_video_is_read_once(tiny_video_llm: Tiny, family: str, padding_side: str) -> None:
    views = {name: VIEWS[name] for name in ("watch", "bare", "describe")}
    plain, shared = taps(tiny_video_llm(family), views=views, padding_side=padding_side)
    items = ITEMS[:3]
    expected = plain.extract(plain.prepare(items))
    shared.extract(shared.prepare(items))
    read: list[int] = []
    shared.decoder.blocks[0].register_forward_hook(
        lambda _, args, kwargs, __: read.append((args or [kwargs["hidden_states"]])[0].shape[1]),
        with_kwargs=True,
    )
    batch = shared.prepare(items)
    output = shared.extract(batch)
    assert relative_error(output.features, expected.features.double()) < 1e-5
    lengths = [bucket.inputs["input_ids"].shape[1] for bucket in batch.buckets]
    assert len(read) == 4
    front, rests = read[0], read[1:]
    # In a bucket padding makes a difference of some tokens between a text and the longest one.
    assert all(front + rest >= length > front for rest, length in zip(rests, lengths, strict=True))
    assert sum(read) < sum(lengths) - front


def test_prompts_in_front_of_the_picture_share_nothing(tiny_video_llm: Tiny) -> None:
    plain, shared = taps(tiny_video_llm("idefics3"))
    for tap in (plain, shared):
        template = tap.prepare.processor.chat_template
        for builder in tap.prepare.builders:
            builder.processor.chat_template = template.replace(
                "in message['content'] %}", "in message['content'] | reverse %}"
            )
    output, expected = (tap.extract(tap.prepare(ITEMS)) for tap in (shared, plain))
    assert torch.equal(output.features, expected.features)
    assert not shared._sharing.proven


def test_a_model_that_cannot_is_refused() -> None:
    right = torch.randn(2, 3, 4, 5)
    check_equal([right + 1e-6], [right], dtype=torch.float32)
    check_equal([right * 1.01], [right], dtype=torch.bfloat16)
    for wrong, dtype in ((right * 1.01, torch.float32), (right.flip(0), torch.bfloat16)):
        with pytest.raises(ConfigError, match="leave `share_prefix` out"):
            check_equal([wrong], [right], dtype=dtype)
    with pytest.raises(ConfigError, match="nan of the largest"):
        check_equal([right * float("nan")], [right], dtype=torch.float32)
