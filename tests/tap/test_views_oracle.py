"""Each view against a tap of its own, which asks nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tap_oracle import frames
from tiny_models import IMAGE_FAMILIES, VIDEO_FAMILIES

from linkedout_lightning import FeatureStore, LinkedOutItemEncoder
from linkedout_lightning.tap import TapInput, TapOutput, VideoLLMTap, View
from linkedout_lightning.tap.sink import store_spec

Tiny = Callable[[str], Path]
VIEWS = {
    "watch": View("What is {title} about?", groups=["visual:2", "text", "title", "last"]),
    "describe": View("Describe it."),
    "bare": View(""),
    "cover": View("{title}", sees="cover", groups=["visual", "last"]),
    "read": View("{title} {tags}", sees="nothing", groups=["text", "last"]),
}
SEEN = {"title": "A cat", "tags": "pets, fur"}
ITEMS = [
    TapInput("all", frames(4), SEEN, cover=frames(1, seed=5)),
    TapInput("video", frames(4, seed=1)),
    TapInput("wide", frames(2, width=48, seed=2), {"tags": "sea"}, cover=frames(1, seed=6)),
    TapInput("cover", columns={"title": " "}, cover=frames(1, height=48, seed=7)),
    TapInput("title", columns={"title": "Two dogs run"}),
    TapInput("tags", columns={"tags": "ships"}),
    TapInput("void"),
]


def tap_of(folder: Path, **options: Any) -> VideoLLMTap:
    options = {"layers": [0, 2, -1]} | options
    return VideoLLMTap.from_pretrained(str(folder), dtype="float32", **options)


def run(tap: VideoLLMTap, items: list[TapInput]) -> TapOutput:
    return tap.extract(tap.prepare(items))


def alone(tap: VideoLLMTap, view: View, items: list[TapInput]) -> TapOutput:
    """A view's features by a tap of one prompt, which is shown what the view sees as its video."""
    single = VideoLLMTap(
        tap.model,
        processor=tap.prepare.processor,
        layers=tap.layers,
        prompt=view.prompt,
        groups=view.groups,
    )
    shown = {"video": lambda i: i.frames, "cover": lambda i: i.cover, "nothing": lambda i: None}
    return run(single, [replace(i, frames=shown[view.sees](i), cover=None) for i in items])


def slots_of(tap: VideoLLMTap, name: str) -> list[int]:
    return [n for n, slot in enumerate(tap.slots) if slot.startswith(f"{name}/")]


@pytest.mark.parametrize("family", [*IMAGE_FAMILIES, *VIDEO_FAMILIES])
def test_each_view_equals_a_tap_of_its_own(tiny_video_llm: Tiny, family: str) -> None:
    tap = tap_of(tiny_video_llm(family), views=VIEWS)
    output = run(tap, ITEMS)
    assert output.features.shape == (7, 3, len(tap.slots), tap.hidden_size)
    for name, view in VIEWS.items():
        expected = alone(tap, view, ITEMS)
        at = slots_of(tap, name)
        assert torch.equal(output.mask[:, at], expected.mask)
        assert torch.equal(output.features[:, :, at], expected.features)
        assert expected.features.abs().amax(dim=(1, 3))[expected.mask].min() > 0


def test_masks_say_what_an_item_lacks(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("idefics3"), views=VIEWS)
    output = run(tap, ITEMS)
    has = {
        item_id: [slot for slot, known in zip(tap.slots, row, strict=True) if known]
        for item_id, row in zip(output.item_ids, output.mask, strict=True)
    }
    spans = ["watch/visual:2/0", "watch/visual:2/1"]
    described = ["describe/visual", "describe/text", "describe/last"]
    bare = ["bare/visual", "bare/last"]
    assert has["all"] == list(tap.slots)
    assert has["video"] == [*spans, "watch/last", *described, *bare]
    assert has["wide"] == [
        *(*spans, "watch/last", *described, *bare, "cover/visual", "cover/last"),
        *("read/text", "read/last"),
    ]
    assert has["cover"] == ["cover/visual", "cover/last"]
    assert has["title"] == [
        *("watch/text", "watch/title", "watch/last", "cover/last", "read/text", "read/last"),
    ]
    assert has["tags"] == ["read/text", "read/last"]
    assert has["void"] == []
    assert not output.features[~output.mask[:, None].expand(output.features.shape[:3])].any()


