"""The rank of one target in the whole catalogue, counted and not sorted.

``B`` users, ``N`` items; column 0 of the scores is padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from linkedout_lightning.errors import DataError, NonFiniteError

# Cells compared at a time. On a CPU the comparison's result must stay in the cache (measured:
# 1024 x 19,100 scores take 4 ms in such pieces and 77 ms in one); a GPU wants few large kernels.
_CPU_CELLS, _GPU_CELLS = 1 << 20, 1 << 26


def target_ranks(scores: Tensor, target: Tensor, history: Tensor | None = None) -> Tensor:
    """Rank of each row's target among all the items that its history does not mask.

    Ties count against the model: ``rank = 1 + #{j : s_j >= s_target}`` over the competitors
    ``j``, which are the items other than the target, padding and the history. The target competes
    even where it stands in the history. Scores are compared and never written to, and no
    ``(B, N)`` mask is made.

    Args:
        scores: ``(B, N + 1)`` float, column 0 is padding and never ranks.
        target: ``(B,)`` int64 in ``1..N``.
        history: ``(B, Hmax)`` int64 in ``0..N``, 0-padded; repeats do no harm.

    Returns:
        ``(B,)`` int64 ranks, 1 is best.

    Raises:
        NonFiniteError: A score is NaN or infinite, masked items included: each comparison with NaN
            is false, which would count as a hit.
        DataError: Shapes do not fit, or an index is out of range.

    Example:
        >>> scores = torch.tensor([[9.0, 0.1, 0.7, 0.5, 0.7]])
        >>> target_ranks(scores, torch.tensor([3])), target_ranks(scores, torch.tensor([2]))
        (tensor([3]), tensor([2]))
        >>> target_ranks(scores, torch.tensor([3]), history=torch.tensor([[0, 2]]))
        tensor([2])
    """
    _check(scores, target, history)
    scores = scores.detach()
    target_scores = scores.gather(1, target[:, None])  # (B, 1)
    better = _count_at_least(scores, target_scores)
    # Every target is at least its own score, so taking it off and adding the best rank 1 cancel.
    better -= (scores[:, 0] >= target_scores[:, 0]).long()
    if history is not None and history.shape[1]:
        better -= _masked_at_least(scores, target_scores, target, history)
    return better


def _count_at_least(scores: Tensor, threshold: Tensor) -> Tensor:
    """``(B,)`` counts of scores at or above the row's threshold; raises on non-finite scores."""
    rows, columns = scores.shape
    cells = _CPU_CELLS if scores.device.type == "cpu" else _GPU_CELLS
    step = max(1, cells // columns)
    # Ones are added up as floats, which vectorises; float32 holds every count below 2**24.
    kind = torch.float32 if columns < 1 << 24 else torch.float64
    hits = torch.empty(min(step, rows), columns, dtype=kind, device=scores.device)
    counts = torch.empty(rows, dtype=torch.int64, device=scores.device)
    extremes = []
    for begin in range(0, rows, step):
        piece = scores[begin : begin + step]
        extremes.append(torch.stack(piece.aminmax()))  # NaN survives both, at half of isfinite
        out = hits[: len(piece)]
        torch.ge(piece, threshold[begin : begin + step], out=out)
        counts[begin : begin + step] = out.sum(1).long()
    if extremes and not bool(torch.stack(extremes).isfinite().all()):
        _raise_non_finite(scores)
    return counts


def _masked_at_least(scores: Tensor, threshold: Tensor, target: Tensor, history: Tensor) -> Tensor:
    """``(B,)`` counts of distinct history items, target apart, that reach the threshold."""
    history = history.sort(dim=1).values
    first = torch.ones_like(history, dtype=torch.bool)
    first[:, 1:] = history[:, 1:] != history[:, :-1]
    counts = first & (history != 0) & (history != target[:, None])
    return (counts & (scores.gather(1, history) >= threshold)).sum(1)


def _raise_non_finite(scores: Tensor) -> None:
    for row, values in enumerate(scores):
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            column = int(bad[0])
            raise NonFiniteError(
                f"scores must be finite, but row {row} has {values[column].item()} for item "
                f"{column} ({len(bad)} such value(s) in that row); masking is done here, so pass "
                "raw scores, and look for a division by zero or a fully masked attention row"
            )


def _check(scores: Tensor, target: Tensor, history: Tensor | None) -> None:
    if scores.ndim != 2 or scores.shape[1] < 2 or not scores.is_floating_point():
        raise DataError(
            f"scores must be a float tensor (B, N + 1), got {scores.dtype} {tuple(scores.shape)}"
        )
    rows, columns = scores.shape
    _check_indices("target", target, (rows,), 1, columns)
    if history is not None:
        if history.ndim != 2:
            raise DataError(f"history must be (B, Hmax), got {tuple(history.shape)}")
        _check_indices("history", history, (rows, history.shape[1]), 0, columns)


def _check_indices(
    name: str, index: Tensor, shape: tuple[int, ...], low: int, columns: int
) -> None:
    if index.shape != shape or index.dtype != torch.int64:
        raise DataError(
            f"{name} must be int64 of shape {shape}, got {index.dtype} {tuple(index.shape)}"
        )
    if index.numel():
        smallest, largest = (int(v) for v in index.aminmax())
        if smallest < low or largest >= columns:
            raise DataError(
                f"{name} holds item indices {smallest} to {largest}; with {columns} score columns "
                f"they must lie in {low}..{columns - 1}"
            )
