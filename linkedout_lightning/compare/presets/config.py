"""What ``linkedout compare --preset microlens-100k`` is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.presets.recipes import RECIPES, overrides_for
from linkedout_lightning.compare.tunables import one_of
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.config import ExtractConfig

NAME = "microlens-100k"

_OF_LAYOUT = ("items", "videos", "covers", "out", "model", "plan", "video_column", "cover_column")
_EXTRACTION = tuple(
    f.name for f in dataclasses.fields(ExtractConfig) if f.name not in (*_OF_LAYOUT, "id_column")
)
_FIXED = ("preset", "engine", "dataset", "recbole_config", "recbole_settings", "interactions")
_OWN = ("out", "store")
_COMPARISON = tuple(
    f.name for f in dataclasses.fields(CompareConfig) if f.name not in (*_FIXED, *_OWN)
)
Option = bool | int | float | str | list[Any] | dict[str, Any] | None
"""A value of an option; texts stay texts, braces and colons in them notwithstanding."""

ASSUMED = {"tflops": 400.0, "gb_per_second": 3000.0, "train_tflops": 20.0, "step_ms": 15.0}
"""What a plan takes a GPU to sustain, where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class MicroLens100K:
    """From MicroLens-100K's official files to the paper's table.

    Args:
        root: Folder of the official files: MicroLens-100k_pairs.csv or .tsv,
            MicroLens-100k_title_en.csv, MicroLens-100k_videos/ (or video/).
        recipe: recommended, or paper for what is nearest to the paper; any option beside it wins
            over the recipe's.
        model: Video LLM, a name on the hub or a folder, in place of the recipe's.
        extraction: Options of `linkedout extract` that differ from the recipe's, such as
            device=cuda:1 layers=[4,8,12] batch_size=4.
        incomplete: Go on where videos or titles are missing; an item is read from what it has.
        plan: Run nothing and say what the whole would cost: GPU hours, bytes, training. With a
            number the model also runs on a sample of so many videos, which needs its weights.
        assume: What a plan takes for granted: tflops and gb_per_second that the GPU sustains in
            the model, train_tflops and step_ms (least time of a step) in training, as in
            tflops=200 step_ms=20.
        out: Folder for the report, the item table and the features.
        store: Feature store in place of the one in `out`; one that is complete is taken as it is.
        settings: Options of `linkedout compare` that differ from the recipe's.

    Raises:
        ConfigError: A value is not usable; the message names it, what is expected, and the fix.

    Example:
        >>> config = MicroLens100K(root="MicroLens-100k", recipe="paper", settings={"epochs": 3})
        >>> config.extract_config().layers, config.compare_config("pairs.csv").epochs
        ((8, 16, 24, 27), 3)
    """

    root: str | None = None
    recipe: Literal["recommended", "paper"] = "recommended"
    model: str | None = None
    extraction: dict[str, Option] = field(default_factory=dict)
    incomplete: bool = False
    plan: bool | int = False
    assume: dict[str, float] = field(default_factory=dict)
    out: str | None = None
    store: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.root is None:
            raise ConfigError(
                f"the preset {NAME!r} needs `root`: the folder of MicroLens-100K's official files"
            )
        one_of("recipe", self.recipe, RECIPES)
        for name in self.extraction:
            one_of("extraction", name, _EXTRACTION)
        for name in self.settings:
            if name in _FIXED:
                raise ConfigError(f"`{name}` is given, which the preset {NAME!r} sets by itself")
            one_of("settings", name, _COMPARISON)
        for name, value in self.assume.items():
            one_of("assume", name, ASSUMED)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigError(f"`assume` has {name}={value!r}; give a number above 0")
        if self.out is None:
            object.__setattr__(self, "out", f"runs/{NAME}-{self.recipe}")
        self.extract_config()  # refuses what the extraction would refuse
        self.compare_config("pairs.csv")

    @property
    def folder(self) -> str:
        """Where everything goes."""
        return str(self.out)

    @property
    def features(self) -> str:
        """The feature store."""
        return self.store or f"{self.folder}/features"

    @property
    def items(self) -> str:
        """The item table that the extraction reads."""
        return f"{self.folder}/items.csv"

    @property
    def wants_titles(self) -> bool:
        """Whether the prompt reads titles."""
        config = self.extract_config()
        prompts = [config.prompt, *(view.get("prompt", "") for view in config.views.values())]
        return any("{title}" in str(prompt) for prompt in prompts)

    def extract_config(self, *, plan: bool | int = False) -> ExtractConfig:
        """The extraction, in the schema of ``linkedout extract``.

        Args:
            plan: As there.
        """
        options = dict(RECIPES[self.recipe].extraction) | _listed(self.extraction)
        if "views" in self.extraction:  # these take the place of one prompt and its groups
            options = {k: v for k, v in options.items() if k not in ("prompt", "groups")}
        options |= {} if self.model is None else {"model": self.model}
        return ExtractConfig(items=self.items, out=self.features, plan=plan, **options)

    def compare_config(self, pairs: str) -> CompareConfig:
        """The comparison, in the schema of ``linkedout compare``.

        Args:
            pairs: The table of interactions.
        """
        given = _listed(self.settings)
        options = dict(RECIPES[self.recipe].comparison) | given
        options["overrides"] = overrides_for(
            RECIPES[self.recipe].comparison.get("overrides", {}),
            given,
            encoders=tuple(options["encoders"]),
            backbones=tuple(options["backbones"]),
        )
        options.setdefault("title", f"MicroLens-100K: ID against LinkedOut, recipe {self.recipe}")
        return CompareConfig(
            preset="microlens",
            interactions=pairs,
            store=self.features,
            out=self.folder,
            **options,
        )


def _listed(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
