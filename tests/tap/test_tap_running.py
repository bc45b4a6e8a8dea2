"""How the tap runs: frozen, without keeping states, ending early, inside Lightning."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tap_oracle as oracle
import torch
from lightning import Trainer
from tap_oracle import PROMPT, frames, item
from torch import nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap import TapInput, TapOutput, VideoLLMTap

Tiny = Callable[[str], Path]


@pytest.fixture
def items() -> list[TapInput]:
    return [item("a", "A cat", frames(8)), item("b", "Dogs", frames(4)), item("c", "Text")]


def tap_of(folder: Path, **options: Any) -> VideoLLMTap:
    defaults = {"layers": "all", "groups": ["visual", "last"], "prompt": PROMPT}
    return VideoLLMTap.from_pretrained(str(folder), dtype="float32", **(defaults | options))


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_frozen_and_in_evaluation_for_ever(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("idefics3"))
    assert not any(p.requires_grad for p in tap.parameters())
    tap.train()
    assert not tap.training
    assert not any(m.training for m in tap.modules())
    parent = nn.Module()
    parent.tap = tap
    parent.train()
    assert not any(m.training for m in tap.modules())


@pytest.mark.parametrize("family", ["idefics3", "qwen2_5_vl", "llama"])
def test_ends_after_the_deepest_layer_and_needs_no_head(tiny_video_llm: Tiny, family: str) -> None:
    tap = tap_of(tiny_video_llm(family), layers=[0, 2])
    calls: list[str] = []
    for n, block in enumerate(tap.decoder.blocks, start=1):
        block.register_forward_hook(lambda *_, n=n: calls.append(f"block {n}"))
    tap.decoder.module.norm.register_forward_hook(lambda *_: calls.append("norm"))
    tap.model.lm_head.register_forward_hook(lambda *_: calls.append("head"))
    one = item("a", "A cat", None if family == "llama" else frames(8))
    tap.encode([one])
    # The signal comes from a hook of block 2 that stands before this test's.
    assert calls in (["block 1"], ["block 1", "block 2"])
    calls.clear()
    tap_all = VideoLLMTap(tap.model, processor=tap.prepare.processor, layers=[-1], prompt=PROMPT)
    tap_all.encode([one])
    assert "norm" not in calls
    assert "head" not in calls
    calls.clear()
    only_embeddings = VideoLLMTap(tap.model, processor=tap.prepare.processor, layers=[0])
    only_embeddings.encode([one])
    assert calls == []


@pytest.mark.parametrize("family", ["idefics3", "qwen3_vl", "llama"])
def test_no_state_of_all_tokens_outlives_its_block(tiny_video_llm: Tiny, family: str) -> None:
    tap = tap_of(tiny_video_llm(family))
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def watch(block: nn.Module, args: Any, output: Any) -> None:
        nonlocal most
        alive.append(weakref.ref(output[0] if isinstance(output, tuple) else output))
        most = max(most, sum(ref() is not None for ref in alive))

    for block in tap.decoder.blocks:
        block.register_forward_hook(watch)
    output = tap.encode([item("a", "A cat", None if family == "llama" else frames(8))])
    assert len(alive) >= len(tap.decoder.blocks) - 1
    assert most <= 2  # a block's input and its output
    del output
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_hooks_are_gone_whatever_happens(tiny_video_llm: Tiny, items: list[TapInput]) -> None:
    tap = tap_of(tiny_video_llm("idefics3"))
    before = hooks_of(tap.model)
    tap.encode(items)
    assert hooks_of(tap.model) == before

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = tap.decoder.blocks[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        tap.encode(items)
    handle.remove()
    assert hooks_of(tap.model) == before
    # What ended early leaves nothing behind: Hugging Face's own capture works as ever.
    model, processor = oracle.load(tiny_video_llm("idefics3"))
    inputs = oracle.encode(processor, items[:1])
    expected = model(**inputs, output_hidden_states=True)
    after = tap.model(**inputs, output_hidden_states=True)
    assert len(after.hidden_states) == len(expected.hidden_states)
    torch.testing.assert_close(after.logits, expected.logits)


def test_inside_a_trainer_with_worker_processes(
    tiny_video_llm: Tiny, items: list[TapInput], tmp_path: Path
) -> None:
    tap = tap_of(tiny_video_llm("idefics3"))
    loader = torch.utils.data.DataLoader(
        items,
        batch_size=2,
        collate_fn=tap.prepare,
        num_workers=1,  # type: ignore[arg-type]
    )
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    outputs = trainer.predict(tap, loader)
    assert outputs is not None
    joined = TapOutput.cat(outputs)  # type: ignore[arg-type]
    expected = tap.encode(items)
    assert joined.item_ids == expected.item_ids
    assert torch.equal(joined.mask, expected.mask)
    torch.testing.assert_close(joined.features, expected.features, rtol=0, atol=1e-5)


def test_what_prepares_inputs_travels_without_the_model(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("idefics3"))
    sent = pickle.dumps(tap.prepare)
    assert len(sent) < 200_000
    batch = pickle.loads(sent)([item("a", "A cat")])
    assert torch.equal(tap.extract(batch).features, tap.encode([item("a", "A cat")]).features)


def test_half_precision_gives_float32_features(tiny_video_llm: Tiny, items: list[TapInput]) -> None:
    folder = tiny_video_llm("idefics3")
    half = VideoLLMTap.from_pretrained(str(folder), dtype="bfloat16", prompt=PROMPT).encode(items)
    full = VideoLLMTap.from_pretrained(str(folder), dtype="float32", prompt=PROMPT).encode(items)
    assert half.features.dtype == torch.float32
    assert torch.equal(half.mask, full.mask)
    cosine = nn.functional.cosine_similarity(half.features, full.features, dim=-1)
    assert cosine[full.mask[:, None].expand_as(cosine)].min() > 0.98


def test_a_batch_counts_its_tokens(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("llama"))
    batch = tap.prepare([item("a", "A cat"), item("b", "Dogs!!")])
    assert batch.tokens == sum(1 + len(PROMPT.format(title=t)) for t in ("A cat", "Dogs!!"))
    assert len(batch) == 2


def test_texts_cannot_claim_a_picture(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("idefics3"), groups=["title"])
    output = tap.encode(
        [item("a", "<image> here", frames(4)), item("b", "<image><|im_end|>"), item("c", "\ud800")]
    )
    assert output.mask[:, 0].tolist() == [True, False, True]


def test_a_template_without_a_place_for_the_video_is_said(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("idefics3"))
    tap.prepare.processor.chat_template = "{{ messages[0]['content'][-1]['text'] }}"
    with pytest.raises((ConfigError, ValueError), match="image"):
        tap.encode([item("a", "A cat", frames(4))])
    tap = tap_of(tiny_video_llm("llama"), chat_template=True)
    tap.prepare.processor.chat_template = "always the same"
    with pytest.raises(ConfigError, match="drops the user's text"):
        tap.encode([item("a", "A cat")])


def test_text_models_may_use_their_chat_template(tiny_video_llm: Tiny) -> None:
    tap = tap_of(tiny_video_llm("llama"), chat_template=True, groups=["title", "last"])
    bucket = tap.prepare([item("a", "A cat")]).buckets[0]
    text = tap.prepare.tokenizer.decode(bucket.inputs["input_ids"][0])
    assert text.endswith("<|im_start|>user\nAbout: A cat.<|im_end|>\n<|im_start|>assistant\n")
    chosen = bucket.inputs["input_ids"][0][bucket.weights[0, 0] > 0]
    assert tap.prepare.tokenizer.decode(chosen) == "A cat"
