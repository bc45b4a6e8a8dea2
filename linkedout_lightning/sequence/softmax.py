r"""Softmax cross-entropy against a table of item vectors, its logits never whole in memory.

``P`` rows (positions), ``C`` columns (candidate items), ``H`` item dim.

The gradient is made in the same pass as the loss. For :math:`\ell = -\log p_{t}` the gradient on
the logits is :math:`p - 1_t`, so while a chunk's probabilities are at hand two further products
give its share of both gradients: three products in all, as for the unchunked loss, and nothing is
computed twice. ``torch.nn.functional.linear_cross_entropy`` (torch 2.13) does likewise, but has no
per-row exclusions and needs that version.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of one chunk, in bytes. Small enough for a CPU's outer cache, large enough that adding a
# chunk's share to the (C, H) gradient, which is read and written whole each time, does not count.
_CPU_BYTES, _GPU_BYTES = 16 << 20, 512 << 20


def softmax_nll(
    states: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    target_bias: Tensor | None = None,
    excluded: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Mean of :math:`-\log \mathrm{softmax}(s W^\top + b)_{t}` over the rows.

    Args:
        states: ``(P, H)`` float.
        items: ``(C, H)`` float.
        target: ``(P,)`` int64, the column of each row's label.
        bias: ``(C,)`` float added to every row's logits; ``-inf`` takes a column out. No gradient.
        target_bias: ``(P,)`` float added to the label's logit alone. No gradient.
        excluded: ``(P, E)`` int64, columns left out of a row's softmax. The label always stays in,
            so its own column is a harmless filler.
        chunk_size: Rows at a time; by default what fits a cache.

    Returns:
        Scalar. Under autocast the products run in autocast's type. With no rows, zero.
    """
    if chunk_size is None:
        budget = _CPU_BYTES if states.device.type == "cpu" else _GPU_BYTES
        chunk_size = max(32, budget // (4 * max(1, len(items))))
    loss: Tensor = _SoftmaxNLL.apply(  # type: ignore[no-untyped-call]
        states, items, target, bias, target_bias, excluded, chunk_size
    )
    return loss


class _SoftmaxNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        items: Tensor,
        target: Tensor,
        bias: Tensor | None,
        target_bias: Tensor | None,
        excluded: Tensor | None,
        chunk_size: int,
    ) -> Tensor:
        device = states.device.type
        kind = states.dtype
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
        rows, wants_grad = len(states), any(ctx.needs_input_grad[:2])
        x, table = states.to(kind), items.to(kind)
        accumulate = torch.promote_types(items.dtype, torch.float32)
        total = torch.zeros((), dtype=accumulate, device=states.device)
        grad_states = torch.empty_like(states) if wants_grad else None
        grad_items = items.new_zeros(items.shape, dtype=accumulate) if wants_grad else None
        with torch.autocast(device, enabled=False):
            for begin in range(0, rows, chunk_size):
                part = slice(begin, begin + chunk_size)
                label = target[part, None]  # (c, 1)
                logits = _logits(
                    x[part],
                    table,
                    label,
                    bias,
                    None if target_bias is None else target_bias[part, None],
                    None if excluded is None else excluded[part],
                )
                log_p = torch.log_softmax(logits, 1)
                total -= log_p.gather(1, label).to(accumulate).sum()
                if grad_states is None or grad_items is None:
                    continue
                slope = log_p.exp_()  # d(loss) / d(logits), times P
                slope.scatter_add_(1, label, slope.new_full((), -1.0).expand_as(label))
                grad_states[part] = slope @ table
                if kind == accumulate:
                    grad_items.addmm_(slope.T, x[part])
                else:
                    grad_items += slope.T @ x[part]
        count = max(rows, 1)
        if grad_states is not None and grad_items is not None:
            ctx.save_for_backward(grad_states.div_(count), grad_items.div_(count).to(items.dtype))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_items = ctx.saved_tensors
        return (grad_states * grad, grad_items * grad, None, None, None, None, None)


def _logits(
    x: Tensor,
    table: Tensor,
    label: Tensor,
    bias: Tensor | None,
    target_bias: Tensor | None,
    excluded: Tensor | None,
) -> Tensor:
    """``(c, C)`` logits of a chunk with biases and exclusions."""
    logits = x @ table.T
    if bias is not None:
        logits += bias
    if target_bias is not None or excluded is not None:
        own = logits.gather(1, label)
        if target_bias is not None:
            own += target_bias
        if excluded is not None:
            logits.scatter_(1, excluded, -torch.inf)
        logits.scatter_(1, label, own)
    return logits
