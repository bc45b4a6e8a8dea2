"""Is the difference between two models larger than chance? A paired bootstrap over users.

``U`` users, ``S`` seeds, ``R`` resamples. Users are what is drawn again; several seeds of a model
are averaged user by user first, so that the interval is about the average model of that kind, and
a user counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.evaluation.metrics import UserRanks, ranking_values

_DRAWS = 1 << 22
_DISTINCT = 4096


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Mean of ``first - second`` over users, with a percentile interval.

    Attributes:
        difference: Mean difference.
        low: Lower end of the interval.
        high: Upper end.
        first: Mean of the first model.
        second: Mean of the second model.
        users: ``U``.
        resamples: ``R``.
        confidence: Of the interval.
    """

    difference: float
    low: float
    high: float
    first: float
    second: float
    users: int
    resamples: int
    confidence: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    @property
    def relative(self) -> float:
        """The difference as a share of the second model's mean."""
        return self.difference / self.second if self.second else float("nan")

    def __str__(self) -> str:
        return (
            f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}] "
            f"({self.relative:+.1%}, {self.users:,} users)"
        )


def paired_bootstrap(
    first: Tensor,
    second: Tensor,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Bootstrap the mean difference of two models over the same users.

    Args:
        first: ``(U,)`` or ``(S, U)`` values of the first model, such as each user's NDCG@10.
        second: ``(U,)`` or ``(S', U)`` values of the second model, the users in the same order.
        resamples: ``R``.
        confidence: Of the percentile interval.
        seed: Of the resampling.

    Raises:
        DataError: The users do not match, or a value is not finite.

    Example:
        >>> a, b = torch.tensor([1.0, 0.5, 1.0, 0.0]), torch.tensor([0.5, 0.0, 0.5, 0.0])
        >>> result = paired_bootstrap(a, b)
        >>> result.difference, result.low >= 0
        (0.375, True)
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise ConfigError(
            "`resamples` must be at least 1 and `confidence` between 0 and 1, "
            f"got {resamples} and {confidence}"
        )
    means = [_over_seeds(values) for values in (first, second)]
    if means[0].shape != means[1].shape or not len(means[0]):
        raise DataError(
            f"both models need the same users, got {len(means[0])} and {len(means[1])} values"
        )
    difference = means[0] - means[1]
    if not np.isfinite(difference).all():
        raise DataError("values must be finite, a NaN has no place in a mean over users")
    drawn = _bootstrap_means(difference, resamples, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        first=float(means[0].mean()),
        second=float(means[1].mean()),
        users=len(difference),
        resamples=resamples,
        confidence=confidence,
    )


def compare_ranks(
    first: Sequence[UserRanks],
    second: Sequence[UserRanks],
    *,
    metric: str = "NDCG",
    k: int = 10,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare two kinds of model, each given by the ranks of one or more seeds.

    Args:
        first: Ranks by seed, from :meth:`RankingMetrics.ranks`.
        second: Likewise.
        metric: ``"HR"``, ``"NDCG"`` or ``"MRR"``.
        k: Cut-off.
        resamples: See :func:`paired_bootstrap`.
        confidence: Likewise.
        seed: Likewise.

    Raises:
        DataError: A run ranked other users than the rest.
    """
    runs = [*first, *second]
    if not first or not second:
        raise DataError("give the ranks of at least one run of each model")
    if any(not torch.equal(run.users, runs[0].users) for run in runs):
        raise DataError(
            "the runs ranked different users, or in another order: "
            f"{[len(run.users) for run in runs]} users"
        )
    values = [torch.stack([ranking_values(r.ranks, k, metric) for r in g]) for g in (first, second)]
    return paired_bootstrap(*values, resamples=resamples, confidence=confidence, seed=seed)


def _over_seeds(values: Tensor) -> np.ndarray[Any, Any]:
    if values.ndim not in (1, 2):
        raise DataError(f"values must be (U,) or (S, U), got {tuple(values.shape)}")
    exact = values.detach().cpu().double()
    return np.asarray((exact.mean(0) if exact.ndim == 2 else exact).numpy())


def _bootstrap_means(
    values: np.ndarray[Any, Any], resamples: int, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """``(R,)`` means of resamples of ``values`` ``(U,)``."""
    users = len(values)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _DISTINCT:
        # Which users are drawn matters through their values alone, and how often each value is
        # drawn is multinomial: the same distribution at the price of the distinct values.
        drawn = rng.multinomial(users, counts / users, size=resamples)  # (R, V)
        return np.asarray(drawn @ distinct / users)
    means = np.empty(resamples)
    step = max(1, _DRAWS // users)
    for begin in range(0, resamples, step):
        rows = min(step, resamples - begin)
        index = rng.integers(0, users, size=(rows, users), dtype=np.int32)
        means[begin : begin + rows] = values[index].mean(1)
    return means
