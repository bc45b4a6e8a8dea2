"""The direct way: the videos of a user's history through a video LLM at request time.

Two models: the demo's, small enough to be carried by the package, and one of the shape of
SmolVLM2-256M, the smallest video LLM that is published for use, with random weights, which cost
what trained ones cost.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from linkedout_lightning import FrameSampler, Ranker, VideoLLMTap
from linkedout_lightning.demo import WEIGHTS, generate_world
from linkedout_lightning.demo.model import CHAT_TEMPLATE, DEMO_FRAMES, DEMO_PROMPT, build_tokenizer
from linkedout_lightning.tap import TapInput

MODELS = ("demo", "smolvlm2-256m")
_SIDE, _TOKENS = 512, 64  # of a frame


def measure(
    folder: Path, name: str, histories: Sequence[Sequence[str]], *, requests: int
) -> dict[str, Any]:
    """Watching and ranking against ranking alone, in this process, in turn.

    Args:
        folder: The bundle that both ways rank over.
        name: One of ``MODELS``.
        histories: Of users; each request watches as many videos as one holds.
        requests: How many of the direct way.
    """
    length = len(histories[0])
    with tempfile.TemporaryDirectory() as room:
        files = generate_world(Path(room), items=40, users=60, cold=4, steps=6, progress=False)
        videos = sorted(files.videos.iterdir())
        tap, sampler = _tap(name), FrameSampler(frames=DEMO_FRAMES)
        ranker = Ranker.load(folder)

        def stored(number: int) -> None:
            ranker.recommend([histories[number % len(histories)]], 10)

        def watched(number: int) -> None:
            chosen = [videos[(length * number + place) % len(videos)] for place in range(length)]
            inputs = [TapInput(path.stem, frames=sampler(path), columns={}) for path in chosen]
            for one in [inputs] if name == "demo" else [[item] for item in inputs]:
                tap.encode(one)  # a larger batch of the larger model is slower on a CPU
            stored(number)

        if name == "demo":
            watched(0)  # the first call of a small model is mostly allocations
        direct_ms = _times(watched, requests)
        _times(stored, 20)
        stored_ms = _times(stored, 500)
    direct, alone = statistics.median(direct_ms), statistics.median(stored_ms)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in tap.parameters()),
        "weights": "trained" if name == "demo" else "random",
        "frames": DEMO_FRAMES,
        "history": length,
        "catalogue": len(ranker),
        "requests": requests,
        "direct_p50_ms": round(direct, 2),
        "stored_p50_ms": round(alone, 4),
        "ratio_of_medians": round(direct / alone, 1),
    }


def _times(work: Callable[[int], object], count: int) -> list[float]:
    times = []
    for number in range(count):
        start = time.perf_counter()
        work(number)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _tap(name: str) -> VideoLLMTap:
    if name == "demo":
        return VideoLLMTap.from_pretrained(str(WEIGHTS), layers=4, prompt=DEMO_PROMPT)
    model, processor = _smolvlm2_256m()
    return VideoLLMTap(
        model,
        processor=processor,
        layers=4,
        prompt=DEMO_PROMPT,
        model_name=f"random weights, {name}",
    )


def _smolvlm2_256m() -> tuple[Any, Any]:
    """SigLIP-base at 512 pixels, a frame as 64 tokens, and the blocks of SmolLM2-135M."""
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
    )

    tokenizer = build_tokenizer()
    longest = {"longest_edge": _SIDE}
    images = Idefics3ImageProcessorPil(
        do_image_splitting=False, size=longest, max_image_size=longest
    )
    processor = Idefics3Processor(
        images, tokenizer, image_seq_len=_TOKENS, chat_template=CHAT_TEMPLATE
    )
    tokenizer.model_max_length = 8192
    config = Idefics3Config(
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": _SIDE,
            "patch_size": 16,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49_280,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
        },
        scale_factor=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Idefics3ForConditionalGeneration(config).eval(), processor
