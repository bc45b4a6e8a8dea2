"""Ranking metrics over users as torchmetrics, exact across processes.

With one relevant item a user, at rank ``r``: ``HR@k = [r <= k]``, ``NDCG@k = [r <= k]/log2(r+1)``
(the ideal DCG is 1; the convention of RecBole and MicroLens) and ``MRR@k = [r <= k]/r``. What is
kept, and what processes exchange, is the histogram of ranks: whole numbers, so that the figures do
not depend on the order of the users or the number of processes, to the last bit.

``B`` batch, ``G`` groups of items (all of them, then one a slice), ``C`` columns, ``N`` items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from linkedout_lightning.errors import ConfigError, DataError

METRICS = ("HR", "NDCG", "MRR")


class UserRanks(NamedTuple):
    """Ranks by user, ordered by user.

    Attributes:
        users: ``(U,)`` int64.
        ranks: ``(U,)`` int64, 1 is best.
    """

    users: Tensor
    ranks: Tensor


def ranking_values(ranks: Tensor, k: int, metric: str = "NDCG") -> Tensor:
    """Value of a metric for each user.

    Args:
        ranks: int64 of any shape, 1 is best.
        k: Cut-off.
        metric: ``"HR"``, ``"NDCG"`` or ``"MRR"``.

    Returns:
        float64 of the shape of ``ranks``.

    Example:
        >>> ranking_values(torch.tensor([1, 3, 11]), k=10)
        tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    exact = ranks.double()
    if metric == "HR":
        value = torch.ones_like(exact)
    elif metric == "NDCG":
        value = 1.0 / torch.log2(exact + 1.0)
    elif metric == "MRR":
        value = 1.0 / exact
    else:
        raise ConfigError(f"unknown metric {metric!r}; give one of {', '.join(METRICS)}")
    return torch.where(ranks <= k, value, 0.0)


