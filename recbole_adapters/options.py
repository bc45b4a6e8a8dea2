"""The ``linkedout:`` section of a RecBole configuration."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from linkedout_lightning.errors import ConfigError

SECTION = "linkedout"

_ANY = (lambda _: True, "anything")
_AT_LEAST_1 = (lambda value: value >= 1, "a whole number from 1")
_SHARE = (lambda value: 0 <= value < 1, "a share from 0 to below 1")


def _one_of(*words: str) -> tuple[Callable[[Any], bool], str]:
    return words.__contains__, f"one of: {', '.join(words)}"


_LEGAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "missing": _one_of("error", "zero", "mean"),
    "checkpoint": _one_of("safetensors", "recbole"),
    "id_fusion": _one_of("none", "add", "concat", "gate"),
    "compressor": _one_of("latent", "mlp", "mean"),
    "output_norm": _one_of("none", "layer", "unit"),
    "dim": _AT_LEAST_1,
    "rank": _AT_LEAST_1,
    "queries": _AT_LEAST_1,
    "top_k": _AT_LEAST_1,
    "layers": (bool, "at least one layer, or leave it out for all"),
    "temperature": (lambda value: value > 0, "a number above 0"),
    "balance_weight": (lambda value: 0 <= value < float("inf"), "a number from 0"),
    "whitening_power": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "id_dropout": _SHARE,
    "dropout": _SHARE,
}


@dataclass(frozen=True, kw_only=True)
class ItemEncoderOptions:
    """What stands in place of a RecBole model's item table, and how the model is judged.

    Args:
        encoder: linkedout, or a control by the names of `linkedout compare` (random, shuffled,
            last, layer:<k>, mean, concat, weighted-sum, dff, mlp), with +id for a learned ID
            vector beside it; id leaves the model as RecBole made it; identity is a trainable copy
            of its own table.
        store: Feature store; item tokens of the dataset are looked up among its item ids.
        layers: Layers of the store to use; none given: all.
        fuser: moe, last, layer:<k>, mean, concat, weighted-sum, dff or mlp.
        dim: Width of the item vectors; none given: that of the model's own table. With another
            width a linear map stands between.
        rank: Size of a whitened token.
        compressor: Layer token compressor: latent, mlp or mean.
        queries: Learned queries of the latent compressor.
        top_k: Layers that an item's gate keeps; none given: all.
        temperature: Temperature of the gate.
        balance_weight: Weight of the gate's load-balance loss.
        id_fusion: How a learned ID vector joins: none, add, concat or gate; none given: concat
            for encoders with +id, gate for the fuser dff, otherwise none.
        id_dropout: How often the ID vector is hidden in training where features stand beside it.
        dropout: Dropout inside the layers' experts.
        whitening_power: 1 whitens the features, 0 only centres and rotates them.
        output_norm: Length of item vectors: none (free), layer or unit.
        missing: What an item of the dataset without features gets: error, zero or mean.
        mask_history: Take the items that a user had before out of the ranking. RecBole's protocol
            does not; figures with and without do not compare.
        checkpoint: Format of the best weights: safetensors, or recbole for RecBole's own pickle,
            which this package writes but never loads.
        seed: Seed of the controls' noise and permutation.

    Raises:
        ConfigError: A value is not usable.

    Example:
        >>> ItemEncoderOptions.from_section({"store": "features", "id_fusion": "concat"}).fuser
        'moe'
    """

    encoder: str = "linkedout"
    store: str | None = None
    layers: tuple[int, ...] | None = None
    fuser: str = "moe"
    dim: int | None = None
    rank: int = 256
    compressor: str = "latent"
    queries: int = 2
    top_k: int | None = None
    temperature: float = 1.0
    balance_weight: float = 0.0
    id_fusion: str | None = None
    id_dropout: float = 0.2
    dropout: float = 0.0
    whitening_power: float = 1.0
    output_norm: str = "none"
    missing: str = "error"
    mask_history: bool = False
    checkpoint: str = "safetensors"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            given = getattr(self, name)
            value = _typed(name, given, hint)
            legal, words = _LEGAL.get(name, _ANY)
            if value is not None and not legal(value):
                raise ConfigError(f"`{SECTION}.{name}` is {given!r}; give {words}")
            object.__setattr__(self, name, value)
        if self.replaces and self.encoder != "identity" and self.encoder != "id-dropout":
            from linkedout_lightning.compare.names import parse_encoder

            parse_encoder(self.encoder)
            if not self.store:
                raise ConfigError(
                    f"`{SECTION}.encoder` is {self.encoder!r}, which reads features, but "
                    f"`{SECTION}.store` is not given; name the folder that `linkedout extract` "
                    "wrote"
                )

    @property
    def replaces(self) -> bool:
        """Whether the model's own table is replaced at all."""
        return self.encoder != "id"

    @classmethod
    def from_section(cls, section: Any) -> ItemEncoderOptions:
        """The options of a configuration's ``linkedout:`` section; None stands for plain RecBole.

        Args:
            section: A mapping, as YAML gives it.

        Raises:
            ConfigError: Not a mapping, an unknown key, or a value that is not usable.
        """
        if section is None:
            return cls(encoder="id")
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"`{SECTION}` is {section!r}; give a section such as {SECTION}: "
                "{store: features, fuser: moe}"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        for key in section:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise ConfigError(
                    f"`{SECTION}` has the key {key!r}; {hint}give keys among: "
                    f"{', '.join(sorted(known))}"
                )
        try:
            return cls(**section)
        except TypeError as error:
            raise ConfigError(f"`{SECTION}`: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return dataclasses.asdict(self)


def _typed(name: str, value: Any, hint: Any) -> Any:
    """A value as an option wants it; YAML and command lines give some numbers as text."""
    kind = hint
    if isinstance(hint, types.UnionType):  # of something and None
        if value is None:
            return None
        kind = next(part for part in typing.get_args(hint) if part is not type(None))
    convert, words = _KINDS[typing.get_origin(kind) or kind]
    try:
        return convert(value)
    except (TypeError, ValueError, KeyError):
        raise ConfigError(f"`{SECTION}.{name}` is {value!r}; give {words}") from None


def _whole(value: Any) -> int:
    number = int(value) if isinstance(value, str) else value
    if isinstance(value, bool) or number != int(number):
        raise ValueError
    return int(number)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _flag(value: Any) -> bool:
    spoken = {"true": True, "false": False}
    return value if isinstance(value, bool) else spoken[str(value).lower()]


def _text(value: Any) -> str:
    return str(os.fspath(value))


def _wholes(value: Any) -> tuple[int, ...]:
    return tuple(_whole(one) for one in ([value] if isinstance(value, int) else list(value)))


_KINDS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    bool: (_flag, "true or false"),
    str: (_text, "text"),
    tuple: (_wholes, "a list of whole numbers, such as [4, 8, 12]"),
}
