"""The small video LLM: a stock Idefics3 in a size that a package can carry, and its processor.

Frames go in as images, one after another. Idefics3 is the smallest multi-image architecture of
`transformers` whose processor needs neither torchvision nor num2words.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from linkedout_lightning.demo.captions import vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import (
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
        PreTrainedTokenizerFast,
    )

WEIGHTS = Path(__file__).parent / "weights"
"""The committed model: `AutoModelForImageTextToText.from_pretrained(WEIGHTS)`."""
DEMO_PROMPT = "Describe this video."
"""The text part of the prompt that the model was trained with, after the frames."""
DEMO_FRAMES = 8
"""Frames a clip that the model was trained with, uniform in time."""
DEMO_SIZE = 96
"""Height and width of the frames that the model sees; the processor resizes to it."""
VISUAL_TOKENS = 4
"""Visual tokens a frame, a 2 x 2 grid."""
PATCH = 12

SPECIAL = (
    "<pad>",
    "<s>",
    "<unk>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}<s>{% endif %}{{ message['role'] }} : "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words of the captions, lower case; any other word is `<unk>`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, "user", "assistant", *vocabulary()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<end_of_utterance>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=512,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[3:])})
    return tokenizer


def build_processor() -> Idefics3Processor:
    """Tokenizer, image processor (PIL, no splitting, 96 x 96) and chat template together."""
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    images = Idefics3ImageProcessorPil(
        do_image_splitting=False,
        size={"longest_edge": DEMO_SIZE},
        max_image_size={"longest_edge": DEMO_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        resample=2,  # bilinear
    )
    return Idefics3Processor(
        images, build_tokenizer(), image_seq_len=VISUAL_TOKENS, chat_template=CHAT_TEMPLATE
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Idefics3ForConditionalGeneration:
    """The untrained model: 4 vision layers of 128, 8 text layers of 192, 4.7 million parameters."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    ids: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = Idefics3Config(
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": DEMO_SIZE,
            "patch_size": PATCH,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            **ids,
        },
        scale_factor=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
        **ids,
    )
    return Idefics3ForConditionalGeneration(config)


def demo_messages(text: str = DEMO_PROMPT, *, frames: int = DEMO_FRAMES) -> list[dict[str, Any]]:
    """One user's turn as `processor.apply_chat_template` takes it: the frames, then the text."""
    parts: list[dict[str, Any]] = [{"type": "image"}] * frames
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def normalize(frames: torch.Tensor) -> torch.Tensor:
    """What the image processor makes of uint8 (..., 96, 96, 3): (..., 3, 96, 96) in [-1, 1]."""
    return frames.movedim(-1, -3).float().div_(127.5).sub_(1.0)
