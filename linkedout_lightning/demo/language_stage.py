"""Second stage of training: the text model learns captions and answers over frozen vision.

The connector's outputs for all clips are computed once and kept on disk, so that a step costs the
text model alone. Besides the words, two linear readers (of the prompt's last token and of the mean
visual token, both at the last layer) must tell all attributes: without them motion, which no single
word of the prompt asks for, comes late. A third one tells for each frame whether a cut lies before
it: the pacing rests on a parity (does the palette change?), which stayed at chance without it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linkedout_lightning.demo.captions import QUESTIONS, caption, clip_words, read_caption
from linkedout_lightning.demo.model import (
    CHAT_TEMPLATE,
    DEMO_FRAMES,
    DEMO_PROMPT,
    DEMO_SIZE,
    VISUAL_TOKENS,
    demo_messages,
    normalize,
)
from linkedout_lightning.demo.render import render, sampled_instants, trajectory
from linkedout_lightning.demo.vision_stage import augment, see
from linkedout_lightning.demo.world import ATTRIBUTES, NAMES, Clips, sample_clips

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration, Idefics3Processor

    from linkedout_lightning.demo.train import Run

BATCH = 64
EMBEDDING_STD = 0.1  # of token embeddings at the start
VISUAL_STD = 0.3  # of the connector's outputs, after they are evened out
REVERSED = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "grows": "shrinks",
    "shrinks": "grows",
}
IGNORED = -100


class ClipHeads(nn.Module):
    """Linear readers of all attributes; they are thrown away after the stage."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        total = sum(len(values) for values in ATTRIBUTES.values())
        self.read = nn.ModuleList(nn.Linear(dim, total) for _ in range(2))
        self.cut = nn.Linear(dim, 2)

    def forward(self, last: Tensor, frames: Tensor) -> tuple[list[Tensor], Tensor]:
        """Read the last token (B, dim) and each frame's mean token (B, 8, dim).

        Returns:
            Scores (B, 59) over all values of all attributes, from the last token and from the mean
            visual token; and, for every frame but the first, scores (B, 7, 2) that a cut lies
            before it and that the frame before had the second palette.
        """
        pairs = zip((last, frames.mean(1)), self.norm, self.read, strict=True)
        told = [read(norm(vector.float())) for vector, norm, read in pairs]
        return told, self.cut(self.norm[1](frames[:, 1:].float()))


def clip_frames(clips: Clips, rng: np.random.Generator) -> Tensor:
    """The frames (n, 8, 3, 96, 96) that a sampler would see, with what a codec does to them."""
    # The sampler shows the frame *at* an instant, which began up to a frame earlier.
    shift = (rng.random((len(clips), 1), dtype=np.float32) - 0.3) * 0.05
    instants = np.clip(sampled_instants(DEMO_FRAMES)[None] + shift, 0, 1)
    frames, _ = render(clips, instants, size=DEMO_SIZE)
    pixels = normalize(torch.from_numpy(frames))
    return augment(pixels.flatten(0, 1), rng).reshape(pixels.shape)


@torch.no_grad()
def visual_tokens(model: Idefics3ForConditionalGeneration, frames: Tensor) -> Tensor:
    """Connector outputs (n, 8 * 4, dim) of clips' frames (n, 8, 3, 96, 96)."""
    with torch.autocast("cpu", torch.bfloat16):
        _, tokens = see(model, frames.flatten(0, 1))
    return tokens.float().reshape(len(frames), -1, tokens.shape[-1])


@torch.no_grad()
def even_out(model: Idefics3ForConditionalGeneration, rng: np.random.Generator) -> None:
    """Fold a whitening into the connector: its outputs get the embeddings' size in every direction.

    After the first stage they stand some hundred times above fresh embeddings, and what tells
    positions is small beside what tells colours. The map is linear and invertible: nothing is lost.
    """
    tokens = visual_tokens(model, clip_frames(sample_clips(96, rng), rng)).flatten(0, 1).double()
    moment = tokens.T @ tokens / len(tokens)
    values, vectors = torch.linalg.eigh(moment)
    floor = 0.01 * values.mean()
    even = vectors @ torch.diag((values + floor).rsqrt()) @ vectors.T * VISUAL_STD
    weight = model.model.connector.modality_projection.proj.weight
    weight.copy_((even @ weight.double()).float())
    model.get_input_embeddings().weight.normal_(std=EMBEDDING_STD)


