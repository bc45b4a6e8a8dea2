"""Draw negatives for the sampled softmax, shared by a whole batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError

SAMPLINGS = ("uniform", "popularity")


class Negatives(NamedTuple):
    """A draw of ``K`` items.

    Attributes:
        items: ``(K,)`` int64 in ``1..N``, drawn with replacement.
        log_expected: ``(K,)`` float, log of the expected count ``K q_j`` of each.
    """

    items: Tensor
    log_expected: Tensor


class NegativeSampler(nn.Module):
    """Independent draws from the catalogue, uniform or by training popularity.

    Args:
        num_items: Size of the catalogue, ``N``.
        draws: Negatives a batch, ``K``.
        sampling: ``"uniform"``, or ``"popularity"``: in proportion to the training count, so items
            without a training interaction are never drawn.
        counts: ``(N + 1,)`` training counts, needed for ``"popularity"`` and ``trained_only``.
        trained_only: Draw no item without a training interaction.

    Example:
        >>> NegativeSampler(5, draws=3)().items.shape
        torch.Size([3])
    """

    cumulative: Tensor
    log_expected: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        draws: int,
        sampling: str = "uniform",
        counts: Tensor | None = None,
        trained_only: bool = False,
    ) -> None:
        super().__init__()
        if sampling not in SAMPLINGS:
            raise ConfigError(f"unknown sampling {sampling!r}; give one of {', '.join(SAMPLINGS)}")
        if draws < 1 or num_items < 1:
            raise ConfigError(
                f"`draws` and `num_items` must be positive, got {draws} and {num_items}"
            )
        weight = torch.ones(num_items + 1, dtype=torch.float64)
        if sampling == "popularity":
            if counts is None:
                raise ConfigError("sampling='popularity' needs the items' training counts")
            weight = counts.double().clone()
        elif trained_only:
            if counts is None:
                raise ConfigError("trained_only needs the items' training counts")
            weight = (counts > 0).double()
        weight[0] = 0.0  # padding
        share = weight / weight.sum()
        self.draws = draws
        # float64: the cumulative sum of a million shares in float32 would lose the rare items.
        self.register_buffer("cumulative", share.cumsum(0), persistent=False)
        expected = (draws * share).log().float()
        self.register_buffer("log_expected", expected, persistent=False)

    def forward(self) -> Negatives:
        """Draw from torch's global generator."""
        last = self.cumulative[-1]
        point = torch.rand(self.draws, dtype=torch.float64, device=last.device) * last
        # right=True: a point on a boundary belongs to the next item of positive share.
        items = torch.searchsorted(self.cumulative, point, right=True)
        items = items.clamp(max=len(self.cumulative) - 1)
        return Negatives(items, self.log_expected[items])
