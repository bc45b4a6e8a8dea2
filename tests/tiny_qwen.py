"""Tiny models of the families that cut a video into a grid of patches of any size."""

from __future__ import annotations

from typing import Any

from tiny_parts import HIDDEN, byte_tokenizer, chat, text_settings, vision_settings

_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_SIZE = {"shortest_edge": 16 * 16, "longest_edge": 16 * 16 * 8}
_PATCHES: dict[str, Any] = {"patch_size": 4, "merge_size": 2, "size": _SIZE}
_VISION = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": HIDDEN,
    "initializer_range": 0.2,
}
_WITH_POSITIONS = {"num_position_embeddings": 64}


def qwen2_vl() -> tuple[Any, Any]:
    vision = {"depth": 2, "embed_dim": 16, "mlp_ratio": 2, "num_heads": 2, "patch_size": 4}
    vision |= {"hidden_size": HIDDEN, "initializer_range": 0.2}
    return _qwen("Qwen2VL", "Qwen2VL", vision)


def qwen2_5_vl() -> tuple[Any, Any]:
    vision = _VISION | {"window_size": 16, "fullatt_block_indexes": [1]}
    return _qwen("Qwen2_5_VL", "Qwen2VL", vision)


def qwen3_vl() -> tuple[Any, Any]:
    deep = {"depth": 3, "deepstack_visual_indexes": [0, 1]}
    return _qwen("Qwen3VL", "Qwen3VL", _VISION | _WITH_POSITIONS | deep, head_dim=8)


def qwen3_5() -> tuple[Any, Any]:
    # Three of four blocks keep a recurrent state instead of attention.
    linear = {
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    vision = _VISION | _WITH_POSITIONS
    return _qwen("Qwen3_5", "Qwen3VL", vision, processor="Qwen3VL", head_dim=8, **linear)


def _qwen(
    family: str, video: str, vision: dict[str, Any], *, processor: str | None = None, **text: Any
) -> tuple[Any, Any]:
    import transformers

    tokenizer = byte_tokenizer(_TOKENS)
    ids = tokenizer.convert_tokens_to_ids
    patches = _PATCHES | {"temporal_patch_size": 2}
    around = "<|vision_start|>{}<|vision_end|>"
    # Qwen3-VL's processor writes the brackets around every step of time by itself.
    around_video = "{}" if video == "Qwen3VL" else around
    made = getattr(transformers, f"{processor or family}Processor")(
        transformers.Qwen2VLImageProcessorPil(**patches),
        tokenizer,
        getattr(transformers, f"{video}VideoProcessor")(**patches),
        chat_template=chat(around.format("<|image_pad|>"), around_video.format("<|video_pad|>")),
    )
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    if family == "Qwen3_5":
        rope |= {"partial_rotary_factor": 1.0, "mrope_interleaved": True}
    config = getattr(transformers, f"{family}Config")(
        text_config=text_settings(len(tokenizer), rope_parameters=rope, **text),
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    return getattr(transformers, f"{family}ForConditionalGeneration")(config), made


def video_llama_3() -> tuple[Any, Any]:
    from transformers import (
        VideoLlama3Config,
        VideoLlama3ForConditionalGeneration,
        VideoLlama3ImageProcessorPil,
        VideoLlama3Processor,
        VideoLlama3VideoProcessor,
    )

    tokenizer = byte_tokenizer(_TOKENS[:2])
    ids = tokenizer.convert_tokens_to_ids
    # Its limit is on all frames together; 32 by 32 pixels each stay as they are.
    patches = _PATCHES | {"size": {"shortest_edge": 16 * 16, "longest_edge": 32 * 32 * 8}}
    processor = VideoLlama3Processor(
        VideoLlama3ImageProcessorPil(**patches),
        tokenizer,
        VideoLlama3VideoProcessor(**patches),
        chat_template=chat("<|image_pad|>", "<|video_pad|>"),
    )
    vision = vision_settings(patch_size=4)
    del vision["image_size"]
    config = VideoLlama3Config(
        text_config={"model_type": "qwen2", **text_settings(len(tokenizer))},
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
    )
    return VideoLlama3ForConditionalGeneration(config), processor


def glm4v() -> tuple[Any, Any]:
    from transformers import (
        Glm4vConfig,
        Glm4vForConditionalGeneration,
        Glm4vImageProcessorPil,
        Glm4vProcessor,
        Glm4vVideoProcessor,
    )

    kinds = ("image", "video")
    brackets = [f"<|{edge}_of_{kind}|>" for kind in kinds for edge in ("begin", "end")]
    tokenizer = byte_tokenizer(("<|image|>", "<|video|>", *brackets))
    ids = tokenizer.convert_tokens_to_ids
    patches = _PATCHES | {"temporal_patch_size": 2}
    processor = Glm4vProcessor(
        Glm4vImageProcessorPil(**patches),
        tokenizer,
        # Its own sampling chooses five of eight frames: the tap must not let it.
        Glm4vVideoProcessor(**patches),
        chat_template=chat(
            "<|begin_of_image|><|image|><|end_of_image|>",
            "<|begin_of_video|><|video|><|end_of_video|>",
        ),
    )
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    # `intermediate_size` is that of the merger too.
    vision = _VISION | {"image_size": 32, "intermediate_size": 32}
    config = Glm4vConfig(
        text_config=text_settings(
            len(tokenizer), rope_parameters=rope | {"partial_rotary_factor": 1.0}
        ),
        vision_config=vision,
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        **{f"{kind}_start_token_id": ids(f"<|begin_of_{kind}|>") for kind in kinds},
        **{f"{kind}_end_token_id": ids(f"<|end_of_{kind}|>") for kind in kinds},
    )
    return Glm4vForConditionalGeneration(config), processor
