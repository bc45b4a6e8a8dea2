"""Small models for the tests of serving, and a slow reference for what they should answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning import (
    IDItemEncoder,
    LinkedOutItemEncoder,
    SequentialRecommender,
    export_bundle,
)

ITEMS, LAYERS, SLOTS, HIDDEN, DIM, LONGEST = 211, 3, 2, 24, 16, 8
IDS = [f"v{number}" for number in range(1, ITEMS + 1)]


def features(count: int = ITEMS, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, LAYERS, SLOTS, HIDDEN, generator=generator)


def make_model(
    backbone: str = "sasrec", encoder: str = "linkedout", **options: Any
) -> SequentialRecommender:
    """A model with the weights of nobody's training, all different from their starts."""
    torch.manual_seed(7)
    if encoder == "id":
        items: Any = IDItemEncoder(ITEMS, dim=DIM)
    else:
        known = torch.arange(ITEMS) % 5 != 0
        items = LinkedOutItemEncoder.from_features(
            features(),
            item_ids=IDS,
            train_items=known,
            layers=(2, 4, 8),
            slots=("visual", "last"),
            dim=DIM,
            rank=8,
            id_fusion="concat" if encoder == "linkedout+id" else "none",
        )
    model = SequentialRecommender(items, backbone, max_len=LONGEST, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def write_bundle(model: SequentialRecommender, out: Path, **options: Any) -> Path:
    given = {"item_ids": IDS, "counts": torch.arange(ITEMS + 1), "formats": ()} | options
    export_bundle(model, out, **given)
    return out


def histories(users: int, *, seed: int = 0, longest: int = 2 * LONGEST) -> list[list[str]]:
    """Histories of every length from 1, some longer than the model reads."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (users,), generator=generator).tolist()
    return [
        [IDS[i] for i in torch.randperm(ITEMS, generator=generator)[:length].tolist()]
        for length in lengths
    ]


@torch.no_grad()
def reference(
    model: SequentialRecommender, users: Sequence[Sequence[str]], k: int, *, mask: bool = True
) -> tuple[list[list[str]], list[list[float]]]:
    """Answers by the module's own scores of the whole catalogue, sorted in full."""
    ids, scores = [], []
    table = model.candidate_table()
    for history in users:
        rows = [IDS.index(item) + 1 for item in history]
        values = (model.encode_sequences(torch.tensor([rows[-LONGEST:]])) @ table.T)[0]
        values[0] = -torch.inf
        if mask:
            values[rows] = -torch.inf
        best, order = values.sort(descending=True, stable=True)
        ids.append([IDS[row - 1] for row in order[:k].tolist()])
        scores.append(best[:k].tolist())
    return ids, scores
