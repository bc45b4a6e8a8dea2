"""The object of ``explain.json`` from what was gathered.

Letters: S seeds, N items, L layers, G groups, Q queries, k neighbours, U users.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.evaluation.metrics import UserRanks, ranking_values
from linkedout_lightning.evaluation.significance import paired_bootstrap
from linkedout_lightning.explain.config import ExplainConfig
from linkedout_lightning.explain.gates import agreement, entropy, spread_between
from linkedout_lightning.explain.groups import CATEGORY, COLD, DECILE, Groups, group_means
from linkedout_lightning.explain.neighbours import overlap
from linkedout_lightning.explain.readout import Readout
from linkedout_lightning.explain.spaces import Examined, mean_figures
from linkedout_lightning.explain.study import KNOWN_FROM, Collected, Study

_FEWEST_USERS, _FEWEST_HITS = 100, 20
"""Of a group with fewer, a relative change says nothing."""


def gates_of(found: Collected, groups: Groups) -> dict[str, Any] | None:
    """Weights of the layers by group, and how far the seeds agree; None without a gate."""
    if not found.weights:
        return None
    weights = torch.stack(found.weights)  # (S, N, L)
    means = group_means(weights, groups.members)  # (S, G, L)
    own = entropy(weights)  # (S, N)
    popularity = groups.of(DECILE, COLD)
    return {
        "layers": list(found.layers),
        "mean": means.mean(0).tolist(),
        "by_seed": means.tolist(),
        "std_over_items": weights.double().std(1).mean(0).tolist(),
        "variance_share": torch.stack(found.variance).mean(0).tolist() if found.variance else None,
        "variance_share_by_seed": [share[0].tolist() for share in found.variance],
        "entropy": group_means(own.unsqueeze(-1), groups.members)[..., 0].mean(0).tolist(),
        "entropy_of_mean": float(entropy(means[:, 0]).mean()),
        "agreement": agreement(weights),
        "between": {
            "category": _between(weights, groups, groups.of(CATEGORY)),
            "popularity": _between(weights, groups, popularity),
        },
    }


def leave_out_of(
    found: Collected, targets: Tensor, groups: Groups, config: ExplainConfig
) -> dict[str, Any] | None:
    """What each layer's absence does to the test's figures; None where nothing was ranked.

    Args:
        found: Ranks with all layers and without each.
        targets: ``(U,)`` target of each test user.
        groups: Groups of the targets.
        config: Resamples.
    """
    if not found.whole:
        return None
    ks = found.cells[0].spec["settings"]["ks"]
    k = 10 if 10 in ks else min(ks)
    inside = groups.members[:, targets - 1]  # (G, U)
    users, whole = inside.sum(1).tolist(), [_mean(found.whole, "HR", k, some) for some in inside]
    enough = [
        count >= _FEWEST_USERS and count * (share or 0.0) >= _FEWEST_HITS
        for count, share in zip(users, whole, strict=True)
    ]
    layers = []
    for position, layer in enumerate(found.layers):
        without = [ranks[position] for ranks in found.without]
        layers.append(
            {
                "layer": layer,
                "metrics": {
                    f"{name}@{k}": _difference(without, found.whole, name, k, config.bootstrap)
                    for name in ("HR", "NDCG")
                },
                "groups": [
                    _difference(without, found.whole, "HR", k, config.bootstrap, inside[group])
                    if enough[group]
                    else None
                    for group in range(len(groups.names))
                ],
            }
        )
    return {
        "metric": f"HR@{k}",
        "users": users,
        "whole": whole,
        "layers": layers,
        # Of some users drawn at random there is nothing to hold it against.
        "check": None
        if config.test_users
        else [
            {
                "seed": cell.seed,
                "recorded": cell.result["metrics"][f"HR@{k}"],
                "found": _mean([ranks], "HR", k),
            }
            for cell, ranks in zip(found.cells, found.whole, strict=True)
        ],
    }


def readout_of(found: Readout | None) -> dict[str, Any] | None:
    """What a linear map finds of the learned ID vectors in the features."""
    if found is None:
        return None
    return {
        "layers": list(found.layers),
        "items": found.items,
        "interactions": KNOWN_FROM,
        "by_layer": found.by_layer.mean(0).tolist(),
        "by_layer_by_seed": found.by_layer.tolist(),
        "together": float(found.together.mean()),
        "together_by_seed": found.together.tolist(),
        "other_seed": found.other_seed,
    }


def spaces_of(spaces: list[dict[str, Examined]]) -> list[dict[str, Any]]:
    """Figures of each space, the mean over seeds, and how far two seeds' neighbours agree."""
    described = []
    for key, first in spaces[0].items():
        every = [of_seed[key] for of_seed in spaces]
        kinds = [one.same_kind for one in every]
        pairs = list(combinations(every, 2))
        described.append(
            {
                "key": key,
                "label": first.space.label,
                **mean_figures([one.figures for one in every]),
                "same_category": mean_figures([k for k in kinds if k]) if all(kinds) else None,
                "stability": sum(overlap(a.lists, b.lists) for a, b in pairs) / len(pairs)
                if pairs
                else None,
            }
        )
    return described


