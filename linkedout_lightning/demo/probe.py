"""What the layers of the demo's video LLM know: linear probes of every attribute, from every layer.

    python -m linkedout_lightning.demo.probe --out linkedout_lightning/demo/weights

Clips are rendered afresh, encoded and decoded, and go through the processor and the model as any
video would.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from linkedout_lightning.demo.captions import clip_words, read_caption
from linkedout_lightning.demo.model import DEMO_FRAMES, WEIGHTS, demo_messages
from linkedout_lightning.demo.render import render, sampled_instants
from linkedout_lightning.demo.videos import VIDEO_FRAMES, VIDEO_SIZE, write_video
from linkedout_lightning.demo.world import ATTRIBUTES, NAMES, SIZES, Clips, sample_clips

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration, Idefics3Processor

FLOORS: Mapping[str, float] = {"color": 0.85, "shape": 0.6, "event": 0.6, "pacing": 0.6}
"""Accuracy that the best layer's probe must reach before weights are committed."""
SLOTS = ("visual", "text", "last", "frames")
"""Mean visual token, mean text token, last token, and each frame's mean token side by side."""
BATCH = 25


@dataclass(frozen=True)
class LayerFeatures:
    """Pooled states of n clips: slot -> float32 (n, L, width); `frames` is 8 times as wide."""

    slots: dict[str, Tensor]

    def __getitem__(self, slot: str) -> Tensor:
        return self.slots[slot]


