"""Inputs small enough to train on in seconds, and results that no training made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from linkedout_lightning.compare.plan import Cell
from linkedout_lightning.store import FeatureStore, StoreSpec

GROUPS, ITEMS = 6, 60


def write_interactions(path: Path, *, users: int = 150, seed: int = 0) -> Path:
    """Users who stay within one of six groups of items most of the time."""
    generator = torch.Generator().manual_seed(seed)
    lines = ["user_id,item_id,timestamp"]
    for user in range(users):
        group = user % GROUPS
        for step in range(8):
            free = torch.rand(1, generator=generator).item() < 0.1
            item = int(torch.randint(ITEMS, (1,), generator=generator))
            if not free:
                item = item - item % GROUPS + group
            lines.append(f"u{user},i{item},{step}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_store(path: Path, *, seed: int = 0, ids: int = ITEMS) -> Path:
    """Three layers, of which the middle one knows an item's group."""
    generator = torch.Generator().manual_seed(seed)
    spec = StoreSpec(model="made-up", layers=(4, 8, 12), slots=("visual", "text"), hidden_size=12)
    features = 0.5 * torch.randn(ids, 3, 2, 12, generator=generator)
    groups = torch.arange(ids) % GROUPS
    features[torch.arange(ids), 1, :, groups] += 2.0
    store = FeatureStore.create(path, spec)
    store.append(
        [f"i{item}" for item in range(ids)],
        features.to(spec.torch_dtype),
        torch.ones(ids, 2, dtype=torch.bool),
    )
    return path


# How likely a test user's target is near the top, and the size of things, by encoder.
_STRENGTH = {
    "popularity": 0.02, "cooccurrence": 0.06, "id": 0.09, "id-dropout": 0.092, "random": 0.02,
    "shuffled": 0.021, "last": 0.078, "layer:8": 0.08, "mean": 0.083, "linkedout": 0.088,
    "random+id": 0.089, "linkedout+id": 0.105, "oracle": 0.15,
}  # fmt: skip
_DECILES = [f"decile_{number}" for number in range(1, 11)]


def write_result(
    cell: Cell, *, users: int = 4000, strength: float | None = None, **changes: Any
) -> None:
    """A finished cell whose figures follow from made-up ranks."""
    strength = _STRENGTH.get(cell.encoder, 0.05) if strength is None else strength
    generator = torch.Generator().manual_seed(cell.seed + 7919 * (cell.backbone == "gru4rec"))
    # The same users are easy for every encoder, as in life: one uniform number a user.
    ease = torch.rand(users, generator=torch.Generator().manual_seed(99))
    noise = torch.rand(users, generator=generator)
    mixed = (ease + 0.35 * noise) / 1.35
    ranks = (1 + (mixed / strength * 4) ** 1.6).long().clamp(max=900)
    cell.folder.mkdir(parents=True, exist_ok=True)
    save_file({"users": torch.arange(users), "ranks": ranks}, cell.folder / "ranks.safetensors")
    metrics = metrics_of(ranks)
    group = torch.arange(users) % 11
    slices = {
        name: {
            key: value * (1.9 - 0.17 * index if cell.encoder != "popularity" else 0.2)
            for key, value in metrics_of(ranks[group == index]).items()
        }
        | {"users": int((group == index).sum())}
        for index, name in enumerate([*_DECILES, "cold"])
    }
    if cell.encoder.startswith("id"):
        slices["cold"] |= {"HR@10": 0.0, "HR@20": 0.0}
    trained = cell.backbone != "none"
    moe = cell.encoder.startswith(("linkedout", "random", "shuffled"))
    gates = torch.tensor([0.15, 0.45, 0.25, 0.15])
    result = {
        "fingerprint": cell.fingerprint,
        "encoder": cell.encoder,
        "backbone": cell.backbone,
        "engine": "native",
        "seed": cell.seed,
        "metrics": metrics,
        "slices": slices,
        "parameters": 1_234_567 if trained else 0,
        "parameters_by_part": {"backbone": 34_567, "encoder/ids": 1_200_000} if trained else {},
        "seconds": 61.5,
        "seconds_by_part": {"fit": 55.0, "evaluation": 0.9} | ({"epoch": 2.6} if trained else {}),
        "peak_mb": 812.4,
        "peak_device_mb": None,
        "best_epoch": 14 if trained else None,
        "best_val": metrics if trained else None,
        "curve": [
            {
                "epoch": epoch,
                "train_loss": 6.9 - 1.6 * (1 - 0.8**epoch) * (0.6 + 4 * strength),
                "val": {k: v * (1 - 0.75**epoch) for k, v in metrics.items()},
                "seconds": 2.6,
            }
            for epoch in range(1, 21 if trained else 1)
        ],
        "gates": {
            "layers": [8, 16, 24, 27],
            "mean": gates.tolist(),
            "std": [0.1, 0.12, 0.08, 0.05],
            "entropy": 0.91,
            "slices": {
                name: torch.softmax(gates.log() + 0.06 * index * torch.arange(4), 0).tolist()
                for index, name in enumerate([*_DECILES, "cold"])
            },
        }
        if moe
        else None,
        "data": {
            "users": users, "items": 1000, "interactions": 30_000, "train_items": 940,
            "train_rows": 22_000, "cold_items": 60, "valid_users": users, "test_users": users,
            "items_by_slice": {}, "report": {},
        },
    } | changes  # fmt: skip
    (cell.folder / "result.json").write_text(json.dumps(result))


def metrics_of(ranks: torch.Tensor) -> dict[str, float]:
    """HR and NDCG by their formulas."""
    return {
        f"{name}@{k}": float(
            ((ranks <= k) / (torch.log2(ranks + 1.0) if name == "NDCG" else 1)).mean()
        )
        for k in (10, 20)
        for name in ("HR", "NDCG")
    }
