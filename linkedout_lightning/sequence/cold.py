"""How far cold items may be lifted in a ranking before trained items pay too much for it.

Scores are linear in an item's vector, so that a cold item's score at strength :math:`t` of its
calibration (:mod:`linkedout_lightning.encoders.calibration`) is :math:`a + t (b - a)`, where
:math:`a` and :math:`b` are its scores before and after. One pass over the validation therefore
counts the hits at every strength, and ranks trained items once.

``B`` users, ``T`` strengths, ``N`` items, ``C`` cold ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from linkedout_lightning.data.batches import EvalBatch
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.evaluation.ranks import target_ranks

_CELLS = 1 << 20  # compared at a time; they stay in the cache


@dataclass(frozen=True)
class ColdChoice:
    """What each strength gives on the validation, and the one that was taken.

    Attributes:
        strength: The largest whose price, and that of every smaller one, is within the budget.
        budget: Largest share of their HR that trained items may lose.
        k: Cut-off of the HR.
        strengths: Those that were tried.
        trained: HR of users whose target is trained, for each strength.
        cold: HR of users whose target is cold, for each; None if nobody has one.
        trained_users: How many those are.
        cold_users: How many these are.
    """

    strength: float
    budget: float
    k: int
    strengths: list[float]
    trained: list[float]
    cold: list[float] | None
    trained_users: int
    cold_users: int

    @classmethod
    def of(
        cls, hits: Tensor, users: Tensor, strengths: Sequence[float], *, k: int, budget: float
    ) -> ColdChoice:
        """From counts; strengths are tried upwards until one is too dear.

        Args:
            hits: ``(2, T)`` of trained and of cold targets.
            users: ``(2,)`` of them.
            strengths: ``T`` values.
            k: Cut-off.
            budget: As above.

        Example:
            >>> hits, users = torch.tensor([[100, 96, 80], [5, 7, 9]]), torch.tensor([400, 100])
            >>> choice = ColdChoice.of(hits, users, (0.0, 0.5, 1.0), k=10, budget=0.05)
            >>> choice.strength, choice.trained, choice.cold
            (0.5, [0.25, 0.24, 0.2], [0.05, 0.07, 0.09])
        """
        counts = hits.double()
        # One that happens to be affordable again beyond one that is not is not trusted.
        affordable = (counts[0] >= (1 - budget) * counts[0, 0]).long().cumprod(0)
        trained, cold = (counts / users.clamp(min=1)[:, None]).tolist()
        trained_users, cold_users = users.tolist()
        return cls(
            strength=strengths[int(affordable.sum()) - 1],
            budget=budget,
            k=k,
            strengths=list(strengths),
            trained=trained,
            cold=cold if cold_users else None,
            trained_users=trained_users,
            cold_users=cold_users,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class ColdTradeOff(Metric):
    """Counts hits among trained and among cold targets at every strength.

    Args:
        k: Cut-off of the hit rate.
        budget: Largest share of its hit rate that the trained part may lose.
        steps: Strengths apart from 0.
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: The budget is no share.
    """

    full_state_update = False
    is_differentiable = False

    hits: Tensor
    users: Tensor

    def __init__(
        self, *, k: int = 10, budget: float = 0.01, steps: int = 10, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= budget <= 1:
            raise ConfigError(
                f"`cold_budget` is {budget}; give the share of their HR that trained items may "
                "lose, from 0 to 1"
            )
        self.k, self.budget = k, budget
        self.strengths = [step / steps for step in range(steps + 1)]
        counts = torch.zeros(2, steps + 1, dtype=torch.int64)
        self.add_state("hits", counts, dist_reduce_fx="sum")
        self.add_state("users", counts[:, 0].clone(), dist_reduce_fx="sum")

    def update(
        self, states: Tensor, batch: EvalBatch, table: Tensor, mapped: Tensor, cold: Tensor
    ) -> None:
        """Count a batch.

        Args:
            states: ``(B, H)`` user states.
            batch: Their targets and histories.
            table: ``(N + 1, H)`` item vectors before the calibration.
            mapped: ``(N + 1, H)`` after the whole of it.
            cold: ``(N + 1,)`` bool, which items it moves.
        """
        of_cold = cold[batch.target]
        rows = max(32, _CELLS // len(table))
        for part, is_cold in ((~of_cold, 0), (of_cold, 1)):
            chosen = part.nonzero()[:, 0]
            self.users[is_cold] += len(chosen)
            count = _cold_hits if is_cold else _trained_hits
            for begin in range(0, len(chosen), rows):
                some = chosen[begin : begin + rows]
                target, history = batch.target[some], batch.history[some]
                with torch.autocast(states.device.type, enabled=False):
                    ours = states[some].float()
                    before = ours @ table.float().T
                    step = ours @ (mapped[cold].float() - table[cold].float()).T
                self.hits[is_cold] += count(
                    before, step, cold, target, history, k=self.k, strengths=self.strengths
                )

    def compute(self) -> dict[str, Tensor]:
        """``hits``, ``(2, T)``, and ``users``, ``(2,)``: of trained and of cold targets."""
        return {"hits": self.hits, "users": self.users}

    def choose(self) -> ColdChoice:
        """The choice, the same in all processes."""
        counts = self.compute()
        return ColdChoice.of(
            counts["hits"], counts["users"], self.strengths, k=self.k, budget=self.budget
        )


def _trained_hits(
    before: Tensor, step: Tensor, cold: Tensor, target: Tensor, history: Tensor, *,
    k: int, strengths: list[float],
) -> Tensor:  # fmt: skip
    """``(T,)`` hits of targets whose own score stays.

    Args:
        before: ``(B, N + 1)`` scores at strength 0.
        step: ``(B, C)`` what strength 1 adds to cold items' scores.
        cold: ``(N + 1,)`` bool.
        target: ``(B,)``.
        history: ``(B, Hmax)``, 0-padded.
        k: Cut-off.
        strengths: ``T`` values.
    """
    wanted = before.gather(1, target[:, None])
    lowest = torch.finfo(before.dtype).min
    ranks = target_ranks(before.masked_fill(cold, lowest), target, history)
    scores = before.scatter(1, history, lowest)[:, cold]  # items that a user knows stay below
    return torch.stack(
        [(ranks + (scores + t * step >= wanted).sum(1) <= k).sum() for t in strengths]
    )


def _cold_hits(
    before: Tensor, step: Tensor, cold: Tensor, target: Tensor, history: Tensor, *,
    k: int, strengths: list[float],
) -> Tensor:  # fmt: skip
    """The same of targets that move themselves."""
    found, scores = [], before.clone()
    for t in strengths:
        scores[:, cold] = before[:, cold] + t * step
        found.append((target_ranks(scores, target, history) <= k).sum())
    return torch.stack(found)
