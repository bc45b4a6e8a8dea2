"""Models that cannot take an item encoder say so in one sentence, and the reason is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import DIN, NPE, SASRec
from small_world import ITEMS, KINDS, World, run_plain, write_knowledge
from torch import nn

from linkedout_lightning.errors import ConfigError
from recbole_adapters import with_item_encoder
from recbole_adapters.launcher import Request
from recbole_adapters.running import run_here
from recbole_adapters.slots import REFUSED, STAYS_WITH_IDS, sequential_models, slots_of


@pytest.mark.parametrize("model", REFUSED)
def test_refused_by_name_before_anything_is_read(model: str, tmp_path: Path) -> None:
    settings = {"data_path": "/nowhere", "linkedout": {"encoder": "identity"}}
    with pytest.raises(ConfigError, match=f"{model} cannot take an item encoder: ") as raised:
        with_item_encoder(model)
    assert "\n" not in str(raised.value)
    with pytest.raises((ConfigError, ValueError)):
        run_here(Request(model, "tiny", config_dict=settings, folder=tmp_path, verbose=False))


def test_din_keeps_items_and_all_else_in_one_table(world: World) -> None:
    order = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "labeled"}
    settings = world.settings("DIN", eval_args=order, metrics=["AUC"], valid_metric="AUC")
    settings["load_col"]["item"] = ["item_id", "class"]
    built = _built(DIN, settings)
    assert not hasattr(built, "item_embedding")
    rows = {m.num_embeddings for m in built.modules() if isinstance(m, nn.Embedding)}
    assert ITEMS + 1 + KINDS + 1 in rows  # items and kinds
    assert ITEMS + 1 not in rows


def test_ksr_does_not_train_in_recbole_itself(world: World) -> None:
    settings = world.settings("KSR", **write_knowledge(world.folder / "tiny"))
    with pytest.raises(RuntimeError, match="same dtype"):
        run_plain("KSR", settings)


def test_all_sequential_models_are_either_taken_or_refused() -> None:
    from test_exactness import MODELS

    assert set(MODELS) | {"S3Rec"} | set(REFUSED) == set(sequential_models())


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "FM", "KGAT"])
def test_models_of_other_kinds(model: str) -> None:
    with pytest.raises(ConfigError, match=r"no sequential model of RecBole; .*SASRec"):
        with_item_encoder(model)


def test_a_class_of_another_kind() -> None:
    from recbole.model.general_recommender import BPR

    for given in (BPR, nn.Linear, 17):
        with pytest.raises(ConfigError, match="is no sequential model of RecBole"):
            with_item_encoder(given)  # type: ignore[arg-type]


def test_unknown_names_come_with_a_guess() -> None:
    with pytest.raises(ConfigError, match="did you mean SASRec"):
        with_item_encoder("SASRek")
    with pytest.raises(ConfigError, match="'xyz', which is no sequential model"):
        with_item_encoder("xyz")
    assert with_item_encoder("sasrec").__name__ == "SASRec"


def test_an_adapted_class_is_not_adapted_again() -> None:
    with pytest.raises(ConfigError, match="SASRec has an item encoder already"):
        with_item_encoder(with_item_encoder("SASRec"), encoder="identity")


def test_an_encoder_and_options() -> None:
    with pytest.raises(ConfigError, match="not both"):
        with_item_encoder("SASRec", lambda slot: nn.Identity(), store="features")
    with pytest.raises(ConfigError, match="`encoder` is 3; give the name"):
        with_item_encoder("SASRec", 3)  # type: ignore[arg-type]


class Tableless(SequentialRecommender):
    """A model that scores by what it learnt about users."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.scores = nn.Embedding(dataset.user_num, self.n_items)


class Named(SASRec):
    """Has its table under a name of its own, and a part that reads it too."""

    item_slots = ("things",)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.things = self.item_embedding
        self.part = nn.ModuleDict({"reads": self.item_embedding})


class Tied(SASRec):
    """Shares the parameters of its table with a layer."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.out = nn.Linear(16, self.n_items, bias=False)
        self.out.weight = self.item_embedding.weight


def test_a_class_without_an_item_table(world: World) -> None:
    adapted = with_item_encoder(Tableless, encoder=_table)
    with pytest.raises(ConfigError, match=r"Tableless has no item table `item_embedding`.*item_sl"):
        _built(adapted, world.settings(**SASREC))


def test_a_class_of_ones_own_names_its_slots(world: World) -> None:
    built = _built(with_item_encoder(Named, encoder=_table), world.settings(**SASREC))
    assert slots_of(type(built)) == ("things",)
    assert built.things is built.item_embedding is built.part["reads"]
    assert list(built.item_tables) == ["things"]
    assert not [n for n, m in built.named_modules() if type(m) is nn.Embedding and "pos" not in n]


def test_tied_parameters_are_refused_and_not_forgotten(world: World) -> None:
    with pytest.raises(ConfigError, match=r"Tied ties `out\.weight` to .*`item_embedding`"):
        _built(with_item_encoder(Tied, encoder=_table), world.settings(**SASREC))


def test_what_stays_with_ids_is_said(world: World) -> None:
    plain = _built(NPE, world.settings("NPE"))
    assert "embedding_seq_item" in dict(plain.named_modules())
    adapted = _built(with_item_encoder("NPE", encoder=_table), world.settings("NPE"))
    assert adapted.stays_with_ids == STAYS_WITH_IDS["NPE"]
    assert _built(with_item_encoder("SASRec", _table), world.settings()).stays_with_ids is None


def test_npe_never_reads_its_second_table(world: World) -> None:
    run = run_plain("NPE", world.settings("NPE", epochs=1))
    assert run.model.item_embedding.weight.grad is not None
    assert run.model.embedding_seq_item.weight.grad is None


SASREC = {
    "n_layers": 1, "n_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5, "initializer_range": 0.02,
    "loss_type": "CE",
}  # fmt: skip
"""What RecBole knows by the name SASRec, and not by that of a subclass."""


def _table(slot: Any) -> nn.Module:
    from recbole_adapters.table import IdentityEncoder

    return IdentityEncoder(slot.embedding.weight)


def _built(model: type[Any], settings: dict[str, Any]) -> Any:
    """A model, untrained."""
    from recbole_adapters.compat import session

    with session():
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation

        config = Config(model=model, dataset="tiny", config_dict=dict(settings))
        train, _, _ = data_preparation(config, create_dataset(config))
        return model(config, train._dataset)
