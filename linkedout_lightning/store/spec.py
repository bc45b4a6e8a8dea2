"""What a store's features are: the model, layers, slots and settings that made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from linkedout_lightning.errors import ConfigError, StoreError

DTYPES: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
# Library versions are kept for the record. A patch release of torch must not make a store
# unusable; whatever does change the features has a field of its own or stands in `extra`.
_INFORMATIVE = frozenset({"versions"})


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """Everything that two extractions must share for their features to be comparable.

    Args:
        model: Name or path of the language model.
        revision: Its revision, or a digest of its weights.
        layers: Tapped layers, Hugging Face's ``hidden_states`` indices; their number is ``L``.
        slots: Names of the token slots; their number is ``S``.
        groups: The token groups as they were asked for, before they were spread into slots.
        hidden_size: Width ``D`` of the language model.
        prompt: Template of the prompt.
        views: Prompt, what is seen and groups by name, where there are several prompts; ``prompt``
            and ``groups`` are then empty.
        sampler: What decides the pixels: frames, size, strategy, decoder. Empty without video.
        dtype: ``"float16"``, ``"bfloat16"`` or ``"float32"``.
        versions: Library versions, for information: they are not compared.
        extra: Anything else that changes the features, as JSON-able values.

    Raises:
        ConfigError: A value is not usable.

    Example:
        >>> spec = StoreSpec(model="m", layers=(1, 2), slots=("last",), hidden_size=8)
        >>> spec.shape
        (2, 1, 8)
        >>> StoreSpec.from_json(spec.to_json()) == spec
        True
    """

    model: str
    revision: str = ""
    layers: tuple[int, ...]
    slots: tuple[str, ...]
    groups: tuple[str, ...] = ()
    hidden_size: int
    prompt: str = ""
    views: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float16"
    versions: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("layers", "slots", "groups"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.dtype not in DTYPES:
            raise ConfigError(f"`dtype` is {self.dtype!r}; give one of {', '.join(DTYPES)}")
        for name, names in (("layers", self.layers), ("slots", self.slots)):
            if not names or len(set(names)) != len(names):
                raise ConfigError(f"`{name}` is {names!r}; give at least one, each once")
        if self.hidden_size < 1:
            raise ConfigError(f"`hidden_size` is {self.hidden_size}; give 1 or more")
        try:
            json.dumps(asdict(self))
        except TypeError as error:
            raise ConfigError(f"the store's specification must be JSON-able: {error}") from None

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(L, S, D)`` of one item."""
        return len(self.layers), len(self.slots), self.hidden_size

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the stored features."""
        return DTYPES[self.dtype]

    @property
    def bytes_per_item(self) -> int:
        """``L * S * D`` times the bytes of one number; the mask and id come on top."""
        layers, slots, width = self.shape
        return layers * slots * width * self.torch_dtype.itemsize

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values; ``views`` only where there are some."""
        values = asdict(self)
        if not self.views:
            # As stores of one prompt were before there were views, for versions that know none.
            del values["views"]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StoreSpec:
        """The opposite of :meth:`to_json`.

        Raises:
            StoreError: Fields are missing or not known, as from a later version.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(value) - known):
            raise StoreError(
                f"the store's specification has unknown fields: {', '.join(unknown)}; "
                "it was written by a later version of linkedout-lightning"
            )
        try:
            return cls(**value)
        except TypeError as error:
            raise StoreError(f"the store's specification is incomplete: {error}") from None

    def differences(self, other: StoreSpec) -> list[str]:
        """Every field in which another specification differs, as phrases for people.

        Args:
            other: What is about to be written.

        Returns:
            One phrase a field, such as ``"layers: (4, 8) in the store, (4, 9) now"``. Library
            versions are not compared.
        """
        mine, theirs = _flat(self.to_json()), _flat(other.to_json())
        return [
            f"{name}: {mine.get(name)!r} in the store, {theirs.get(name)!r} now"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        ]


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """Spread nested mappings, so that a difference is named by its own key."""
    result: dict[str, Any] = {}
    for key, item in json.loads(json.dumps(value)).items():
        if key in _INFORMATIVE:
            continue
        if isinstance(item, dict):
            result |= {f"{key}.{inner}": v for inner, v in _flat(item).items()}
        else:
            result[key] = tuple(item) if isinstance(item, list) else item
    return result
