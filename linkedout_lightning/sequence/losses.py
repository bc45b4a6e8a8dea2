r"""Training losses of next-item prediction, as pure functions on real positions only.

``P`` positions, ``C`` candidate columns, ``N`` items, ``K`` negatives, ``H`` item dim, ``s`` a
position's state, ``v_j`` an item's vector, ``t`` the position's target. Every loss is a mean over
positions of :math:`-\log \mathrm{softmax}` over some candidates:

========== ================================ ================================================
loss       candidates                       logit
========== ================================ ================================================
full       the whole catalogue              :math:`s \cdot v_j`
in_batch   the items of the batch           :math:`s \cdot v_j - \log p_j`
sampled    the target and K drawn items     :math:`s \cdot v_j`, less :math:`\log K q_j` if drawn
========== ================================ ================================================
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from linkedout_lightning.sequence.softmax import softmax_nll


def full_loss(
    states: Tensor, table: Tensor, target: Tensor, *, chunk_size: int | None = None
) -> Tensor:
    """Softmax over the catalogue.

    Args:
        states: ``(P, H)``.
        table: ``(N + 1, H)`` vectors of all items; row 0 is padding and is no candidate.
        target: ``(P,)`` int64 in ``1..N``.
        chunk_size: Rows whose logits are in memory at a time; by default what fits a cache.

    Example:
        >>> full_loss(torch.zeros(2, 4), torch.randn(9, 4), torch.tensor([1, 8])).exp()
        tensor(8.)
    """
    return softmax_nll(states, table[1:], target - 1, chunk_size=chunk_size)


def in_batch_loss(
    states: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    log_popularity: Tensor,
    multiplicity: Tensor,
    own_columns: Tensor,
    chunk_size: int | None = None,
) -> Tensor:
    r"""MicroLens' loss: softmax over the batch's items, corrected for their popularity.

    MicroLens gives one column to each of the batch's :math:`B (M+1)` positions, so an item that
    occurs :math:`m_j` times has :math:`m_j` equal columns; that is how the correction
    :math:`-\log p_j` becomes an estimate of the softmax over the catalogue. Here each distinct
    item has one column with :math:`+\log m_j`, which is the same sum term for term, at fewer
    columns. Columns of items in the row's own sequence are masked, among them the other copies of
    the label, so the label's logit takes no :math:`\log m`.

    Args:
        states: ``(P, H)``.
        items: ``(C, H)`` vectors of the batch's distinct items.
        target: ``(P,)`` int64, the label's column.
        log_popularity: ``(C,)`` :math:`\log p_j`, the item's share of the training interactions;
            ``+inf`` takes a column (padding) out.
        multiplicity: ``(C,)`` occurrences of the item in the batch, :math:`m_j`.
        own_columns: ``(P, E)`` int64 columns of the items in each row's own sequence.
        chunk_size: Rows whose logits are in memory at a time; by default what fits a cache.
    """
    copies = multiplicity.clamp(min=1).to(log_popularity.dtype).log()
    return softmax_nll(
        states,
        items,
        target,
        bias=copies - log_popularity,
        target_bias=-copies[target],
        excluded=own_columns,
        chunk_size=chunk_size,
    )


def sampled_loss(
    states: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    target: Tensor,
    negative_items: Tensor,
    log_expected: Tensor,
) -> Tensor:
    r"""Softmax over the target and ``K`` negatives shared by all rows.

    With :math:`\log K q_j` taken off the drawn items, the sum over them is an unbiased estimate of
    :math:`\sum_{j \ne t} \exp(s \cdot v_j)`, the rest of the catalogue's softmax (Bengio and
    Senecal, 2008). Draws that hit the row's target are masked, which the estimate needs too: the
    target's own term is there exactly.

    Args:
        states: ``(P, H)``.
        positives: ``(P, H)`` vectors of the targets.
        negatives: ``(K, H)`` vectors of the drawn items.
        target: ``(P,)`` int64 item of each row.
        negative_items: ``(K,)`` int64, the drawn items.
        log_expected: ``(K,)`` :math:`\log K q_j`, log of how often the item is drawn on average.
    """
    if not len(states):
        return states.sum() * 0.0
    positive = (states * positives).sum(1, keepdim=True)  # (P, 1)
    drawn = (states @ negatives.T).to(positive.dtype) - log_expected  # (P, K)
    drawn = drawn.masked_fill(target[:, None] == negative_items, -torch.inf)
    label = torch.zeros(len(states), dtype=torch.int64, device=states.device)
    return F.cross_entropy(torch.cat([positive, drawn], 1).float(), label)
