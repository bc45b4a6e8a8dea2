"""How far cold items may be lifted in a ranking before trained items pay too much for it.

Scores are linear in an item's vector, so that a cold item's score at strength :math:`t` of its
calibration (:mod:`linkedout_lightning.encoders.calibration`) is :math:`a + t (b - a)`, where
:math:`a` and :math:`b` are its scores before and after. So one pass over the validation counts the
hits at every strength: the rank of a trained target changes by the cold items that pass it, and
only these are scored again; users with a cold target, whose own score moves, are ranked anew.

``B`` users, ``T`` strengths, ``N`` items, ``C`` cold ones, ``H`` item dim.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from linkedout_lightning.data.batches import EvalBatch
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.evaluation.ranks import target_ranks

STEPS = 10
_CPU_CELLS, _GPU_CELLS = 1 << 20, 1 << 26  # compared at a time; on a CPU they stay in the cache


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
        hits, users = hits.cpu(), users.cpu()  # not every device has float64
        counts = hits.double()
        # One that happens to be affordable again beyond one that is not is not trusted, and where
        # nothing is hit nothing is known of the price.
        affordable = (counts[0] >= (1 - budget) * counts[0, 0]).long().cumprod(0)
        taken = int(affordable.sum()) - 1 if counts[0, 0] > 0 else 0
        trained, cold = (counts / users.clamp(min=1)[:, None]).tolist()
        trained_users, cold_users = users.tolist()
        return cls(
            strength=strengths[taken],
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


@dataclass(frozen=True)
class Lift:
    """What the whole calibration does to a catalogue, made once a validation.

    Attributes:
        cold: ``(N + 1,)`` bool, the items that it moves.
        place: ``(N + 1,)`` int64, their columns among the cold ones; ``C`` for all others.
        before: ``(C, H)`` their vectors.
        step: ``(C, H)`` what it adds to them.
    """

    cold: Tensor
    place: Tensor
    before: Tensor
    step: Tensor

    @classmethod
    def between(cls, table: Tensor, mapped: Tensor, cold: Tensor) -> Lift:
        """From the vectors of a catalogue without and with the calibration.

        Args:
            table: ``(N + 1, H)``.
            mapped: ``(N + 1, H)``.
            cold: ``(N + 1,)`` bool.
        """
        place = torch.full_like(cold, int(cold.sum()), dtype=torch.int64)
        place[cold] = torch.arange(int(cold.sum()), device=cold.device)
        return cls(cold, place, table[cold], mapped[cold] - table[cold])


class ColdTradeOff(Metric):
    """Counts hits among trained and among cold targets at every strength.

    Args:
        k: Cut-off of the hit rate.
        budget: Largest share of its hit rate that the trained part may lose.
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: The budget is no share.
    """

    full_state_update = False
    is_differentiable = False

    hits: Tensor
    users: Tensor

    def __init__(self, *, k: int = 10, budget: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= budget <= 1:
            raise ConfigError(
                f"`cold_budget` is {budget}; give the share of their HR that trained items may "
                "lose, from 0 to 1"
            )
        self.k, self.budget = k, budget
        self.strengths = [step / STEPS for step in range(STEPS + 1)]
        counts = torch.zeros(2, STEPS + 1, dtype=torch.int64)
        self.add_state("hits", counts, dist_reduce_fx="sum")
        self.add_state("users", counts[:, 0].clone(), dist_reduce_fx="sum")

    def update(
        self, ranks: Tensor, states: Tensor, batch: EvalBatch, table: Tensor, lift: Lift
    ) -> None:
        """Count a batch.

        Args:
            ranks: ``(B,)`` of the targets without any calibration.
            states: ``(B, H)`` user states.
            batch: Their targets and histories.
            table: ``(N + 1, H)`` item vectors without any calibration.
            lift: What the whole of it adds.
        """
        cells = _CPU_CELLS if states.device.type == "cpu" else _GPU_CELLS
        of_cold = lift.cold[batch.target]
        self.users += torch.stack([(~of_cold).sum(), of_cold.sum()])
        kind = torch.promote_types(torch.float32, states.dtype)
        with torch.autocast(states.device.type, enabled=False):
            for begin, end in _pieces(len(states), cells // (len(lift.before) + 1)):
                rows = (~of_cold[begin:end]).nonzero()[:, 0] + begin
                self._count_trained(ranks[rows], states[rows].to(kind), batch, rows, table, lift)
            chosen = of_cold.nonzero()[:, 0]
            for begin, end in _pieces(len(chosen), cells // len(table)):
                rows = chosen[begin:end]
                self._count_cold(states[rows].to(kind), batch, rows, table, lift)

    def _count_trained(
        self,
        ranks: Tensor,
        states: Tensor,
        batch: EvalBatch,
        rows: Tensor,
        table: Tensor,
        lift: Lift,
    ) -> None:
        wanted = (states * table[batch.target[rows]]).sum(1, keepdim=True)
        before = states @ lift.before.to(states.dtype).T  # (B, C)
        before = nn.functional.pad(before, (0, 1))
        # Items that a user knows are no competitors; the last column takes those that are not cold.
        before.scatter_(1, lift.place[batch.history[rows]], torch.finfo(before.dtype).min)
        before, step = before[:, :-1], states @ lift.step.to(states.dtype).T
        others = ranks - (before >= wanted).sum(1)
        for place, strength in enumerate(self.strengths):
            passed = (torch.add(before, step, alpha=strength) >= wanted).sum(1)
            self.hits[0, place] += (others + passed <= self.k).sum()

    def _count_cold(
        self, states: Tensor, batch: EvalBatch, rows: Tensor, table: Tensor, lift: Lift
    ) -> None:
        scores = states @ table.to(states.dtype).T
        before, step = scores[:, lift.cold], states @ lift.step.to(states.dtype).T
        for place, strength in enumerate(self.strengths):
            scores[:, lift.cold] = torch.add(before, step, alpha=strength)
            ranks = target_ranks(scores, batch.target[rows], batch.history[rows])
            self.hits[1, place] += (ranks <= self.k).sum()

    def compute(self) -> dict[str, Tensor]:
        """``hits``, ``(2, T)``, and ``users``, ``(2,)``: of trained and of cold targets."""
        return {"hits": self.hits, "users": self.users}

    def choose(self) -> ColdChoice:
        """The choice, the same in all processes."""
        counts = self.compute()
        return ColdChoice.of(
            counts["hits"], counts["users"], self.strengths, k=self.k, budget=self.budget
        )


def warn_nothing_to_measure() -> None:
    """Say that no strength will be found."""
    warnings.warn(
        "cold_calibration='budget' finds no item that lacks an ID beside its content, so that no "
        "price can be measured: rankings and bundles, new items included, are as with 'none'; "
        "'moments' calibrates new items unmeasured",
        stacklevel=3,
    )


def of_other_calibration(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any
) -> None:
    """Let weights of one calibration into a model with another: it acts on rankings alone."""
    del rest
    if not hasattr(module, "cold_step"):
        state_dict.pop(f"{prefix}cold_step", None)
    else:
        state_dict.setdefault(f"{prefix}cold_step", torch.zeros((), dtype=torch.int64))


def _pieces(count: int, length: int) -> Iterator[tuple[int, int]]:
    length = max(32, length)
    return ((begin, min(begin + length, count)) for begin in range(0, count, length))
