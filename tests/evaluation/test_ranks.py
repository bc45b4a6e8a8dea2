from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linkedout_lightning.errors import DataError, LinkedOutError, NonFiniteError
from linkedout_lightning.evaluation import ranks as ranks_module
from linkedout_lightning.evaluation import target_ranks


def loop_ranks(scores: Tensor, target: Tensor, history: Tensor | None) -> list[int]:
    """Sort-free definition, one competitor at a time."""
    found = []
    for row, wanted in enumerate(target.tolist()):
        masked = set() if history is None else set(history[row].tolist())
        rank = 1
        for item in range(1, scores.shape[1]):
            if item != wanted and item not in masked:
                rank += bool(scores[row, item] >= scores[row, wanted])
        found.append(rank)
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None]:
    users, items = draw(st.integers(0, 6)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Few distinct values make ties frequent.
    scores = torch.from_numpy(rng.integers(-2, 3, (users, items + 1)).astype(np.float32))
    target = torch.from_numpy(rng.integers(1, items + 1, users))
    width = draw(st.integers(0, 5))
    history = torch.from_numpy(rng.integers(0, items + 1, (users, width)))
    kind = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    return scores.to(kind), target, draw(st.sampled_from([history, None]))


@settings(deadline=None)
@given(cases())
def test_equals_the_loop(case: tuple[Tensor, Tensor, Tensor | None]) -> None:
    assert target_ranks(*case).tolist() == loop_ranks(*case)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(37, 23).round(decimals=1)
    target = torch.randint(1, 23, (37,))
    history = torch.randint(0, 23, (37, 8))
    whole = target_ranks(scores, target, history)
    monkeypatch.setattr(ranks_module, "_CPU_CELLS", 50)
    assert torch.equal(target_ranks(scores, target, history), whole)
    assert whole.tolist() == loop_ranks(scores, target, history)


def test_ties_count_against_the_model() -> None:
    scores = torch.zeros(1, 101)
    assert target_ranks(scores, torch.tensor([7])).tolist() == [100]


def test_target_competes_even_in_its_own_history() -> None:
    scores = torch.tensor([[0.0, 3.0, 2.0, 1.0]])
    history = torch.tensor([[2, 2, 1, 0]])
    assert target_ranks(scores, torch.tensor([2]), history).tolist() == [1]


def test_padding_never_ranks() -> None:
    scores = torch.tensor([[1e9, 0.0, 1.0]])
    assert target_ranks(scores, torch.tensor([2])).tolist() == [1]


def test_leaves_scores_alone() -> None:
    scores = torch.randn(4, 9)
    before = scores.clone()
    target_ranks(scores, torch.tensor([1, 2, 3, 4]), torch.randint(0, 9, (4, 3)))
    assert torch.equal(scores, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", [0, 1, 3, 5])
def test_non_finite_raises_even_where_masked(bad: float, column: int) -> None:
    scores = torch.randn(3, 6)
    scores[1, column] = bad
    with pytest.raises(NonFiniteError, match=f"row 1 .* item {column}"):
        target_ranks(scores, torch.tensor([1, 2, 3]), torch.tensor([[3], [3], [3]]))


@pytest.mark.parametrize(
    ("scores", "target", "history", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([1, 3]), None, "1 to 3"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), None, "0 to 1"),
        (torch.zeros(2, 3), torch.tensor([1]), None, r"\(2,\)"),
        (torch.zeros(2, 3), torch.tensor([1.0, 1.0]), None, "int64"),
        (torch.zeros(2, 3), torch.tensor([1, 1]), torch.tensor([[9], [0]]), "history"),
        (torch.zeros(2, 3), torch.tensor([1, 1]), torch.tensor([1, 0]), "Hmax"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([1, 1]), None, "float"),
        (torch.zeros(3), torch.tensor([1]), None, "float"),
    ],
)
def test_bad_arguments(
    scores: Tensor, target: Tensor, history: Tensor | None, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        target_ranks(scores, target, history)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LinkedOutError)
