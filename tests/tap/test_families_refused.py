"""Models that cannot be tapped say why in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tap_oracle as oracle
import torch
from tap_oracle import PROMPT, frames, item
from tiny_parts import byte_tokenizer, text_settings, vision_settings
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.tap import VideoLLMTap
from linkedout_lightning.tap.anatomy import reading_part, required_names, visual_ids
from linkedout_lightning.tap.hooks import reading
from linkedout_lightning.tap.layers import find_decoder

Tiny = Callable[[str], Path]


def processor(**parts: Any) -> Any:
    return SimpleNamespace(tokenizer=byte_tokenizer(), **parts)


def on_meta(name: str, **settings: Any) -> Any:
    """A model of a class of transformers, without weights."""
    import transformers

    kind = getattr(transformers, name)
    with torch.device("meta"):
        return kind(kind.config_class(**settings))


@pytest.mark.parametrize(
    "name", ["T5ForConditionalGeneration", "Florence2ForConditionalGeneration"]
)
def test_encoder_decoders(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is an encoder-decoder: its decoder reads no"):
        VideoLLMTap(on_meta(name), processor=processor(image_processor=object()))


def test_an_encoder_decoder_inside_a_wrapper() -> None:
    model = on_meta("Blip2ForConditionalGeneration", text_config={"model_type": "t5"})
    with pytest.raises(ConfigError, match="is an encoder-decoder"):
        find_decoder(model)


@pytest.mark.parametrize("name", ["GitForCausalLM", "BlipForConditionalGeneration"])
def test_a_text_part_that_is_no_decoder(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no decoder blocks found in {name}"):
        VideoLLMTap(on_meta(name), processor=processor(image_processor=object()))


def test_two_tokenizers_of_a_q_former() -> None:
    model = on_meta("InstructBlipVideoForConditionalGeneration", video_token_index=5)
    parts = {"video_processor": object(), "qformer_tokenizer": byte_tokenizer()}
    with pytest.raises(ConfigError, match="its Q-Former reads the prompt too"):
        VideoLLMTap(model, processor=processor(**parts))


def mllama() -> Any:
    import transformers

    text = text_settings(300, cross_attention_layers=[1], rope_parameters={"rope_type": "default"})
    vision = vision_settings(num_global_layers=1, max_num_tiles=4, vision_output_dim=32)
    config = transformers.MllamaConfig(
        text_config=text | {"num_hidden_layers": 3, "bos_token_id": 1},
        vision_config=vision | {"intermediate_layers_indices": [1]},
        image_token_index=5,
    )
    return transformers.MllamaForConditionalGeneration(config).eval()


def test_pictures_seen_by_cross_attention() -> None:
    with pytest.raises(ConfigError, match="looks at pictures by cross-attention, so no token"):
        VideoLLMTap(mllama(), processor=processor(image_processor=object()))


def test_layers_that_an_input_passes_by() -> None:
    # Read as a text model: text alone goes around the cross-attention.
    def tap(layers: list[int]) -> VideoLLMTap:
        groups = ["text", "last"]
        tokenizer = byte_tokenizer()
        return VideoLLMTap(mllama(), processor=tokenizer, layers=layers, groups=groups)

    with pytest.raises(DataError, match=r"MllamaTextModel ran without its layers \[2\]"):
        tap([1, 2, 3]).encode([item("a", "A cat")])
    assert tap([1, 3]).encode([item("a", "A cat")]).mask.all()


def test_no_token_stands_for_a_picture(tiny_video_llm: Tiny) -> None:
    model, tokenizer = oracle.load(tiny_video_llm("llama"))
    seeing = processor(image_processor=object())
    with pytest.raises(ConfigError, match="names a token that stands for a picture; give its tok"):
        VideoLLMTap(model, processor=seeing)
    assert VideoLLMTap(model, processor=tokenizer).sees is False


def test_a_model_that_listens_is_read_as_text() -> None:
    model = on_meta("Qwen2AudioForConditionalGeneration")
    assert visual_ids(model, processor(feature_extractor=object())) == set()
    assert len(find_decoder(model)) == model.config.text_config.num_hidden_layers


def test_vision_encoders_are_no_language_models(tmp_path: Path) -> None:
    for kind in ("videomae", "vjepa2"):
        (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
        with pytest.raises(ConfigError, match=f"'{kind}', which is no causal or multimodal"):
            VideoLLMTap.from_pretrained(tmp_path)


def test_states_of_another_shape() -> None:
    # GLM-5-Next carries four streams from block to block: (b, P, 4, D); Gemma 3n (4, b, P, D).
    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Identity()])

    model = Streams()
    with (
        pytest.raises(ConfigError, match=r"\(1, 5, 4, 8\).*carries several streams of states"),
        reading(find_decoder(model), [1], lambda layer, state: False),
    ):
        model.layers[0](torch.zeros(1, 5, 4, 8))


def test_a_model_that_reads_no_text_alone(tiny_video_llm: Tiny) -> None:
    model, seeing = oracle.load(tiny_video_llm("smolvlm"))
    forward = model.forward

    def demanding(pixel_values: Tensor, **inputs: Any) -> Any:
        return forward(pixel_values=pixel_values, **inputs)

    assert required_names(model) == set()
    demanding.__signature__ = _with_pixels_required(model)  # type: ignore[attr-defined]
    model.forward = demanding
    assert required_names(model) == {"pixel_values"}
    tap = VideoLLMTap(model, processor=seeing, prompt=PROMPT)
    assert tap.encode([item("a", "A cat", frames(4))]).mask.all()
    with pytest.raises(DataError, match=r"the model wants pixel_values.*no item without a video"):
        tap.prepare([item("b", "Only text")])


def _with_pixels_required(model: Any) -> Any:
    import inspect

    signature = inspect.signature(model.forward)
    given = [
        parameter.replace(default=parameter.empty, kind=parameter.KEYWORD_ONLY)
        if name == "pixel_values"
        else parameter.replace(kind=parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    return signature.replace(parameters=given)


def test_of_an_assembly_the_part_that_reads(tiny_video_llm: Tiny) -> None:
    model, _ = oracle.load(tiny_video_llm("qwen2_5_vl"))

    class Assembly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ears = nn.Linear(2, 2)
            self.thinker = model
            self.talker = model
            self.hf_device_map = {"": "cpu"}

    assert reading_part(Assembly()) is model
    assert reading_part(model) is model
