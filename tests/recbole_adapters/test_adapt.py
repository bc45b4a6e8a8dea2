"""Adapted models as users have them: pickled, copied, in half precision, with more loss."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.model.sequential_recommender import SASRec
from small_world import ITEMS, World, run_plain
from torch import Tensor, nn

from linkedout_lightning.store import FeatureStore
from recbole_adapters import adapted, with_item_encoder
from recbole_adapters.compat import session
from recbole_adapters.launcher import Request
from recbole_adapters.running import run_here
from recbole_adapters.table import IdentityEncoder


def table(slot: Any) -> nn.Module:
    """A factory that can be imported, as one that is pickled must be."""
    return IdentityEncoder(slot.embedding.weight)


class Mine(SASRec):
    """A class of one's own."""


class InParts(SASRec):
    """A model whose loss comes in parts."""

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        loss = super().calculate_loss(interaction)
        return loss, 0.5 * loss


def build(model: type[Any], world: World, **changes: Any) -> tuple[Any, Any]:
    """An untrained model and its training loader."""
    with session():
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import init_seed

        own = SASREC if model.__name__ in ("Mine", "InParts") else {}
        settings = own | world.settings(model.__name__, **changes)
        config = Config(model=model, dataset="tiny", config_dict=settings)
        train, _, _ = data_preparation(config, create_dataset(config))
        init_seed(3, True)
        return model(config, train._dataset), train


SASREC = {
    "n_layers": 1, "n_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5, "initializer_range": 0.02,
    "loss_type": "CE",
}  # fmt: skip
"""What RecBole knows by the name SASRec, and not by that of a subclass."""


@pytest.mark.parametrize(
    "made",
    [
        lambda: with_item_encoder("SASRec"),
        lambda: with_item_encoder("SASRec", encoder="identity"),
        lambda: with_item_encoder("SASRec", store="features", layers=[4]),
        lambda: with_item_encoder("GRU4Rec", table),
        lambda: with_item_encoder(Mine),
        lambda: with_item_encoder(Mine, store="features"),
    ],
)
def test_classes_can_be_pickled(made: Any) -> None:
    cls = made()
    again = pickle.loads(pickle.dumps(cls))
    assert again.__name__ == cls.__name__
    assert again.__mro__[2:] == cls.__mro__[2:]
    assert again._options == cls._options
    assert again._factory is cls._factory
    assert copy.deepcopy(cls) is cls


def test_classes_by_name_are_the_same_each_time() -> None:
    assert with_item_encoder("SASRec") is adapted.SASRec is with_item_encoder(SASRec)
    assert pickle.loads(pickle.dumps(adapted.SASRec)) is adapted.SASRec
    with pytest.raises(AttributeError, match="did you mean SASRec"):
        adapted.SASRek  # noqa: B018
    with pytest.raises(AttributeError, match="DIN cannot take an item encoder"):
        adapted.DIN  # noqa: B018


def test_recboles_own_trainer_and_checkpoint_take_an_adapted_class(world: World) -> None:
    # As the docstring of `with_item_encoder` has it: no `linkedout:` section anywhere.
    cls = with_item_encoder("SASRec", store=str(world.store), rank=8)
    run = run_plain(cls, world.settings())
    assert run.losses[-1] < run.losses[0]
    assert run.model.alignment.with_features == ITEMS
    saved = torch.load(run.file, weights_only=False)
    assert type(saved["config"].model_class) is type(cls)
    assert not any(ITEMS in value.shape for value in saved["state_dict"].values())


def test_encoder_id_leaves_the_model_as_it_is(world: World) -> None:
    cls = with_item_encoder("GRU4Rec", encoder="id")
    plain, ours = (run_plain(model, world.settings("GRU4Rec")) for model in ("GRU4Rec", cls))
    assert ours.losses == plain.losses
    assert ours.model.item_tables == {}
    assert type(ours.model.item_embedding) is nn.Embedding