class Drawn(NamedTuple):
    """A batch of clips: visual tokens (n, 32, dim), what they show, each frame's palette (n, 8)."""

    tokens: Tensor
    clips: Clips
    palettes: Tensor


class Cache:
    """Visual tokens float16 (n, 32, dim) of `n` clips on disk, and the clips."""

    def __init__(
        self, model: Idefics3ForConditionalGeneration, path: Path, n: int, seed: int
    ) -> None:
        self.clips = sample_clips(n, np.random.default_rng([seed, 3]))
        if not path.exists():
            dim = model.config.text_config.hidden_size
            part = path.with_suffix(".part")
            shape = (n, DEMO_FRAMES * VISUAL_TOKENS, dim)
            table = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
            for start in range(0, n, 32):
                rng = np.random.default_rng([seed, 4, start])
                some = self.clips[slice(start, start + 32)]
                table[start : start + 32] = (
                    visual_tokens(model, clip_frames(some, rng)).half().numpy()
                )
            table.flush()
            os.replace(part, path)
        self.tokens = np.load(path, mmap_mode="r")
        self.palettes = trajectory(self.clips, sampled_instants(DEMO_FRAMES)).palette  # (n, 8)
        self.reversed = self.clips.codes.copy()
        swap = [ATTRIBUTES["event"].index(REVERSED.get(e, e)) for e in ATTRIBUTES["event"]]
        event = NAMES.index("event")
        self.reversed[:, event] = np.array(swap)[self.clips.codes[:, event]]

    def draw(self, n: int, rng: np.random.Generator) -> Drawn:
        """Random clips, half of them played backwards."""
        index = np.sort(rng.choice(len(self.clips), n, replace=False))
        tokens = torch.from_numpy(self.tokens[index].astype(np.float32))
        back = rng.random(n) < 0.5
        frames = torch.unflatten(tokens, 1, (DEMO_FRAMES, VISUAL_TOKENS))
        turned = torch.where(torch.from_numpy(back)[:, None, None, None], frames.flip(1), frames)
        noise = torch.from_numpy(rng.standard_normal(tokens.shape, dtype=np.float32))
        codes = np.where(back[:, None], self.reversed[index], self.clips.codes[index])
        palettes = self.palettes[index]
        return Drawn(
            tokens=turned.flatten(1, 2) + 0.1 * VISUAL_STD * noise,
            clips=Clips(codes, self.clips.nuisance[index]),
            palettes=torch.from_numpy(np.where(back[:, None], palettes[:, ::-1], palettes)),
        )


