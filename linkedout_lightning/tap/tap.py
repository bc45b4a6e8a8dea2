"""The frozen (video) language model whose layers are read.

Letters: B batch, b rows of one bucket, L tapped layers, S slots, P tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from lightning import LightningModule
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.anatomy import (
    argument_names,
    input_device,
    is_offloaded,
    numbers_positions,
    required_names,
    visual_ids,
)
from linkedout_lightning.tap.compiling import STATIC_TOKENS, compile_blocks
from linkedout_lightning.tap.generation import GeneratedMean, end_ids, generate
from linkedout_lightning.tap.groups import pool
from linkedout_lightning.tap.hooks import reading
from linkedout_lightning.tap.identity import digest_of_model, numerics, wording
from linkedout_lightning.tap.inputs import InputBuilder
from linkedout_lightning.tap.layers import CONVENTION, LayerSpec, find_decoder, resolve_layers
from linkedout_lightning.tap.loading import load_pretrained
from linkedout_lightning.tap.prefix import PrefixSharing, together
from linkedout_lightning.tap.preparing import Preparer, check_generation, places, slot_names
from linkedout_lightning.tap.prompts import PromptTemplate
from linkedout_lightning.tap.types import TapBatch, TapBucket, TapInput, TapOutput
from linkedout_lightning.tap.views import USUAL_GROUPS, USUAL_PROMPT, View, asked, views_of

OnPrefill = Callable[[int, Tensor], None]
"""Called with a layer and its state of the prefill, ``(b, P, D)``."""


class VideoLLMTap(LightningModule):
    """Reads several layers of a frozen language model and pools them on the spot.

    Works for video and multi-image language models of Hugging Face, found by their structure, and
    for causal language models that only read text. Layer ``k`` means ``hidden_states[k]``: 0 the
    input embeddings (visual ones merged in), ``k`` the output of the k-th decoder block, the last
    one *before* the final norm. No state of all tokens is kept, the forward pass ends after the
    deepest layer wanted, and no logits are computed unless tokens are generated.

    Args:
        model: A causal or multimodal language model; it is frozen in place.
        processor: Its processor, or its tokenizer if it only reads text.
        layers: ``"all"``, an int for so many evenly spaced ones, or a list (negatives from the
            end).
        groups: What is averaged into each slot: ``"visual"`` (visual tokens), ``"visual:8"``
            (within 8 equal spans of time), ``"text"`` (the filled prompt), ``"title"`` (what came
            from ``{title}``), ``"last"`` (last token of the prefill), ``"generated:16"`` (16
            greedily generated tokens, fewer after an end of sequence).
        prompt: Template with column names in braces.
        views: Several prompts by name, in place of ``prompt`` and ``groups``: each with what it
            sees (the video, the cover, nothing) and its own groups. Slots are then called
            ``"name/visual"`` and so on. Every view is a forward pass of its own.
        share_prefix: Run what the prompts of several views about one video have in common, the
            video, once: the same features but for rounding. The first such batch is run both ways.
        frames: How many frames a video is to be sampled to by whoever decodes it; the tap itself
            takes any number.
        chat_template: Whether prompts go through the chat template; ``None`` for models that see
            and have one.
        padding_side: Where shorter prompts of a batch are padded.
        compile: Compile the blocks with ``torch.compile`` and pad prompts to multiples of 64
            tokens, so that few shapes occur; worth its minutes of compiling on a GPU only.
        max_chars: Column values are cut at this many characters.
        processor_kwargs: Further arguments of the processor's call, such as a size.
        model_name: The model's name in the fingerprint.
        revision: Its revision there; ``None`` for a digest of the weights.

    Raises:
        ConfigError: If a layer, group, template or the model itself does not fit.

    Example::

        tap = VideoLLMTap.from_pretrained(
            "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
            layers=[4, 12, -1], groups=["visual", "text", "last"], prompt="Title: {title}",
        )
        item = TapInput("42", frames=FrameSampler(tap.frames)("42.mp4"), columns={"title": "A cat"})
        output = tap.encode([item])  # features (1, 3, 3, D), mask (1, 3)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        processor: Any,
        layers: LayerSpec = "all",
        groups: Sequence[str] = USUAL_GROUPS,
        prompt: str = USUAL_PROMPT,
        views: Mapping[str, View | Mapping[str, Any]] | None = None,
        share_prefix: bool = False,
        frames: int = 8,
        chat_template: bool | None = None,
        padding_side: Literal["left", "right"] = "left",
        compile: bool = False,
        max_chars: int = 4000,
        processor_kwargs: Mapping[str, Any] | None = None,
        model_name: str | None = None,
        revision: str | None = None,
    ) -> None:
        super().__init__()
        if frames < 1:
            raise ConfigError(f"`frames` is {frames}; give 1 or more")
        if padding_side not in ("left", "right"):
            raise ConfigError(f'`padding_side` is {padding_side!r}; give "left" or "right"')
        self.model = model.requires_grad_(False).eval()
        self.decoder = find_decoder(model)
        self.layers = resolve_layers(layers, len(self.decoder))
        self.frames = frames
        tokenizer = getattr(processor, "tokenizer", processor)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        seen = visual_ids(model, processor)
        self.sees = bool(seen)
        self.views = views_of(views, prompt=prompt, groups=groups, sees=self.sees)
        self.groups = tuple(g for view in self.views.values() for g in view.parsed_groups)
        check_generation(self.groups, model, padding_side=padding_side)
        has_template = bool(getattr(processor, "chat_template", None) or tokenizer.chat_template)
        builders = [
            InputBuilder(
                processor,
                template=PromptTemplate(view.prompt, max_chars=max_chars),
                groups=view.parsed_groups,
                visual_ids=seen,
                argument_names=argument_names(model),
                required=required_names(model),
                chat=(self.sees and has_template) if chat_template is None else chat_template,
                padding_side=padding_side,
                padding_multiple=STATIC_TOKENS if compile else None,
                own_positions=numbers_positions(model),
                processor_kwargs=processor_kwargs,
            )
            for view in self.views.values()
        ]
        self._compiled = compile
        if compile:
            compile_blocks(self.decoder, deepest=max(self.layers))
        self._preparer = Preparer(builders, [view.sees for view in self.views.values()])
        self._places = places(self.views)
        able = [index for index, place in enumerate(self._places) if not place.generated]
        self._sharing = PrefixSharing(
            model,
            decoder=self.decoder,
            layers=self.layers,
            hidden_size=self.hidden_size,
            views=able if share_prefix else (),
            visual_ids=builders[0].visual_ids,
            pad_id=tokenizer.pad_token_id,
        )
        self._end_ids = end_ids(model, tokenizer)
        self._processor = processor
        self._model_name = model_name or type(model).__name__
        self._revision = revision

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str = "auto",
        device_map: Any = None,
        attn_implementation: str | None = None,
        gguf_file: str | None = None,
        trust_remote_code: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Load a model and its processor from a hub name or a folder.

        Args:
            name_or_path: Hub name, or a folder.
            revision: Branch, tag or commit on the hub.
            dtype: A torch type or its name; ``"auto"`` keeps the checkpoint's.
            device_map: Passed on to transformers.
            attn_implementation: ``"sdpa"``, ``"flash_attention_2"``, ``"eager"``…
            gguf_file: Name of the GGUF file, for text models.
            trust_remote_code: Whether code from the repository may run.
            model_kwargs: Further arguments of the model's ``from_pretrained``.
            **options: The class's own arguments (layers, groups, prompt…).

        Raises:
            ConfigError: If the repository holds no language model, or no safe weights.
            MissingExtraError: If transformers is not installed.
        """
        loaded = load_pretrained(
            str(name_or_path),
            revision=revision,
            dtype=dtype,
            device_map=device_map,
            attn_implementation=attn_implementation,
            gguf_file=gguf_file,
            trust_remote_code=trust_remote_code,
            processor=options.pop("processor", None),
            **(model_kwargs or {}),
        )
        identity = {"model_name": loaded.name, "revision": loaded.revision}
        return cls(loaded.model, processor=loaded.processor, **(identity | options))

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the S slots."""
        return slot_names(self.views)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the item table that the prompts want, each once."""
        return self._preparer.template.columns

    @property
    def sources(self) -> frozenset[str]:
        """What must be decoded for it: some of ``"video"`` and ``"cover"``."""
        seen = {view.sees for view in self.views.values()} if self.sees else set()
        return frozenset(seen - {"nothing"})

    @property
    def hidden_size(self) -> int:
        """D, the size of a hidden state."""
        config = getattr(self.decoder.module, "config", None)
        if (size := getattr(config, "hidden_size", None)) is not None:
            return int(size)
        return int(self._embeddings().embedding_dim)

    @property
    def prepare(self) -> Preparer:
        """Turns items into a `TapBatch`: ``tap.prepare(items)``.

        It holds no model, so it serves as a data loader's ``collate_fn`` in worker processes.
        """
        return self._preparer

    @property
    def device(self) -> torch.device:
        """Where the model wants its inputs, however it came there."""
        return input_device(self.model)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the model is frozen."""
        del mode
        return super().train(False)

    @torch.inference_mode()
    def extract(self, batch: TapBatch) -> TapOutput:
        """Run the model and pool.

        Args:
            batch: What `prepare` made, on any device.

        Returns:
            Features ``(B, L, S, D)`` on the model's device; float32 whatever the model's type.
        """
        device = self.device
        shape = (len(batch), len(self.layers), len(self.slots))
        features = torch.zeros(*shape, self.hidden_size, device=device)
        mask = torch.zeros(shape[0], shape[2], dtype=torch.bool, device=device)
        for alike in together(batch.buckets, self.prepare.sees, sharing=self._sharing.views):
            buckets = [bucket.to(device) for bucket in alike]
            for bucket, (pooled, valid) in zip(buckets, self._extract_all(buckets), strict=True):
                rows = bucket.rows.to(device)
                place = self._places[bucket.view]
                slots = slice(place.start, place.stop)
                features[rows, :, slots] = pooled.masked_fill(~valid[:, None, :, None], 0.0)
                mask[rows, slots] = valid
        return TapOutput(batch.item_ids, features, mask)

    def predict_step(self, batch: TapBatch, batch_idx: int) -> TapOutput:
        """What `lightning.Trainer.predict` calls."""
        del batch_idx
        return self.extract(batch)

    def forward(self, batch: TapBatch) -> TapOutput:
        """The same as `extract`."""
        return self.extract(batch)

    def encode(self, items: Sequence[TapInput], *, batch_size: int = 32) -> TapOutput:
        """Prepare and extract any number of items, those of like shape and length together.

        Args:
            items: The items.
            batch_size: How many go through the model at once.

        Returns:
            Features on the CPU, in the order of the items.
        """
        if batch_size < 1:
            raise ConfigError(f"`batch_size` is {batch_size}; give 1 or more")
        order = sorted(range(len(items)), key=lambda i: self.prepare.work_hint(items[i]))
        features = torch.zeros(len(items), len(self.layers), len(self.slots), self.hidden_size)
        mask = torch.zeros(len(items), len(self.slots), dtype=torch.bool)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            output = self.extract(self.prepare([items[i] for i in rows])).cpu()
            features[rows], mask[rows] = output.features, output.mask
        return TapOutput([item.item_id for item in items], features, mask)

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the features, frames apart, in a form for JSON.

        The first call for a model made in memory reads all its weights.
        """
        if self._revision is None:
            self._revision = digest_of_model(self.model)
        builder = self._preparer.builders[0]
        return {
            "model": self._model_name,
            "revision": self._revision,
            "layers": list(self.layers),
            "layer_convention": CONVENTION,
            **asked(self.views),
            "max_chars": builder.template.max_chars,
            **numerics(self.model),
            **({"compile": True} if self._compiled else {}),
            # As it was given: a builder may use a copy with settings of its own.
            **wording(self._processor, builder.chat, builder.processor_kwargs),
        }

    def _extract_all(self, buckets: Sequence[TapBucket]) -> list[tuple[Tensor, Tensor]]:
        """Features and masks of the views over one video, or of a single view."""
        features = self._sharing.features(
            buckets,
            run=lambda inputs, on_state: self._prefill(self._typed(inputs), on_state),
            separate=lambda bucket: self._extract(bucket)[0],
        )
        if features is None:
            return [self._extract(bucket) for bucket in buckets]
        return [(f, b.weights.sum(dim=2) > 0) for f, b in zip(features, buckets, strict=True)]

    def _extract(self, bucket: TapBucket) -> tuple[Tensor, Tensor]:
        """Features ``(b, L, S, D)`` and mask ``(b, S)`` of one bucket."""
        rows, slots, _ = bucket.weights.shape
        shape = (rows, len(self.layers), slots, self.hidden_size)
        features = torch.zeros(shape, device=bucket.weights.device)
        valid = bucket.weights.sum(dim=2) > 0

        def on_prefill(layer: int, state: Tensor) -> None:
            pooled = pool(state, bucket.weights.to(state.device), sparse=bucket.sparse)
            features[:, self.layers.index(layer)] = pooled.to(features.device)

        inputs = self._typed(bucket.inputs)
        place = self._places[bucket.view]
        if not place.generated:
            self._prefill(inputs, on_prefill)
            return features, valid
        mean = self._generate(inputs, on_prefill, tokens=place.generated)
        generated = torch.stack([mean.of(k).to(features.device) for k in self.layers], dim=1)
        at = place.generated_at
        always = torch.ones(rows, 1, dtype=torch.bool, device=valid.device)
        return (
            torch.cat([features[:, :, :at], generated[:, :, None], features[:, :, at:]], dim=2),
            torch.cat([valid[:, :at], always, valid[:, at:]], dim=1),
        )

    def _prefill(self, inputs: dict[str, Any], on_prefill: OnPrefill) -> None:
        deepest = max(self.layers)
        offloaded = is_offloaded(self.model)

        def on_state(layer: int, state: Tensor) -> bool:
            on_prefill(layer, state)
            return layer == deepest and not offloaded

        with reading(self.decoder, self.layers, on_state):
            self.model(**inputs, use_cache="past_key_values" in inputs)

    def _generate(
        self, inputs: dict[str, Tensor], on_prefill: OnPrefill, *, tokens: int
    ) -> GeneratedMean:
        # Generation numbers the positions by itself, from the attention mask.
        inputs.pop("position_ids", None)
        mean = GeneratedMean(tokens, end_ids=self._end_ids)
        generate(
            self.model,
            inputs,
            decoder=self.decoder,
            layers=self.layers,
            on_prefill=on_prefill,
            mean=mean,
        )
        return mean

    def _typed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Pixels in the model's floating type, as Hugging Face's examples cast them."""
        dtype = self._embeddings().weight.dtype
        return {
            name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in inputs.items()
        }

    def _embeddings(self) -> Any:
        return self.model.get_input_embeddings()  # type: ignore[operator]
