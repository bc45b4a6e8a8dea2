"""From items to what a model's ``forward`` takes, by any Hugging Face processor or tokenizer.

Letters: b items of one bucket, S slots of the prefill, P tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.tap.groups import Group, average, span_averages
from linkedout_lightning.tap.prompts import Prompt, PromptTemplate, Span, Wrapping, wrap
from linkedout_lightning.tap.types import TapBatch, TapBucket, TapInput
from linkedout_lightning.tap.visual import images_of, videos_of, without_tiling

if TYPE_CHECKING:
    from linkedout_lightning.video import Frames

Shape = tuple[int, ...] | None
"""Frames, height and width of a bucket's videos; ``None`` for items without a video."""


@dataclass(frozen=True)
class _Row:
    """One item on its way into a bucket."""

    index: int  # its position in the batch
    prompt: Prompt
    frames: Frames | None


class InputBuilder:
    """Makes a `TapBatch` of items; needs no model, so a data loader's workers can run it.

    Args:
        processor: A Hugging Face processor, or a tokenizer for models that only read text.
        template: The prompt.
        groups: Token groups, those of the prefill and others.
        visual_ids: Token ids that stand for visual embeddings; empty for text-only models.
        argument_names: What the model's ``forward`` takes; other outputs of the processor are
            dropped.
        chat: Whether prompts go through the chat template.
        required: Of the arguments those that ``forward`` cannot do without.
        padding_side: ``"left"`` or ``"right"``.
        padding_multiple: Pad to a multiple of so many tokens, so that few lengths occur.
        own_positions: Whether the model numbers positions by itself (multimodal rotary ones).
        processor_kwargs: Further arguments of the processor's call.
    """

    def __init__(
        self,
        processor: Any,
        *,
        template: PromptTemplate,
        groups: Sequence[Group],
        visual_ids: Collection[int],
        argument_names: Collection[str],
        chat: bool,
        required: Collection[str] = (),
        padding_side: Literal["left", "right"] = "left",
        padding_multiple: int | None = None,
        own_positions: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.processor = without_tiling(processor)
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.template = template
        self.groups = tuple(group for group in groups if group.kind != "generated")
        self.chat = chat
        self.padding_side = padding_side
        self.padding_multiple = padding_multiple
        self.visual_ids = torch.tensor(sorted(visual_ids), dtype=torch.long)
        self.argument_names = frozenset(argument_names)
        self._required = frozenset(required)
        self.processor_kwargs = dict(processor_kwargs or {})
        self._own_positions = own_positions
        self._modality = _modality(processor) if len(self.visual_ids) else None
        self._wants_offsets = any(group.kind in ("text", "title") for group in self.groups)
        self._forbidden = _control_tokens(processor, self.tokenizer)
        self._wrappings: dict[int, Wrapping] = {}
        if self._wants_offsets and not getattr(self.tokenizer, "is_fast", False):
            raise ConfigError(
                f"{type(self.tokenizer).__name__} does not tell which characters a token covers, "
                'which the groups "text" and "title" need; load a fast tokenizer or leave them out'
            )

    def __call__(self, items: Sequence[TapInput]) -> TapBatch:
        """Bucket items by the shape of their frames and tokenize each bucket.

        An item of which nothing is known (no frames, every column of the prompt blank) is in no
        bucket: its features would be those of the bare prompt.
        """
        buckets: dict[Shape, list[_Row]] = {}
        for index, item in enumerate(items):
            frames = item.frames if self._modality else None
            prompt = self.template.fill(item.columns, forbidden=self._forbidden)
            if frames is not None or prompt.fields:
                shape = None if frames is None else tuple(frames.data.shape[:3])
                buckets.setdefault(shape, []).append(_Row(index, prompt, frames))
        return TapBatch(
            [item.item_id for item in items], [self._bucket(rows) for rows in buckets.values()]
        )

    def length_hint(self, item: TapInput) -> int:
        """Roughly how much text an item brings, in characters: for sorting items by length."""
        return len(self.template.fill(item.columns).text)

    def _bucket(self, rows: Sequence[_Row]) -> TapBucket:
        videos = [row.frames for row in rows if row.frames is not None]
        wrapping = self._wrapping(len(videos[0].data) if videos else 0)
        texts = [wrapping.before + row.prompt.text + wrapping.after for row in rows]
        encoded = self._encode(texts, videos, wrapping)
        ids, attention = encoded["input_ids"], encoded["attention_mask"]
        offsets = encoded.pop("offset_mapping", None)
        attended = attention.bool()
        visual = torch.isin(ids, self.visual_ids) & attended  # (b, P)
        if videos and not visual.any(dim=1).all():
            raise ConfigError(
                f"{type(self.processor).__name__} put no visual token (ids "
                f"{self.visual_ids.tolist()}) into a prompt with a video; the chat template may "
                "lack a place for it"
            )
        steps = _steps(encoded, len(videos[0].data)) if videos else 0
        weights = []
        for i, row in enumerate(rows):
            spans = None
            if offsets is not None:
                shift = self._expansion(texts[i], offsets[i]) if videos else 0
                spans = _Spans(offsets[i], len(wrapping.before) + shift, row.prompt)
            weights.append(self._weights(visual[i], attended[i], spans, steps))
        if not self._own_positions and "position_ids" in self.argument_names:
            # Numbered from each row's first token, so that padding changes nothing, also in models
            # with learned absolute positions.
            encoded.setdefault("position_ids", (attention.cumsum(1) - 1).clamp(min=0))
        if missing := self._required - encoded.keys():
            raise DataError(
                f"the model wants {', '.join(sorted(missing))}, which its processor makes only of "
                "frames: it reads no item without a video"
            )
        averages = torch.stack(weights)
        return TapBucket(
            rows=torch.tensor([row.index for row in rows]),
            inputs={name: encoded[name] for name in encoded if name in self.argument_names},
            weights=averages,
            sparse=not bool((averages > 0).any(dim=1).all()),
        )

    def _wrapping(self, frames: int) -> Wrapping:
        if frames not in self._wrappings:
            kind, count = ("video", 1) if self._modality == "videos" else ("image", frames)
            content = [{"type": kind} for _ in range(count if frames else 0)]
            self._wrappings[frames] = wrap(self.processor, placeholders=content, chat=self.chat)
        return self._wrappings[frames]

    def _encode(
        self, texts: list[str], videos: Sequence[Frames], wrapping: Wrapping
    ) -> dict[str, Tensor]:
        options: dict[str, Any] = {
            "text": texts,
            "padding": True,
            "padding_side": self.padding_side,
            "return_tensors": "pt",
            "return_attention_mask": True,
            "add_special_tokens": wrapping.special_tokens,
            "return_offsets_mapping": self._wants_offsets,
        }
        if self.padding_multiple is not None:
            options["pad_to_multiple_of"] = self.padding_multiple
        if self.processor is not self.tokenizer:
            options |= self.processor_kwargs
            if "mm_token_type_ids" in self.argument_names:
                # Without them Qwen3-VL raises, and Qwen2.5-VL silently gives other states.
                options["return_mm_token_type_ids"] = True
            if videos and self._modality == "videos":
                options |= videos_of(videos, self.processor)
            elif videos:
                options |= images_of(videos, self.processor)
        encoded = self.processor(**options)
        wanted = self.argument_names | {"offset_mapping", "video_grid_thw"}
        return {
            name: self._tensor(name, value) for name, value in encoded.items() if name in wanted
        }

    def _tensor(self, name: str, value: Any) -> Tensor:
        """What ``forward`` takes, as a tensor: a silently dropped one would change the features."""
        try:
            return value if isinstance(value, Tensor) else torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{type(self.processor).__name__} gives `{name}` as {type(value).__name__}, which "
                "is no tensor, and the model wants it: this processor does not fit the tap"
            ) from error

    def _expansion(self, text: str, offsets: Tensor) -> int:
        """By how many characters the processor lengthened a text in front of the prompt.

        A placeholder becomes many tokens, with time stamps between them in some families. What
        follows the last placeholder stays, so the ends of both texts tell. Some tokenizers leave
        trailing blanks out; the tail is tokenized alone to see how many.
        """
        tail = text[-64:]
        alone = self.tokenizer(tail, add_special_tokens=False, return_offsets_mapping=True)
        dropped = len(tail) - max((end for _, end in alone["offset_mapping"]), default=0)
        return int(offsets[:, 1].max()) + dropped - len(text)

    def _weights(
        self, visual: Tensor, attended: Tensor, spans: _Spans | None, steps: int
    ) -> Tensor:
        rows = []
        for group in self.groups:
            if group.kind == "visual" and len(group.slots) == 1 and group.count == 1:
                rows.append(average(visual)[None])
            elif group.kind == "visual":
                rows.append(span_averages(visual, spans=group.count, steps=steps))
            elif group.kind == "last":
                last = torch.zeros_like(attended)
                last[attended.nonzero()[-1]] = True
                rows.append(average(last)[None])
            elif spans is not None:
                chosen = spans.title() if group.kind == "title" else spans.text(self.template)
                rows.append(average(chosen & attended & ~visual)[None])
        # Only generated tokens wanted: no slot of the prefill.
        return torch.cat(rows) if rows else torch.zeros(0, len(attended))


