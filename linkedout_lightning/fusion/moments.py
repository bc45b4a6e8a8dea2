"""Means and covariances of feature tokens, gathered chunk by chunk.

Letters: B items of a chunk, L layers, S slots, D LLM hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from linkedout_lightning.errors import NonFiniteError

# A Gram matrix in float64 takes twice the time of float32 (measured, AVX-512). Up to this width
# it costs about a second for 20,000 items; beyond it, chunks are multiplied in float32 and only
# summed in float64.
_EXACT_WIDTH = 1024
# Beyond it a Gram matrix is made in so many stripes, each up to the diagonal: 9/16 of the products.
_STRIPES = 8


class TokenMoments:
    """Streaming mean of each slot and covariance about those means, for each layer.

    Every slot is centred on its own mean and all share one covariance: slots differ in where they
    lie (visual tokens against text tokens), and about one common mean that difference would be the
    widest direction of the whole cloud though it tells nothing about an item.

    Args:
        layers: L.
        slots: S.
        features: D.

    Example:
        >>> moments = TokenMoments(layers=1, slots=1, features=2)
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]]).view(2, 1, 1, 2)
        >>> moments.update(x, torch.ones(2, 1, dtype=torch.bool))
        >>> moments.mean().tolist(), moments.covariance().round(decimals=6).tolist()
        ([[[2.0, 0.0]]], [[[1.0, 0.0], [0.0, 0.0]]])
    """

    def __init__(self, *, layers: int, slots: int, features: int) -> None:
        self.count = torch.zeros(slots, dtype=torch.float64)
        self._exact = features <= _EXACT_WIDTH
        self._dtype = torch.float64 if self._exact else torch.float32
        # Sums are about a shift near the mean: LLM states have a few coordinates whose mean is
        # hundreds of times their spread, and E[x²] − E[x]² would cancel there.
        self._shift = torch.zeros(layers, slots, features, dtype=self._dtype)
        self._sum = torch.zeros(layers, slots, features, dtype=torch.float64)
        self._scatter = torch.zeros(layers, features, features, dtype=torch.float64)

    @property
    def tolerance(self) -> float:
        """Eigenvalues below this share of the largest one are rounding noise."""
        # No larger: an LLM's massive activations have variances 1e6 times the others'.
        return 1e-12 if self._exact else 1e-8

    @property
    def rank_limit(self) -> int:
        """Rank that a covariance can have at most: tokens less one for each mean taken off."""
        return int(self.count.sum() - (self.count > 0).sum())

    def update(self, features: Tensor, mask: Tensor) -> None:
        """Add a chunk.

        Args:
            features: ``(B, L, S, D)``, any floating dtype; what stands in masked slots is ignored.
            mask: ``(B, S)`` bool, True where a slot holds a token.

        Raises:
            NonFiniteError: A valid token holds NaN or infinity.
        """
        features, mask = features.detach().cpu(), mask.detach().cpu()
        valid = mask.unsqueeze(-1)  # (B, S, 1)
        fresh = (self.count == 0) & mask.any(0)  # (S,) slots seen for the first time
        first = mask.int().argmax(0)  # (S,) the first item that has the slot
        for layer in range(features.shape[1]):
            if fresh.any():
                start = features[first, layer, torch.arange(mask.shape[1])]  # (S, D)
                self._shift[layer, fresh] = start[fresh].to(self._dtype)
            x = (features[:, layer] - self._shift[layer]).to(self._dtype)
            if not valid.all():
                x = torch.where(valid, x, 0.0)
            total = x.sum(0, dtype=torch.float64)
            if not torch.isfinite(total).all():
                raise NonFiniteError(
                    f"the features of layer position {layer} hold NaN or infinity; "
                    "extract those items again or leave them out"
                )
            self._sum[layer] += total
            self._add_products(self._scatter[layer], x.flatten(0, 1))
        self.count += mask.sum(0)

    def _add_products(self, scatter: Tensor, rows: Tensor) -> None:
        """Add ``rows.T @ rows`` of ``(B·S, D)``; of a wide one the blocks up to the diagonal."""
        for start, stop in self._stripes():
            scatter[start:stop, :stop] += rows[:, start:stop].T @ rows[:, :stop]

    def _stripes(self) -> list[tuple[int, int]]:
        """Where the stripes of a Gram matrix begin and end; one for a narrow matrix."""
        width = self._scatter.shape[-1]
        step = width if self._exact else -(-width // _STRIPES)
        return [(start, min(start + step, width)) for start in range(0, width, step)]

    def mean(self) -> Tensor:
        """``(L, S, D)`` float64; a slot without any token has the mean of all tokens."""
        mean = self._shift + self._sum / self.count.clamp(min=1)[:, None]
        weights = self.count / self.count.sum().clamp(min=1)
        overall = (mean * weights[:, None]).sum(1, keepdim=True)
        return torch.where((self.count > 0)[:, None], mean, overall)

    def covariance(self) -> Tensor:
        """``(L, D, D)`` float64, divided by the number of tokens."""
        n = self.count.clamp(min=1)[:, None]
        offset = self._sum / n.sqrt()  # (L, S, D): Σ_s n_s d_s d_sᵀ = offsetᵀ offset
        for start, stop in self._stripes():  # what lies above the diagonal was left out
            self._scatter[:, :start, start:stop] = self._scatter[:, start:stop, :start].mT
        within = self._scatter - offset.transpose(1, 2) @ offset
        return within / self.count.sum().clamp(min=1)
