"""A trained RecBole SASRec or GRU4Rec as the parts of a bundle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linkedout_lightning.encoders.explaining import Explained, explain
from linkedout_lightning.encoders.linkedout import LinkedOutItemEncoder
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.serving.exporting import (
    Exportable,
    features_of,
    newcomer_encoder,
    shares,
)
from recbole_adapters.compare_cell import train_counts
from recbole_adapters.saving import Loaded, load
from recbole_adapters.slots import slots_of
from recbole_adapters.table import ItemTable, Projected

_OPTIONS = {
    "SASRec": (
        "recbole-sasrec",
        ("n_layers", "n_heads", "inner_size", "hidden_act", "layer_norm_eps"),
    ),
    "GRU4Rec": ("recbole-gru4rec", ("hidden_size", "num_layers")),
}
"""RecBole's models that bundles know, and the attributes that say how they are built."""


def exportable(
    folder: str | os.PathLike[str],
    *,
    store: str | None = None,
    data_path: str | None = None,
    layers: bool = False,
) -> Exportable:
    """Read the folder of a run.

    Args:
        folder: What `linkedout recbole` or :func:`recbole_adapters.run` wrote.
        store: Where its feature store lies now; None: where it lay.
        data_path: Where RecBole's data sets lie now; None: where they lay.
        layers: Whether to keep items as each layer alone sees them.

    Raises:
        ConfigError: The folder holds no run, or another model than SASRec and GRU4Rec.
        DataError: The dataset has other items than the model was trained on.
    """
    changes = {} if data_path is None else {"data_path": os.path.abspath(data_path)}
    loaded = load(folder, store=store, config_dict=changes | {"use_gpu": False})
    return take_apart(loaded, folder=Path(folder), layers=layers)


@torch.no_grad()
def take_apart(loaded: Loaded, *, folder: Path, layers: bool = False) -> Exportable:
    """The parts of a loaded model.

    Args:
        loaded: The model with its data.
        folder: Where it was loaded from.
        layers: Whether to keep items as each layer alone sees them.

    Raises:
        ConfigError: It is another model than SASRec and GRU4Rec.
    """
    model: Any = loaded.model
    name = next((c.__name__ for c in type(model).__mro__ if c.__name__ in _OPTIONS), None)
    if name is None or not _is_recbole_s(type(model), name):
        raise ConfigError(
            f"{str(folder)!r} holds a {type(model).__name__}; of RecBole's models a bundle knows "
            f"{' and '.join(_OPTIONS)}"
        )
    kind, names = _OPTIONS[name]
    [slot] = slots_of(type(model))
    items = len(loaded.catalogue.item_ids)
    table = getattr(model, slot)
    encoder: nn.Module | None = table.encoder if isinstance(table, ItemTable) else None
    projection = None
    if isinstance(encoder, Projected):
        projection, encoder = encoder.projection.weight, encoder.encoder
    explained, features, newcomers = Explained(None, None), None, None
    named: tuple[int, ...] = ()
    if isinstance(encoder, LinkedOutItemEncoder):
        explained, named = explain(encoder), encoder.layers
        newcomers = newcomer_encoder(encoder, projection=projection)
        features = features_of(encoder)
    state = model.state_dict()
    return Exportable(
        item_ids=list(loaded.catalogue.item_ids),
        vectors=table.weight[1 : items + 1].detach().float().cpu(),
        kind=kind,
        options={option: getattr(model, option) for option in names},
        max_len=int(model.max_seq_length),
        state={k: v.cpu() for k, v in state.items() if not k.startswith(f"{slot}.")},
        newcomers=newcomers,
        explained=Explained(explained.gates, explained.experts if layers else None),
        layers=named,
        features=features,
        popularity=shares(train_counts(loaded.loaders), items),
        source={
            "engine": "recbole",
            "backbone": name,
            "encoder": loaded.figures.get("encoder"),
            "seed": loaded.figures.get("seed"),
            "dataset": loaded.figures.get("dataset"),
            "metrics": loaded.figures.get("test_result", {}),
        },
    )


def _is_recbole_s(model: type[Any], name: str) -> bool:
    """Whether the forward pass is RecBole's own and not a subclass's."""
    for base in model.__mro__:
        if "forward" in vars(base):
            return base.__module__.startswith("recbole.") and base.__name__ == name
    return False
