"""Attention within the windows and frames of a vision tower, in few calls instead of one each.

The towers of Qwen's kind give all patches of a batch to a block at once, with the borders between
frames, or between windows of a frame. Transformers' SDPA path then calls the kernel once for each:
for 8 videos of Qwen2.5-VL some 800 times in every block, which leaves a GPU waiting for Python.
Here those of equal length go through one call together. It is the same sum in another grouping,
so results differ as they do between batches of other sizes.
"""

from __future__ import annotations

import inspect
import weakref
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

# Transformers hands the borders over to implementations that have "flash" in their name.
NAME = "linkedout_flash_windows"
_BORDERS = "cu_seqlens"


def join_windows(model: nn.Module) -> bool:
    """Let a model's vision tower attend to windows of equal length in one call.

    Args:
        model: A model of Hugging Face, changed in place.

    Returns:
        Whether it has such a tower, which used SDPA so far; others stay as they are.
    """
    from transformers import AttentionInterface

    config = getattr(model, "config", None)
    vision: Any = getattr(config, "vision_config", None)
    if getattr(vision, "_attn_implementation", None) != "sdpa" or not _has_borders(model):
        return False
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation({"vision_config": NAME})  # type: ignore[operator]
    return bool(vision._attn_implementation == NAME)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention within spans, as transformers calls it.

    Args:
        module: The caller.
        query: ``(1, heads, P, size)``, as ``key`` and ``value``.
        key: See above.
        value: See above.
        attention_mask: None.
        cu_seq_lens_q: Borders of the spans, ``(spans + 1,)``.
        scaling: Of the scores.
        rest: What other implementations take.

    Returns:
        ``(1, P, heads, size)`` and no weights.
    """
    del module, attention_mask, rest
    groups = _spans.of(cu_seq_lens_q)
    result = torch.empty_like(query.transpose(1, 2))  # (1, P, heads, size)
    for where in groups:  # (n, length)
        q, k, v = (part[0][:, where].transpose(0, 1) for part in (query, key, value))
        found = scaled_dot_product_attention(q, k, v, scale=scaling)  # (n, heads, length, size)
        result[0, where] = found.transpose(1, 2)
    return result, None


class _Spans:
    """Positions of spans by their length, found once for the borders that all blocks share."""

    def __init__(self) -> None:
        self._known: list[tuple[weakref.ref[Tensor], list[Tensor]]] = []

    def of(self, borders: Tensor) -> list[Tensor]:
        """One tensor ``(n, length)`` of positions for each length."""
        for known, groups in self._known:
            if known() is borders:
                return groups
        groups = _grouped(borders)
        # A forward pass has two of them: windows, and frames.
        self._known = [(weakref.ref(borders), groups), *self._known[:3]]
        return groups


_spans = _Spans()


def _grouped(borders: Tensor) -> list[Tensor]:
    edges = borders.tolist()
    starts: dict[int, list[int]] = {}
    for start, stop in pairwise(edges):
        if stop > start:
            starts.setdefault(stop - start, []).append(start)
    groups = []
    for length, found in starts.items():
        first = torch.tensor(found, device=borders.device)
        groups.append(first[:, None] + torch.arange(length, device=borders.device))
    return groups


def _has_borders(model: nn.Module) -> bool:
    return any(
        _BORDERS in inspect.signature(part.forward).parameters
        for part in model.modules()
        if type(part).__name__.endswith("VisionAttention")
    )
