"""Language models of a few hundred kilobytes, with random weights and real processors.

They are made offline and saved as a hub's folder would be, so that they load through
`AutoProcessor` and the Auto classes like any other model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_images
import tiny_llava
import tiny_omni
import tiny_qwen
import torch
from tiny_parts import BLOCKS, HIDDEN, byte_tokenizer, chat, text_settings


def _llama() -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = chat()
    return LlamaForCausalLM(LlamaConfig(**text_settings(len(tokenizer)))), tokenizer


def _gpt2() -> tuple[Any, Any]:
    # Learned absolute positions, blocks named `h`, and no token for padding.
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=HIDDEN,
        n_layer=BLOCKS,
        n_head=4,
        n_positions=256,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPT2LMHeadModel(config), tokenizer


_VIDEO: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_vl": tiny_qwen.qwen2_vl,
    "qwen2_5_vl": tiny_qwen.qwen2_5_vl,
    "qwen3_vl": tiny_qwen.qwen3_vl,
    "qwen3_5": tiny_qwen.qwen3_5,
    "video_llama_3": tiny_qwen.video_llama_3,
    "glm4v": tiny_qwen.glm4v,
    "llava_onevision": tiny_llava.llava_onevision,
    "llava_next_video": tiny_llava.llava_next_video,
    "video_llava": tiny_llava.video_llava,
    "internvl": tiny_llava.internvl,
    "perception_lm": tiny_llava.perception_lm,
    "smolvlm": tiny_images.smolvlm,
    "gemma4": tiny_omni.gemma4,
}
_IMAGES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "idefics2": tiny_images.idefics2,
    "idefics3": tiny_images.idefics3,
    "gemma3": tiny_images.gemma3,
    "mistral3": tiny_images.mistral3,
    "ovis2": tiny_images.ovis2,
}

ASSEMBLIES = {"qwen2_5_omni": tiny_omni.qwen2_5_omni}
"""Families whose model holds the one that reads beside others."""

FAMILIES = {"llama": _llama, "gpt2": _gpt2} | _VIDEO | _IMAGES | ASSEMBLIES
"""Families by name; text models and most that read frames as images need no torchvision."""

VIDEO_FAMILIES = tuple(_VIDEO)
IMAGE_FAMILIES = tuple(_IMAGES)
NEEDS_TORCHVISION = (*VIDEO_FAMILIES, *ASSEMBLIES, "mistral3")


def build_tiny_video_llm(folder: Path, family: str = "idefics3", *, seed: int = 0) -> Path:
    """Save a tiny model and its processor.

    Args:
        folder: Where to; made if absent.
        family: A key of `FAMILIES`.
        seed: Decides the weights.

    Returns:
        The folder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = FAMILIES[family]()
        with torch.no_grad():
            # Norms and biases away from ones and zeros, so that a forgotten one shows.
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if family in ASSEMBLIES:
        torch.save({}, folder / "spk_dict.pt")  # the voices, without which none is loaded
    return folder
