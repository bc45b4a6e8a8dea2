"""What an ablation is made of: a base, and the axes along which it is changed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from linkedout_lightning.compare.ablation.axes import AXES, DEFAULT_AXES
from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.names import FUSIONS, parse_encoder
from linkedout_lightning.compare.tunables import TUNABLE, one_of
from linkedout_lightning.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """A base and the axes along which it is changed, one at a time or in all combinations.

    Every row has the seeds, the data, the budget and the tests of the base.

    Args:
        interactions: Table of interactions: RecBole .inter, MicroLens pairs, Parquet or CSV.
        store: Feature store that the rows read.
        out: Folder for the results; cells that stand there with the same configuration, data and
            features are not run again.
        reuse: Folders of comparisons or ablations whose finished cells are taken over where they
            are the same to the fingerprint.
        encoder: The base: linkedout, mean, concat, weighted-sum or mlp, with +id for a learned ID
            vector beside the features; or dff.
        backbone: Sequence model: sasrec, gru4rec, nextitnet.
        seeds: One run of each row a seed.
        axes: What is changed: layers (each alone, and all), pairs (of layers), spread (evenly
            spaced sets of layers), without (all but one layer), slots (token groups), fusers, gate,
            compressors, whitening, id_fusion, id_dropout, losses, controls; or any setting that
            `values` lists. None given: those of `values`, or layers, pairs, spread, slots, fusers,
            compressors, whitening, id_fusion, id_dropout, losses and controls.
        values: Values of settings by their names in `linkedout compare`, each an axis of its own:
            rank=[64,256] dim=[64,128].
        grid: Train every combination of the axes' values, not one change at a time.
        max_pairs: Most pairs of layers; of a store with more, evenly spaced layers are paired.
        max_rows: Refuse a plan of more rows than this.
        preset: A published protocol: microlens sets split, lengths, loss and weight decay.
        split: leave_one_out, temporal or cold_items; none given: the preset's, or leave_one_out.
        max_len: Longest input sequence; none given: the preset's, or 50.
        dim: Size of an item vector; none given: 128.
        lr: Learning rate of AdamW; none given: 0.001.
        epochs: Most epochs of a cell; none given: 50.
        patience: Epochs without a better validation figure before a cell stops; 0 for never; none
            given: 5.
        settings: Further options of `linkedout compare` for the base, by their names there:
            rank=128 loss=full layers=[8,15]; of those that describe data, model and training.
        jobs: Cells that run at the same time.
        threads: CPU threads of each cell; 0 shares the cores among the jobs.
        accelerator: Lightning's accelerator for the cells: auto, cpu, gpu and others.
        devices: Accelerators that the cells are spread over, one a cell.
        bootstrap: Resamples of the paired bootstrap over users.
        keep_checkpoints: Keep the best weights of each cell in its folder.
        html: Write ablation.html beside ablation.md and ablation.json.
        title: Heading of the report.
        simulated: The data are simulated; every table and page says so.
        simulation_note: One or two sentences on how they were simulated.

    Raises:
        ConfigError: A value is not usable; the message names it, what is expected, and the fix.

    Example:
        >>> config = AblateConfig(
        ...     interactions="pairs.tsv", store="features", axes=("fusers",), values={"rank": [64]}
        ... )
        >>> config.axes, config.base().loss
        (('fusers', 'rank'), 'full')
    """

    interactions: str
    store: str
    out: str = "runs/ablate"
    reuse: tuple[str, ...] = ()
    encoder: str = "linkedout+id"
    backbone: str = "sasrec"
    seeds: tuple[int, ...] = (0,)
    axes: tuple[str, ...] = ()
    values: dict[str, list[Any]] = field(default_factory=dict)
    grid: bool = False
    max_pairs: int = 15
    max_rows: int = 200
    preset: Literal["microlens"] | None = None
    split: str | None = None
    max_len: int | None = None
    dim: int | None = None
    lr: float | None = None
    epochs: int | None = None
    patience: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    jobs: int = 1
    threads: int = 0
    accelerator: str = "auto"
    devices: int = 1
    bootstrap: int = 2000
    keep_checkpoints: bool = False
    html: bool = True
    title: str = "What LinkedOut is made of"
    simulated: bool = False
    simulation_note: str = ""

    def __post_init__(self) -> None:
        legal = ("linkedout", *FUSIONS)
        if parse_encoder(self.encoder).base not in legal:
            raise ConfigError(
                f"`encoder` is {self.encoder!r}; the base of an ablation reads layers and fuses "
                f"them: give one of {', '.join(legal)}, or with +id"
            )
        for name, values in self.values.items():
            one_of("values", name, TUNABLE)
            if not isinstance(values, (list, tuple)) or not values:
                raise ConfigError(
                    f"`values[{name!r}]` is {values!r}; give a list, such as {name}=[1,2]"
                )
        axes = self.axes or (() if self.values else DEFAULT_AXES)
        axes = tuple(dict.fromkeys((*axes, *self.values)))
        for name in axes:
            one_of("axes", name, (*AXES, *self.values))
        object.__setattr__(self, "axes", axes)
        for name in ("max_pairs", "max_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; give at least 1")
        for name in self.settings:
            one_of("settings", name, FREE)
        self.base()  # refuses what the cells would refuse

    def base(self, encoder: str | None = None, **changes: Any) -> CompareConfig:
        """The comparison of one row that trains the base, or the base with changes.

        Args:
            encoder: Another encoder.
            **changes: Other settings.

        Raises:
            ConfigError: A setting is not usable.
        """
        encoder = encoder or self.encoder
        given = {name: getattr(self, name) for name in _SHARED} | self.settings | changes
        return CompareConfig(
            encoders=(encoder,),
            baseline=encoder,
            backbones=(self.backbone,),
            **{name: listed(value) for name, value in given.items()},
        )


def listed(value: Any) -> Any:
    """A list of YAML as the tuple that a configuration holds; other values as they are."""
    return tuple(value) if isinstance(value, list) else value


_SHARED = (
    "interactions", "store", "out", "seeds", "preset", "split", "max_len", "dim", "lr", "epochs",
    "patience", "jobs", "threads", "accelerator", "devices", "bootstrap", "keep_checkpoints",
    "html", "title", "simulated", "simulation_note",
)  # fmt: skip
"""Fields that a comparison has under the same names."""
_OTHER = (
    "engine", "dataset", "recbole_config", "recbole_settings", "mask_history", "encoders",
    "backbones", "baseline", "overrides", "stores", "reuse",
)  # fmt: skip
"""Fields of a comparison that make no sense for one row."""
FREE = tuple(f.name for f in dataclasses.fields(CompareConfig) if f.name not in (*_SHARED, *_OTHER))
