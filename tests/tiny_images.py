"""Tiny models of the families that read frames as single images."""

from __future__ import annotations

from typing import Any

from tiny_parts import HIDDEN, byte_tokenizer, chat, text_settings, vision_settings

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


def gemma3() -> tuple[Any, Any]:
    # Tokens of one picture attend to each other in both directions; every other block is local.
    import transformers

    named = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<image_soft>"}
    tokenizer = byte_tokenizer(named=named, bos=True)
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer,
        image_seq_length=4,
        chat_template=chat("<boi>", ""),
    )
    ids = tokenizer.convert_tokens_to_ids
    text = text_settings(len(tokenizer), head_dim=8, query_pre_attn_scalar=8, sliding_window=24)
    config = transformers.Gemma3Config(
        text_config=text | {"layer_types": ["sliding_attention", "full_attention"] * 2},
        vision_config={"model_type": "siglip_vision_model", **vision_settings()},
        mm_tokens_per_image=4,
        boi_token_index=ids("<boi>"),
        eoi_token_index=ids("<eoi>"),
        image_token_index=ids("<image_soft>"),
        initializer_range=0.2,
    )
    return transformers.Gemma3ForConditionalGeneration(config), processor


def mistral3() -> tuple[Any, Any]:
    # A token ends each row of patches.
    import transformers

    tokenizer = byte_tokenizer(("[IMG]", "[IMG_BREAK]", "[IMG_END]"), bos=True)
    processor = transformers.PixtralProcessor(
        transformers.PixtralImageProcessorPil(
            size={"longest_edge": 32}, patch_size={"height": 8, "width": 8}
        ),
        tokenizer,
        patch_size=8,
        spatial_merge_size=2,
        chat_template=chat("[IMG]", ""),
    )
    config = transformers.Mistral3Config(
        text_config={"model_type": "mistral", **text_settings(len(tokenizer), head_dim=8)},
        vision_config={"model_type": "pixtral", **vision_settings()},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    return transformers.Mistral3ForConditionalGeneration(config), processor


def idefics2() -> tuple[Any, Any]:
    # A perceiver makes a fixed number of tokens of a picture.
    import transformers

    tokenizer = byte_tokenizer(("<fake_token_around_image>", "<image>", "<end_of_utterance>"))
    processor = transformers.Idefics2Processor(
        # Tiles of one photograph, which this processor reads from here and not from the call.
        transformers.Idefics2ImageProcessorPil(
            size={"shortest_edge": 16, "longest_edge": 32}, do_image_splitting=True
        ),
        tokenizer,
        image_seq_len=4,
        chat_template=chat(video=""),
    )
    perceiver = {"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2}
    perceiver |= {"hidden_size": HIDDEN, "resampler_head_dim": 8, "num_key_value_heads": 1}
    config = transformers.Idefics2Config(
        text_config={"model_type": "mistral", **text_settings(len(tokenizer))},
        vision_config=vision_settings(),
        perceiver_config=perceiver,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return transformers.Idefics2ForConditionalGeneration(config), processor


def ovis2() -> tuple[Any, Any]:
    # Visual tokens are mixtures of a table of visual words.
    import transformers

    marks = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tokenizer = byte_tokenizer(("<image>", "<IMG_ATOM>", *marks))
    ids = tokenizer.convert_tokens_to_ids
    processor = transformers.Ovis2Processor(
        # Crops of one photograph: the tap must do without them.
        transformers.Ovis2ImageProcessorPil(
            size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=2
        ),
        tokenizer,
        image_seq_length=4,
        chat_template=chat(video=""),
    )
    config = transformers.Ovis2Config(
        text_config={"model_type": "qwen2", **text_settings(len(tokenizer))},
        vision_config=vision_settings(vocab_size=40, hidden_stride=2),
        image_token_id=ids("<IMG_ATOM>"),
        visual_indicator_token_ids=[ids(mark) for mark in marks],
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
    )
    return transformers.Ovis2ForConditionalGeneration(config), processor