def decoded_frames(clips: Clips) -> npt.NDArray[np.uint8]:
    """Frames (n, 8, 128, 128, 3) of clips after H.264: those that `FrameSampler(8)` shows."""
    import av

    spread = VIDEO_FRAMES // DEMO_FRAMES
    out = np.empty((len(clips), DEMO_FRAMES, VIDEO_SIZE, VIDEO_SIZE, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for i in range(len(clips)):
            one = clips[slice(i, i + 1)]
            frames, _ = render(one, sampled_instants(VIDEO_FRAMES), size=VIDEO_SIZE)
            write_video(path, frames[0])
            with av.open(str(path)) as container:
                shown = list(container.decode(video=0))
            # The middle of the i-th eighth falls on the start of frame 4 i + 2.
            picked = shown[spread // 2 :: spread]
            out[i] = np.stack([frame.to_ndarray(format="rgb24") for frame in picked])
    return out


def processor_inputs(
    processor: Idefics3Processor, frames: npt.NDArray[np.uint8]
) -> dict[str, Tensor]:
    """What the processor makes of clips' frames (n, 8, H, W, 3) and the demo's prompt."""
    from PIL import Image

    text = processor.apply_chat_template(demo_messages(), add_generation_prompt=True)
    images = [[Image.fromarray(frame) for frame in clip] for clip in frames]
    return dict(processor(text=[text] * len(frames), images=images, return_tensors="pt"))


@torch.inference_mode()
def layer_features(
    model: Idefics3ForConditionalGeneration,
    processor: Idefics3Processor,
    frames: npt.NDArray[np.uint8],
) -> LayerFeatures:
    """Pooled states of all layers for clips' frames (n, 8, H, W, 3); no final norm is applied."""
    kept: dict[str, list[Tensor]] = {slot: [] for slot in SLOTS}
    final: list[Tensor] = []
    decoder = model.model.text_model
    hook = decoder.layers[-1].register_forward_hook(lambda _m, _a, out: final.append(out))
    try:
        for start in range(0, len(frames), BATCH):
            inputs = processor_inputs(processor, frames[start : start + BATCH])
            final.clear()
            states = model.model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
            last = final[0][0] if isinstance(final[0], tuple) else final[0]
            stack = torch.stack([*states[:-1], last], 1).float()  # (b, L, P, D)
            ids = inputs["input_ids"][0]
            image = ids == model.config.image_token_id
            end = int(image.nonzero()[-1]) + 2  # behind the last frame's closing mark
            spans = torch.unflatten(stack[:, :, image], 2, (DEMO_FRAMES, -1)).mean(
                3
            )  # (b, L, 8, D)
            kept["visual"].append(spans.mean(2))
            kept["frames"].append(spans.flatten(2))
            kept["text"].append(stack[:, :, end:-3].mean(2))
            kept["last"].append(stack[:, :, -1])
    finally:
        hook.remove()
    return LayerFeatures({slot: torch.cat(parts) for slot, parts in kept.items()})


def probe(
    train: Tensor, train_codes: Tensor, test: Tensor, test_codes: Tensor, *, decay: float = 3e-3
) -> dict[str, float]:
    """Accuracy of linear softmax probes, one an attribute, all fitted together.

    Args:
        train: Features float32 (n, width).
        train_codes: int64 (n, 12).
        test: Features (m, width).
        test_codes: int64 (m, 12).
        decay: Weight of the squared norm of the weights.
    """
    mean, std = train.mean(0), train.std(0) + 1e-4
    x, y = (train - mean) / std, (test - mean) / std
    weight = torch.zeros(x.shape[1], sum(SIZES), requires_grad=True)
    bias = torch.zeros(sum(SIZES), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=60, history_size=8, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        blocks = torch.split(torch.addmm(bias, x, weight), list(SIZES), 1)
        loss = decay * weight.square().sum()
        for block, codes in zip(blocks, train_codes.T, strict=True):
            loss = loss + F.cross_entropy(block, codes)
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        blocks = torch.split(torch.addmm(bias, y, weight), list(SIZES), 1)
    hits = [(b.argmax(1) == c).float().mean() for b, c in zip(blocks, test_codes.T, strict=True)]
    return {name: round(float(hit), 4) for name, hit in zip(NAMES, hits, strict=True)}


def probe_layers(
    train: LayerFeatures,
    train_clips: Clips,
    test: LayerFeatures,
    test_clips: Clips,
    *,
    slots: tuple[str, ...],
) -> dict[str, list[dict[str, float]]]:
    """Slot -> a row of accuracies for each layer, shallowest (input embeddings) first."""
    a, b = torch.from_numpy(train_clips.codes), torch.from_numpy(test_clips.codes)
    layers = range(train[slots[0]].shape[1])
    return {
        slot: [probe(train[slot][:, k], a, test[slot][:, k], b) for k in layers] for slot in slots
    }


def best(report: Mapping[str, list[dict[str, float]]]) -> dict[str, float]:
    """The best accuracy of each attribute over slots and layers."""
    rows = [row for layers in report.values() for row in layers]
    return {name: max(row[name] for row in rows) for name in NAMES}


@torch.inference_mode()
def caption_report(
    model: Idefics3ForConditionalGeneration,
    processor: Idefics3Processor,
    frames: npt.NDArray[np.uint8],
    clips: Clips,
) -> tuple[dict[str, float], list[str]]:
    """Share of greedy captions that state each attribute rightly, and the captions."""
    texts: list[str] = []
    for start in range(0, len(frames), BATCH):
        inputs = processor_inputs(processor, frames[start : start + BATCH])
        ids = model.generate(**inputs, max_new_tokens=48, do_sample=False)
        told = ids[:, inputs["input_ids"].shape[1] :]
        texts.extend(processor.batch_decode(told, skip_special_tokens=True))
    pairs = list(zip(map(read_caption, texts), clip_words(clips), strict=True))
    return {n: round(float(np.mean([r.get(n) == t[n] for r, t in pairs])), 4) for n in NAMES}, texts


def markdown(
    report: Mapping[str, list[dict[str, float]]], captions: Mapping[str, float], n: tuple[int, int]
) -> str:
    """The probe report for people."""
    head = f"| layer | {' | '.join(NAMES)} |\n|{' --- |' * (len(NAMES) + 1)}\n"
    chance = f"| chance | {' | '.join(f'{1 / size:.2f}' for size in SIZES)} |\n"
    parts = [
        "# What the layers know\n\n"
        f"Linear probes, fitted on {n[0]} freshly rendered (simulated), encoded and decoded clips "
        f"and tested on {n[1]} others. Layer 0 is the input embeddings, k the output of decoder "
        "block k, the last one before the final norm. Made by "
        "`python -m linkedout_lightning.demo.probe`; not edited by hand.\n"
    ]
    titles = {
        "visual": "Mean visual token",
        "text": "Mean token of the prompt's text",
        "last": "Last token of the prompt",
        "frames": "Mean visual token of each frame, side by side",
    }
    for slot, layers in report.items():
        rows = "".join(
            f"| {k} | {' | '.join(f'{row[name]:.2f}' for name in NAMES)} |\n"
            for k, row in enumerate(layers)
        )
        parts.append(f"\n## {titles[slot]}\n\n{head}{chance}{rows}")
    row = " | ".join(f"{captions[name]:.2f}" for name in NAMES)
    parts.append(
        f"\n## Greedy captions that state it rightly\n\n{head}{chance}| caption | {row} |\n"
    )
    return "".join(parts)


def main(argv: list[str] | None = None) -> None:
    """Write probes.json and PROBES.md into `--out`."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    parser = argparse.ArgumentParser(
        prog="python -m linkedout_lightning.demo.probe",
        description=(__doc__ or "").split("\n\n")[0],
    )
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="model folder")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the report")
    parser.add_argument(
        "--train", type=int, default=2000, help="clips that the probes are fitted on"
    )
    parser.add_argument("--test", type=int, default=1000, help="clips that they are tested on")
    parser.add_argument("--seed", type=int, default=1000)
    given = parser.parse_args(argv)
    model = AutoModelForImageTextToText.from_pretrained(given.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(given.model)
    train_clips = sample_clips(given.train, np.random.default_rng([given.seed, 1]))
    test_clips = sample_clips(given.test, np.random.default_rng([given.seed, 2]))
    test_frames = decoded_frames(test_clips)
    train = layer_features(model, processor, decoded_frames(train_clips))
    test = layer_features(model, processor, test_frames)
    report = probe_layers(train, train_clips, test, test_clips, slots=SLOTS)
    some = min(500, given.test)
    captions, texts = caption_report(
        model, processor, test_frames[:some], test_clips[slice(0, some)]
    )
    chance = {name: round(1 / len(values), 4) for name, values in ATTRIBUTES.items()}
    result = {
        "simulated": True,
        "clips": {"train": given.train, "test": given.test, "captions": some, "seed": given.seed},
        "floors": dict(FLOORS),
        "best": best(report),
        "chance": chance,
        "layers": report,
        "captions": captions,
        "examples": texts[:5],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "probes.json").write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(report, captions, (given.train, given.test))
    (given.out / "PROBES.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
