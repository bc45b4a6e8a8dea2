"""An ablation that no training made: figures that follow from what a row changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from made_up import write_result

from linkedout_lightning.compare.ablation import AblateConfig
from linkedout_lightning.compare.ablation.rows import AblationPlan, Row, plan_ablation
from linkedout_lightning.store import FeatureStore, StoreSpec

LAYERS, SLOTS = (4, 8, 12, 16, 20, 24), ("visual", "text", "last")


def write_spec(path: Path) -> Path:
    """A store of six layers and three token groups, without items."""
    spec = StoreSpec(model="made-up", layers=LAYERS, slots=SLOTS, hidden_size=512)
    FeatureStore.create(path, spec)
    return path


def made_up_plan(interactions: str, folder: Path, **changes: Any) -> AblationPlan:
    """A plan whose cells are finished, with the middle layers the best ones."""
    given = {
        "seeds": (0, 1),
        "simulated": True,
        "simulation_note": "Ranks were drawn from rules.",
        "title": "A made-up ablation",
    } | changes
    config = AblateConfig(
        interactions=interactions, store=str(write_spec(folder / "features")),
        out=str(folder / "out"), **given,
    )  # fmt: skip
    plan = plan_ablation(config)
    for row in plan.rows:
        for cell in row.cells:
            write_result(
                cell,
                strength=strength_of(row),
                gates=gates(row),
                parameters_by_part={
                    "encoder/compressor": 40_000 * len(layers_of(row)),
                    "encoder/fuser": 2000,
                    "backbone": 34_567,
                },
            )
    return plan


def layers_of(row: Row) -> tuple[int, ...]:
    return tuple(row.changes.get("layers") or LAYERS)


def strength_of(row: Row) -> float:
    """Content is worth most in layers 8 to 16, and more with more of them."""
    worth = {4: 0.3, 8: 0.8, 12: 1.0, 16: 0.85, 20: 0.5, 24: 0.35}
    best = sorted((worth[layer] for layer in layers_of(row)), reverse=True)
    content = 0.02 * sum(value * 0.5**place for place, value in enumerate(best))
    changes = row.changes
    if changes.get("encoder") in ("random", "shuffled", "id", "id-dropout"):
        content = 0.0
    content *= {"mean": 0.85, "concat": 0.97, "weighted-sum": 0.9, "dff": 0.8, "mlp": 0.93}.get(
        changes.get("encoder", ""), 1.0
    )
    content *= 0.5 if changes.get("whitening_power") == 0.0 else 1.0
    content *= 0.7 if len(changes.get("slots", SLOTS)) == 1 else 1.0
    ids = 0.0 if changes.get("id_fusion") == "none" else 0.06
    ids *= {"add": 0.92, "gate": 0.95}.get(changes.get("id_fusion", ""), 1.0)
    ids *= {0.0: 0.9, 0.6: 0.85}.get(changes.get("id_dropout", 0.2), 1.0)
    loss = {"sampled": 0.93, "in_batch": 1.2}.get(changes.get("loss", ""), 1.0)
    return (0.02 + ids + content) * loss


def gates(row: Row) -> dict[str, Any] | None:
    names = layers_of(row)
    if len(names) < 2 or row.changes.get("encoder"):
        return None
    weights = torch.softmax(torch.tensor([-abs(n - 12) / 8 for n in names]), 0)
    return {
        "layers": list(names),
        "mean": weights.tolist(),
        "std": [0.05] * len(names),
        "entropy": 0.9,
        "slices": {f"decile_{d}": weights.tolist() for d in range(1, 11)},
    }
