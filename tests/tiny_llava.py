"""Tiny models of the families that show a fixed-size vision transformer every frame."""

from __future__ import annotations

from typing import Any

from tiny_parts import byte_tokenizer, chat, text_settings, vision_settings

_SQUARE = {"height": 32, "width": 32}
_CROPPED: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": _SQUARE}
_GRID = [[32, 32], [64, 32], [32, 64]]


def llava_onevision() -> tuple[Any, Any]:
    import transformers

    tokenizer = byte_tokenizer(("<image>", "<video>"))
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessorPil(size=_SQUARE, image_grid_pinpoints=_GRID),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=_SQUARE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chat(),
    )
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_settings(len(tokenizer))},
        vision_config={"model_type": "siglip_vision_model", **vision_settings()},
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_grid_pinpoints=_GRID,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def llava_next_video() -> tuple[Any, Any]:
    import transformers

    tokenizer = byte_tokenizer(("<image>", "<video>"), bos=True)
    processor = transformers.LlavaNextVideoProcessor(
        transformers.LlavaNextVideoVideoProcessor(**_CROPPED),
        transformers.LlavaNextImageProcessorPil(**_CROPPED, image_grid_pinpoints=_GRID),
        tokenizer,
        chat_template=chat(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.LlavaNextVideoConfig(
        text_config={"model_type": "llama", **text_settings(len(tokenizer))},
        vision_config={"model_type": "clip_vision_model", **vision_settings()},
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_grid_pinpoints=_GRID,
    )
    return transformers.LlavaNextVideoForConditionalGeneration(config), processor


def video_llava() -> tuple[Any, Any]:
    import transformers

    tokenizer = byte_tokenizer(("<image>", "<video>"), bos=True)
    processor = transformers.VideoLlavaProcessor(
        transformers.VideoLlavaImageProcessor(**_CROPPED),
        transformers.VideoLlavaVideoProcessor(**_CROPPED),
        tokenizer,
        patch_size=8,
        chat_template=chat(),
    )
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.VideoLlavaConfig(
        text_config={"model_type": "llama", **text_settings(len(tokenizer))},
        vision_config={"model_type": "clip_vision_model", **vision_settings()},
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
    )
    return transformers.VideoLlavaForConditionalGeneration(config), processor


def perception_lm() -> tuple[Any, Any]:
    # Its vision transformer comes from timm.
    import transformers

    named = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer = byte_tokenizer(named=named)
    processor = transformers.PerceptionLMProcessor(
        transformers.PerceptionLMVideoProcessor(size=_SQUARE),
        transformers.PerceptionLMImageProcessor(tile_size=32, max_num_tiles=2, size=_SQUARE),
        tokenizer,
        patch_size=8,
        pooling_ratio=2,
        chat_template=chat(),
    )
    shape = {"img_size": [32, 32], "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    shape |= {"ref_feat_shape": [4, 4], "global_pool": "", "use_post_transformer_norm": False}
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.PerceptionLMConfig(
        text_config={"model_type": "llama", **text_settings(len(tokenizer))},
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_lang_large_patch14_448",
            "model_args": shape,
            "num_labels": 2,
        },
        projector_pooling_ratio=2,
        image_token_id=ids("<image>"),
        video_token_id=ids("<video>"),
    )
    return transformers.PerceptionLMForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    import transformers

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = byte_tokenizer(named=named)
    processor = transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessorPil(size=_SQUARE),
        tokenizer,
        transformers.InternVLVideoProcessor(size=_SQUARE),
        image_seq_length=4,
        chat_template=chat("<IMG_CONTEXT>\n", "<video>\n"),
    )
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **text_settings(len(tokenizer))},
        vision_config=vision_settings(image_size=[32, 32], patch_size=[8, 8]),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return transformers.InternVLForConditionalGeneration(config), processor
