"""What a model's structure and configuration tell about how to feed it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.layers import find_decoder

_ID_NAMES = ("video_token_id", "video_token_index", "image_token_id", "image_token_index")
_GIVEN = ("input_ids", "attention_mask", "args", "kwargs")


def visual_ids(model: nn.Module, processor: Any) -> set[int]:
    """Token ids at whose places the model puts visual embeddings; empty for text-only models.

    Raises:
        ConfigError: If the processor takes pictures, but no token of a prompt stands for them.
    """
    if not hasattr(processor, "tokenizer"):
        return set()
    found = _ids_of_config(model) or _ids_of_processor(processor)
    kinds = ("video_processor", "image_processor")
    if all(getattr(processor, kind, None) is None for kind in kinds):
        return found  # empty for one that listens, which is read as text
    if reason := _why_nothing_is_visual(model, processor, found):
        raise ConfigError(
            f"{type(model).__name__} cannot be tapped for what it sees: {reason}; give its "
            "tokenizer as `processor` to tap what it reads"
        )
    return found


def _ids_of_config(model: nn.Module) -> set[int]:
    config = getattr(model, "config", None)
    holders = [config, getattr(config, "vision_config", None)]
    for holder in holders:
        ids = {getattr(holder, name, None) for name in _ID_NAMES}
        if found := {int(i) for i in ids if i is not None}:
            return found
    return set()


def _ids_of_processor(processor: Any) -> set[int]:
    # Last, as some families count the brackets around a picture among these.
    lists = [getattr(processor, f"{kind}_token_ids", []) for kind in ("video", "image")]
    return {int(i) for ids in lists for i in ids if i is not None}


def _why_nothing_is_visual(model: nn.Module, processor: Any, ids: set[int]) -> str | None:
    if hasattr(processor, "qformer_tokenizer"):
        return (
            "its Q-Former reads the prompt too, with a tokenizer of its own, so that its visual "
            "tokens are no function of the video alone"
        )
    names = [name for name, _ in find_decoder(model).module.named_modules()]
    if any("cross_att" in name or "crossatt" in name for name in names):
        return "its decoder looks at pictures by cross-attention, so no token of a prompt is visual"
    if not ids:
        return "neither its configuration nor its processor names a token that stands for a picture"
    return None


def argument_names(model: nn.Module) -> set[str]:
    """What ``forward`` takes by name, in the model or in the base model that it hands things to."""
    modules = [model, getattr(model, "base_model", model)]
    return {name for module in modules for name in inspect.signature(module.forward).parameters}


def required_names(model: nn.Module) -> set[str]:
    """What ``forward`` cannot do without, besides a text's ids and mask."""
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name for p in parameters if p.default is p.empty and p.name not in _GIVEN}


def numbers_positions(model: nn.Module) -> bool:
    """Whether the model numbers positions by itself, as multimodal rotary ones need the grid."""
    return any(hasattr(module, "get_rope_index") for module in model.modules())


def is_offloaded(model: nn.Module) -> bool:
    """Whether accelerate swaps weights in and out, which an early end would leave undone."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    return "disk" in places or (len(places) > 1 and "cpu" in places)


def input_device(model: nn.Module) -> torch.device:
    """Where a model wants its inputs, also while accelerate keeps its weights elsewhere."""
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    device: torch.device = embeddings.weight.device
    if device.type != "meta":
        return device
    hooks = [getattr(module, "_hf_hook", None) for module in (embeddings, model)]
    places = [getattr(hook, "execution_device", None) for hook in hooks]
    return next((torch.device(place) for place in places if place is not None), device)


def reading_part(model: nn.Module) -> nn.Module:
    """The part of a model that reads prompts: all of it, unless it is an assembly of models.

    An assembly (one that also speaks, say) has no forward pass of its own; its first part with
    decoder blocks is the one that reads.
    """
    if type(model).forward is not nn.Module.forward:
        return model
    for part in model.children():
        try:
            find_decoder(part)
        except ConfigError:
            continue
        if (places := getattr(model, "hf_device_map", None)) is not None:
            part.hf_device_map = places
        return part
    return model