def test_recboles_checkpoint_loads_in_a_fresh_process(world: World, tmp_path: Path) -> None:
    section = {"store": str(world.store), "rank": 8, "checkpoint": "recbole"}
    settings = world.settings("GRU4Rec", linkedout=section)
    request = Request("GRU4Rec", "tiny", config_dict=settings, folder=tmp_path, verbose=False)
    run = run_here(request).run
    (file,) = tmp_path.glob("*.pth")
    code = f"""
import json, torch
from recbole_adapters.compat import session
with session():
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_trainer, init_seed
    config = torch.load({str(file)!r})["config"]
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.resume_checkpoint({str(file)!r})
    trainer.eval_collector.data_collect(train)
    found = trainer.evaluate(test, load_best_model=False)
print(type(model).__module__, json.dumps({{k: float(v) for k, v in found.items()}}))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    module, _, figures = done.stdout.strip().partition(" ")
    assert module == "recbole_adapters.adapted"
    assert json.loads(figures) == run["test_result"]


def test_a_copy_as_recboles_flop_counter_makes_it(world: World) -> None:
    model, train = build(
        with_item_encoder("SASRec", store=str(world.store), rank=8, balance_weight=0.1), world
    )
    model.calculate_loss(next(iter(train))).backward()
    twin = copy.deepcopy(model)
    tables = [m.item_tables["item_embedding"] for m in (model, twin)]
    tokens = [t.encoder._table.tokens(t.encoder.whitening) for t in tables]
    assert tokens[0] is tokens[1]
    for module in twin.modules():  # thop leaves such buffers on each module
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
    batch = next(iter(train))
    with torch.no_grad():
        scores = [m.eval().full_sort_predict(batch) for m in (model, twin)]
    assert torch.equal(*scores)
    assert model.train().calculate_loss(batch).isfinite()


class Reads:
    """Counts the items that are read from stores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.items = 0
        real = FeatureStore.get

        def get(store: FeatureStore, item_ids: Sequence[str], **options: Any) -> Any:
            self.items += len(item_ids)
            return real(store, item_ids, **options)

        monkeypatch.setattr(FeatureStore, "get", get)


@pytest.mark.parametrize("encoder", ["linkedout", "shuffled+id"])
def test_the_slots_of_a_model_share_the_frozen_features(
    encoder: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    counts = []
    for model in ("SASRec", "FPMC"):
        reads.items = 0
        cls = with_item_encoder(model, store=str(world.store), rank=8, encoder=encoder, dim=12)
        built, train = build(cls, world)
        built.calculate_loss(next(iter(train))).backward()
        counts.append(reads.items)
    assert counts[0] == counts[1] > 0
    encoders = [table.encoder.encoder for table in built.item_tables.values()]
    assert len({id(e._table.tokens(e.whitening)) for e in encoders}) == 1
    # What is trained is not shared.
    assert len({id(p) for e in encoders for p in e.parameters()}) == sum(
        len(list(e.parameters())) for e in encoders
    )
    twin, _ = build(cls, world)
    twin.load_state_dict(built.state_dict())
    reads.items = 0
    with torch.no_grad():
        for name, table in built.eval().item_tables.items():
            assert torch.equal(twin.eval().item_tables[name].weight, table.weight)
    assert reads.items <= counts[0]


@pytest.mark.parametrize("model", ["SASRec", "FPMC", "parts"])
def test_the_balance_loss_joins_the_loss(model: str, world: World) -> None:
    base = InParts if model == "parts" else model
    losses, batch = [], None
    for weight in (0.0, 0.25):
        cls = with_item_encoder(base, store=str(world.store), rank=8, balance_weight=weight)
        built, train = build(cls, world)
        batch = batch or next(iter(train))
        torch.manual_seed(0)
        losses.append(built.calculate_loss(batch))
    extras = [table.encoder.auxiliary_loss() for table in built.item_tables.values()]
    assert len(extras) == (3 if model == "FPMC" else 1)
    assert all(extra > 0 for extra in extras)
    if model == "parts":
        assert (len(losses[0]), len(losses[1])) == (2, 3)
    plain, balanced = (sum(loss) if isinstance(loss, tuple) else loss for loss in losses)
    torch.testing.assert_close(balanced, plain + sum(extras))
    balanced.backward()
    for table in built.item_tables.values():
        assert table.encoder.fuser.gate.weight.grad.any()


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "CORE", "BERT4Rec"])
def test_mixed_precision_is_that_of_plain_recbole(model: str, world: World, tmp_path: Path) -> None:
    settings = world.settings(model, enable_amp=True)
    plain = run_plain(model, settings)
    found: list[float] = []

    def listen(trainer: Any) -> None:
        found.append(list(trainer.train_loss_dict.values())[-1])

    for section in ({"encoder": "identity"}, {"store": str(world.store), "rank": 8}):
        request = Request(
            model, "tiny", config_dict=settings | {"linkedout": section}, folder=tmp_path,
            verbose=False,
        )  # fmt: skip
        outcome = run_here(request, listener=listen)
        if "encoder" in section:
            assert found == plain.losses
            assert outcome.run["test_result"] == plain.test
    assert torch.tensor(found).isfinite().all()