class Phrasebook:
    """Token ids of whole dialogues, in exactly the form that the processor gives them."""

    def __init__(self, processor: Idefics3Processor) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        images = (
            f"{processor.fake_image_token}{processor.global_image_tag}"
            f"{processor.image_token * VISUAL_TOKENS}{processor.fake_image_token}"
        )
        self.images = images

    def prompt(self, text: str) -> list[int]:
        """The first turn up to where the answer begins."""
        rendered = self.processor.apply_chat_template(
            demo_messages(text), add_generation_prompt=True
        )
        return self.ids(rendered.replace("<image>", self.images))

    def ids(self, text: str) -> list[int]:
        """Plain tokenization."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def dialogue(
        self, words: dict[str, str], rng: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """Ids and labels of a training text: a caption (7 of 10) or four questions with answers."""
        end = "<end_of_utterance>"
        if rng.random() < 0.7:
            turns = [(DEMO_PROMPT, caption(words, rng))]
        else:
            asked = rng.choice(NAMES, 4, replace=False)
            turns = [(QUESTIONS[name], words[name]) for name in asked]
        ids, labels = list(self.prompt(turns[0][0])), []
        labels = [IGNORED] * len(ids)
        for i, (question, answer) in enumerate(turns):
            if i:
                more = self.ids(f"user : {question}{end}assistant :")
                ids, labels = ids + more, labels + [IGNORED] * len(more)
            told = self.ids(answer + end)
            ids, labels = ids + told, labels + told
        return ids, labels


def clip_loss(
    model: Idefics3ForConditionalGeneration,
    heads: ClipHeads,
    book: Phrasebook,
    drawn: Drawn,
    rng: np.random.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of words and readers; for the log, each and the readers' accuracy on what moves."""
    pairs = [book.dialogue(words, rng) for words in clip_words(drawn.clips)]
    length = max(len(ids) for ids, _ in pairs)
    pad = model.config.text_config.pad_token_id
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in pairs])  # (B, P)
    labels = torch.tensor([row + [IGNORED] * (length - len(row)) for _, row in pairs])
    image = ids == model.config.image_token_id
    embeds = model.get_input_embeddings()(ids)
    # transformers 5.23 ignores `image_hidden_states=`: visual tokens are merged by hand.
    embeds = embeds.masked_scatter(image[..., None], drawn.tokens.to(embeds.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        states = model.model.text_model(inputs_embeds=embeds, use_cache=False)
        wanted = labels[:, 1:] != IGNORED
        scores = model.lm_head(states.last_hidden_state[:, :-1][wanted])
    words = F.cross_entropy(scores.float(), labels[:, 1:][wanted])
    told = states.last_hidden_state
    first = (labels != IGNORED).float().argmax(1) - 1  # the prompt's last token
    last = told[torch.arange(len(told)), first]
    # (B, 8, dim): the mean of each frame's tokens
    frames = told[image].reshape(len(told), DEMO_FRAMES, VISUAL_TOKENS, -1).mean(2)
    report = {"words": float(words.detach())}
    codes = torch.from_numpy(drawn.clips.codes)
    sizes = [len(values) for values in ATTRIBUTES.values()]
    reads, cut = heads(last, frames)
    before = drawn.palettes[:, :-1]
    wanted_cut = torch.stack([before != drawn.palettes[:, 1:], before == 1], -1)
    parity = F.binary_cross_entropy_with_logits(cut, wanted_cut.float())
    report["cuts"] = float(((cut > 0) == wanted_cut)[..., 0].float().mean())
    loss = words + 0.5 * parity
    for where, read in zip(("last", "visual"), reads, strict=True):
        parts = []
        for name, part, target in zip(NAMES, read.split(sizes, 1), codes.T, strict=True):
            parts.append(F.cross_entropy(part, target))
            if name in ("shape", "event", "pacing", "speed", "camera"):
                report[f"{where}/{name}"] = float((part.argmax(1) == target).float().mean())
        loss = loss + 0.3 * torch.stack(parts).mean()
    return loss, report


@torch.no_grad()
def write_captions(
    model: Idefics3ForConditionalGeneration, processor: Idefics3Processor, pixels: Tensor
) -> list[str]:
    """Greedy captions of clips given as frames (n, 8, 3, 96, 96)."""
    prompt = torch.tensor([Phrasebook(processor).prompt(DEMO_PROMPT)] * len(pixels))
    ids = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        pixel_values=pixels,
        max_new_tokens=48,
        do_sample=False,
    )
    return list(processor.batch_decode(ids[:, prompt.shape[1] :], skip_special_tokens=True))


def caption_accuracy(texts: list[str], clips: Clips) -> dict[str, float]:
    """Share of captions that state each attribute rightly."""
    read = [read_caption(text) for text in texts]
    truth = clip_words(clips)
    return {
        name: float(np.mean([r.get(name) == t[name] for r, t in zip(read, truth, strict=True)]))
        for name in NAMES
    }


def train_language(run: Run) -> None:
    """Second stage; see the module's summary."""
    config, model = run.config, run.model
    fresh = run.progress.stage != "language"
    if fresh:
        even_out(model, np.random.default_rng([config.seed, 5]))
        for path in config.work.glob("tokens-*.npy"):
            path.unlink()  # of an earlier vision tower
    for module in (model.model.vision_model, model.model.connector):
        module.requires_grad_(False)
    cache = Cache(model, config.work / f"tokens-{config.clips}.npy", config.clips, config.seed)
    heads = ClipHeads(model.config.text_config.hidden_size)
    book = Phrasebook(run.processor)
    if run.processor.chat_template != CHAT_TEMPLATE:
        raise RuntimeError(
            "the processor's chat template is not the one that the model is trained with"
        )

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([config.seed, 6, step])
        return clip_loss(model, heads, book, cache.draw(BATCH, rng), rng)

    def evaluate() -> dict[str, float]:
        rng = np.random.default_rng([config.seed, 7])
        clips = sample_clips(config.held_out, rng)
        model.eval()
        found = caption_accuracy(
            write_captions(model, run.processor, clip_frames(clips, rng)), clips
        )
        model.train()
        return found

    run.train(
        "language",
        heads,
        [model.model.text_model],
        minutes=config.minutes * (1 - config.vision_share),
        loss=loss,
        evaluate=evaluate,
    )
