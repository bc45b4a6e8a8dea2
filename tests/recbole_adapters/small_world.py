"""A small made-up dataset in RecBole's files, features of its items, and plain RecBole runs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from linkedout_lightning.store import FeatureStore, StoreSpec

USERS, ITEMS, KINDS = 44, 41, 4
"""Sizes that occur nowhere else in a model, so that a shape tells what a parameter is of."""

ITEM_IDS = tuple(f"m{number}" for number in range(1, ITEMS + 1))

WITH_ITEM_COLUMNS = ("GRU4RecF", "SASRecF", "FDSA")
"""Models that read columns of the item file."""

PAIRWISE = ("TransRec", "FPMC")
"""Models that always train on sampled negatives."""

OPTIONS: dict[str, dict[str, Any]] = {
    "GRU4RecCPR": {"reranker_CAN_NUM": "5"},
    "SASRecCPR": {"reranker_CAN_NUM": "5"},
    "Caser": {"n_h": 4, "n_v": 2},
    "SINE": {"prototype_size": 11, "interest_size": 2},
    "FOSSIL": {"order_len": 3},
    "HRM": {"high_order": 3},
    "SHAN": {"short_item_length": 2},
}
"""Settings of models whose own defaults are larger than this dataset."""


def kind_of(item: str) -> int:
    """What an item is about."""
    return int(item[1:]) % KINDS


def write_dataset(folder: Path, name: str = "tiny") -> Path:
    """Users who mostly stay with one kind of item; files as RecBole wants them."""
    draw = np.random.default_rng(0)
    place = folder / name
    place.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(USERS):
        taste = user % KINDS
        order = draw.permutation(ITEMS)
        liked = [i for i in order if kind_of(ITEM_IDS[i]) == taste]
        others = [i for i in order if kind_of(ITEM_IDS[i]) != taste]
        # Nobody but the first users reaches every item, and all items do occur.
        chosen = liked[: draw.integers(4, 9)] + others[: 6 if user < 12 else 2]
        lines += [f"u{user}\t{ITEM_IDS[i]}\t{step}" for step, i in enumerate(chosen)]
    (place / f"{name}.inter").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\tclass:token\twords:token_seq"]
    lines += [f"{i}\tk{kind_of(i)}\tw{kind_of(i)} w{kind_of(i) + 1}" for i in ITEM_IDS]
    (place / f"{name}.item").write_text("\n".join(lines) + "\n")
    return folder


def write_knowledge(place: Path) -> dict[str, Any]:
    """A knowledge graph with vectors beside a dataset's files, and the settings that name it."""
    draw = np.random.default_rng(1)
    entities = [f"e{item}" for item in ITEM_IDS] + [f"x{kind}" for kind in range(KINDS)]

    def vector() -> str:
        return " ".join(f"{value:.4f}" for value in draw.normal(size=16))

    files = {
        "kg": ["head_id:token\trelation_id:token\ttail_id:token"]
        + [f"e{item}\tr{kind_of(item) % 3}\tx{kind_of(item)}" for item in ITEM_IDS],
        "link": ["item_id:token\tentity_id:token"] + [f"{item}\te{item}" for item in ITEM_IDS],
        "ent": ["ent_id:token\tent_emb:float_seq"] + [f"{e}\t{vector()}" for e in entities],
        "rel": ["rel_id:token\trel_emb:float_seq"] + [f"r{k}\t{vector()}" for k in range(3)],
    }
    for suffix, lines in files.items():
        (place / f"{place.name}.{suffix}").write_text("\n".join(lines) + "\n")
    columns = {s: [c.partition(":")[0] for c in lines[0].split("\t")] for s, lines in files.items()}
    return {
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], **columns},
        "additional_feat_suffix": ["ent", "rel"],
        "alias_of_entity_id": ["ent_id"],
        "alias_of_relation_id": ["rel_id"],
        "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
        "kg_embedding_size": 16,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    }


