"""``with_item_encoder``: a RecBole model class whose item table is an item encoder."""

from __future__ import annotations

import copyreg
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from linkedout_lightning.errors import ConfigError
from recbole_adapters.building import EncoderFactory, OptionsFactory, Slot
from recbole_adapters.catalogue import Alignment, Catalogue
from recbole_adapters.options import SECTION, ItemEncoderOptions
from recbole_adapters.slots import check_adaptable, find_model, slots_of, stays_with_ids
from recbole_adapters.table import ItemTable, all_held


class Adapted:
    """What :func:`with_item_encoder` puts in front of a model's own class.

    Attributes:
        item_tables: The tables in place, by the name of their slot.
        alignment: How the dataset's items and the store's met; None without a store.
        stays_with_ids: What of the model stays bound to item ids all the same; None: nothing.
    """

    _factory: EncoderFactory | None = None
    _options: ItemEncoderOptions | None = None
    _early: tuple[Any, ...] | None = None

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
        if self._early is not None:
            self._load_early(*self._early)

    @property
    def item_tables(self) -> dict[str, ItemTable]:
        """The tables in place; empty where the model keeps its own."""
        return {name: getattr(self, name) for name in self._slot_names}

    @property
    def stays_with_ids(self) -> str | None:
        """What of the model stays bound to item ids, for people; None: nothing."""
        return stays_with_ids(type(self)) if self._slot_names else None

    def calculate_loss(self, interaction: Any) -> Any:
        """The model's own loss, with the catalogue encoded once, and the encoders' own loss."""
        tables = self.item_tables.values()
        with all_held(tables):
            loss = super().calculate_loss(interaction)  # type: ignore[misc]
            for table in tables:
                extra = table.auxiliary_loss()
                if extra is not None:
                    loss = (*loss, extra) if isinstance(loss, tuple) else loss + extra
        return loss

    def predict(self, interaction: Any) -> Any:
        """The model's own scores of given items, with the catalogue encoded once at most."""
        with all_held(self._unkept):
            return super().predict(interaction)  # type: ignore[misc]

    def full_sort_predict(self, interaction: Any) -> Any:
        """The model's own scores of all items, with the catalogue encoded once at most."""
        with all_held(self._unkept):
            return super().full_sort_predict(interaction)  # type: ignore[misc]

    def load_state_dict(self, state_dict: Mapping[str, Any], *options: Any, **named: Any) -> Any:
        """As ever; within the model's own constructor, once the item encoders are in place."""
        if "_slot_names" not in vars(self):  # S3Rec starts its fine-tuning so
            self._early = (state_dict, options, named)
            return None
        return super().load_state_dict(state_dict, *options, **named)  # type: ignore[misc]

    @property
    def _unkept(self) -> tuple[ItemTable, ...]:
        """The tables that would encode at each use: those that do not keep their rows by now."""
        return tuple(table for table in self.item_tables.values() if not table.keeps)

    def _load_early(self, state: Mapping[str, Any], options: Any, named: Any) -> None:
        self._early = None
        try:
            super().load_state_dict(state, *options, **named)  # type: ignore[misc]
        except RuntimeError as error:
            raise ConfigError(
                f"{type(self).__name__} starts from weights of another item encoder than "
                f"`{SECTION}` now describes; pre-train with the same section: {error}"
            ) from error


class _Made(type):
    """The type of adapted classes: how pickle makes them again, as RecBole's checkpoints need."""


def _recipe(made: _Made) -> str | tuple[Any, ...]:
    if made.__module__ != __name__:
        return made.__name__
    added = {name: made.__dict__[name] for name in ("_factory", "_options") if name in vars(made)}
    if "_factory" in added:
        added["_factory"] = added["_factory"].__func__
    return _again, (made.__bases__[1], added)


def _again(base: type[Any], added: dict[str, Any]) -> type[Any]:
    return make(base, factory=added.get("_factory"), options=added.get("_options"))


copyreg.pickle(_Made, _recipe)


def with_item_encoder(
    model: str | type[Any],
    encoder: EncoderFactory | str | None = None,
    **options: Any,
) -> type[Any]:
    """A RecBole sequential model whose item vectors come from an item encoder.

    Args:
        model: RecBole's name of the model, or its class, or a subclass of your own.
        encoder: Makes the encoder of a slot: called with a :class:`~recbole_adapters.building.Slot`
            (``catalogue.item_ids``, ``catalogue.train_items``, ``dim``), it returns a module with
            ``num_items``, ``dim`` and ``all_items() -> (N + 1, dim)``. Or its name, an option.
        **options: Keys of the ``linkedout:`` section. With neither these nor ``encoder`` the class
            reads the section of the configuration that it is built with.

    Returns:
        A class with the model's own name, which RecBole's look-ups by name expect. It can be
        pickled as long as ``encoder`` can.

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
    if isinstance(encoder, str):
        encoder, options = None, options | {"encoder": encoder}
    if encoder is not None and not callable(encoder):
        raise ConfigError(
            f"`encoder` is {encoder!r}; give the name of an encoder, or something that makes one "
            "when it is called with a slot"
        )
    if encoder is not None and options:
        raise ConfigError(
            f"give `encoder` or options ({', '.join(sorted(options))}), not both: a made encoder "
            "has its options already"
        )
    if encoder is None and not options:
        from recbole_adapters import adapted

        return adapted.of(base)
    if encoder is not None:
        return make(base, factory=encoder)
    return make(base, options=ItemEncoderOptions(**_checked(options)))


def make(
    base: type[Any],
    *,
    factory: EncoderFactory | None = None,
    options: ItemEncoderOptions | None = None,
    module: str = __name__,
) -> type[Any]:
    """The adapted class of a model.

    Args:
        base: The model's class.
        factory: Makes the encoder of a slot.
        options: What to make it from; with neither, the configuration's section.
        module: Where the class is found by its name; this module: nowhere.
    """
    members: dict[str, Any] = {"__module__": module, "__doc__": base.__doc__}
    if factory is not None:
        members["_factory"] = staticmethod(factory)
    if options is not None:
        members["_options"] = options
    kind: Any = _Made if type(base) is type else type(base)
    made: type[Any] = kind(base.__name__, (Adapted, base), members)
    return made


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
        ConfigError: A slot is not there, the encoder does not fit it, or something else in the
            model goes on with the table's own parameters.
    """
    for name in slots:
        found = getattr(model, name, None)
        if not isinstance(found, nn.Embedding):
            raise ConfigError(
                f"{type(model).__name__} has no item table `{name}` that an item encoder could "
                "take the place of; name the attributes that hold its tables in a class attribute, "
                'such as item_slots = ("item_embedding",)'
            )
        table = ItemTable(factory(Slot(name, catalogue, found)), like=found)
        # A model may know one table by two names, as those that tie their output layer do.
        for module in list(model.modules()):
            for other, part in list(module._modules.items()):
                if part is found:
                    module._modules[other] = table
        tied = [other for other, value in model.named_parameters() if value is found.weight]
        if tied:
            raise ConfigError(
                f"{type(model).__name__} ties `{tied[0]}` to the parameters of its item table "
                f"`{name}`, which would go on without the item encoder; read `{name}.weight` "
                "where it is needed instead"
            )


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    return dataclasses.asdict(ItemEncoderOptions.from_section(options))
