"""Who is trained on, who is asked, and what may be seen before.

``E`` rows of the interactions, ``Q`` questions, ``S`` training sequences. Ranges are positions in
:attr:`Split.items` (inputs, training) or in the interactions' own rows (history).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from linkedout_lightning.data.interactions import Interactions
from linkedout_lightning.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Questions:
    """One question a user: after these inputs, which item came next?

    Attributes:
        users: ``(Q,)`` int64, each at most once.
        target: ``(Q,)`` int64 item index.
        input_start: ``(Q,)`` range in :attr:`Split.items` of what the model may see.
        input_stop: ``(Q,)``.
        history_start: ``(Q,)`` range in the interactions of what must not be recommended again.
        history_stop: ``(Q,)``.
        skipped: Users that had a right to a question but have no target or no input.
    """

    users: Tensor
    target: Tensor
    input_start: Tensor
    input_stop: Tensor
    history_start: Tensor
    history_stop: Tensor
    skipped: int = 0


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split of interactions.

    Attributes:
        items: ``(E',)`` int64, the flat items that inputs and training sequences are cut from.
        train_start: ``(S,)`` range of each user's training sequence.
        train_stop: ``(S,)``.
        train_counts: ``(N + 1,)`` int64, how often training sees each item; entry 0 is 0.
        valid: Questions of the validation.
        test: Questions of the test.
    """

    items: Tensor
    train_start: Tensor
    train_stop: Tensor
    train_counts: Tensor
    valid: Questions
    test: Questions


def leave_one_out(data: Interactions) -> Split:
    """The last item of each user is the test target, the one before it the validation target.

    Training sees the rest; the validation target is an input of the test. A user with nothing
    before a target is not asked for it.
    """
    start, stop = data.bounds()
    return Split(
        items=data.item_index,
        train_start=start,
        train_stop=torch.maximum(start, stop - 2),
        train_counts=_counts(data, _from_end(data) > 2),
        valid=_questions(data, start, stop - 2, stop - 2 > start),
        test=_questions(data, start, stop - 1, stop - 1 > start),
    )


def temporal(data: Interactions, *, valid_share: float = 0.1, test_share: float = 0.1) -> Split:
    """Two global instants cut the whole set, so that nothing learns from the future.

    Training sees what happened before the first instant. Each user who returns after an instant is
    asked once: which item came first after it, given all that the user did before it (a test
    question knows the validation's time, a validation question nothing later than the training).

    Args:
        data: Interactions with real timestamps.
        valid_share: Share of all rows between the two instants.
        test_share: Share of all rows after the second.

    Raises:
        ConfigError: The source has an order but no time, or the shares do not fit.
        DataError: The instants coincide, since too many rows have the same time.
    """
    if not data.has_time:
        raise ConfigError(
            f"split='temporal' needs times, and {data.report.source} only has an order; "
            "use split='leave_one_out'"
        )
    if min(valid_share, test_share) <= 0 or valid_share + test_share >= 1:
        raise ConfigError(
            "`valid_share` and `test_share` must be positive and sum to less than 1, "
            f"got {valid_share} and {test_share}"
        )
    ordered = data.timestamp.sort().values
    valid_at, test_at = (
        ordered[min(len(ordered) - 1, int(len(ordered) * (1 - share)))]
        for share in (valid_share + test_share, test_share)
    )
    if not ordered[0] < valid_at < test_at:
        raise DataError(
            f"{data.report.source}: instants at {valid_at.item()} and {test_at.item()} leave a "
            "part empty; too many rows have the same time for these shares"
        )
    start, stop = data.bounds()
    before_valid = start + _count_rows(data, data.timestamp < valid_at)
    before_test = start + _count_rows(data, data.timestamp < test_at)
    return Split(
        items=data.item_index,
        train_start=start,
        train_stop=before_valid,
        train_counts=_counts(data, data.timestamp < valid_at),
        valid=_questions(
            data,
            start,
            before_valid,
            (before_valid > start) & (before_valid < before_test),
            asked=before_valid < before_test,
        ),
        test=_questions(
            data,
            start,
            before_test,
            (before_test > start) & (before_test < stop),
            asked=before_test < stop,
        ),
    )


def cold_items(data: Interactions, *, share: float = 0.1, seed: int = 0) -> Split:
    """Leave-one-out in which a share of the items never occurs in training.

    The cold items are drawn uniformly from the catalogue. They are taken out of every training
    sequence and of every input, so that the model meets them as candidates and targets alone, as
    it meets tomorrow's uploads. The questions are those of leave-one-out, warm and cold targets in
    one full ranking; histories mask cold items that the user has met.

    Args:
        data: Interactions.
        share: Share of the catalogue that is cold.
        seed: Draws the cold items.

    Raises:
        ConfigError: The share leaves no cold or no warm item.
    """
    number = round(share * data.num_items)
    if not 0 < number < data.num_items:
        raise ConfigError(
            f"`cold_share` = {share} makes {number} of {data.num_items} items cold; "
            "at least one item must be cold and one warm"
        )
    generator = torch.Generator().manual_seed(seed)
    warm = torch.ones(data.num_items + 1, dtype=torch.bool)
    warm[torch.randperm(data.num_items, generator=generator)[:number] + 1] = False
    row_is_warm = warm[data.item_index]  # (E,)
    # Position of each row among the warm ones; a range of rows stays a range.
    position = torch.cat([torch.zeros(1, dtype=torch.int64), row_is_warm.cumsum(0)])
    start, stop = data.bounds()
    train_stop = torch.maximum(start, stop - 2)

    def ask(at: Tensor) -> Questions:
        at = torch.maximum(at, start)
        usable = (at > start) & (position[at] > position[start])
        return _questions(data, start, at, usable, position=position)

    return Split(
        items=data.item_index[row_is_warm],
        train_start=position[start],
        train_stop=position[train_stop],
        train_counts=_counts(data, row_is_warm & (_from_end(data) > 2)),
        valid=ask(stop - 2),
        test=ask(stop - 1),
    )


def _questions(
    data: Interactions,
    start: Tensor,
    at: Tensor,
    usable: Tensor,
    *,
    asked: Tensor | None = None,
    position: Tensor | None = None,
) -> Questions:
    """Questions for row ``at`` of each usable user, after all the rows before it."""
    users = usable.nonzero()[:, 0]
    start, at = start[users], at[users]
    total = len(usable) if asked is None else int(asked.sum())
    return Questions(
        users=users,
        target=data.item_index[at],
        input_start=start if position is None else position[start],
        input_stop=at if position is None else position[at],
        history_start=start,
        history_stop=at,
        skipped=total - len(users),
    )


def _from_end(data: Interactions) -> Tensor:
    """``(E,)``: 1 for the last row of a user, 2 for the one before."""
    _, stop = data.bounds()
    return stop[data.user_index] - torch.arange(len(data))


def _count_rows(data: Interactions, rows: Tensor) -> Tensor:
    return torch.bincount(data.user_index[rows], minlength=data.num_users)


def _counts(data: Interactions, rows: Tensor) -> Tensor:
    return torch.bincount(data.item_index[rows], minlength=data.num_items + 1)
