from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.evaluation import significance
from linkedout_lightning.evaluation.metrics import UserRanks
from linkedout_lightning.evaluation.significance import compare_ranks, paired_bootstrap


def hits(rate: float, users: int, seed: int) -> torch.Tensor:
    return (torch.rand(users, generator=torch.Generator().manual_seed(seed)) < rate).double()


def test_interval_matches_the_normal_approximation() -> None:
    first, second = hits(0.10, 20_000, 0), hits(0.09, 20_000, 1)
    found = paired_bootstrap(first, second, resamples=4000)
    difference = (first - second).numpy()
    error = difference.std() / np.sqrt(len(difference))
    assert found.difference == pytest.approx(difference.mean())
    assert found.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.1 * error)
    assert found.relative == pytest.approx(found.difference / second.mean().item())


def test_both_ways_of_drawing_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = hits(0.3, 3000, 2), hits(0.25, 3000, 3)
    counted = paired_bootstrap(first, second, resamples=4000)
    monkeypatch.setattr(significance, "_DISTINCT", 0)
    indexed = paired_bootstrap(first, second, resamples=4000)
    width = counted.high - counted.low
    assert indexed.low == pytest.approx(counted.low, abs=0.08 * width)
    assert indexed.high == pytest.approx(counted.high, abs=0.08 * width)


def test_indexed_draws_equal_a_naive_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(significance, "_DISTINCT", 0)
    monkeypatch.setattr(significance, "_DRAWS", 500)  # ten resamples a time
    found = paired_bootstrap(values, torch.zeros(50), resamples=30, seed=9)
    rng, means = np.random.default_rng(9), []
    for _ in range(3):
        index = rng.integers(0, 50, size=(10, 50), dtype=np.int32)
        means += [sum(values[i].item() for i in row) / 50 for row in index]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    inside = 0
    for trial in range(200):
        found = paired_bootstrap(
            hits(0.5, 400, 2 * trial), hits(0.4, 400, 2 * trial + 1), resamples=400
        )
        inside += found.low <= 0.1 <= found.high
    assert 0.90 <= inside / 200 <= 0.99


def test_same_models_do_not_differ() -> None:
    values = hits(0.2, 1000, 0)
    found = paired_bootstrap(values, values)
    assert (found.difference, found.low, found.high, found.significant) == (0, 0, 0, False)


def test_seeds_are_averaged_by_user() -> None:
    first = torch.stack([hits(0.2, 5000, s) for s in range(3)])
    second = torch.stack([hits(0.1, 5000, s) for s in range(10, 12)])
    found = paired_bootstrap(first, second)
    assert found == paired_bootstrap(first.double().mean(0), second.double().mean(0))
    assert found.users == 5000
    assert found.significant


def test_reproducible_and_quick() -> None:
    users = torch.arange(50_000)
    rng = torch.Generator().manual_seed(0)
    runs = [UserRanks(users, torch.randint(1, 500, (50_000,), generator=rng)) for _ in range(4)]
    begin = time.process_time()
    found = compare_ranks(runs[:2], runs[2:], metric="NDCG", k=10)
    assert time.process_time() - begin < 2
    assert found == compare_ranks(runs[:2], runs[2:], metric="NDCG", k=10)
    assert found != compare_ranks(runs[:2], runs[2:], metric="NDCG", k=10, seed=1)


def test_bad_arguments() -> None:
    with pytest.raises(DataError, match="same users"):
        paired_bootstrap(torch.ones(3), torch.ones(4))
    with pytest.raises(DataError, match="finite"):
        paired_bootstrap(torch.tensor([float("nan")]), torch.ones(1))
    with pytest.raises(ConfigError, match="resamples"):
        paired_bootstrap(torch.ones(3), torch.ones(3), resamples=0)
    one, other = (UserRanks(torch.tensor(u), torch.tensor([1, 2])) for u in ([0, 1], [0, 2]))
    with pytest.raises(DataError, match="different users"):
        compare_ranks([one], [other])
    with pytest.raises(DataError, match="at least one"):
        compare_ranks([], [one])
