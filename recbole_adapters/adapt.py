"""``with_item_encoder``: a RecBole model class whose item table is an item encoder."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from linkedout_lightning.errors import ConfigError
from recbole_adapters.building import EncoderFactory, OptionsFactory, Slot
from recbole_adapters.catalogue import Alignment, Catalogue
from recbole_adapters.options import SECTION, ItemEncoderOptions
from recbole_adapters.slots import check_adaptable, find_model, slots_of
from recbole_adapters.table import ItemTable, all_held, auxiliary_loss


class Adapted:
    """What :func:`with_item_encoder` puts in front of a model's own class.

    Attributes:
        item_tables: The tables in place, by the name of their slot.
        alignment: How the dataset's items and the store's met; None without a store.
    """

    _factory: EncoderFactory | None = None
    _options: ItemEncoderOptions | None = None

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)  # type: ignore[call-arg]
        # After the model's own initialisation, which overwrites whatever table it finds.
        factory = self._factory
        if factory is None:
            options = self._options or ItemEncoderOptions.from_section(config[SECTION])
            factory = OptionsFactory(options) if options.replaces else None
        self.alignment: Alignment | None = None
        self._slot_names: tuple[str, ...] = ()
        if factory is not None:
            self._slot_names = slots_of(type(self))
            install(self, self._slot_names, factory, Catalogue.of(dataset))  # type: ignore[arg-type]
            self.alignment = getattr(factory, "alignment", None)
            self.to(config["device"])  # type: ignore[attr-defined]

    @property
    def item_tables(self) -> dict[str, ItemTable]:
        """The tables in place; empty where the model keeps its own."""
        return {name: getattr(self, name) for name in self._slot_names}

    def calculate_loss(self, interaction: Any) -> Any:
        """The model's own loss, with the catalogue encoded once, and the encoders' own loss."""
        with all_held(self.item_tables.values()):
            loss = super().calculate_loss(interaction)  # type: ignore[misc]
            for table in self.item_tables.values():
                extra = auxiliary_loss(table.encoder)
                if extra is not None:
                    loss = (*loss, extra) if isinstance(loss, tuple) else loss + extra
        return loss


def with_item_encoder(
    model: str | type[Any],
    encoder: EncoderFactory | None = None,
    **options: Any,
) -> type[Any]:
    """A RecBole sequential model whose item vectors come from an item encoder.

    Args:
        model: RecBole's name of the model, or its class, or a subclass of your own.
        encoder: Makes the encoder of a slot: called with a :class:`~recbole_adapters.building.Slot`
            (``catalogue.item_ids``, ``catalogue.train_items``, ``dim``), it returns a module with
            ``num_items``, ``dim`` and ``all_items() -> (N + 1, dim)``.
        **options: Keys of the ``linkedout:`` section. With neither these nor ``encoder`` the class
            reads the section of the configuration that it is built with.

    Returns:
        A class with the model's own name, which RecBole's look-ups by name expect.

    Raises:
        ConfigError: No such model, one that cannot take an encoder, or an unusable option.

    Example:
        ```python
        SASRec = with_item_encoder("SASRec", store="features", id_fusion="concat")
        config = Config(model=SASRec, dataset="ml-100k")
        ```
    """
    base = find_model(model) if isinstance(model, str) else model
    check_adaptable(base)
    if issubclass(base, Adapted):
        raise ConfigError(f"{base.__name__} has an item encoder already")
    if encoder is not None and options:
        raise ConfigError(
            f"give `encoder` or options ({', '.join(sorted(options))}), not both: a made encoder "
            "has its options already"
        )
    if encoder is None and not options:
        from recbole_adapters import adapted

        return adapted.of(base)
    if encoder is not None:
        return make(base, _factory=staticmethod(encoder))
    return make(base, _options=ItemEncoderOptions(**_checked(options)))


def make(base: type[Any], **attributes: Any) -> type[Any]:
    """The adapted class of a model.

    Args:
        base: The model's class.
        **attributes: Class attributes of the new one.
    """
    return type(base.__name__, (Adapted, base), {"__module__": __name__} | attributes)


def install(
    model: nn.Module, slots: tuple[str, ...], factory: EncoderFactory, catalogue: Catalogue
) -> None:
    """Put item encoders into a model's slots.

    Args:
        model: A built RecBole model.
        slots: Names of its attributes that hold item tables.
        factory: Makes each slot's encoder.
        catalogue: The items.

    Raises:
        ConfigError: A slot is not there, or the encoder does not fit it.
    """
    for name in slots:
        found = getattr(model, name, None)
        if not isinstance(found, nn.Embedding):
            raise ConfigError(
                f"{type(model).__name__} has no item table `{name}` that an item encoder could "
                "take the place of; name its slots in recbole_adapters.slots.SLOTS"
            )
        table = ItemTable(factory(Slot(name, catalogue, found)), like=found)
        # A model may know one table by two names, as those that tie their output layer do.
        for other, module in list(model._modules.items()):
            if module is found:
                setattr(model, other, table)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    return dataclasses.asdict(ItemEncoderOptions.from_section(options))