@dataclass(frozen=True)
class _Spans:
    """Which tokens of a row cover which part of its prompt."""

    offsets: Tensor  # (P, 2): first and past-the-last character of each token
    start: int  # where the prompt begins
    prompt: Prompt

    def title(self) -> Tensor:
        return self._covering(self.prompt.fields.get("title", ()))

    def text(self, template: PromptTemplate) -> Tensor:
        # An item whose columns are all blank has no text, though the template has words.
        known = bool(self.prompt.fields) or not template.columns
        return self._covering([(0, len(self.prompt.text))] if known else ())

    def _covering(self, spans: Iterable[Span]) -> Tensor:
        starts, ends = self.offsets[:, 0], self.offsets[:, 1]
        # Byte-level tokenizers report a token of mere blanks as empty, at its end.
        starts = torch.minimum(starts, ends - 1)
        covered = torch.zeros(len(self.offsets), dtype=torch.bool)
        for first, last in spans:
            covered |= (starts < self.start + last) & (ends > self.start + first)
        return covered


def _modality(processor: Any) -> Literal["videos", "images"]:
    """Whether frames go in as a video or, in families without video, as images."""
    if getattr(processor, "video_processor", None) is not None:
        return "videos"
    if getattr(processor, "image_processor", None) is not None:
        return "images"
    raise ConfigError(
        f"{type(processor).__name__} has neither a video nor an image processor, but the model "
        "reads visual tokens; give the model's own processor (AutoProcessor)"
    )


def _steps(encoded: Mapping[str, Tensor], frames: int) -> int:
    """Steps of time behind the visual tokens; Qwen's family merges frames into fewer."""
    grid = encoded.get("video_grid_thw")
    return frames if grid is None else int(grid[0, 0])


def _control_tokens(processor: Any, tokenizer: Any) -> re.Pattern[str] | None:
    """What a column's value must not hold, lest data act as control tokens."""
    tokens = {str(token) for token in tokenizer.all_special_tokens}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    tokens |= {token.content for token in added.values() if token.special}
    for name in ("image_token", "video_token", "audio_token"):
        tokens.add(str(getattr(processor, name, None) or ""))
    longest_first = sorted((t for t in tokens if t.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
