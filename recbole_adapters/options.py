"""The ``linkedout:`` section of a RecBole configuration."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from linkedout_lightning.errors import ConfigError

SECTION = "linkedout"


@dataclass(frozen=True, kw_only=True)
class ItemEncoderOptions:
    """What stands in place of a RecBole model's item table, and how the model is judged.

    Args:
        encoder: linkedout, or a control by the names of `linkedout compare` (random, shuffled,
            last, layer:<k>, mean, concat, weighted-sum, dff), with +id for a learned ID vector
            beside it; id leaves the model as RecBole made it; identity is a trainable copy of its
            own table.
        store: Feature store; item tokens of the dataset are looked up among its item ids.
        layers: Layers of the store to use; none given: all.
        fuser: moe, last, layer:<k>, mean, concat, weighted-sum or dff.
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
        output_norm: Length of item vectors from features: none (free), layer or unit.
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
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
        for name, legal in (
            ("missing", ("error", "zero", "mean")),
            ("checkpoint", ("safetensors", "recbole")),
            ("id_fusion", (None, "none", "add", "concat", "gate")),
        ):
            if getattr(self, name) not in legal:
                words = ", ".join(str(word) for word in legal if word is not None)
                raise ConfigError(
                    f"`{SECTION}.{name}` is {getattr(self, name)!r}; give one of: {words}"
                )
        if self.dim is not None and (not isinstance(self.dim, int) or self.dim < 1):
            raise ConfigError(f"`{SECTION}.dim` is {self.dim!r}; give a width of at least 1")
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
