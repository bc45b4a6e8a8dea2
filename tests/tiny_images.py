"""Tiny models of the families that read frames as single images."""

from __future__ import annotations

from typing import Any

from tiny_parts import byte_tokenizer, chat, text_settings, vision_settings

_SMOL_TOKENS = (
    "<image>",
    "<video>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
)


def idefics3() -> tuple[Any, Any]:
    from transformers import Idefics3ImageProcessorPil as ImageProcessor
    from transformers import Idefics3Processor

    tokenizer = byte_tokenizer(_SMOL_TOKENS)
    images = ImageProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat(video=""))
    return _smol("Idefics3", processor), processor


def smolvlm() -> tuple[Any, Any]:
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
        chat_template=chat(),
    )
    return _smol("SmolVLM", processor), processor


def _smol(family: str, processor: Any) -> Any:
    import transformers

    tokenizer = processor.tokenizer
    config = getattr(transformers, f"{family}Config")(
        text_config={"model_type": "llama", **text_settings(len(tokenizer))},
        vision_config=vision_settings(),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return getattr(transformers, f"{family}ForConditionalGeneration")(config)