def write_store(
    folder: Path, item_ids: tuple[str, ...] = ITEM_IDS, *, hidden: int = 12
) -> FeatureStore:
    """Features of three layers and two slots that say what an item is about."""
    spec = StoreSpec(model="made-up", layers=(4, 8, 12), slots=("a", "b"), hidden_size=hidden)
    store = FeatureStore.create(folder, spec)
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(KINDS, 3, 2, hidden, generator=generator)
    noise = torch.randn(len(item_ids), 3, 2, hidden, generator=generator)
    kinds = torch.arange(len(item_ids)) % KINDS
    features = (centres[kinds] + 0.5 * noise).half()
    store.append(list(item_ids), features, torch.ones(len(item_ids), 2, dtype=torch.bool))
    return store


@dataclass(frozen=True)
class World:
    """Where the dataset, the features and the runs are.

    Attributes:
        folder: The folder above the dataset's.
        store: The feature store.
        runs: A folder for what runs write.
    """

    folder: Path
    store: Path
    runs: Path

    def open(self) -> FeatureStore:
        """The feature store."""
        return FeatureStore.open(self.store)

    def settings(self, model: str = "SASRec", **changes: Any) -> dict[str, Any]:
        """A configuration with which any sequential model trains within a second."""
        settings: dict[str, Any] = {
            "data_path": str(self.folder),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "epochs": 2,
            "train_batch_size": 128,
            "eval_batch_size": 128,
            "learning_rate": 0.005,
            "MAX_ITEM_LIST_LENGTH": 7,
            "hidden_size": 16,
            "embedding_size": 16,
            "inner_size": 24,
            "topk": [5],
            "metrics": ["Recall", "MRR", "NDCG"],
            "valid_metric": "MRR@5",
            "metric_decimal_place": 15,
            "checkpoint_dir": str(self.runs),
            "show_progress": False,
            "use_gpu": False,
            "state": "ERROR",
            "seed": 7,
        }
        if model not in PAIRWISE:
            settings["train_neg_sample_args"] = None
        if model in WITH_ITEM_COLUMNS:
            settings["load_col"]["item"] = ["item_id", "class"]
            settings["selected_features"] = ["class"]
        return settings | OPTIONS.get(model, {}) | changes


@dataclass(frozen=True)
class PlainRun:
    """What RecBole alone makes of a configuration.

    Attributes:
        losses: Sum of the training loss of each epoch.
        valid: Figures of the best validation; None without validation.
        test: Figures of the test with the best weights.
        model: The model with the best weights.
        file: RecBole's checkpoint of it.
        steps: Steps of an epoch.
    """

    losses: list[float]
    valid: dict[str, float] | None
    test: dict[str, float]
    model: Any
    file: Path
    steps: int

    @property
    def mean_losses(self) -> list[float]:
        """The training loss of each epoch a step."""
        return [loss / self.steps for loss in self.losses]


def run_plain(model: str | type[Any], settings: dict[str, Any]) -> PlainRun:
    """RecBole's ``run_recbole``, line by line, without its FLOP counter and its log files.

    Nothing of this package's takes part but :func:`recbole_adapters.compat.session`.

    Args:
        model: Name of one of its models, or a class to put in its place.
        settings: The configuration.
    """
    from recbole_adapters.compat import session

    with session():
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, get_trainer, init_seed

        config = Config(model=model, dataset="tiny", config_dict=dict(settings))
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, valid, test = data_preparation(config, dataset)
        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        kind = get_model(config["model"]) if isinstance(model, str) else model
        # Its checkpoint is a pickle of its own classes, which torch no longer loads unasked.
        with patch.dict("os.environ", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"):
            warnings.filterwarnings("ignore", message="Environment variable TORCH_FORCE")
            built = kind(config, train._dataset).to(config["device"])
            trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, built)
            _, best = trainer.fit(train, valid, saved=True, show_progress=False)
            figures = trainer.evaluate(test, load_best_model=True, show_progress=False)
    losses = [float(loss) for _, loss in sorted(trainer.train_loss_dict.items())]
    valid = None if best is None else dict(best)
    file = Path(trainer.saved_model_file)
    return PlainRun(losses, valid, dict(figures), built, file, len(train))
