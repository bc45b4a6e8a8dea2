"""Language models of a few hundred kilobytes, with random weights and real processors.

They are made offline and saved as a hub's folder would be, so that they load through
`AutoProcessor` and the Auto classes like any other model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HIDDEN = 32
BLOCKS = 4
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}IMAGE{% elif line['type'] == 'video' %}VIDEO{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SMOL_TOKENS = (
    "<image>",
    "<video>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
)
_QWEN_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def byte_tokenizer(extra: tuple[str, ...] = (), *, bos: bool = False) -> Any:
    """A byte-level tokenizer without merges: a token a byte, plus control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", *extra],
    )
    if bos:
        from tokenizers.processors import TemplateProcessing

        start = tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", start)]
        )
    return tokenizer


def _text(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,  # large, so that attention is not flat
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    } | more


def _llama() -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = _CHAT
    return LlamaForCausalLM(LlamaConfig(**_text(len(tokenizer)))), tokenizer


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


def _idefics3() -> tuple[Any, Any]:
    from transformers import Idefics3ImageProcessorPil as ImageProcessor
    from transformers import Idefics3Processor

    tokenizer = byte_tokenizer(_SMOL_TOKENS)
    images = ImageProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    template = _CHAT.replace("IMAGE", "<image>")
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    return _smol("Idefics3", processor), processor


def _smolvlm() -> tuple[Any, Any]:
    from transformers import (
        SmolVLMImageProcessorPil,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    tokenizer = byte_tokenizer(_SMOL_TOKENS)
    sizes: dict[str, Any] = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessorPil(**sizes),
        tokenizer,
        # Five frames by its own sampling: the tap must not let it choose.
        SmolVLMVideoProcessor(
            **sizes, do_sample_frames=True, num_frames=5, fps=1, return_metadata=True
        ),
        image_seq_len=4,
        chat_template=_CHAT.replace("IMAGE", "<image>").replace("VIDEO", "<video>"),
    )
    return _smol("SmolVLM", processor), processor


def _smol(family: str, processor: Any) -> Any:
    import transformers

    tokenizer = processor.tokenizer
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.2,
    }
    config = getattr(transformers, f"{family}Config")(
        text_config={"model_type": "llama", **_text(len(tokenizer))},
        vision_config=vision,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return getattr(transformers, f"{family}ForConditionalGeneration")(config)


def _qwen2_5_vl() -> tuple[Any, Any]:
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "out_hidden_size": HIDDEN,
        "initializer_range": 0.2,
    }
    return _qwen("Qwen2_5_VL", "Qwen2VL", vision, patch_size=4)


def _qwen3_vl() -> tuple[Any, Any]:
    vision = {
        "depth": 3,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": 0.2,
    }
    return _qwen("Qwen3VL", "Qwen3VL", vision, patch_size=4)


def _qwen(family: str, video: str, vision: dict[str, Any], *, patch_size: int) -> tuple[Any, Any]:
    import transformers

    tokenizer = byte_tokenizer(_QWEN_TOKENS)
    ids = tokenizer.convert_tokens_to_ids
    size = {"shortest_edge": 16 * 16, "longest_edge": 16 * 16 * 8}
    merge = {"patch_size": patch_size, "temporal_patch_size": 2, "merge_size": 2, "size": size}
    vision_part = "<|vision_start|>{}<|vision_end|>"
    # Qwen3-VL's processor writes the brackets around every step of time by itself.
    around = "{}" if family == "Qwen3VL" else vision_part
    template = _CHAT.replace("IMAGE", vision_part.format("<|image_pad|>"))
    processor = getattr(transformers, f"{family}Processor")(
        transformers.Qwen2VLImageProcessorPil(**merge),
        tokenizer,
        getattr(transformers, f"{video}VideoProcessor")(**merge),
        chat_template=template.replace("VIDEO", around.format("<|video_pad|>")),
    )
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    extra = {"head_dim": 8} if family == "Qwen3VL" else {}
    config = getattr(transformers, f"{family}Config")(
        text_config=_text(len(tokenizer), rope_parameters=rope, **extra),
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    return getattr(transformers, f"{family}ForConditionalGeneration")(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "llama": _llama,
    "gpt2": _gpt2,
}
"""Families by name; only `idefics3` (frames as images) and the text models need no torchvision."""

NEEDS_TORCHVISION = ("smolvlm", "qwen2_5_vl", "qwen3_vl")


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
    return folder
