"""What the tiny models are made of: a byte tokenizer, a chat template, a small text model."""

from __future__ import annotations

from typing import Any

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


def chat(image: str = "<image>", video: str = "<video>") -> str:
    """A chat template that writes these placeholders."""
    return _CHAT.replace("IMAGE", image).replace("VIDEO", video)


def byte_tokenizer(
    extra: tuple[str, ...] = (), *, bos: bool = False, named: dict[str, str] | None = None
) -> Any:
    """A byte-level tokenizer without merges: a token a byte, plus control tokens.

    Args:
        extra: Further control tokens.
        bos: Whether every text begins with a start token.
        named: Control tokens that become attributes of the tokenizer, as some processors want.
    """
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
        **(named or {}),
    )
    if bos:
        from tokenizers.processors import TemplateProcessing

        start = tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", start)]
        )
    return tokenizer


def text_settings(vocabulary: int, **more: Any) -> dict[str, Any]:
    """Settings of a small Llama-like text model."""
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


def vision_settings(*, image_size: int = 32, patch_size: int = 8, **more: Any) -> dict[str, Any]:
    """Settings of a small vision transformer of the CLIP and SigLIP kind."""
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
        "initializer_range": 0.2,
    } | more
