"""A catalogue of features as a language model gives them, for the tests of this folder."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from linkedout_lightning.encoders import LinkedOutItemEncoder

LAYERS, SLOTS, WIDTH = 3, 2, 24


class Catalogue(NamedTuple):
    features: Tensor  # (N, L, S, D)
    mask: Tensor  # (N, S)
    train: Tensor  # (N,) bool


def make_features(items: int, seed: int) -> Tensor:
    """Correlated features with a common mean, so that raw items look alike (cosine > .8)."""
    g = torch.Generator().manual_seed(99)  # the "language model" is one, whatever the items
    basis = torch.randn(LAYERS, WIDTH, WIDTH, generator=g) * torch.linspace(2, 0.1, WIDTH)
    mean = 15 * torch.randn(LAYERS, SLOTS, WIDTH, generator=g)
    latent = torch.randn(items, LAYERS, SLOTS, WIDTH, generator=torch.Generator().manual_seed(seed))
    return torch.einsum("nlsd,lde->nlse", latent, basis) + mean


def make_catalogue() -> Catalogue:
    """Sixty items; the fourth has no token at all, about a third is not trained on."""
    g = torch.Generator().manual_seed(5)
    mask = torch.rand(60, SLOTS, generator=g) < 0.8
    mask[:4] = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    train = torch.rand(60, generator=g) < 0.7
    train[:4] = True
    return Catalogue(make_features(60, seed=0), mask, train)


def build(catalogue: Catalogue, **options: Any) -> LinkedOutItemEncoder:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "dim": 8,
        "rank": 12,
        "new_slots": [1],
        "train_items": catalogue.train,
    }
    return LinkedOutItemEncoder.from_features(
        catalogue.features, catalogue.mask, **{**defaults, **options}
    )
