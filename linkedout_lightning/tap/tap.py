"""The frozen (video) language model whose layers are read.

Letters: B batch, b rows of one bucket, L tapped layers, S slots, P tokens, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from lightning import LightningModule
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.generation import GeneratedMean, end_ids, generate
from linkedout_lightning.tap.groups import parse_groups, pool
from linkedout_lightning.tap.hooks import reading
from linkedout_lightning.tap.identity import digest_of_model, digest_of_settings
from linkedout_lightning.tap.inputs import InputBuilder
from linkedout_lightning.tap.layers import CONVENTION, LayerSpec, find_decoder, resolve_layers
from linkedout_lightning.tap.loading import load_pretrained
from linkedout_lightning.tap.prompts import PromptTemplate
from linkedout_lightning.tap.types import TapBatch, TapBucket, TapInput, TapOutput


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
        frames: How many frames a video is to be sampled to by whoever decodes it; the tap itself
            takes any number.
        chat_template: Whether prompts go through the chat template; ``None`` for models that see
            and have one.
        padding_side: Where shorter prompts of a batch are padded.
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
        groups: Sequence[str] = ("visual", "text", "last"),
        prompt: str = "{title}",
        frames: int = 8,
        chat_template: bool | None = None,
        padding_side: Literal["left", "right"] = "left",
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
        self.groups = parse_groups(groups)
        self.frames = frames
        template = PromptTemplate(prompt, max_chars=max_chars)
        self._check_groups(template, padding_side)
        tokenizer = getattr(processor, "tokenizer", processor)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        visual_ids = _visual_ids(model, processor)
        self.sees = bool(visual_ids)
        has_template = bool(getattr(processor, "chat_template", None) or tokenizer.chat_template)
        self._builder = InputBuilder(
            processor,
            template=template,
            groups=self.groups,
            visual_ids=visual_ids,
            argument_names=_argument_names(model),
            chat=(self.sees and has_template) if chat_template is None else chat_template,
            padding_side=padding_side,
            own_positions=any(hasattr(module, "get_rope_index") for module in model.modules()),
            processor_kwargs=processor_kwargs,
        )
        self._end_ids = end_ids(model, tokenizer)
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
        return tuple(slot for group in self.groups for slot in group.slots)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the item table that the prompt wants."""
        return self._builder.template.columns

    @property
    def hidden_size(self) -> int:
        """D, the size of a hidden state."""
        config = getattr(self.decoder.module, "config", None)
        if (size := getattr(config, "hidden_size", None)) is not None:
            return int(size)
        return int(self._embeddings().embedding_dim)

    @property
    def prepare(self) -> InputBuilder:
        """Turns items into a `TapBatch`: ``tap.prepare(items)``.

        It holds no model, so it serves as a data loader's ``collate_fn`` in worker processes.
        """
        return self._builder

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
        device = self._embeddings().weight.device
        shape = (len(batch), len(self.layers), len(self.slots))
        features = torch.zeros(*shape, self.hidden_size, device=device)
        mask = torch.zeros(shape[0], shape[2], dtype=torch.bool, device=device)
        for bucket in batch.buckets:
            pooled, valid = self._extract(bucket.to(device))
            rows = bucket.rows.to(device)
            features[rows] = pooled.masked_fill(~valid[:, None, :, None], 0.0)
            mask[rows] = valid
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
        order = sorted(range(len(items)), key=lambda i: self._work(items[i]))
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
        import transformers

        config = getattr(self.model, "config", None)
        builder = self._builder
        settings = {
            "model": self._model_name,
            "revision": self._revision,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "attention": getattr(config, "_attn_implementation", None),
            "layers": list(self.layers),
            "layer_convention": CONVENTION,
            "groups": [group.name for group in self.groups],
            "prompt": builder.template.template,
            "max_chars": builder.template.max_chars,
            "chat_template": self._chat_template(),
            "processor": self._processor_digest(),
            "transformers": str(transformers.__version__),
        }
        if (quantization := getattr(config, "quantization_config", None)) is not None:
            settings["quantization"] = _quantization_digest(quantization)
        return settings

    def _extract(self, bucket: TapBucket) -> tuple[Tensor, Tensor]:
        """Features ``(b, L, S, D)`` and mask ``(b, S)`` of one bucket."""
        attended = bucket.inputs["attention_mask"].bool() if bucket.padded else None
        pooled: dict[int, Tensor] = {}

        def on_prefill(layer: int, state: Tensor) -> None:
            weights = bucket.weights.to(state.device)
            seen = None if attended is None else attended.to(state.device)
            pooled[layer] = pool(state, weights, seen).to(bucket.weights.device)

        inputs = dict(self._typed(bucket.inputs))
        mean = self._generate(inputs, on_prefill) if self._generated() else None
        if mean is None:
            deepest = max(self.layers)

            def on_state(layer: int, state: Tensor) -> bool:
                on_prefill(layer, state)
                return layer == deepest and not self._offloaded()

            with reading(self.decoder, self.layers, on_state):
                self.model(**inputs, use_cache=False)
        prefill = torch.stack([pooled.pop(layer) for layer in self.layers], dim=1)
        valid = bucket.weights.sum(dim=2) > 0
        if mean is None:
            return prefill, valid
        generated = torch.stack([mean.mean(layer).to(prefill.device) for layer in self.layers], 1)
        before = self.slots.index(next(slot for slot in self.slots if slot.startswith("gen")))
        parts = [prefill[:, :, :before], generated[:, :, None], prefill[:, :, before:]]
        always = torch.ones_like(valid[:, :1] if valid.shape[1] else prefill[:, 0, :0, 0]).bool()
        if not valid.shape[1]:
            always = torch.ones(len(prefill), 1, dtype=torch.bool, device=prefill.device)
        masks = [valid[:, :before], always, valid[:, before:]]
        return torch.cat(parts, dim=2), torch.cat(masks, dim=1)

    def _generate(self, inputs: dict[str, Tensor], on_prefill: Any) -> GeneratedMean:
        # Generation numbers the positions by itself, from the attention mask.
        inputs.pop("position_ids", None)
        mean = GeneratedMean(self._generated(), end_ids=self._end_ids)
        generate(
            self.model,
            inputs,
            decoder=self.decoder,
            layers=self.layers,
            on_prefill=on_prefill,
            mean=mean,
        )
        return mean

    def _generated(self) -> int:
        return next((group.count for group in self.groups if group.kind == "generated"), 0)

    def _typed(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Pixels in the model's floating type, as Hugging Face's examples cast them."""
        dtype = self._embeddings().weight.dtype
        for name, value in inputs.items():
            yield name, value.to(dtype) if value.is_floating_point() else value

    def _offloaded(self) -> bool:
        """Whether accelerate swaps weights in and out, which an early end would leave undone."""
        places = set(getattr(self.model, "hf_device_map", {}).values())
        return len(places) > 1 and bool(places & {"cpu", "disk"})

    def _embeddings(self) -> Any:
        return self.model.get_input_embeddings()  # type: ignore[operator]

    def _work(self, item: TapInput) -> tuple[tuple[int, ...], int]:
        shape = () if item.frames is None else tuple(item.frames.data.shape[:3])
        return shape, self._builder.length_hint(item)

    def _chat_template(self) -> str | None:
        if not self._builder.chat:
            return None
        processor, tokenizer = self._builder.processor, self._builder.tokenizer
        template = getattr(processor, "chat_template", None) or tokenizer.chat_template
        return digest_of_settings(template)

    def _processor_digest(self) -> str | None:
        processor = self._builder.processor
        if processor is self._builder.tokenizer:
            return None
        return digest_of_settings([processor.to_dict(), self._builder.processor_kwargs])

    def _check_groups(self, template: PromptTemplate, padding_side: str) -> None:
        kinds = {group.kind for group in self.groups}
        if "title" in kinds and "title" not in template.columns:
            raise ConfigError(
                f"`groups` holds 'title', but the prompt {template.template!r} has no {{title}}; "
                "put it into the prompt or leave the group out"
            )
        if "generated" not in kinds:
            return
        if padding_side == "right":
            raise ConfigError(
                "generating needs padding_side='left': after padding on the right a model goes on "
                "from padding"
            )
        can_generate = getattr(self.model, "can_generate", lambda: False)
        if not can_generate():
            raise ConfigError(
                f"`groups` asks for generated tokens, but {type(self.model).__name__} has no head "
                "to generate with; load it with its language-model head or leave the group out"
            )


def _visual_ids(model: nn.Module, processor: Any) -> set[int]:
    """Token ids at whose places the model puts visual embeddings; empty for text-only models."""
    if processor is getattr(processor, "tokenizer", processor):
        return set()
    config = getattr(model, "config", None)
    names = ("video_token_id", "video_token_index", "image_token_id", "image_token_index")
    ids = {getattr(config, name, None) for name in names}
    found = {int(i) for i in ids if i is not None}
    if found:
        return found
    # Last, as some families count the brackets around a picture among these.
    listed = [
        *getattr(processor, "video_token_ids", []),
        *getattr(processor, "image_token_ids", []),
    ]
    return {int(i) for i in listed if i is not None}


def _argument_names(model: nn.Module) -> set[str]:
    """What ``forward`` takes by name, in the model or in the base model that it hands things to."""
    modules = [model, getattr(model, "base_model", model)]
    return {name for module in modules for name in inspect.signature(module.forward).parameters}


def _quantization_digest(config: Any) -> str:
    settings = dict(config if isinstance(config, dict) else config.to_dict())
    settings.pop("gguf_file", None)  # a path of this machine; the revision is over its content
    return digest_of_settings(settings)
