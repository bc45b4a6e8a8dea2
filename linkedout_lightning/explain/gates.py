r"""How a gate shares items among layers, and how much of that another seed would confirm.

Letters: S seeds, N items, L layers, G groups. A weight is the share of a layer in an item's
content vector; all functions are pure.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.explain.groups import group_means


def entropy(weights: Tensor) -> Tensor:
    r"""Entropy of each row's shares over its largest value: 1 for an even share, 0 for one layer.

    Args:
        weights: ``(…, L)``, rows sum to 1, L at least 2.

    Example:
        >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([1., 0.], dtype=torch.float64)
    """
    exact = weights.double()
    found: Tensor = torch.special.entr(exact).sum(-1) / math.log(weights.shape[-1])
    return found


def agreement(weights: Tensor) -> dict[str, Any] | None:
    """Whether two trainings that differ by their seed weigh the layers of an item alike.

    Args:
        weights: ``(S, N, L)``.

    Returns:
        Means over the pairs of seeds: ``by_layer``, Pearson's correlation over items of a layer's
        weight; ``correlation``, that of all layers together, each about its own mean;
        ``same_top``, the share of items whose heaviest layer is the same, and ``same_top_chance``,
        what that share would be if each seed dealt its choices to the items at random;
        ``grouping``, linear CKA (Kornblith et al., 2019), 1 where the seeds tell the same items
        apart, whichever layers they give them to. None with one seed.

    Example:
        >>> one = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        >>> found = agreement(torch.stack([one, one]))
        >>> round(found["correlation"], 6), found["same_top"], round(found["same_top_chance"], 4)
        (1.0, 1.0, 0.5556)
    """
    if len(weights) < 2:
        return None
    centred = weights.double() - weights.double().mean(1, keepdim=True)  # (S, N, L)
    size = weights.shape[-1]
    top = torch.nn.functional.one_hot(weights.argmax(-1), size).double()  # (S, N, L)
    pairs = list(combinations(range(len(weights)), 2))
    by_layer, whole, same, chance, grouping = [], [], [], [], []
    for a, b in pairs:
        products = (centred[a] * centred[b]).sum(0)
        squares = [centred[seed].square().sum(0) for seed in (a, b)]
        by_layer.append(_ratio(products, (squares[0] * squares[1]).sqrt()))
        whole.append(_ratio(products.sum(), (squares[0].sum() * squares[1].sum()).sqrt()))
        grouping.append(_cka(centred[a], centred[b]))
        same.append((top[a] * top[b]).sum(1).mean())
        chance.append((top[a].mean(0) * top[b].mean(0)).sum())
    return {
        "pairs": len(pairs),
        "correlation": float(torch.stack(whole).mean()),
        "by_layer": torch.stack(by_layer).mean(0).tolist(),
        "same_top": float(torch.stack(same).mean()),
        "same_top_chance": float(torch.stack(chance).mean()),
        "grouping": float(torch.stack(grouping).mean()),
    }


def spread_between(weights: Tensor, members: Tensor) -> dict[str, Any]:
    r"""Do groups of items differ more than seeds do, and more than chance?

    Let :math:`d_{s,g,l}` be the mean weight of layer l in group g minus that over all items, in
    the training with seed s. What is compared are root mean squares over groups and layers:

    - ``within``: of :math:`d_{s,g,l}`, what one training shows,
    - ``by_chance``: the same if each group were as many items drawn at random, from the items'
      own variance,
    - ``over_seeds``: of its standard deviation over seeds,
    - ``between``: of :math:`\bar d_{g,l}`, the mean over seeds, what the seeds' spread adds to it
      taken off (a mean over S seeds still holds a share 1/S of their variance).

    Args:
        weights: ``(S, N, L)``.
        members: ``(G, N)`` bool, the groups to tell apart.

    Returns:
        The four, ``over_seeds`` None with one seed; ``ratio`` of ``between`` to it; ``verdict``:
        ``chance`` where ``within`` is not above twice ``by_chance``, else ``below``, ``similar``
        or ``above`` for a ratio below 1, below 2, and from there on, None with one seed;
        ``correlation`` of the profiles :math:`d_{s}` between seeds, mean over pairs.
    """
    exact = weights.double()
    means = group_means(exact, members)  # (S, G, L)
    profile = means - exact.mean(1, keepdim=True)
    seeds = len(weights)
    mean = profile.mean(0)
    within = profile.square().mean().sqrt()
    variance = exact.var(1).mean(0)  # (L,) over items
    chance = (variance / members.sum(1, keepdim=True)).mean().sqrt()
    noise = profile.var(0).mean() if seeds > 1 else torch.tensor(0.0).double()
    between = (mean.square().mean() - noise / seeds).clamp(min=0).sqrt()
    found: dict[str, Any] = {
        "within": float(within),
        "between": float(between),
        "over_seeds": float(noise.sqrt()) if seeds > 1 else None,
        "by_chance": float(chance),
        "ratio": None,
        "correlation": None,
        "verdict": "chance" if within <= 2 * chance else None,
    }
    if seeds > 1:
        found["ratio"] = ratio = float(_ratio(between, noise.sqrt()))
        if found["verdict"] is None:
            found["verdict"] = "above" if ratio >= 2 else "similar" if ratio >= 1 else "below"
        flat = profile.flatten(1)
        found["correlation"] = float(
            torch.stack(
                [
                    _ratio((flat[a] * flat[b]).sum(), flat[a].norm() * flat[b].norm())
                    for a, b in combinations(range(seeds), 2)
                ]
            ).mean()
        )
    return found


def variance_shares(experts: Tensor, weights: Tensor, members: Tensor) -> Tensor:
    r"""How much of what tells items apart each layer brings: a gate's weight does not say it all.

    An expert with long vectors counts for more than its weight, one whose vectors are the same for
    all items for nothing. With :math:`a_{l,i} = g_{i,l} e_{l,i}` and :math:`v_i = \sum_l a_{l,i}`,

    .. math:: c_{g,l} = \frac{\sum_{i \in g} (a_{l,i} - \bar a_l) \cdot (v_i - \bar v)}
              {\sum_{i \in g} \|v_i - \bar v\|^2}

    sums to 1 over layers; a share is negative where a layer works against the others.

    Args:
        experts: ``(L, N, H)``.
        weights: ``(N, L)``.
        members: ``(G, N)`` bool.

    Returns:
        ``(G, L)`` float64.
    """
    parts = experts * weights.T.unsqueeze(-1)  # (L, N, H)
    return part_shares(parts, members)


def part_shares(parts: Tensor, members: Tensor) -> Tensor:
    """The same for any parts ``(P, N, H)`` that add up to the items' vectors.

    Returns:
        ``(G, P)`` float64.

    Example:
        >>> parts = torch.tensor([[[3.0], [-3.0]], [[1.0], [-1.0]]])
        >>> part_shares(parts, torch.ones(1, 2, dtype=torch.bool))
        tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """
    centred = parts - parts.mean(1, keepdim=True)
    whole = centred.sum(0)  # (N, H)
    products = (centred * whole).sum(-1).double()  # (P, N)
    by_group = members.double() @ products.T  # (G, P)
    return by_group / by_group.sum(1, keepdim=True).clamp(min=1e-300)


def _cka(one: Tensor, other: Tensor) -> Tensor:
    """Of centred ``(N, L)``, without the ``(N, N)`` matrices."""
    across = (one.T @ other).square().sum()
    return _ratio(across, (one.T @ one).norm() * (other.T @ other).norm())


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below.clamp(min=1e-300), torch.zeros_like(below))
