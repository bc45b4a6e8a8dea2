"""What a comparison's training costs, as formulas, and what a published model's extraction does.

Letters: B sequences a step, T their positions, U users, N items, C candidates of the loss, d item
vector size, L layers, S slots, R whitened rank, P numbers in the sequence model's matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from linkedout_lightning.sequence.backbones import build_backbone
from linkedout_lightning.tap.costs import (
    Load,
    ModelSize,
    Stack,
    Vision,
    bytes_moved,
    count_flops,
    floor_seconds,
)

QWEN_7B = ModelSize(
    text=Stack(
        blocks=28, weights=6_525_288_448, hidden=3584, attention=3584, keys=512, widest=18_944
    ),
    vision=Vision(
        stack=Stack(
            blocks=32, weights=629_964_800, hidden=1280, attention=1280, keys=1280, widest=3840
        ),
        patch_values=1176,
        patch_weights=1_505_280,
        merger_weights=44_564_480,
        merged=4,
        full_blocks=4,
        window=64,
    ),
    parameters=8_292_166_656,
    itemsize=2,
    head=544_997_376,
)
"""Qwen2.5-VL-7B, all blocks, counted from the published shapes."""

_SIDE = 28  # pixels of one token of that model
_FEWEST, _MOST = 128 * _SIDE**2, 768 * _SIDE**2  # pixels that its processor gives a frame
_FRAMES = 2  # that make one step of time
_BYTES_A_PARAMETER = 28  # AdamW in float32: four numbers read, three written
_BACKWARD = 3  # forward, and twice that for the gradients


@dataclass(frozen=True)
class Training:
    """One cell.

    Attributes:
        flops: Products of all its epochs and evaluations.
        moved: Bytes that its optimiser moves.
        steps: Training steps.
        parameters: Trainable numbers.
    """

    flops: float
    moved: float
    steps: int
    parameters: int

    def seconds(self, *, flops: float, bytes_per_second: float, step: float) -> float:
        """The longest of three floors: products, the optimiser's traffic, and starting steps.

        Args:
            flops: Operations a second in training.
            bytes_per_second: Of the device's memory.
            step: Least seconds of a step.
        """
        floor = floor_seconds(
            int(self.flops), int(self.moved), peak=flops, bandwidth=bytes_per_second
        )
        return max(floor, self.steps * step)


@dataclass(frozen=True)
class Catalogue:
    """What is trained on.

    Attributes:
        users: U, one training sequence and one question each.
        items: N.
        positions: Training positions of all users that predict something.
        layers: L.
        slots: S.
        hidden: D, bound of the rank.
    """

    users: int
    items: int
    positions: int
    layers: int
    slots: int
    hidden: int


def training_cost(
    settings: Mapping[str, Any], backbone: str, *, features: bool, ids: bool, data: Catalogue
) -> Training:
    """Cost of one cell, were it to train all its epochs.

    Products only: ``6·T·P`` and ``6·T·C·d`` of the training positions, ``6·C·L·S·R·d`` a step for
    the item vectors of features, ``2·U·(P·10 + N·d)`` an evaluation; C is N with the full loss, the
    items of a batch with the in-batch loss, the negatives and the targets with the sampled one.

    Args:
        settings: Those of the cell.
        backbone: Its sequence model.
        features: Whether it reads features.
        ids: Whether it has an ID table.
        data: Sizes.
    """
    dim, epochs, batch = settings["dim"], settings["epochs"], settings["batch_size"]
    length = settings["max_len"]
    matrices = _matrices(settings, backbone)
    steps = -(-data.users // batch)
    of_step = data.positions / steps
    candidates = {
        "full": float(data.items),
        "in_batch": min(of_step, data.items),
        "sampled": min(of_step + settings["negatives"], data.items),
    }[settings["loss"]]
    tokens = data.layers * data.slots * min(settings["rank"], data.hidden) * dim if features else 0
    epoch = (
        2 * _BACKWARD * data.positions * (matrices + candidates * dim)
        + 2 * _BACKWARD * steps * candidates * tokens
    )
    evaluation = 2 * data.users * (length * matrices + data.items * dim) + 2 * data.items * tokens
    parameters = matrices + (data.items * dim if ids else 0) + (tokens // max(1, data.slots))
    return Training(
        flops=epochs * (epoch + evaluation) + evaluation,
        moved=float(_BYTES_A_PARAMETER * parameters * steps * epochs),
        steps=steps * epochs,
        parameters=int(parameters),
    )


def _matrices(settings: Mapping[str, Any], backbone: str) -> int:
    options = {
        "sasrec": {"blocks": settings["blocks"], "heads": settings["heads"]},
        "gru4rec": {"layers": settings["gru_layers"]},
        "nextitnet": {"blocks": settings["blocks"]},
    }[backbone]
    with torch.device("meta"):
        model = build_backbone(backbone, settings["dim"], max_len=settings["max_len"], **options)
    return sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1)


def published_load(
    *, frames: int, height: int, width: int, text: int, slots: int, layers: int
) -> Load:
    """What one video sends through Qwen2.5-VL: patches by its own rounding, and the prompt.

    Args:
        frames: Frames shown; two make one step of time, none is a prompt alone.
        height: Of a frame, in pixels.
        width: Likewise.
        text: Tokens of the prompt.
        slots: Slots filled from the prefill.
        layers: Layers read.

    Example:
        >>> load = published_load(frames=8, height=384, width=683, text=41, slots=3, layers=4)
        >>> load.tokens, load.patches, load.frame_squares
        (1385, 5376, 7225344)
    """
    steps = -(-frames // _FRAMES)
    of_frame = 4 * _rows_and_columns(height, width)
    tokens = steps * of_frame // 4 + text
    return Load(
        tokens=tokens,
        squares=tokens**2,
        sequences=1,
        patches=steps * of_frame,
        frame_squares=steps * of_frame**2,
        slots=slots,
        layers=layers,
    )


def _rows_and_columns(height: int, width: int) -> int:
    """Tokens of a frame as that model's processor resizes it."""
    rows, columns = max(1, round(height / _SIDE)), max(1, round(width / _SIDE))
    area, pixels = height * width, rows * columns * _SIDE**2
    if pixels > _MOST:
        scale = math.sqrt(area / _MOST) * _SIDE
        return max(1, math.floor(height / scale)) * max(1, math.floor(width / scale))
    if pixels < _FEWEST:
        scale = math.sqrt(_FEWEST / area) / _SIDE
        return math.ceil(height * scale) * math.ceil(width * scale)
    return rows * columns


