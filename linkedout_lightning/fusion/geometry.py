"""How a set of vectors fills its space: the figures that tell isotropy from collapse."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_cosine(vectors: Tensor) -> float:
    """Mean cosine over all pairs of different rows; raw LLM vectors have above 0.8.

    Args:
        vectors: ``(n, H)`` floating, ``n >= 2``.

    Example:
        >>> mean_cosine(torch.eye(3))
        0.0
        >>> round(mean_cosine(torch.ones(4, 2)), 6)
        1.0
    """
    unit = torch.nn.functional.normalize(vectors.detach().double(), dim=-1)
    n = unit.shape[0]
    # The sum over all ordered pairs is the squared length of the sum: O(nH) and not O(n²H).
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1)))


def effective_rank(vectors: Tensor) -> float:
    """Exponential of the entropy of the covariance's spectrum (Roy and Vetterli, 2007).

    Args:
        vectors: ``(n, H)`` floating, ``n >= 2``.

    Returns:
        1 for vectors on a line, up to ``H`` for an isotropic cloud; 0 if they do not vary.

    Example:
        >>> x = torch.cat([torch.eye(4), -torch.eye(4)])
        >>> round(effective_rank(x), 4)
        4.0
    """
    vectors = vectors.detach().double()
    centred = vectors - vectors.mean(0)
    spectrum = torch.linalg.svdvals(centred).square()
    total = spectrum.sum()
    if total == 0:
        return 0.0
    p = spectrum[spectrum > 0] / total
    return float(torch.exp(-(p * p.log()).sum()))
