"""Counting what costs are made of: a model's matrices, and the rows that a batch sends there.

Sizes are read from the shapes of the weights, so that one count serves every family, also for a
model without values in its weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from linkedout_lightning.tap.anatomy import is_offloaded
from linkedout_lightning.tap.costs import Load, ModelSize, Stack, Vision
from linkedout_lightning.tap.layers import find_decoder
from linkedout_lightning.tap.types import TapBatch, TapBucket

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap

_MOST_COLOURS = 4  # a convolution with more input channels reads states, no pixels


def measure(tap: VideoLLMTap) -> tuple[ModelSize, ...]:
    """Count the part of a tap's model that runs for its layers: once for each view.

    Args:
        tap: The tap; its weights may be on any device, ``meta`` too.
    """
    sizes = []
    for view in tap.views.values():
        generated = sum(g.count for g in view.parsed_groups if g.kind == "generated")
        everything = bool(generated) or is_offloaded(tap.model)
        deepest = len(tap.decoder) if everything else max(tap.layers)
        sizes.append(size_of(tap.model, deepest=deepest, sees=tap.sees, generated=generated))
    return tuple(sizes)


def size_of(model: nn.Module, *, deepest: int, sees: bool = True, generated: int = 0) -> ModelSize:
    """Count the part of a model that runs for a number of decoder blocks.

    Args:
        model: A language model; its weights may be on any device, ``meta`` too.
        deepest: Blocks that run.
        sees: Whether it may have a vision tower.
        generated: Tokens that it generates for an item.
    """
    decoder = find_decoder(model)
    config = getattr(decoder.module, "config", None)
    hidden = int(getattr(config, "hidden_size", None) or _inputs(_first_matrix(decoder.blocks)))
    width, keys = _widths(decoder.blocks, config, hidden=hidden)
    blocks = decoder.blocks[:deepest]
    head = _head(model)
    return ModelSize(
        text=Stack(
            blocks=deepest,
            weights=sum(_met(block, config) for block in blocks),
            hidden=hidden,
            attention=width,
            keys=keys,
            widest=_widest(decoder.blocks),
        ),
        vision=_vision(model, decoder.module) if sees else None,
        parameters=sum(p.numel() for p in model.parameters()),
        itemsize=next(model.parameters()).element_size(),
        head=_own(head) if head is not None else 0,
        generated=generated,
    )


def loads_of(batch: TapBatch, sizes: Sequence[ModelSize], *, layers: int) -> tuple[Load, ...]:
    """What a batch sends through the model, for each view.

    Args:
        batch: The batch.
        sizes: What :func:`measure` says.
        layers: How many layers are read.
    """
    loads = [Load(0, 0, 0) for _ in sizes]
    for bucket in batch.buckets:
        loads[bucket.view] += _load_of(bucket, sizes[bucket.view], layers=layers)
    return tuple(loads)


def _load_of(bucket: TapBucket, size: ModelSize, *, layers: int) -> Load:
    rows, length = bucket.inputs["input_ids"].shape
    patches = squares = 0
    if size.vision is not None:
        pixels = [v for name, v in bucket.inputs.items() if name.startswith("pixel_values")]
        patches = sum(v.numel() for v in pixels) // size.vision.patch_values
        squares = sum(_frame_squares(v, bucket.inputs, patches, size.vision) for v in pixels)
    return Load(
        tokens=rows * length,
        squares=rows * length**2,
        sequences=rows,
        patches=patches,
        frame_squares=squares,
        slots=bucket.weights.shape[1],
        layers=layers,
    )


def _frame_squares(pixels: Tensor, inputs: dict[str, Tensor], patches: int, vision: Vision) -> int:
    """Sum over frames of the square of a frame's patches."""
    for name, grid in inputs.items():
        if name.endswith("grid_thw"):  # Qwen's way: patches in one row, their grid beside them
            return sum(int(t) * (int(h) * int(w)) ** 2 for t, h, w in grid.tolist())
    if pixels.ndim == 3 and pixels.shape[-1] == vision.patch_values:
        return patches * pixels.shape[1]  # patches of a frame in a row, for each frame
    if pixels.ndim < 4:
        return patches**2
    frame = math.prod(pixels.shape[-3:]) // vision.patch_values
    return patches * frame


