"""What `prefill.py` runs: models of known shapes with random weights, and videos to show them."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

# The byte tokenizer, the chat template and the way to torchvision are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import hf_processors

hf_processors.install()  # before anything imports transformers or lightning

_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_AROUND = "<|vision_start|>{}<|vision_end|>"

# Family, text settings, vision settings. 2b and 7b are the published shapes of Qwen2-VL-2B and
# Qwen2.5-VL-7B; 7b-full is Qwen2-VL-7B, whose tower attends to whole frames and not to windows.
_VISION_2 = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14}
_TEXT_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
}
SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "small": (
        "Qwen2_5_VL",
        {
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 4096,
        },
        {
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 342,
            "num_heads": 4,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [3],
            "out_hidden_size": 256,
        },
    ),
    "2b": (
        "Qwen2VL",
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151_936,
        },
        _VISION_2 | {"hidden_size": 1536},
    ),
    "7b": (
        "Qwen2_5_VL",
        _TEXT_7B,
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": 3584,
        },
    ),
    "7b-full": ("Qwen2VL", _TEXT_7B, _VISION_2 | {"hidden_size": 3584}),
}


def build(
    shape: str, *, device: str, dtype: torch.dtype, attention: str, seed: int
) -> tuple[Any, Any]:
    """A model with random weights on its device, and a real processor for it."""
    import transformers
    from tiny_parts import byte_tokenizer, chat

    family, text, vision = SHAPES[shape]
    tokenizer = byte_tokenizer(_TOKENS)
    ids = tokenizer.convert_tokens_to_ids
    merge = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    processor = getattr(transformers, f"{family}Processor")(
        transformers.Qwen2VLImageProcessorPil(**merge),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(**merge),
        chat_template=chat(_AROUND.format("<|image_pad|>"), _AROUND.format("<|video_pad|>")),
    )
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    sections = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    config = getattr(transformers, f"{family}Config")(
        text_config=text | {"rope_parameters": rope, "max_position_embeddings": 32_768},
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        tie_word_embeddings=shape == "2b",  # as published
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(seed)
    kind = getattr(transformers, f"{family}ForConditionalGeneration")
    with torch.device(device):
        model = kind._from_config(config, dtype=dtype, attn_implementation=attention)
    return model.eval(), processor


def write_videos(
    folder: Path, *, count: int, distinct: int, size: tuple[int, int], seconds: float, seed: int
) -> list[Path]:
    """H.264 clips of moving pictures; ``count`` files, of which so many differ."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"v{number:05d}.mp4" for number in range(count)]
    jobs = [(str(paths[i]), size, seconds, seed + i) for i in range(min(distinct, count))]
    # Lance, which is imported by now, does not survive a fork.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        list(processes.map(_write, jobs))
    for number in range(len(jobs), count):
        shutil.copyfile(paths[number % len(jobs)], paths[number])
    return paths


def _write(job: tuple[str, tuple[int, int], float, int]) -> None:
    import av

    path, (height, width), seconds, seed = job
    chance = np.random.default_rng(seed)
    # A texture that slides, under discs that move: motion and detail, as in a filmed scene.
    coarse = chance.integers(0, 256, (height // 8 + 16, width // 8 + 16, 3), dtype=np.uint8)
    texture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    places = chance.uniform(0, 1, (6, 2))
    speeds = chance.uniform(-0.4, 0.4, (6, 2))
    colours = chance.integers(0, 256, (6, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "g": "50"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for number in range(max(1, round(seconds * 25))):
            shift = number // 2 % 120
            picture = texture[shift : shift + height, shift : shift + width].copy()
            for place, speed, colour in zip(places, speeds, colours, strict=True):
                y, x = (place + speed * number / 25) % 1 * (height, width)
                picture[(rows - y) ** 2 + (columns - x) ** 2 < (height / 9) ** 2] = colour
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