def test_a_modality_alone(tiny_video_llm: Tiny) -> None:
    folder = tiny_video_llm("idefics3")
    tap = tap_of(folder, views=VIEWS)
    output = run(tap, ITEMS)
    plain = {"groups": ["visual", "last"], "prompt": ""}
    # A cover is a video of one frame.
    cover = VideoLLMTap(
        tap.model,
        processor=tap.prepare.processor,
        layers=tap.layers,
        views={"c": View("", "cover")},
    )
    as_video = run(tap_of(folder, **plain), [TapInput("x", ITEMS[3].cover)])
    assert torch.equal(run(cover, [ITEMS[3]]).features, as_video.features)
    # A video without any prompt.
    watched = run(tap_of(folder, **plain), [ITEMS[1]])
    both = slots_of(tap, "bare")
    torch.testing.assert_close(output.features[[1]][:, :, both], watched.features)
    # A text is what the run of a table without videos makes of it.
    read = run(
        tap_of(folder, groups=["text", "last"], prompt="{title} {tags}"),
        [TapInput("x", None, SEEN)],
    )
    at = slots_of(tap, "read")
    torch.testing.assert_close(output.features[[0]][:, :, at], read.features)


def test_items_of_any_mixture_in_any_batch(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("idefics3"), views=VIEWS)
    together = tap.encode(ITEMS * 2, batch_size=14)
    by_two = tap.encode(ITEMS * 2, batch_size=2)
    assert together.item_ids == by_two.item_ids == [i.item_id for i in ITEMS] * 2
    assert torch.equal(together.mask, by_two.mask)
    torch.testing.assert_close(together.features, by_two.features, rtol=0, atol=1e-4)
    batch = tap.prepare(ITEMS)
    assert len(batch) == 7
    assert {bucket.view for bucket in batch.buckets} == set(range(5))
    assert batch.tokens == sum(int(b.inputs["attention_mask"].sum()) for b in batch.buckets)


def test_generated_tokens_in_one_of_the_views(tiny_video_llm: Tiny) -> None:
    views = {
        "ask": View("About {title}?", groups=["last", "generated:4", "visual"]),
        "read": VIEWS["read"],
        "more": View("{title}", sees="cover", groups=["generated:2"]),
    }
    tap = tap_of(tiny_video_llm("idefics3"), views=views)
    heads: list[int] = []
    handle = tap.model.lm_head.register_forward_hook(lambda *_: heads.append(1))
    output = run(tap, ITEMS)
    buckets = {
        name: sum(b.view == n for b in tap.prepare(ITEMS).buckets) for n, name in enumerate(views)
    }
    handle.remove()
    # Only what was asked for: no logits for the view without generated tokens.
    assert len(heads) == buckets["ask"] * 4 + buckets["more"] * 2
    for name, view in views.items():
        expected = alone(tap, view, ITEMS)
        at = slots_of(tap, name)
        assert torch.equal(output.mask[:, at], expected.mask)
        assert torch.equal(output.features[:, :, at], expected.features)


def test_what_prepares_travels_to_processes(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("idefics3"), views=VIEWS)
    sent = pickle.dumps(tap.prepare)
    one = pickle.dumps(tap_of(tiny_video_llm("idefics3")).prepare)
    assert len(sent) < len(one) + 10_000  # the processor goes along once
    batch = pickle.loads(sent)(ITEMS)
    assert torch.equal(tap.extract(batch).features, run(tap, ITEMS).features)


def test_from_views_to_item_vectors(tiny_video_llm: Tiny, tmp_path: Path) -> None:
    tap = tap_of(tiny_video_llm("idefics3"), views=VIEWS)
    items = [i for i in ITEMS if i.item_id != "void"]
    output = tap.encode(items)
    store = FeatureStore.create(tmp_path / "store", store_spec(tap, dtype="float32"))
    store.append(output.item_ids, output.features, output.mask)
    ids = output.item_ids
    found = FeatureStore.open(tmp_path / "store").get(ids)
    assert torch.equal(found.features, output.features)
    assert torch.equal(found.mask, output.mask)
    encoder = LinkedOutItemEncoder(FeatureStore.open(tmp_path / "store"), ids, dim=8, rank=4).eval()
    with torch.no_grad():
        table = encoder.all_items()
        new = encoder.encode_features(output.features, output.mask)
        # What stands in a masked slot, here of an item without a cover, says nothing.
        noise = output.features.masked_fill(~output.mask[:, None, :, None], 7.0)
        same = encoder.encode_features(noise, output.mask)
    assert table.shape == (7, 8)
    assert torch.isfinite(table).all()
    torch.testing.assert_close(table[1:], new)
    torch.testing.assert_close(same, new)
    distances = torch.cdist(new, new) + torch.eye(6) * 9
    assert distances.min() > 1e-3  # each item has a vector of its own