def overlaps_of(found: Collected, frozen: dict[str, Examined], base: Collected | None) -> Any:
    """Mean share of neighbours that two spaces have in common, the mean over seeds.

    Args:
        found: An encoder's spaces.
        frozen: Those of the features.
        base: The ID encoder's, compared seed by seed where it has as many.
    """
    rows: list[list[Examined]] = []
    labels: list[str] = []
    count = len(found.spaces)
    for one in frozen.values():
        rows.append([one] * count)
        labels.append(one.space.label)
    for key, one in found.spaces[0].items():
        rows.append([of_seed[key] for of_seed in found.spaces])
        labels.append(one.space.label)
    if base is not None and base is not found and len(base.spaces) >= count:
        rows.append([of_seed["item"] for of_seed in base.spaces[:count]])
        labels.append("ID alone")
    values = [
        [
            None
            if a is b
            else sum(overlap(x.lists, y.lists) for x, y in zip(a, b, strict=True)) / count
            for b in rows
        ]
        for a in rows
    ]
    for n, row in enumerate(rows):
        pairs = list(combinations(row, 2))
        if pairs and row[0] is not row[1]:
            values[n][n] = sum(overlap(a.lists, b.lists) for a, b in pairs) / len(pairs)
    return {"labels": labels, "values": values}


def neighbours_of(
    study: Study, encoder: str, item_ids: list[str], listed: int
) -> dict[str, Any] | None:
    """The lists of the shown items in one training, for the page.

    Args:
        study: What was gathered.
        encoder: Whose spaces.
        item_ids: The catalogue.
        listed: Neighbours of each.
    """
    sample, found = study.sample, study.encoders[encoder]
    if not len(sample.shown):
        return None
    spaces = dict(found.spaces[0])
    if not any(key.startswith("expert/") for key in spaces):
        spaces = {k: v for k, v in study.frozen.items() if k.startswith("white/")} | spaces
    pool = sample.pool.tolist()
    alone = study.encoders.get("id")
    if "id" not in spaces and alone is not None:
        spaces |= {"id-alone": _renamed(alone.spaces[0]["item"], "ID alone")}
    queries = []
    for n, at in enumerate(sample.shown.tolist()):
        lists = {}
        for key, one in spaces.items():
            rows, cosines = one.shown
            lists[key] = [
                [item_ids[pool[row]], round(cosine, 4)]
                for row, cosine in zip(
                    rows[n, :listed].tolist(), cosines[n, :listed].tolist(), strict=True
                )
            ]
        queries.append({"id": item_ids[pool[at]], "lists": lists})
    return {
        "encoder": encoder,
        "seed": found.cells[0].seed,
        "rule": study.rule,
        "spaces": [{"key": key, "label": one.space.label} for key, one in spaces.items()],
        "queries": queries,
    }


def _renamed(one: Examined, label: str) -> Examined:
    return replace(one, space=replace(one.space, label=label))


def _between(weights: Tensor, groups: Groups, chosen: list[int]) -> dict[str, Any] | None:
    if len(chosen) < 2:
        return None
    return spread_between(weights, groups.members[chosen]) | {"groups": len(chosen)}


def _mean(ranks: list[UserRanks], metric: str, k: int, some: Tensor | None = None) -> float | None:
    values = torch.stack([ranking_values(one.ranks, k, metric) for one in ranks]).mean(0)
    values = values if some is None else values[some]
    return float(values.mean()) if len(values) else None


def _difference(
    without: list[UserRanks],
    whole: list[UserRanks],
    metric: str,
    k: int,
    resamples: int,
    some: Tensor | None = None,
) -> dict[str, Any]:
    first, second = (
        torch.stack([ranking_values(one.ranks, k, metric) for one in ranks])
        for ranks in (without, whole)
    )
    if some is not None:
        first, second = first[:, some], second[:, some]
    test = paired_bootstrap(first, second, resamples=resamples)
    return {
        "without": test.first,
        "whole": test.second,
        "difference": test.difference,
        "low": test.low,
        "high": test.high,
        "relative": test.relative if test.second else None,
        "by_seed": (first.mean(1) - second.mean(1)).tolist(),
    }
