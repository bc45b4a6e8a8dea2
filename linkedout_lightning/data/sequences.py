"""Variable-length sequences as dense, left-padded index tensors, cut by indexing.

A sequence is a range ``start..stop`` of one flat tensor of items. ``Q`` ranges, ``W`` width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gather_ranges(flat: Tensor, start: Tensor, stop: Tensor, width: int | None = None) -> Tensor:
    """Cut ranges out of ``flat``, aligned at their ends.

    Args:
        flat: ``(E,)`` int64.
        start: ``(Q,)`` first position of each range.
        stop: ``(Q,)`` position after the last; an empty range gives a row of zeros.
        width: ``W``; longer ranges lose their oldest entries. By default the longest fits (and
            ``W`` is at least 1).

    Returns:
        ``(Q, W)`` int64, 0 on the left where a range is shorter than ``W``.

    Example:
        >>> gather_ranges(torch.tensor([5, 6, 7, 8]), torch.tensor([0, 3]), torch.tensor([3, 4]))
        tensor([[5, 6, 7],
                [0, 0, 8]])
    """
    if width is None:
        width = max(1, int((stop - start).max())) if len(start) else 1
    position = stop[:, None] + torch.arange(-width, 0, device=flat.device)  # (Q, W)
    valid = position >= start[:, None]
    return flat[position.clamp_(min=0, max=max(0, len(flat) - 1))] * valid


def windows(start: Tensor, stop: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cut ranges into pieces of at most ``size + 1`` that overlap by one.

    Aligned at the end, so that every transition from an item to the next is in exactly one piece
    and only the oldest piece is short. Ranges shorter than 2 have no transition and give no piece.

    Args:
        start: ``(Q,)``.
        stop: ``(Q,)``.
        size: Transitions a piece, the model's longest input.

    Returns:
        Starts and stops of the pieces, in the order of the ranges, oldest piece first.

    Example:
        >>> windows(torch.tensor([0, 6]), torch.tensor([6, 8]), size=3)
        (tensor([0, 2, 6]), tensor([3, 6, 8]))
    """
    transitions = (stop - start - 1).clamp(min=0)
    pieces = (transitions + size - 1) // size  # (Q,)
    owner = torch.repeat_interleave(torch.arange(len(start)), pieces)
    first = pieces.cumsum(0) - pieces
    from_end = pieces[owner] - 1 - (torch.arange(len(owner)) - first[owner])
    piece_stop = stop[owner] - from_end * size
    return torch.maximum(start[owner], piece_stop - size - 1), piece_stop
