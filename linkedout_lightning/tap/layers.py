"""Where a language model keeps its decoder blocks, and which of their states are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from linkedout_lightning.errors import ConfigError

LayerSpec = int | Sequence[int] | Literal["all"]
"""Layers as a user names them: ``"all"``, a count of evenly spaced ones, or the layers."""

CONVENTION = "hidden_states[k]: 0 = input embeddings, k = output of block k, no final norm"
"""What a layer's number means; part of every fingerprint."""

_BLOCKS = ("layers", "h", "blocks")
_INNER = ("language_model", "text_model", "model", "decoder", "transformer")


@dataclass(frozen=True)
class Decoder:
    """The stack of blocks that makes the hidden states.

    Attributes:
        module: The module that owns the blocks.
        blocks: The blocks, in the order of the forward pass.
    """

    module: nn.Module
    blocks: nn.ModuleList

    def __len__(self) -> int:
        return len(self.blocks)


def find_decoder(model: nn.Module) -> Decoder:
    """Find the decoder blocks of a causal or multimodal language model.

    Wrappers are opened through Hugging Face's ``get_decoder()``, repeatedly, as some of them hold
    a whole causal model, and through the usual attribute names where it leads nowhere.

    Raises:
        ConfigError: If the model is an encoder-decoder, or no list of blocks is found.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ConfigError(
            f"{type(model).__name__} is an encoder-decoder: its decoder reads no prompt whose "
            "layers could be tapped; give a decoder-only language model"
        )
    module, seen = model, set[int]()
    while id(module) not in seen:
        seen.add(id(module))
        for name in _BLOCKS:
            blocks = getattr(module, name, None)
            if isinstance(blocks, nn.ModuleList) and len(blocks):
                return Decoder(module, blocks)
        module = _inner(module, seen)
    raise ConfigError(
        f"no decoder blocks found in {type(model).__name__}: neither get_decoder() nor "
        f"{', '.join(_INNER)} leads to a module list named {', '.join(_BLOCKS)}"
    )


def _inner(module: nn.Module, seen: set[int]) -> nn.Module:
    candidates = [getattr(module, name, None) for name in _INNER]
    if callable(get_decoder := getattr(module, "get_decoder", None)):
        candidates.insert(0, get_decoder())
    for candidate in candidates:
        if isinstance(candidate, nn.Module) and id(candidate) not in seen:
            return candidate
    return module


def resolve_layers(layers: LayerSpec, num_blocks: int) -> tuple[int, ...]:
    """Turn a layer specification into indices of ``hidden_states``.

    Args:
        layers: ``"all"`` for ``0 .. num_blocks``; an int for that many evenly spaced layers, the
            last block among them; or the layers themselves, negatives counted from the end.
        num_blocks: How many decoder blocks the model has.

    Returns:
        Non-negative indices, in the order given.

    Raises:
        ConfigError: If a value is out of range, comes twice, or is of another type.

    Example:
        >>> resolve_layers([0, 4, -1], 12)
        (0, 4, 12)
        >>> resolve_layers(4, 30)
        (8, 15, 23, 30)
        >>> resolve_layers("all", 3)
        (0, 1, 2, 3)
    """
    if layers == "all":
        return tuple(range(num_blocks + 1))
    if isinstance(layers, int) and not isinstance(layers, bool):
        if not 1 <= layers <= num_blocks:
            raise ConfigError(
                f"`layers` asks for {layers} evenly spaced layers, but the model has {num_blocks} "
                f'decoder layers; give a count from 1 to {num_blocks}, a list, or "all"'
            )
        # Halves round up, so that spacing does not depend on Python's rounding to even.
        return tuple((2 * num_blocks * (i + 1) + layers) // (2 * layers) for i in range(layers))
    listed = isinstance(layers, Iterable) and not isinstance(layers, str)
    named = [*layers] if listed else []  # type: ignore[misc]
    if not named or any(isinstance(k, bool) or not isinstance(k, int) for k in named):
        raise ConfigError(
            f'`layers` is {layers!r}; give "all", a count, or a list of integers such as [0, 4, -1]'
        )
    resolved = [_resolve_one(int(layer), num_blocks) for layer in named]
    for layer in resolved:
        if resolved.count(layer) > 1:
            raise ConfigError(
                f"`layers` = {named} names layer {layer} twice (negatives count from "
                f"{num_blocks}); give each layer once"
            )
    return tuple(resolved)


def _resolve_one(layer: int, num_blocks: int) -> int:
    if -num_blocks - 1 <= layer <= num_blocks:
        return layer % (num_blocks + 1)
    raise ConfigError(
        f"`layers` holds {layer}, but the model has {num_blocks} decoder layers; give values from "
        f"0 to {num_blocks}, or negative ones"
    )
