"""Work on the real positions of padded sequences only.

On MicroLens-50K a user has 4.2 training positions of 10: a feed-forward layer over the padded
``(B, M, D)`` tensor spends more than half of its time on zeros. ``P`` counts the real positions.
"""

from __future__ import annotations

from torch import Tensor


class Packing:
    """Move between padded ``(B, M, D)`` tensors and the ``(P, D)`` rows of their real positions.

    Args:
        mask: ``(B, M)`` bool, true at real positions.
        dense: Keep padded positions as rows too. Slower and without data-dependent shapes, which
            is what tracing and export want.

    Example:
        >>> import torch
        >>> packing = Packing(torch.tensor([[False, True], [True, True]]))
        >>> packing.pack(torch.arange(4.0).view(2, 2, 1)).flatten()
        tensor([1., 2., 3.])
        >>> packing.unpack(torch.ones(3, 1)).flatten()
        tensor([0., 1., 1., 1.])
    """

    def __init__(self, mask: Tensor, *, dense: bool = False) -> None:
        self.mask = mask
        self._index = None if dense else mask.flatten().nonzero().squeeze(1)  # (P,)

    def pack(self, padded: Tensor) -> Tensor:
        """``(B, M, D)`` to ``(P, D)``."""
        flat = padded.reshape(-1, padded.shape[-1])
        # index_select and not flat[index]: the latter's backward sorts and is many times slower.
        return flat if self._index is None else flat.index_select(0, self._index)

    def unpack(self, rows: Tensor) -> Tensor:
        """``(P, D)`` to ``(B, M, D)``, zero at padding (unless dense)."""
        if self._index is not None:
            flat = rows.new_zeros(self.mask.numel(), rows.shape[-1])
            rows = flat.index_copy(0, self._index, rows)
        return rows.view(*self.mask.shape, rows.shape[-1])
