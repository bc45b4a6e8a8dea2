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
from small_world import ITEMS, World, run_plain, write_knowledge

from linkedout_lightning.errors import ConfigError
from recbole_adapters.launcher import Request
from recbole_adapters.running import Outcome, run_here
from recbole_adapters.slots import STAYS_WITH_IDS, slots_of
from recbole_adapters.table import ItemTable

MODELS = (
    "SASRec", "GRU4Rec", "NextItNet", "CORE", "NARM", "STAMP", "LightSANs", "SRGNN", "GCSAN",
    "Caser", "SINE", "SHAN", "HRM", "FOSSIL", "FEARec", "SASRecCPR", "GRU4RecCPR", "GRU4RecF",
    "SASRecF", "FDSA", "BERT4Rec", "HGN", "NPE", "FPMC", "RepeatNet", "TransRec", "GRU4RecKG",
)  # fmt: skip


@dataclass
class Watched:
    """A run, with what is gone once it is over."""

    outcome: Outcome
    losses: list[float] = field(default_factory=list)
    steps: int = 0
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)


def configure(world: World, model: str, **changes: Any) -> dict[str, Any]:
    """A model's settings, with a knowledge graph where it wants one."""
    if model == "GRU4RecKG":
        changes = write_knowledge(world.folder / "tiny") | changes
    return world.settings(model, **changes)


def train(world: World, model: str, folder: Path, *, linkedout: Any, **changes: Any) -> Watched:
    """A run in this process with the item encoder of a ``linkedout:`` section."""
    return _trained(model, configure(world, model, linkedout=linkedout, **changes), folder)


def _trained(model: str, settings: dict[str, Any], folder: Path) -> Watched:
    watched = Watched(None)  # type: ignore[arg-type]

    def listen(trainer: Any) -> None:
        watched.losses = [float(loss) for _, loss in sorted(trainer.train_loss_dict.items())]
        steps = [state["step"] for state in trainer.optimizer.state.values()]
        watched.steps = int(max(steps))
        watched.gradients = {
            name: parameter.grad.clone()
            for name, parameter in trainer.model.named_parameters()
            if parameter.grad is not None
        }

    request = Request(model, "tiny", config_dict=settings, folder=folder, verbose=False)
    watched.outcome = run_here(request, listener=listen)
    return watched


@pytest.mark.parametrize("model", MODELS)
def test_identity_encoder_is_plain_recbole_to_the_last_bit(
    model: str, world: World, tmp_path: Path
) -> None:
    plain = run_plain(model, configure(world, model))
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


def _s3rec(world: World, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = world.settings("S3Rec", pretrain_epochs=2, save_step=2, item_attribute="class")
    settings["load_col"]["item"] = ["item_id", "class"]
    return settings | {"checkpoint_dir": str(folder)} | changes


def test_s3rec_is_plain_recbole_in_both_its_stages(world: World, tmp_path: Path) -> None:
    identity = {"linkedout": {"encoder": "identity"}}
    plain, ours = (tmp_path / name for name in ("plain", "ours"))
    theirs = run_plain("S3Rec", _s3rec(world, plain))
    run = _trained("S3Rec", _s3rec(world, ours, **identity), ours)
    assert [point["train_loss"] for point in run.outcome.run["curve"]] == theirs.mean_losses
    assert run.outcome.run["test_result"] == theirs.test

    files = [folder / "S3Rec-tiny-2.pth" for folder in (plain, ours)]
    tuning = [{"train_stage": "finetune", "pre_model_path": str(file)} for file in files]
    theirs = run_plain("S3Rec", _s3rec(world, plain, **tuning[0]))
    run = _trained("S3Rec", _s3rec(world, ours, **identity, **tuning[1]), ours)
    assert run.losses == theirs.losses
    assert run.outcome.run["best_valid_result"] == theirs.valid
    assert run.outcome.run["test_result"] == theirs.test


def test_s3rec_trains_from_features_in_both_its_stages(world: World, tmp_path: Path) -> None:
    features = {"linkedout": {"store": str(world.store), "rank": 8}}
    first = _trained("S3Rec", _s3rec(world, tmp_path, **features), tmp_path)
    curve = [point["train_loss"] for point in first.outcome.run["curve"]]
    assert curve[-1] < curve[0]
    # Tensors alone, so that torch loads it without being told to trust it.
    stage = {"train_stage": "finetune", "pre_model_path": str(tmp_path / "S3Rec-tiny-2.pth")}
    tuned = _trained("S3Rec", _s3rec(world, tmp_path, **features, **stage), tmp_path / "tuned")
    assert tuned.losses[-1] < tuned.losses[0]
    with pytest.raises(ConfigError, match="weights of another item encoder"):
        _trained("S3Rec", _s3rec(world, tmp_path, linkedout={"encoder": "identity"}, **stage),
                 tmp_path / "other")  # fmt: skip


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