def extraction_seconds(
    size: ModelSize, load: Load, *, batch: int, peak: float, bandwidth: float
) -> float:
    """Least seconds of an item in a batch: the prefill's floor and that of what is generated.

    They run one after the other, and the second waits for memory: each token reads all weights.

    Args:
        size: The model, up to the deepest layer.
        load: One item.
        batch: Items at once.
        peak: Operations a second.
        bandwidth: Bytes a second.
    """
    of_batch = sum([load] * (batch - 1), load)
    flops = count_flops(size, of_batch)
    silent = replace(size, generated=0)
    read = bytes_moved(silent, of_batch)
    prefill = floor_seconds(flops.total - flops.generated, read, peak=peak, bandwidth=bandwidth)
    written = bytes_moved(size, of_batch) - read
    generated = floor_seconds(flops.generated, written, peak=peak, bandwidth=bandwidth)
    return (prefill + generated) / batch


def up_to(size: ModelSize, *, deepest: int, generated: int = 0) -> ModelSize:
    """The same model when a forward pass ends at a block, and with tokens to generate.

    Args:
        size: The model with all of its blocks, which are alike.
        deepest: Blocks that run.
        generated: Tokens generated for an item; all blocks run then.
    """
    blocks = size.text.blocks if generated else deepest
    text = replace(size.text, blocks=blocks, weights=size.text.weights // size.text.blocks * blocks)
    return replace(size, text=text, generated=generated)