class RankingMetrics(Metric):
    """HR, NDCG and MRR at several cut-offs, overall and by slice of the target items.

    Args:
        ks: Cut-offs.
        slices: Name to ``(N + 1,)`` bool: which target items belong to the slice. Slices may
            overlap.
        keep_ranks: Keep every user's rank for :meth:`ranks`, for tests of significance.
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Example:
        >>> metric = RankingMetrics(ks=(10,), slices={"cold": torch.tensor([False, True, False])})
        >>> metric.update(torch.tensor([1, 20]), target=torch.tensor([1, 2]))
        >>> {name: round(float(v), 2) for name, v in metric.compute().items()}
        {'HR@10': 0.5, 'NDCG@10': 0.5, 'MRR@10': 0.5, 'cold/HR@10': 1.0, 'cold/NDCG@10': 1.0, \
'cold/MRR@10': 1.0, 'cold/users': 1.0}
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    histogram: Tensor
    kept_users: list[Tensor]
    kept_ranks: list[Tensor]

    def __init__(
        self,
        ks: Sequence[int] = (10, 20),
        slices: Mapping[str, Tensor] | None = None,
        *,
        keep_ranks: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not ks or any(k < 1 for k in ks):
            raise ConfigError(f"`ks` must hold cut-offs of at least 1, got {tuple(ks)}")
        self.ks = tuple(sorted(set(ks)))
        self.slices = tuple(slices or ())
        self.keep_ranks = keep_ranks
        self._membership: Tensor | None = None  # (G - 1, N + 1) bool
        if slices:
            masks = [torch.as_tensor(mask) for mask in slices.values()]
            if any(m.ndim != 1 or m.dtype != torch.bool for m in masks) or (
                len({len(m) for m in masks}) > 1
            ):
                shapes = {name: tuple(mask.shape) for name, mask in slices.items()}
                raise ConfigError(f"every slice must be a bool tensor (N + 1,), got {shapes}")
            self._membership = torch.stack(masks)
        # Column r - 1 counts rank r up to the largest cut-off, the last column all that is worse.
        self.add_state(
            "histogram",
            torch.zeros(1 + len(self.slices), self.ks[-1] + 1, dtype=torch.int64),
            dist_reduce_fx="sum",
        )
        self.add_state("kept_users", [], dist_reduce_fx="cat")
        self.add_state("kept_ranks", [], dist_reduce_fx="cat")

    def update(
        self, ranks: Tensor, target: Tensor | None = None, users: Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            ranks: ``(B,)`` int64 from :func:`target_ranks`.
            target: ``(B,)`` int64, needed for slices.
            users: ``(B,)`` int64, needed with ``keep_ranks``.
        """
        if ranks.ndim != 1 or (ranks.numel() and int(ranks.min()) < 1):
            raise DataError(f"ranks must be (B,) and start at 1, got {ranks}")
        member = torch.ones(1, len(ranks), dtype=torch.bool, device=ranks.device)  # (G, B)
        if self._membership is not None:
            if target is None:
                raise ConfigError("`target` is needed: this metric has slices by item")
            self._membership = self._membership.to(ranks.device)
            member = torch.cat([member, self._membership[:, target]])
        groups, columns = self.histogram.shape
        group, user = member.nonzero(as_tuple=True)
        cell = group * columns + (ranks[user] - 1).clamp(max=columns - 1)
        self.histogram += torch.bincount(cell, minlength=groups * columns).view(groups, columns)
        if self.keep_ranks:
            if users is None:
                raise ConfigError("`users` is needed: this metric keeps the rank of each user")
            self.kept_users.append(users.detach())
            self.kept_ranks.append(ranks.detach())

    def compute(self) -> dict[str, Tensor]:
        """Flat mapping ``"HR@10"``, ..., ``"cold/HR@10"``, ..., ``"cold/users"``.

        A slice without a user has no metric, only its count of 0: an average over nobody is
        neither 0 nor 1.
        """
        histogram = self.histogram.cpu().double()  # (G, C)
        counts = histogram.sum(1)
        rank = torch.arange(1, histogram.shape[1] + 1)
        # Apple's devices have no float64, and what is logged must lie on the metric's device.
        kind = torch.float32 if self.histogram.device.type == "mps" else torch.float64
        found: dict[str, Tensor] = {}

        def put(name: str, value: Tensor) -> None:
            found[name] = value.to(device=self.histogram.device, dtype=kind)

        for group, name in enumerate(("", *self.slices)):
            prefix = f"{name}/" if name else ""
            if not name or counts[group]:
                for k in self.ks:
                    for metric in METRICS:
                        total = histogram[group] @ ranking_values(rank, k, metric)
                        put(f"{prefix}{metric}@{k}", total / counts[group])
            if name:
                put(f"{prefix}users", counts[group])
        return found

    def ranks(self) -> UserRanks:
        """Every user's rank, gathered over the processes and ordered by user.

        All processes must call it, since it communicates.
        """
        if not self.keep_ranks:
            raise ConfigError("build the metric with keep_ranks=True to ask for ranks")
        empty = torch.empty(0, dtype=torch.int64, device=self.histogram.device)
        users = dim_zero_cat(self.kept_users) if len(self.kept_users) else empty
        ranks = dim_zero_cat(self.kept_ranks) if len(self.kept_ranks) else empty
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            both = torch.cat(gather_all_tensors(torch.stack([users, ranks], 1)))
            users, ranks = both.unbind(1)
        order = users.argsort(stable=True)
        return UserRanks(users[order], ranks[order])


class Coverage(Metric):
    """Share of the catalogue that stands in at least one user's best ``k``.

    Args:
        k: Length of the lists.
        num_items: Size of the catalogue, ``N``.
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Example:
        >>> coverage = Coverage(k=2, num_items=4)
        >>> coverage.update(torch.tensor([[1, 2, 3], [2, 1, 4]]))
        >>> coverage.compute()
        tensor(0.5000)
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    seen: Tensor

    def __init__(self, k: int, num_items: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1 or num_items < 1:
            raise ConfigError(f"`k` and `num_items` must be positive, got {k} and {num_items}")
        self.k, self.num_items = k, num_items
        self.add_state("seen", torch.zeros(num_items + 1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, top_items: Tensor) -> None:
        """Add lists ``(B, >= k)`` of item indices, best first; index 0 is ignored."""
        if top_items.ndim != 2 or top_items.shape[1] < self.k:
            raise DataError(f"lists must be (B, >= {self.k}), got {tuple(top_items.shape)}")
        self.seen[top_items[:, : self.k].flatten()] = 1

    def compute(self) -> Tensor:
        """Share in ``0..1``."""
        return (self.seen[1:] > 0).sum() / self.num_items