def _vision(model: nn.Module, decoder: nn.Module) -> Vision | None:
    """Size of the vision tower: the longest stack of blocks outside of the decoder."""
    outside = list(_outside(model, decoder))
    stacks = [m for _, m in outside if isinstance(m, nn.ModuleList) and _first_matrix(m)]
    blocks = max(stacks, key=lambda m: (len(m), _met(m, None)), default=None)
    config = _vision_config(model)
    embedding = next((m for _, m in outside if _convolves(m)), None) or next(
        (m for _, m in outside if _own(m) and _inputs(m) == _pixels_of_patch(config)), None
    )
    if blocks is None or embedding is None:
        return None
    inside = {id(m) for m in blocks.modules()} | {id(embedding)}
    behind = [m for _, m in outside if id(m) not in inside and _own(m)]
    hidden = _inputs(_first_matrix(blocks))
    merged = max((_inputs(m) // hidden for m in behind if _inputs(m) % hidden == 0), default=1)
    values = _inputs(embedding)
    window = getattr(config, "window_size", None)
    everywhere = getattr(config, "fullatt_block_indexes", None)
    windowed = isinstance(window, int) and isinstance(everywhere, list | tuple)
    full = len(everywhere) if windowed and everywhere is not None else len(blocks)
    side = int(window) // int(config.patch_size) if windowed and window is not None else 0
    return Vision(
        stack=Stack(
            blocks=len(blocks),
            weights=_met(blocks, None),
            hidden=hidden,
            attention=hidden,
            keys=hidden,
            widest=_widest(blocks),
        ),
        patch_values=values,
        patch_weights=_own(embedding),
        merger_weights=sum(map(_own, behind)),
        merged=max(1, merged),
        full_blocks=full,
        window=side**2,
    )


def _outside(model: nn.Module, decoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that see pictures: outside of the decoder, its head, and towers that stay idle."""
    inside = {id(m) for m in decoder.modules()}
    head = _head(model)
    names = {name for name, _ in model.named_modules()}
    idle = {n for n in names if n.endswith("image_tower") and n.replace("image", "video") in names}
    for name, module in model.named_modules():
        if id(module) in inside or module is head or not name:
            continue
        if not any(name == other or name.startswith(f"{other}.") for other in idle):
            yield name, module


def _widths(blocks: nn.ModuleList, config: Any, *, hidden: int) -> tuple[int, int]:
    """Heads times their size, of queries and of keys; the mean, where blocks differ."""
    try:
        heads = int(getattr(config, "num_attention_heads", None) or 1)
        width = heads * int(getattr(config, "head_dim", None) or hidden // heads)
        return width, width * int(getattr(config, "num_key_value_heads", None) or heads) // heads
    except Exception:
        # Gemma 4 refuses to name one figure where its blocks have several.
        found = []
        for kind in ("q_proj", "k_proj"):
            parts = [m for name, m in blocks.named_modules() if name.endswith(kind)]
            found.append(round(sum(_shape(m)[0] for m in parts) / len(blocks)))
        return found[0], found[1]


def _head(model: nn.Module) -> nn.Module | None:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return head if isinstance(head, nn.Module) else None


def _met(module: nn.Module, config: Any) -> int:
    """Numbers of matrices that one token meets in a module and what it holds."""
    share = 1.0
    count = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if chosen := getattr(config, "num_experts_per_tok", None):
        share = int(chosen) / int(count or chosen)
    total = 0
    for part in module.modules():
        total += _own(part)
        if count:  # experts that are stacked in one tensor
            stacked = [p for p in part.parameters(recurse=False) if p.ndim == 3]
            total += int(share * sum(p.numel() for p in stacked))
    return total


def _own(module: nn.Module) -> int:
    """Numbers of a module's own matrix: linear, or a convolution that does not overlap."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Embedding) or not isinstance(weight, Tensor) or weight.ndim < 2:
        return 0
    return weight.numel()


def _first_matrix(module: nn.Module) -> nn.Module | None:
    return next((m for m in module.modules() if _own(m)), None)


def _convolves(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Conv3d) and module.in_channels <= _MOST_COLOURS


def _pixels_of_patch(config: Any) -> int:
    """Numbers of a patch by the configuration, for towers that embed it by a plain matrix."""
    side = getattr(config, "patch_size", None)
    return 3 * side**2 if isinstance(side, int) else 0


def _inputs(module: nn.Module | None) -> int:
    """Numbers that one row of a module's product takes."""
    return math.prod(_shape(module)[1:]) if module is not None else 1


def _shape(module: nn.Module) -> tuple[int, ...]:
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else ()


def _widest(blocks: Iterable[nn.Module]) -> int:
    """The most numbers that a token has between two products of a block."""
    parts = (part for block in blocks for part in block.modules() if _own(part))
    return max((max(_shape(part)[:2]) for part in parts), default=0)


def _vision_config(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    return getattr(config, "vision_config", None)
