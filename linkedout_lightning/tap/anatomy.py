"""What a model's structure and configuration tell about how to feed it."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

_ID_NAMES = ("video_token_id", "video_token_index", "image_token_id", "image_token_index")


def visual_ids(model: nn.Module, processor: Any) -> set[int]:
    """Token ids at whose places the model puts visual embeddings; empty for text-only models."""
    if not hasattr(processor, "tokenizer"):
        return set()
    config = getattr(model, "config", None)
    ids = {getattr(config, name, None) for name in _ID_NAMES}
    if found := {int(i) for i in ids if i is not None}:
        return found
    # Last, as some families count the brackets around a picture among these.
    lists = [getattr(processor, f"{kind}_token_ids", []) for kind in ("video", "image")]
    return {int(i) for ids in lists for i in ids if i is not None}


def argument_names(model: nn.Module) -> set[str]:
    """What ``forward`` takes by name, in the model or in the base model that it hands things to."""
    modules = [model, getattr(model, "base_model", model)]
    return {name for module in modules for name in inspect.signature(module.forward).parameters}


def numbers_positions(model: nn.Module) -> bool:
    """Whether the model numbers positions by itself, as multimodal rotary ones need the grid."""
    return any(hasattr(module, "get_rope_index") for module in model.modules())


def is_offloaded(model: nn.Module) -> bool:
    """Whether accelerate swaps weights in and out, which an early end would leave undone."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    return len(places) > 1 and bool(places & {"cpu", "disk"})
