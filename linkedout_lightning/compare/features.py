"""The encoder of each row: the real features, or those of a control, through the same encoder.

Letters: n items asked for, N items of the catalogue, L layers, S slots, D LLM hidden size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linkedout_lightning.compare.names import EncoderName
from linkedout_lightning.encoders import IDItemEncoder, LinkedOutItemEncoder
from linkedout_lightning.encoders.sources import FeatureStoreLike, StoreSpecLike
from linkedout_lightning.encoders.views import SlotsView

_BLOCK = 256
_OPTIONS = (
    "dim",
    "rank",
    "compressor",
    "queries",
    "id_dropout",
    "missing",
    "whitening_power",
    "output_norm",
    "balance_weight",
)


class RandomFeatures:
    """A store's shape and masks with normal noise for features, the same for the same seed.

    Args:
        store: The store to stand in for.
        seed: Seed of the noise.
    """

    def __init__(self, store: FeatureStoreLike, *, seed: int) -> None:
        self._store, self._seed = store, seed
        self._row = {item: row for row, item in enumerate(store.item_ids)}

    @property
    def spec(self) -> StoreSpecLike:
        """That of the store."""
        return self._store.spec

    @property
    def item_ids(self) -> Collection[str]:
        """Those of the store."""
        return self._store.item_ids

    def get(self, item_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Noise ``(n, L, S, D)`` float32 and the store's own mask ``(n, S)``."""
        _, mask = self._store.get(item_ids)
        spec = self._store.spec
        rows = torch.tensor([self._row[item] for item in item_ids])
        noise = torch.empty(len(rows), len(spec.layers), len(spec.slots), spec.hidden_size)
        # Noise of an item must not depend on what else is asked for: one generator a block of rows.
        for block in sorted({row // _BLOCK for row in rows.tolist()}):
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + block)
            of_block = torch.randn(_BLOCK, *noise.shape[1:], generator=generator)
            inside = rows // _BLOCK == block
            noise[inside] = of_block[rows[inside] % _BLOCK]
        return noise.masked_fill_(~mask[:, None, :, None], 0.0), mask


class ShuffledFeatures:
    """A store whose rows are dealt out to other items: the right features of the wrong items.

    Args:
        store: The store to shuffle.
        item_ids: The catalogue; features move among those of its items that the store has.
        seed: Seed of the permutation.
    """

    def __init__(self, store: FeatureStoreLike, item_ids: Sequence[str], *, seed: int) -> None:
        stored = set(store.item_ids)
        present = [item for item in item_ids if item in stored]
        order = torch.randperm(len(present), generator=torch.Generator().manual_seed(seed))
        self._donor = dict(zip(present, (present[i] for i in order.tolist()), strict=True))
        self._store = store

    @property
    def spec(self) -> StoreSpecLike:
        """That of the store."""
        return self._store.spec

    @property
    def item_ids(self) -> Collection[str]:
        """The items that have features."""
        return list(self._donor)

    def get(self, item_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features ``(n, L, S, D)`` and mask ``(n, S)`` of the items' donors."""
        features, mask = self._store.get([self._donor[item] for item in item_ids])
        return features, mask


def build_encoder(
    name: EncoderName,
    *,
    store: FeatureStoreLike | None,
    item_ids: Sequence[str],
    train_items: Tensor,
    settings: Mapping[str, Any],
    seed: int,
) -> nn.Module:
    """The item encoder of a row.

    Args:
        name: The row.
        store: Its features; None for the ID rows.
        item_ids: The catalogue, N ids.
        train_items: ``(N + 1,)`` bool, items that occur in training.
        settings: The cell's settings; `layers`, `slots` and `id_fusion` may be left out.
        seed: Seed of the controls' noise.

    Raises:
        ConfigError: Settings that do not fit the store, such as a layer that it does not have.
        UnknownItemError: Items that the store lacks, with ``missing="error"``.
    """
    if store is None:
        of_ids = {option: settings[option] for option in ("dim", "output_norm")}
        if name.base == "id":
            return IDItemEncoder(len(item_ids), **of_ids)
        return IDItemEncoder(
            len(item_ids),
            id_dropout=settings["item_dropout"],
            train_items=train_items,
            **of_ids,
        )
    if settings.get("slots"):
        store = SlotsView(store, settings["slots"])
    fuser, use_layers = "moe", settings.get("layers")
    if settings["named_store"] or name.base == "linkedout":
        pass
    elif name.base == "random":
        store = RandomFeatures(store, seed=seed)
    elif name.base == "shuffled":
        store = ShuffledFeatures(store, item_ids, seed=seed)
    elif name.base == "last":
        layers = list(use_layers or store.spec.layers)
        use_layers = [max(layers)] * len(layers)
    else:
        fuser = name.base
    rows = train_items[1:].nonzero().flatten().tolist()
    options = {option: settings[option] for option in _OPTIONS}
    if fuser == "moe":
        options |= {"top_k": settings["top_k"], "temperature": settings["temperature"]}
    id_fusion = settings.get("id_fusion") or "concat"
    if fuser != "dff":
        options["id_fusion"] = id_fusion if name.with_id else "none"
    elif id_fusion == "none":  # else as it is defined, with a gate on the ID
        options["id_fusion"] = "none"
    return LinkedOutItemEncoder(
        store,
        item_ids,
        train_item_ids=[item_ids[row] for row in rows],
        use_layers=use_layers,
        fuser=fuser,
        dropout=settings["expert_dropout"],
        **options,
    )
