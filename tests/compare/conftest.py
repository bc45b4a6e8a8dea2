"""A made-up comparison, and a small real one that is trained once for the whole session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from made_up import write_interactions, write_result, write_store

from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.plan import plan
from linkedout_lightning.compare.results import collect
from linkedout_lightning.compare.run import Comparison, compare


@dataclass(frozen=True)
class Inputs:
    """Paths of interactions and features."""

    interactions: str
    store: str

    def config(self, out: Path, **changes: Any) -> CompareConfig:
        """A comparison small enough to train within seconds."""
        quick: dict[str, Any] = {
            "dim": 16, "rank": 8, "epochs": 2, "batch_size": 64, "lr": 0.01, "max_len": 8,
            "bootstrap": 200, "accelerator": "cpu", "html": False, "threads": 1,
            "encoders": ("popularity", "id", "linkedout"),
        }  # fmt: skip
        return CompareConfig(
            interactions=self.interactions, store=self.store, out=str(out), **(quick | changes)
        )


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Interactions and features that agree on what an item is about."""
    folder = tmp_path_factory.mktemp("inputs")
    return Inputs(
        str(write_interactions(folder / "interactions.csv")), str(write_store(folder / "features"))
    )


@pytest.fixture(scope="session")
def trained(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A real comparison, its cells run as processes."""
    out = tmp_path_factory.mktemp("compare")
    return compare(inputs.config(out, html=True, jobs=2), progress=False)


@pytest.fixture(scope="session")
def made_up(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of many rows, two backbones and three seeds, with one failed cell."""
    config = inputs.config(
        tmp_path_factory.mktemp("made-up"),
        encoders=(
            "popularity", "cooccurrence", "id", "id-dropout", "random", "last", "linkedout",
            "random+id", "linkedout+id", "oracle",
        ),
        backbones=("sasrec", "gru4rec"),
        seeds=(0, 1, 2),
        stores={"oracle": inputs.store},
        simulated=True,
        simulation_note="Users were drawn from rules.",
        title="A made-up world",
        overrides={"id": {"lr": 3e-4}},
    )  # fmt: skip
    cells = plan(config)
    for cell in cells[:-1]:
        write_result(cell)
    return collect(config, cells, failures={cells[-1].folder: "DataError: <made> up"})
