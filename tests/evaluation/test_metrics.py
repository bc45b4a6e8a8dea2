from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.evaluation import Coverage, RankingMetrics, ranking_values, target_ranks

RANKS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def naive(ranks: list[int], k: int) -> dict[str, float]:
    hits = [r for r in ranks if r <= k]
    return {
        f"HR@{k}": len(hits) / len(ranks),
        f"NDCG@{k}": sum(1 / math.log2(r + 1) for r in hits) / len(ranks),
        f"MRR@{k}": sum(1 / r for r in hits) / len(ranks),
    }


@settings(deadline=None)
@given(ranks=RANKS, cut=st.integers(0, 30), k=st.integers(1, 30))
def test_equals_the_plain_formulas_in_any_batches(ranks: list[int], cut: int, k: int) -> None:
    metric = RankingMetrics(ks=(k, 20))
    for part in (ranks[:cut], ranks[cut:]):
        metric.update(torch.tensor(part, dtype=torch.int64))
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == pytest.approx({**naive(ranks, k), **naive(ranks, 20)})


def test_ndcg_equals_scikit_learn() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(51.0), (200, 1)), axis=1)  # no ties
    target = rng.integers(1, 51, 200)
    relevance = np.zeros((200, 51))
    relevance[np.arange(200), target] = 1
    ranks = target_ranks(torch.from_numpy(scores), torch.from_numpy(target))
    for k in (1, 5, 10):
        expected = sklearn_metrics.ndcg_score(relevance[:, 1:], scores[:, 1:], k=k)
        assert float(ranking_values(ranks, k, "NDCG").mean()) == pytest.approx(expected)


def test_hit_rate_equals_a_masked_sort() -> None:
    torch.manual_seed(0)
    scores, target = torch.randn(300, 61), torch.randint(1, 61, (300,))
    history = torch.randint(0, 61, (300, 9))
    history[history == target[:, None]] = 0
    masked = scores.scatter(1, history, -1e9)
    masked[:, 0] = -1e9
    hits = (masked.topk(10).indices == target[:, None]).any(1)
    metric = RankingMetrics(ks=(10,))
    metric.update(target_ranks(scores, target, history))
    assert float(metric.compute()["HR@10"]) == pytest.approx(float(hits.double().mean()))


def test_slices_are_the_metric_over_their_users() -> None:
    ranks = torch.tensor([1, 4, 30, 2, 11])
    target = torch.tensor([1, 2, 2, 3, 1])
    slices = {
        "even": torch.tensor([False, False, True, False, False]),
        "all": torch.tensor([False, True, True, True, True]),
        "nobody": torch.tensor([False, False, False, False, True]),
    }
    metric = RankingMetrics(ks=(10,), slices=slices)
    metric.update(ranks[:2], target[:2])
    metric.update(ranks[2:], target[2:])
    found = {name: float(value) for name, value in metric.compute().items()}
    assert {n: found[f"even/{n}"] for n in naive([4, 30], 10)} == pytest.approx(naive([4, 30], 10))
    assert {n: found[f"all/{n}"] for n in naive([1], 10)} == pytest.approx(
        naive(ranks.tolist(), 10)
    )
    assert (found["even/users"], found["all/users"], found["nobody/users"]) == (2, 5, 0)
    assert "nobody/HR@10" not in found


def test_reset_and_reuse() -> None:
    metric = RankingMetrics(ks=(10,), keep_ranks=True)
    metric.update(torch.tensor([1, 2]), users=torch.tensor([3, 1]))
    metric.reset()
    metric.update(torch.tensor([20, 5]), users=torch.tensor([8, 2]))
    assert float(metric.compute()["HR@10"]) == 0.5
    users, ranks = metric.ranks()
    assert users.tolist() == [2, 8]
    assert ranks.tolist() == [5, 20]


def test_no_ranks_yet() -> None:
    assert RankingMetrics(keep_ranks=True).ranks().users.tolist() == []


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="ks"):
        RankingMetrics(ks=())
    with pytest.raises(ConfigError, match="bool"):
        RankingMetrics(slices={"a": torch.tensor([1, 0])})
    with pytest.raises(ConfigError, match="target"):
        RankingMetrics(slices={"a": torch.tensor([True])}).update(torch.tensor([1]))
    with pytest.raises(ConfigError, match="users"):
        RankingMetrics(keep_ranks=True).update(torch.tensor([1]))
    with pytest.raises(ConfigError, match="keep_ranks"):
        RankingMetrics().ranks()
    with pytest.raises(DataError, match="start at 1"):
        RankingMetrics().update(torch.tensor([0]))
    with pytest.raises(ConfigError, match="HR, NDCG, MRR"):
        ranking_values(torch.tensor([1]), 10, "recall")


def test_coverage_counts_each_item_once() -> None:
    coverage = Coverage(k=2, num_items=5)
    coverage.update(torch.tensor([[1, 2, 5], [2, 3, 5]]))
    coverage.update(torch.tensor([[3, 0, 5]]))
    assert float(coverage.compute()) == pytest.approx(3 / 5)
    with pytest.raises(DataError, match=">= 2"):
        coverage.update(torch.tensor([[1]]))
