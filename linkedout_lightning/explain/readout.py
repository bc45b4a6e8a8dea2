"""How much of what training learned about items a linear map finds in the features of a layer.

Where several layers fused are no better than one, this says whether they know the same, or whether
what they know beyond it is little of what a recommender learns.

Letters: S seeds, L layers, N items, n items of the readout, R size of a layer's tokens, d of the
features that are read, H of a learned vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

_FOLDS = 5
_MOST_ITEMS = 20_000
"""Of more, so many are drawn: the work grows with them, the figures no longer change."""
_PENALTIES = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the ridge, in mean variances of the features."""


@dataclass(frozen=True, kw_only=True)
class Readout:
    """Shares of the learned vectors' variance that are foretold for items not fitted on.

    Attributes:
        layers: The layers.
        items: How many items were foretold.
        by_layer: ``(S, L)`` float64, from each layer alone; below zero it is worse than the mean.
        together: ``(S,)``, from all layers side by side.
        other_seed: From the vectors that another training learned, the mean over pairs: what can be
            foretold at all. None with one seed.
    """

    layers: tuple[int, ...]
    items: int
    by_layer: Tensor
    together: Tensor
    other_seed: float | None


def read_out(
    layers: Sequence[int], tokens: Tensor, learned: Sequence[Tensor], usable: Tensor, *, seed: int
) -> Readout | None:
    """Foretell learned vectors from each layer and from all.

    Args:
        layers: Names of the L axis.
        tokens: ``(L, N, R)`` features.
        learned: ``(N, H)`` for each seed.
        usable: ``(N,)`` bool, items that have features and were met often enough to be learned.
        seed: Of the folds.

    Returns:
        None if there are too few items to say anything.
    """
    rows = usable.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    rows = rows[torch.randperm(len(rows), generator=generator)[:_MOST_ITEMS]]
    if len(rows) < 10 * _FOLDS:
        return None
    features = tokens[:, rows]
    targets = [vectors[rows] for vectors in learned]
    joint = features.transpose(0, 1).flatten(1)
    pairs = [foretold(a, b) for a, b in permutations(targets, 2)]
    return Readout(
        layers=tuple(layers),
        items=len(rows),
        by_layer=torch.tensor(
            [[foretold(layer, target) for layer in features] for target in targets],
            dtype=torch.float64,
        ),
        together=torch.tensor([foretold(joint, t) for t in targets], dtype=torch.float64),
        other_seed=sum(pairs) / len(pairs) if pairs else None,
    )


def foretold(features: Tensor, targets: Tensor) -> float:
    """Share of the targets' variance that ridge regression foretells in rows left out of it.

    Each fifth of the rows is foretold by a map that was fitted on three others; the remaining one
    chooses the penalty.

    Args:
        features: ``(n, d)``, in random order.
        targets: ``(n, H)``.

    Example:
        >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> round(foretold(x, x @ torch.ones(4, 2)), 3), foretold(x, x.flip(0)) < 0.05
        (1.0, True)
    """
    fold = torch.arange(len(features)) % _FOLDS
    features, targets = features.double(), targets.double()
    error = total = 0.0
    for last in range(_FOLDS):
        choosing, asked = fold == (last + 1) % _FOLDS, fold == last
        fitted = ~choosing & ~asked
        ridge = _Ridge.fit(features[fitted], targets[fitted])
        tried = [ridge.error(features[choosing], targets[choosing], p) for p in _PENALTIES]
        best = _PENALTIES[tried.index(min(tried))]
        error += ridge.error(features[asked], targets[asked], best)
        total += float((targets[asked] - ridge.mean).square().sum())
    return 1.0 - error / total if total else 0.0


@dataclass(frozen=True)
class _Ridge:
    """Ridge regression with any penalty from one decomposition.

    Attributes:
        middle: ``(d,)`` mean features.
        mean: ``(H,)`` mean targets.
        axes: ``(d, d)`` principal axes, by columns.
        values: ``(d,)`` sums of squares along them.
        products: ``(d, H)`` of features along the axes and targets.
    """

    middle: Tensor
    mean: Tensor
    axes: Tensor
    values: Tensor
    products: Tensor

    @classmethod
    def fit(cls, features: Tensor, targets: Tensor) -> _Ridge:
        middle, mean = features.mean(0), targets.mean(0)
        inputs = features - middle
        values, axes = torch.linalg.eigh(inputs.T @ inputs)
        products = axes.T @ (inputs.T @ (targets - mean))
        return cls(middle, mean, axes, values.clamp(min=0), products)

    def error(self, features: Tensor, targets: Tensor, penalty: float) -> float:
        """Sum of squares that is left of the targets."""
        added = (penalty * self.values.mean()).clamp(min=torch.finfo(self.values.dtype).tiny)
        maps = self.products / (self.values + added)[:, None]
        made = self.mean + ((features - self.middle) @ self.axes) @ maps
        return float((targets - made).square().sum())
