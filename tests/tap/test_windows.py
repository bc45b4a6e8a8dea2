"""Windows of a vision tower in one call: equal to transformers' own, which calls once for each."""

from __future__ import annotations

import pytest
import torch
from tap_oracle import frames, item
from torch.nn.functional import scaled_dot_product_attention

from linkedout_lightning.tap import VideoLLMTap, windows
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.opening import open_tap
from linkedout_lightning.tap.windows import NAME, attend, join_windows

PACKED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "video_llama_3")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Spans of each call of the kernel for a tower."""
    seen: list[int] = []

    def counted(query, key, value, **options):
        seen.append(len(query))
        return scaled_dot_product_attention(query, key, value, **options)

    monkeypatch.setattr(windows, "scaled_dot_product_attention", counted)
    return seen


@pytest.mark.parametrize("family", PACKED)
def test_features_are_those_of_a_call_for_each(tiny_video_llm, calls, family: str) -> None:
    tap = VideoLLMTap.from_pretrained(str(tiny_video_llm(family)), layers=[0, 2, 4])
    shown = [frames(4, height=48, width=80), frames(4, seed=2), frames(6, seed=3)]
    batch = tap.prepare([item(str(n), "some words", f) for n, f in enumerate(shown)])
    before = tap.extract(batch)
    stamp = tap.fingerprint()
    assert not calls
    assert join_windows(tap.model)
    after = tap.extract(batch)
    assert calls
    assert max(calls) > 1
    torch.testing.assert_close(after.features, before.features, rtol=1e-5, atol=1e-6)
    assert tap.fingerprint() == stamp


def test_an_extraction_joins_them(tiny_video_llm, tmp_path) -> None:
    config = ExtractConfig(model=str(tiny_video_llm("qwen2_5_vl")), out="unused", device="cpu")
    vision = open_tap(config, progress=False).model.config.vision_config
    assert vision._attn_implementation == NAME


@pytest.mark.parametrize("family", ["llava_onevision", "idefics3", "llama"])
def test_towers_without_borders_stay_as_they_are(tiny_video_llm, family: str) -> None:
    tap = VideoLLMTap.from_pretrained(str(tiny_video_llm(family)), groups=["last"])
    assert not join_windows(tap.model)


def test_a_tower_that_does_not_use_sdpa_stays_as_it_is(tiny_video_llm) -> None:
    folder = str(tiny_video_llm("qwen2_vl"))
    tap = VideoLLMTap.from_pretrained(folder, attn_implementation="eager")
    assert not join_windows(tap.model)


def test_spans_of_any_lengths_against_a_loop() -> None:
    chance = torch.Generator().manual_seed(0)
    lengths = [3, 5, 3, 1, 0, 5, 7]
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 4, generator=chance)
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    found, weights = attend(
        torch.nn.Identity(), query, key, value, cu_seq_lens_q=borders, scaling=0.3
    )
    parts = [part.split(lengths, dim=2) for part in (query, key, value)]
    slow = [((q @ k.mT) * 0.3).softmax(-1) @ v for q, k, v in zip(*parts, strict=True)]
    torch.testing.assert_close(found, torch.cat(slow, dim=2).transpose(1, 2))
    assert weights is None
