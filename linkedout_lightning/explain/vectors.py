"""How a set of item vectors fills its space, and how long its vectors are for which items.

Letters: N items, d size of a vector, G groups.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.explain.groups import group_means
from linkedout_lightning.fusion.geometry import mean_cosine


def spectrum(vectors: Tensor) -> Tensor:
    """Singular values of the centred vectors over the root of their number, descending.

    Squared they are the variances along the principal axes.

    Args:
        vectors: ``(N, d)`` floating, N at least 1.

    Returns:
        ``(min(N, d),)`` float64.

    Example:
        >>> spectrum(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]))
        tensor([3., 0.], dtype=torch.float64)
    """
    centred = vectors.double() - vectors.double().mean(0)
    count, width = centred.shape
    gram = centred @ centred.T if count < width else centred.T @ centred
    values: Tensor = torch.linalg.eigvalsh(gram / count).clamp(min=0).sqrt().flip(0)
    return values


def effective_rank(singular: Tensor) -> float:
    """Exponential of the entropy of the variances (Roy and Vetterli, 2007).

    Args:
        singular: From :func:`spectrum`.

    Example:
        >>> round(effective_rank(torch.ones(4)), 6)
        4.0
    """
    variances = singular.double().square()
    total = variances.sum()
    if total <= 0:
        return 0.0
    shares = variances / total
    return math.exp(-float(torch.special.xlogy(shares, shares).sum()))


def describe(vectors: Tensor, members: Tensor, valid: Tensor) -> dict[str, Any]:
    """The figures of one set of vectors.

    Args:
        vectors: ``(N, d)``.
        members: ``(G, N)`` bool.
        valid: ``(N,)`` bool, items that have such a vector: the figures are about them, the norms
            by group about all.

    Returns:
        ``items``, ``dim``; ``spectrum``, singular values over the largest; ``effective_rank``;
        ``first_direction``, the share of variance along the widest direction; ``mean_cosine`` of
        ``norm``, mean over items; ``norms``, mean by group, None where a group has no such vector;
        ``spread``, likewise the root mean square distance to the mean vector.
    """
    chosen = vectors[valid]
    singular = spectrum(chosen)
    variance = singular.square()
    total = float(variance.sum())
    inside = members & valid
    empty = ~inside.any(1)
    distance = (vectors - chosen.mean(0)).double().square().sum(1, keepdim=True)  # (N, 1)
    norms = vectors.double().norm(dim=1, keepdim=True)

    def by_group(values: Tensor) -> list[float | None]:
        means = group_means(values, inside | empty.unsqueeze(1))[:, 0].tolist()
        return [None if none else m for m, none in zip(means, empty.tolist(), strict=True)]

    return {
        "items": len(chosen),
        "dim": vectors.shape[1],
        "spectrum": (singular / singular[0].clamp(min=1e-300)).tolist(),
        "effective_rank": effective_rank(singular),
        "first_direction": float(variance[0]) / total if total else 0.0,
        "mean_cosine": mean_cosine(chosen) if len(chosen) > 1 else None,
        "norm": float(norms[valid].mean()),
        "norms": by_group(norms),
        "spread": [None if v is None else math.sqrt(v) for v in by_group(distance)],
    }
