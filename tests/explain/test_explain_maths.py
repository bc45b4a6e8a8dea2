"""Gates, neighbours and spectra against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linkedout_lightning.explain.gates import (
    agreement,
    entropy,
    part_shares,
    spread_between,
    variance_shares,
)
from linkedout_lightning.explain.groups import group_means, make_groups, numbered
from linkedout_lightning.explain.neighbours import nearest, overlap, same_kind
from linkedout_lightning.explain.vectors import describe, effective_rank, spectrum
from linkedout_lightning.fusion.geometry import effective_rank as rank_by_svd


def some_weights(seeds: int, items: int = 60, layers: int = 3, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(seeds, items, layers, generator=generator).softmax(-1)


# ---- gates ---------------------------------------------------------------------------------------


def test_agreement_is_numpy_s_correlation_and_a_count() -> None:
    weights = some_weights(3)
    found = agreement(weights)
    assert found is not None
    pairs = [(0, 1), (0, 2), (1, 2)]
    for layer in range(3):
        expected = np.mean([np.corrcoef(weights[a, :, layer], weights[b, :, layer])[0, 1]
                            for a, b in pairs])  # fmt: skip
        assert found["by_layer"][layer] == pytest.approx(expected, abs=1e-6)
    top = weights.argmax(-1).tolist()
    same = np.mean([[x == y for x, y in zip(top[a], top[b], strict=True)] for a, b in pairs])
    assert found["same_top"] == pytest.approx(same)
    chance = np.mean([sum(top[a].count(k) * top[b].count(k) for k in range(3)) / 60**2
                      for a, b in pairs])  # fmt: skip
    assert found["same_top_chance"] == pytest.approx(chance)


def test_seeds_that_swap_two_layers_tell_the_same_items_apart() -> None:
    one = some_weights(1)[0]
    found = agreement(torch.stack([one, one[:, [1, 0, 2]]]))
    assert found is not None
    assert found["grouping"] == pytest.approx(1.0)
    assert found["correlation"] < 0.5
    strangers = agreement(some_weights(2, 4000))
    assert strangers is not None
    assert strangers["grouping"] < 0.01
    assert abs(strangers["correlation"]) < 0.1


def test_one_seed_has_nobody_to_agree_with() -> None:
    assert agreement(some_weights(1)) is None
    members = torch.arange(60) < 30
    found = spread_between(some_weights(1), torch.stack([members, ~members]))
    assert found["over_seeds"] is None
    assert found["ratio"] is None


def test_spread_between_groups_by_hand() -> None:
    # Two items in each of two groups, two layers, two seeds.
    weights = torch.tensor(
        [
            [[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.2, 0.8]],
            [[0.7, 0.3], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]],
        ]
    )
    members = torch.tensor([[True, True, False, False], [False, False, True, True]])
    # Means of layer 0: seed 0 has .8 and .2 about .5, seed 1 .7 and .3 about .5.
    profile = np.array([[0.3, -0.3], [0.2, -0.2]])
    over = np.sqrt(np.mean(profile.var(axis=0, ddof=1)))
    between = np.sqrt(np.mean(profile.mean(axis=0) ** 2) - over**2 / 2)
    found = spread_between(weights, members)
    assert found["over_seeds"] == pytest.approx(over, abs=1e-6)
    assert found["between"] == pytest.approx(between, abs=1e-6)
    assert found["ratio"] == pytest.approx(between / over, abs=1e-5)
    assert found["within"] == pytest.approx(np.sqrt(np.mean(profile**2)), abs=1e-6)
    by_item = weights[:, :, 0].numpy().var(axis=1, ddof=1).mean()
    assert found["by_chance"] == pytest.approx(np.sqrt(by_item / 2), abs=1e-6)
    assert found["correlation"] == pytest.approx(1.0)


def test_random_groups_and_wandering_groups_get_their_verdicts() -> None:
    generator = torch.Generator().manual_seed(3)
    kinds = torch.randint(4, (4000,), generator=generator)
    members = torch.stack([kinds == kind for kind in range(4)])
    noise = some_weights(2, 4000, 4)
    assert spread_between(noise, members)["verdict"] == "chance"
    logits = 3.0 * torch.eye(4)[kinds] + 0.1 * torch.randn(2, 4000, 4, generator=generator)
    assert spread_between(logits.softmax(-1), members)["verdict"] == "above"
    # Another seed deals the layers to the kinds anew.
    moved = torch.stack([logits[0].softmax(-1), logits[1][:, [1, 2, 3, 0]].softmax(-1)])
    assert spread_between(moved, members)["verdict"] == "below"


def test_entropy_by_hand() -> None:
    weights = torch.tensor([[0.25, 0.25, 0.5], [0.0, 1.0, 0.0]])
    by_hand = -(2 * 0.25 * math.log(0.25) + 0.5 * math.log(0.5)) / math.log(3)
    assert entropy(weights).tolist() == pytest.approx([by_hand, 0.0])


def test_variance_shares_are_covariances_and_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    experts = torch.randn(3, 40, 5, generator=generator)
    experts[2] = 7.0  # the same for all items; it varies by its weight alone
    weights = some_weights(1, 40)[0]
    members = torch.stack([torch.ones(40, dtype=torch.bool), torch.arange(40) < 15])
    shares = variance_shares(experts, weights, members)
    parts = (experts * weights.T.unsqueeze(-1)).numpy()
    whole = parts.sum(0)
    for row, inside in enumerate(members.numpy()):
        centred = whole - whole.mean(0)
        total = (centred[inside] ** 2).sum()
        for layer in range(3):
            own = parts[layer] - parts[layer].mean(0)
            expected = (own[inside] * centred[inside]).sum() / total
            assert float(shares[row, layer]) == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, dtype=torch.float64))
    constant = part_shares(
        torch.stack([torch.randn(40, 5, generator=generator), torch.ones(40, 5)]), members
    )
    assert constant[:, 1].abs().max() < 1e-6


# ---- groups --------------------------------------------------------------------------------------


def test_groups_leave_small_categories_out_and_keep_names_apart() -> None:
    slices = {
        "decile_1": torch.tensor([False, True, True, False, False, False]),
        "decile_2": torch.tensor([False] * 6),
        "cold": torch.tensor([False, False, False, False, False, True]),
    }
    groups = make_groups(["cold", "b", "b", "cold", ""], slices, min_items=2)
    assert groups.names == ["all items", "b", "category cold", "decile_1", "cold"]
    assert groups.kinds == ["all", "category", "category", "decile", "cold"]
    assert groups.members.sum(1).tolist() == [5, 2, 2, 2, 1]
    assert numbered(["b", "", "a"])[1].tolist() == [1, -1, 0]


def test_group_means_loop_by_loop() -> None:
    values = torch.randn(2, 7, 3)
    members = torch.rand(4, 7) < 0.6
    members[:, 0] = True
    means = group_means(values, members)
    for group in range(4):
        expected = torch.stack([v[members[group]].mean(0) for v in values]).double()
        torch.testing.assert_close(means[:, group], expected, atol=1e-6, rtol=1e-6)


# ---- neighbours ----------------------------------------------------------------------------------


@given(items=st.integers(4, 30), size=st.integers(1, 6), seed=st.integers(0, 99))
def test_neighbours_by_brute_force(items: int, size: int, seed: int) -> None:
    vectors = torch.randn(items, size, generator=torch.Generator().manual_seed(seed))
    queries = torch.arange(0, items, 2)
    k = min(5, items - 1)
    rows, cosines = nearest(vectors, queries, k)
    for query, found, values in zip(queries.tolist(), rows, cosines, strict=True):
        scores = [
            (float(torch.nn.functional.cosine_similarity(vectors[query], vectors[i], dim=0)), i)
            for i in range(items)
            if i != query
        ]
        expected = sorted(scores, reverse=True)[:k]
        # Compared by value: in one dimension all cosines are 1 or -1.
        assert values.tolist() == pytest.approx([score for score, _ in expected], abs=1e-5)
        assert query not in found.tolist()
        assert len(set(found.tolist())) == k


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(50, 8)
    whole = nearest(vectors, torch.arange(50), 4)[0]
    monkeypatch.setattr("linkedout_lightning.explain.neighbours._CELLS", 150)
    torch.testing.assert_close(nearest(vectors, torch.arange(50), 4)[0], whole)


def test_overlap_and_same_kind_by_counting() -> None:
    generator = torch.Generator().manual_seed(1)
    one = torch.stack([torch.randperm(20, generator=generator)[:6] for _ in range(9)])
    two = torch.stack([torch.randperm(20, generator=generator)[:6] for _ in range(9)])
    counted = [len(set(a) & set(b)) / 6 for a, b in zip(one.tolist(), two.tolist(), strict=True)]
    assert overlap(one, two) == pytest.approx(sum(counted) / 9)
    kinds = torch.randint(-1, 3, (20,), generator=generator)
    queries = torch.arange(9)
    shares, chances = [], []
    for query, row in zip(queries.tolist(), one.tolist(), strict=True):
        known = [kinds[i].item() for i in row if kinds[i] >= 0]
        mine = kinds[query].item()
        if mine >= 0 and known:
            shares.append(known.count(mine) / len(known))
            others = [kinds[i].item() for i in range(20) if i != query and kinds[i] >= 0]
            chances.append(others.count(mine) / len(others))
    found = same_kind(one, queries, kinds)
    assert found is not None
    assert found["share"] == pytest.approx(np.mean(shares))
    assert found["chance"] == pytest.approx(np.mean(chances))
    assert found["error"] == pytest.approx(np.std(shares, ddof=1) / len(shares) ** 0.5)
    assert same_kind(one, queries, torch.full((20,), -1)) is None


# ---- vectors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 5), (5, 30)])
def test_spectrum_is_the_svd_s(shape: tuple[int, int]) -> None:
    vectors = torch.randn(shape, dtype=torch.float64)
    expected = torch.linalg.svdvals(vectors - vectors.mean(0)) / shape[0] ** 0.5
    torch.testing.assert_close(spectrum(vectors), expected, atol=1e-7, rtol=1e-6)
    assert effective_rank(spectrum(vectors)) == pytest.approx(rank_by_svd(vectors), rel=1e-6)


def test_description_by_group_and_without_the_invalid() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [100.0, 0.0]])
    members = torch.tensor([[True, True, True, True], [True, True, False, False],
                            [False, False, False, True]])  # fmt: skip
    found = describe(vectors, members, torch.tensor([True, True, True, False]))
    assert found["items"] == 3
    assert found["norms"] == [pytest.approx(16 / 3), pytest.approx(3.0), None]
    mean = vectors[:3].mean(0)
    expected = float((vectors[:2] - mean).square().sum(1).mean().sqrt())
    assert found["spread"][1] == pytest.approx(expected)
    unit = torch.nn.functional.normalize(vectors[:3], dim=1)
    cosines = [float(unit[a] @ unit[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found["mean_cosine"] == pytest.approx(sum(cosines) / 3, abs=1e-6)
    assert found["spectrum"][0] == 1.0
