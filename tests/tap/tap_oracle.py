"""Hidden states pooled by hand: Hugging Face's own, one token at a time, in plain Python.

It shares no code with the tap. Tokens are found by their ids: with the tiny models' tokenizer a
token is a byte, so the ids of a text are a run of a row's ids.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from linkedout_lightning.tap import TapInput
from linkedout_lightning.video import Frames

PROMPT = "About: {title}."


def frames(
    count: int, *, height: int = 32, width: int = 32, seed: int = 0, still: float = 0.0
) -> Frames:
    """Random frames, two a second; a share of the rows may stand still from frame to frame."""
    data = np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), dtype=np.uint8)
    for n in range(count):
        # Another share in every frame, so that pruned frames have unequal numbers of tokens.
        rows = round(height * still) * (n % 3) // 2
        data[n, :rows] = data[0, :rows]
    return Frames(data, np.arange(count) / 2, fps=8.0, duration=count / 2, backend="test")


def item(name: str, title: str | None, shown: Frames | None = None) -> TapInput:
    return TapInput(name, frames=shown, columns={} if title is None else {"title": title})


def load(folder: Path) -> tuple[Any, Any]:
    """Model and processor (or tokenizer), as a user of transformers loads them; no tiling."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    sees = any(hasattr(config, part) for part in ("vision_config", "thinker_config"))
    model = transformers.AutoModelForMultimodalLM if sees else transformers.AutoModelForCausalLM
    processor = transformers.AutoProcessor if sees else transformers.AutoTokenizer
    loaded = processor.from_pretrained(folder)
    if hasattr(loaded, "image_processor"):
        loaded.image_processor.do_image_splitting = False
    made = model.from_pretrained(folder, dtype=torch.float32).eval()
    return getattr(made, "thinker", made), loaded


def encode(processor: Any, items: list[TapInput], *, side: str = "left") -> dict[str, Any]:
    """What Hugging Face makes of items with equal numbers of frames (or none)."""
    from transformers.video_utils import VideoMetadata

    shown = [i.frames for i in items if i.frames is not None]
    if getattr(processor, "tokenizer", processor).pad_token is None:
        processor.pad_token = "<unk>"
    texts = []
    for i in items:
        text = PROMPT.format(title=i.columns.get("title", ""))
        tokenizer = getattr(processor, "tokenizer", processor)
        if tokenizer is processor:
            texts.append(text)
            continue
        parts: list[dict[str, str]] = [{"type": "text", "text": text}]
        if i.frames is not None:
            video = hasattr(processor, "video_processor")
            parts = (
                [{"type": "video"}] * video
                + [{"type": "image"}] * (0 if video else len(i.frames))
                + parts
            )
        conversation = [{"role": "user", "content": parts}]
        texts.append(processor.apply_chat_template(conversation, add_generation_prompt=True))
    options: dict[str, Any] = {"padding": True, "padding_side": side, "return_tensors": "pt"}
    if shown and hasattr(processor, "video_processor"):
        options |= {
            "videos": [video.data for video in shown],
            "video_metadata": [
                VideoMetadata(
                    total_num_frames=len(video) * 4,
                    fps=8.0,
                    duration=video.duration,
                    frames_indices=[4 * k for k in range(len(video))],
                )
                for video in shown
            ],
            "do_sample_frames": False,
        }
    elif shown:
        options |= {
            "images": [[Image.fromarray(frame) for frame in video.data] for video in shown],
            "do_image_splitting": False,
        }
    if "mm_token_type_ids" in getattr(processor, "model_input_names", ()):
        options["return_mm_token_type_ids"] = True
    return dict(processor(text=texts, **options))


def hidden_states(model: Any, inputs: dict[str, Any]) -> list[Tensor]:
    """Every ``hidden_states[k]``, but the last as it leaves the last block, before the norm."""
    decoder = model.get_decoder()
    blocks = decoder.layers if hasattr(decoder, "layers") else decoder.h
    last: list[Tensor] = []

    def keep(block: Any, args: Any, output: Any) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    handle = blocks[-1].register_forward_hook(keep)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    handle.remove()
    return [*states[:-1], last[-1]]


def run_of(row: list[int], wanted: list[int]) -> list[int]:
    """Where ``wanted`` stands in ``row``."""
    if not wanted:
        return []
    for start in range(len(row)):
        if row[start : start + len(wanted)] == wanted:
            return list(range(start, start + len(wanted)))
    raise AssertionError("the prompt's tokens are not in the row")


def positions(model: Any, processor: Any, row: list[int], i: TapInput) -> dict[str, Places]:
    """Positions of each group's tokens in a row of ids (padding must not look like text)."""
    tokenizer = getattr(processor, "tokenizer", processor)
    visual = places_of_ids(model, row)
    title = i.columns.get("title", "")
    text = PROMPT.format(title=title)
    found = run_of(row, tokenizer(text, add_special_tokens=False)["input_ids"])
    start = len(PROMPT.split("{title}")[0].encode())
    pads = {tokenizer.pad_token_id}
    places: dict[str, Places] = {
        "visual": [visual],
        "text": [found if title else []],
        "title": [found[start : start + len(title.encode())]],
        "last": [[max(p for p, token in enumerate(row) if token not in pads)]],
    }
    steps = [] if i.frames is None else steps_of(model, visual, len(i.frames))
    for span in range(4):
        # The numbers of steps here divide the four spans, or are divided by them.
        places[f"visual:4/{span}"] = [
            step
            for n, step in enumerate(steps)
            if n * 4 < (span + 1) * len(steps) and (n + 1) * 4 > span * len(steps)
        ]
    return places


Places = list[list[int]]
"""Positions of a slot's tokens by step of time; a slot that knows no time has one step."""

MERGES_PAIRS = ("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni_thinker", "qwen3_vl", "qwen3_5", "glm4v")
"""Families that merge two frames into one step of time."""


def places_of_ids(model: Any, row: list[int]) -> list[int]:
    """Where a row has visual tokens."""
    return [p for p, token in enumerate(row) if token in visual_ids(model)]


def visual_ids(model: Any) -> list[int]:
    """Ids of the placeholders of pictures and videos."""
    ids = {getattr(model.config, name, None) for name in ("image_token_id", "video_token_id")}
    return [*ids - {None}]


def steps_of(model: Any, visual: list[int], count: int) -> list[list[int]]:
    """The visual tokens of each step of time, by what is known of each family."""
    family = model.config.model_type
    if family == "llava_onevision":
        visual = visual[:-1]  # the newline after the last frame
    if family == "video_llama_3":
        # Its frames lose their static tokens, and a time stamp stands before each.
        runs = [[visual[0]]]
        for before, after in pairwise(visual):
            if after == before + 1:
                runs[-1].append(after)
            else:
                runs.append([after])
        assert len(runs) == count
        return runs
    steps = count // 2 if family in MERGES_PAIRS else count
    each, rest = divmod(len(visual), steps)
    assert not rest, "a step's tokens should be equally many"
    return [visual[n * each : (n + 1) * each] for n in range(steps)]


def pooled(states: list[Tensor], row: int, places: Places) -> Tensor:
    """Mean over steps of the mean over a step's tokens, float64, ``(L, D)``; zeros without any."""
    means = [
        torch.stack([torch.stack([state[row, p].double() for state in states]) for p in step])
        for step in places
        if step
    ]
    if not means:
        return torch.zeros(len(states), states[0].shape[-1], dtype=torch.float64)
    return torch.stack([step.mean(0) for step in means]).mean(0)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((ours.double() - theirs).abs().max() / theirs.abs().max())
