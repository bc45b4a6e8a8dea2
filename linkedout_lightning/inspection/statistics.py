"""How the vectors of a sample are distributed, layer by layer.

Letters: ``n`` items, ``L`` layers, ``S`` token slots, ``D`` hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_SPECTRUM = 1024  # Items of the spectrum: eigenvalues cost the cube of it.
_QUANTILES = {"min": 0.0, "q05": 0.05, "median": 0.5, "q95": 0.95, "max": 1.0}
_PROJECTED = 256
_BLOCK = 1024


def pooled(features: Tensor, mask: Tensor) -> Tensor:
    """Mean over an item's valid slots.

    Args:
        features: ``(n, L, S, D)``.
        mask: bool ``(n, S)``.

    Returns:
        Float32 ``(n, L, D)``; zero where no slot is valid.
    """
    weight = mask.float()
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1)  # (n, S)
    return (weight[:, None, None, :] @ features.float()).squeeze(2)


def layer_statistics(vectors: Tensor, layers: Sequence[int]) -> list[dict[str, Any]]:
    """Norms, cosines and spectrum by layer.

    Args:
        vectors: Float32 ``(n, L, D)``, an item's mean over its slots.
        layers: Names of the ``L`` layers.

    Returns:
        For each layer: ``norm`` (mean and quantiles); ``mean_cosine`` between two different items
        (0.8 and more is usual before whitening); ``effective_rank``, the exponential of the
        entropy of the covariance's eigenvalues (Roy and Vetterli, 2007), which is at most
        ``rank_limit``; ``first_direction``, the share of the variance along the widest direction.
    """
    result = []
    for index, layer in enumerate(layers):
        some = vectors[:, index]
        norms = some.norm(dim=-1)
        levels = torch.tensor(list(_QUANTILES.values()))
        quantiles = torch.quantile(norms, levels).tolist() if len(norms) else []
        spectrum = _spectrum(some)
        result.append(
            {
                "layer": layer,
                "norm": {
                    "mean": _rounded(norms.mean().item()),
                    **{n: _rounded(q) for n, q in zip(_QUANTILES, quantiles, strict=False)},
                },
                "mean_cosine": _rounded(_mean_cosine(some)),
                "effective_rank": _rounded(_effective_rank(spectrum)),
                "rank_limit": min(len(some[:_SPECTRUM]) - 1, some.shape[1]),
                "first_direction": _rounded(
                    (spectrum[0] / spectrum.sum()).item() if spectrum.sum() > 0 else None
                ),
            }
        )
    return result


def _mean_cosine(vectors: Tensor) -> float | None:
    """Mean over all pairs of different items, without their matrix: (|Σu|² − Σ|u|²) / n(n−1)."""
    count = len(vectors)
    if count < 2:
        return None
    unit = torch.nn.functional.normalize(vectors, dim=-1).double()
    total = unit.sum(0).square().sum() - unit.square().sum()
    return (total / (count * (count - 1))).item()


def _spectrum(vectors: Tensor) -> Tensor:
    """Eigenvalues of the covariance, descending, from the smaller of its two Gram matrices."""
    some = vectors[:_SPECTRUM].double()
    some = some - some.mean(0)
    gram = some @ some.T if len(some) < some.shape[1] else some.T @ some
    values: Tensor = torch.linalg.eigvalsh(gram)
    return values.clamp(min=0).flip(0)


def _effective_rank(spectrum: Tensor) -> float:
    total = spectrum.sum()
    if total <= 0:
        return 0.0
    shares = spectrum / total
    return math.exp(-torch.special.xlogy(shares, shares).sum().item())


def near_duplicates(
    vectors: Tensor, *, cosine: float, listed: int
) -> tuple[int, list[tuple[int, int, float]]]:
    """Pairs of items whose vectors point the same way once the sample's mean is taken off.

    Each layer counts alike, whatever its norm. Candidates come from a random projection to 256
    dimensions, which pairs above the threshold pass with a wide margin, and are then measured.

    Args:
        vectors: Float32 ``(n, L, D)``.
        cosine: Threshold.
        listed: Most pairs to name.

    Returns:
        How many pairs there are, and the nearest of them with their cosines.
    """
    centred = vectors - vectors.mean(0)
    centred = torch.nn.functional.normalize(centred, dim=-1).flatten(1)  # (n, L * D)
    centred = torch.nn.functional.normalize(centred, dim=-1)
    width = centred.shape[1]
    sketch = centred
    if width > 2 * _PROJECTED:
        random = torch.Generator().manual_seed(0)
        sketch = centred @ torch.randn(width, _PROJECTED, generator=random)
        sketch = torch.nn.functional.normalize(sketch, dim=-1)
    # The projection's error on a cosine c has a deviation of (1 - c²) / √256.
    loose = cosine - 6 * (1 - cosine**2) / math.sqrt(_PROJECTED) - 1e-4
    count = 0
    nearest = torch.empty(0, 3, dtype=torch.float64)  # rows of (item, item, cosine)
    for start in range(0, len(sketch), _BLOCK):
        close = sketch[start : start + _BLOCK] @ sketch[start:].T > loose
        pairs = close.triu(1).nonzero() + start
        for begin in range(0, len(pairs), _BLOCK):
            one, other = pairs[begin : begin + _BLOCK].unbind(1)
            exact = (centred[one] * centred[other]).sum(1).double()
            there = exact >= cosine
            count += int(there.sum())
            found = torch.stack([one.double(), other.double(), exact], dim=1)[there]
            nearest = torch.cat([nearest, found])
            nearest = nearest[nearest[:, 2].argsort(descending=True, stable=True)[:listed]]
    return count, [(int(a), int(b), round(value, 6)) for a, b, value in nearest.tolist()]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
