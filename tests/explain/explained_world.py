"""A catalogue of six kinds that layer 8 knows, users who stay with a kind, and trained cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from linkedout_lightning.compare.cell import run_cell
from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.files import write_json
from linkedout_lightning.compare.plan import plan
from linkedout_lightning.store import FeatureStore, StoreSpec

KINDS, ITEMS, LAYERS = 6, 72, (4, 8, 12)
NAMES = ("anime", "food", "game", "music", "news", "sports")


def write_world(folder: Path) -> dict[str, str]:
    """Interactions, features, titles and categories; the last three items are never used."""
    generator = torch.Generator().manual_seed(0)
    lines = ["user_id,item_id,timestamp"]
    for user in range(90):
        for step in range(8):
            item = int(torch.randint(ITEMS - 3, (1,), generator=generator))
            if torch.rand(1, generator=generator) > 0.1:
                item = min(item - item % KINDS + user % KINDS, ITEMS - 4)
            lines.append(f"u{user},i{item},{step}")
    # Somebody must have seen them once, at the very end, to make them part of the catalogue.
    lines += [f"u{n},i{ITEMS - 3 + n},9" for n in range(3)]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    spec = StoreSpec(model="made-up", layers=LAYERS, slots=("visual", "text"), hidden_size=12)
    features = 0.5 * torch.randn(ITEMS, 3, 2, 12, generator=generator)
    features[torch.arange(ITEMS), 1, :, torch.arange(ITEMS) % KINDS] += 2.0
    store = FeatureStore.create(folder / "features", spec)
    store.append(
        [f"i{item}" for item in range(ITEMS)],
        features.to(spec.torch_dtype),
        torch.ones(ITEMS, 2, dtype=torch.bool),
    )
    rows = [f'i{n},"title {n}, <b>&",{NAMES[n % KINDS]}' for n in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item_id,title,category", *rows]) + "\n")
    return {
        "interactions": str(folder / "interactions.csv"),
        "store": str(folder / "features"),
        "items": str(folder / "items.csv"),
    }


def train_cells(world: dict[str, str], out: Path, **changes: Any) -> Path:
    """Cells as a comparison leaves them, trained in this process."""
    given: dict[str, Any] = {
        "encoders": ("id", "linkedout", "linkedout+id"), "seeds": (0, 1), "dim": 16, "rank": 8,
        "epochs": 2, "batch_size": 64, "lr": 0.01, "max_len": 8, "accelerator": "cpu",
    }  # fmt: skip
    config = CompareConfig(
        interactions=world["interactions"], store=world["store"], out=str(out), html=False,
        **(given | changes),
    )  # fmt: skip
    for cell in plan(config):
        cell.folder.mkdir(parents=True)
        write_json(cell.folder / "cell.json", cell.to_json())
        identity = {"encoder": cell.encoder, "backbone": cell.backbone, "seed": cell.seed}
        write_json(cell.folder / "result.json", identity | run_cell(cell.to_json(), cell.folder))
    return out


def change_setting(cell: Path, name: str, value: Any) -> None:
    """Write another setting into a cell's description."""
    spec = json.loads((cell / "cell.json").read_text())
    spec["settings"][name] = value
    (cell / "cell.json").write_text(json.dumps(spec))
