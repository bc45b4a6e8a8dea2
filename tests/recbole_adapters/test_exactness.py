"""Every model that takes an item encoder is the plain RecBole model when the encoder is a table.

The oracle is RecBole itself: its own model, data and trainer.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import ITEMS, World, run_plain

from recbole_adapters.launcher import Request
from recbole_adapters.running import Outcome, run_here
from recbole_adapters.slots import STAYS_WITH_IDS, slots_of
from recbole_adapters.table import ItemTable

MODELS = (
    "SASRec", "GRU4Rec", "NextItNet", "CORE", "NARM", "STAMP", "LightSANs", "SRGNN", "GCSAN",
    "Caser", "SINE", "SHAN", "HRM", "FOSSIL", "FEARec", "SASRecCPR", "GRU4RecCPR", "GRU4RecF",
    "SASRecF", "FDSA", "BERT4Rec", "HGN", "NPE", "FPMC", "RepeatNet", "TransRec",
)  # fmt: skip


@dataclass
class Watched:
    """A run, with what is gone once it is over."""

    outcome: Outcome
    losses: list[float] = field(default_factory=list)
    steps: int = 0
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)


def train(world: World, model: str, folder: Path, *, linkedout: Any, **changes: Any) -> Watched:
    """A run in this process with the item encoder of a ``linkedout:`` section."""
    watched = Watched(None)  # type: ignore[arg-type]

    def listen(trainer: Any) -> None:
        watched.losses.append(float(list(trainer.train_loss_dict.values())[-1]))
        steps = [state["step"] for state in trainer.optimizer.state.values()]
        watched.steps = int(max(steps))
        watched.gradients = {
            name: parameter.grad.clone()
            for name, parameter in trainer.model.named_parameters()
            if parameter.grad is not None
        }

    settings = world.settings(model, linkedout=linkedout, **changes)
    request = Request(model, "tiny", config_dict=settings, folder=folder, verbose=False)
    watched.outcome = run_here(request, listener=listen)
    return watched


@pytest.mark.parametrize("model", MODELS)
def test_identity_encoder_is_plain_recbole_to_the_last_bit(
    model: str, world: World, tmp_path: Path
) -> None:
    plain = run_plain(model, world.settings(model))
    ours = train(world, model, tmp_path, linkedout={"encoder": "identity"})
    run, built = ours.outcome.run, ours.outcome.model

    assert len(plain.losses) == 2
    assert ours.losses == plain.losses
    assert run["best_valid_result"] == plain.valid
    assert run["test_result"] == plain.test
    assert set(built.item_tables) == set(slots_of(type(built)))
    trained = plain.model.state_dict()
    for slot, table in built.item_tables.items():
        assert isinstance(table, ItemTable)
        with torch.no_grad():
            assert torch.equal(table.weight, trained[f"{slot}.weight"])
    own = built.state_dict()
    others = {name for name in trained if name.split(".")[0] not in _tables(built)}
    assert others == {name for name in own if name.split(".")[0] not in _tables(built)}
    assert all(torch.equal(own[name], trained[name]) for name in others)


@pytest.mark.parametrize("model", MODELS)
def test_linkedout_encoder_trains(model: str, world: World, tmp_path: Path) -> None:
    run = train(
        world, model, tmp_path, linkedout={"store": str(world.store), "rank": 8},
        epochs=5, learning_rate=0.01,
    )  # fmt: skip
    built = run.outcome.model

    assert all(math.isfinite(loss) for loss in run.losses)
    assert min(run.losses[-2:]) < run.losses[0]
    for slot, table in built.item_tables.items():
        names = [f"{slot}.encoder.{name}" for name, _ in table.encoder.named_parameters()]
        unreached = [n for n in names if n not in run.gradients or not run.gradients[n].any()]
        assert names
        assert not unreached
    # No feature, and nothing else by item but what is said to stay.
    by_item = {
        name.removesuffix(".weight")
        for name, value in built.state_dict().items()
        if {ITEMS, ITEMS + 1, ITEMS + 2} & set(value.shape)
    }
    assert by_item == _stays(model)


def _stays(model: str) -> set[str]:
    return set(re.findall(r"`(\S+?)`", STAYS_WITH_IDS.get(model, "")))


def _tables(model: Any) -> set[str]:
    """Attributes that hold an item table, by whatever name."""
    tables = set(model.item_tables.values())
    return {name for name, module in model._modules.items() if module in tables}
