"""From the options of a configuration to an item encoder of a dataset's items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from linkedout_lightning.compare.features import build_encoder
from linkedout_lightning.compare.names import parse_encoder
from linkedout_lightning.encoders import IDItemEncoder, LinkedOutItemEncoder
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.store import FeatureStore
from recbole_adapters.catalogue import Alignment, Catalogue, align, check_width
from recbole_adapters.options import ItemEncoderOptions
from recbole_adapters.table import IdentityEncoder, Projected


@dataclass(frozen=True, eq=False)
class Slot:
    """One place of a model that wants item vectors.

    Attributes:
        name: The attribute.
        catalogue: The items.
        embedding: The model's own table there.
    """

    name: str
    catalogue: Catalogue
    embedding: nn.Embedding

    @property
    def dim(self) -> int:
        """H, the width that the model wants."""
        return self.embedding.embedding_dim


EncoderFactory = Callable[[Slot], nn.Module]
"""Makes the item encoder of a slot: N items in the catalogue's order, of width ``slot.dim``."""


class OptionsFactory:
    """Makes the encoders that the ``linkedout:`` section describes.

    Args:
        options: The section.

    Raises:
        StoreError: The store cannot be opened.
    """

    def __init__(self, options: ItemEncoderOptions) -> None:
        self.options = options
        self.store = FeatureStore.open(options.store) if options.store else None
        #: How the dataset and the store met; None before the first encoder, or without a store.
        self.alignment: Alignment | None = None
        self._first: nn.Module | None = None

    def __call__(self, slot: Slot) -> nn.Module:
        """The encoder of a slot.

        Raises:
            DataError: The store is one of other items, or an item has no features.
            ConfigError: An option that does not fit the store or the model.
        """
        options, catalogue = self.options, slot.catalogue
        if options.encoder == "identity":
            check_width(options.dim, slot.dim, encoder="identity")
            return IdentityEncoder(slot.embedding.weight[: len(catalogue.item_ids) + 1])
        width = check_width(options.dim, slot.dim, encoder=options.encoder)
        if options.encoder == "id-dropout":
            encoder: nn.Module = IDItemEncoder(
                len(catalogue.item_ids),
                dim=width,
                id_dropout=options.id_dropout,
                output_norm=options.output_norm,
                train_items=catalogue.train_items,
            )
        else:
            encoder = self._from_store(catalogue, width)
        return encoder if width == slot.dim else Projected(encoder, slot.dim)

    def _from_store(self, catalogue: Catalogue, width: int) -> nn.Module:
        options, store = self.options, self.store
        assert store is not None
        assert options.store is not None
        if self.alignment is None:
            self.alignment = align(
                catalogue, store, where=f"the store {options.store!r}", missing=options.missing
            )
        name = parse_encoder(options.encoder)
        settings = options.to_json() | {"dim": width, "expert_dropout": options.dropout}
        own = options.fuser != "moe" or options.layers or options.id_fusion
        if name.base != "linkedout" or not own:
            if own:
                raise ConfigError(
                    f"`linkedout.encoder` is {options.encoder!r}, which fixes `fuser`, `layers` "
                    "and `id_fusion`; leave them out, or take the encoder linkedout"
                )
            encoder = build_encoder(
                name,
                store=store,
                item_ids=catalogue.item_ids,
                train_items=catalogue.train_items,
                settings=settings | {"named_store": False},
                seed=options.seed,
            )
        else:
            encoder = _linkedout(options, store, catalogue, width, with_id=name.with_id)
        return self._sharing(encoder)

    def _sharing(self, encoder: nn.Module) -> nn.Module:
        """Let the encoders of one model keep the features in memory once."""
        if self._first is None:
            self._first = encoder
        else:
            # Same store, items, layers and options: the same frozen tokens, and one whitening
            # whose statistics decide for all whether the tokens are still right.
            encoder.whitening, encoder._table = self._first.whitening, self._first._table
        return encoder


def _linkedout(
    options: ItemEncoderOptions,
    store: FeatureStore,
    catalogue: Catalogue,
    width: int,
    *,
    with_id: bool,
) -> LinkedOutItemEncoder:
    rows = catalogue.train_items[1:].nonzero().flatten().tolist()
    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in (
            "rank", "compressor", "queries", "fuser", "balance_weight", "id_dropout", "dropout",
            "whitening_power", "output_norm", "missing",
        )
    }  # fmt: skip
    if options.fuser == "moe":
        given |= {"top_k": options.top_k, "temperature": options.temperature}
    fusion = options.id_fusion or ("concat" if with_id else None)
    return LinkedOutItemEncoder(
        store,
        catalogue.item_ids,
        train_item_ids=[catalogue.item_ids[row] for row in rows],
        use_layers=options.layers,
        dim=width,
        id_fusion=fusion,
        **given,
    )
