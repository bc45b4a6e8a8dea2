"""Tiny models of the families that also listen, or also speak."""

from __future__ import annotations

from typing import Any

from tiny_parts import HIDDEN, byte_tokenizer, chat, text_settings


def gemma4() -> tuple[Any, Any]:
    # Global and local blocks have heads of different sizes; every block has embeddings of its own.
    import transformers

    marks = ("image", "boi", "eoi", "audio", "boa", "eoa")
    tokenizer = byte_tokenizer(named={f"{mark}_token": f"<{mark}>" for mark in marks}, bos=True)
    patches: dict[str, Any] = {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70}
    processor = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        transformers.Gemma4ImageProcessorPil(**patches),
        tokenizer,
        transformers.Gemma4VideoProcessor(**patches),
        chat_template=chat("<image>", "<|video|>"),
        image_seq_length=70,
    )
    ids = tokenizer.convert_tokens_to_ids
    text = text_settings(len(tokenizer), head_dim=8, global_head_dim=16, sliding_window=24)
    text["pad_token_id"] = tokenizer.pad_token_id
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "patch_size": 4,
        "pooling_kernel_size": 2,
        "position_embedding_size": 64,
        "initializer_range": 0.2,
    }
    config = transformers.Gemma4Config(
        text_config=text
        | {
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "vocab_size_per_layer_input": len(tokenizer),
            "hidden_size_per_layer_input": 8,
        },
        vision_config=vision,
        audio_config=None,
        boi_token_id=ids("<boi>"),
        eoi_token_id=ids("<eoi>"),
        image_token_id=ids("<image>"),
        video_token_id=ids("<|video|>"),
        audio_token_id=ids("<audio>"),
    )
    return transformers.Gemma4ForConditionalGeneration(config), processor


def qwen2_5_omni() -> tuple[Any, Any]:
    # An assembly of models: the one that reads is its `thinker`. This one has no voice.
    import transformers

    marks = ("image", "video", "audio", "vision_bos", "vision_eos", "audio_bos", "audio_eos")
    tokenizer = byte_tokenizer(named={f"{mark}_token": f"<{mark}>" for mark in marks})
    ids = tokenizer.convert_tokens_to_ids
    size = {"shortest_edge": 16 * 16, "longest_edge": 16 * 16 * 8}
    patches: dict[str, Any] = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    processor = transformers.Qwen2_5OmniProcessor(
        transformers.Qwen2VLImageProcessorPil(**patches, size=size),
        transformers.Qwen2VLVideoProcessor(**patches, size=size),
        transformers.WhisperFeatureExtractor(feature_size=16),
        tokenizer,
        chat_template=chat("<vision_bos><image><vision_eos>", "<vision_bos><video><vision_eos>"),
    )
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]}
    audio = {"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2}
    audio |= {"encoder_ffn_dim": 32, "d_model": 16, "n_window": 10, "output_dim": HIDDEN}
    thinker = {
        "text_config": text_settings(len(tokenizer), rope_parameters=rope),
        "vision_config": vision | {"out_hidden_size": HIDDEN, "initializer_range": 0.2},
        "audio_config": audio,
        "image_token_index": ids("<image>"),
        "video_token_index": ids("<video>"),
        "audio_token_index": ids("<audio>"),
        "audio_start_token_id": ids("<audio_bos>"),
        "audio_end_token_id": ids("<audio_eos>"),
        "vision_start_token_id": ids("<vision_bos>"),
        "vision_end_token_id": ids("<vision_eos>"),
    }
    config = transformers.Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=False)
    return transformers.Qwen2_5OmniForConditionalGeneration(config), processor
