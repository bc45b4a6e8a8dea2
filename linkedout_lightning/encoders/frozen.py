"""Whitened tokens of a catalogue, kept out of the module tree.

Letters: N items, L layers, S slots, R whitened rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class FrozenTokens:
    """Constants of training: in no ``state_dict``, sent to no DDP rank, copied by no ``deepcopy``.

    Not an ``nn.Module`` and its tensors not buffers, because DDP sends buffers to every rank at
    each step (also non-persistent ones), and ``deepcopy`` of a model (an averaged model, RecBole's
    FLOP counter) would double them. A copy on another device is made when a batch first needs it.

    Args:
        tokens: ``(L, N + 1, S, R)`` contiguous, row 0 zero.
        mask: ``(N + 1, S)`` bool.
    """

    def __init__(self, tokens: Tensor, mask: Tensor) -> None:
        self._home = tokens.device
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {tokens.device: (tokens, mask)}
        # Most catalogues have every slot of every item; the experts then skip the mask.
        self._complete = bool(mask[1:].all())

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTokens:
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Another process makes its own copies for its own devices.
        return {**self.__dict__, "_on": {self._home: self._on[self._home]}}

    @property
    def nbytes(self) -> int:
        """Bytes of one copy of the tokens."""
        tokens, _ = self._on[self._home]
        return tokens.numel() * tokens.element_size()

    def take(self, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Tokens ``(L, n, S, R)`` and mask ``(n, S)`` of catalogue rows ``(n,)``, 0 for padding."""
        tokens, mask = self._at(rows.device)
        layers, count, slots, rank = tokens.shape
        flat = tokens.view(layers, count, slots * rank).index_select(1, rows)
        valid = None if self._complete else mask.index_select(0, rows)
        return flat.view(layers, len(rows), slots, rank).to(dtype), valid

    def span(
        self, start: int, stop: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """As :meth:`take` for rows ``start`` to ``stop``, without a copy."""
        tokens, mask = self._at(device)
        valid = None if self._complete else mask[start:stop]
        return tokens[:, start:stop].to(dtype), valid

    def _at(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._on:
            tokens, mask = self._on[self._home]
            self._on[device] = (tokens.to(device), mask.to(device))
        return self._on[device]
