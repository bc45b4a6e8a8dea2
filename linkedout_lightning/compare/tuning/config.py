"""What a tuning is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from linkedout_lightning.compare.ablation.config import FREE, listed
from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.names import parse_encoder
from linkedout_lightning.compare.tunables import TUNABLE, one_of
from linkedout_lightning.compare.tuning.space import OF_ROWS, space_of
from linkedout_lightning.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Rows to tune, each with the same number of trials.

    The first trial of a row has the settings given here, as far as they are among the values to
    draw from; the others are drawn at random from values that ``tune.json`` and ``tune.md`` list.
    The k-th trials of all rows have the same learning rate, dimension, dropout, weight decay and
    loss. The validation chooses; test figures are not shown.

    Args:
        interactions: Table of interactions: RecBole .inter, MicroLens pairs, Parquet or CSV.
        store: Feature store that rows with features read.
        out: Folder for the results; trials that stand there with the same configuration, data and
            features are not run again.
        reuse: Folders of comparisons, ablations or tunings whose finished cells are taken over
            where they are the same to the fingerprint.
        encoders: Rows, by their names in `linkedout compare`; id includes item dropout.
        backbones: Sequence models: sasrec, gru4rec, nextitnet.
        trials: Trials of each row.
        seed: Of the draws, and of every trial's training.
        values: Values to draw a setting from, by its name in `linkedout compare`: lr=[0.001,0.01];
            a list of one fixes it. A setting that not all rows have may be given for one row alone:
            id/output_norm=[layer].
        preset: A published protocol: microlens sets split, lengths, loss and weight decay.
        split: leave_one_out, temporal or cold_items; none given: the preset's, or leave_one_out.
        max_len: Longest input sequence; none given: the preset's, or 50.
        epochs: Most epochs of a trial; none given: 50.
        patience: Epochs without a better validation figure before a trial stops; 0 for never; none
            given: 5.
        settings: Further options of `linkedout compare` for all trials, by their names there:
            lr=0.001 batch_size=128; a setting that is drawn has this value in the first trial.
        jobs: Trials that run at the same time.
        threads: CPU threads of each trial; 0 shares the cores among the jobs.
        accelerator: Lightning's accelerator for the trials: auto, cpu, gpu and others.
        devices: Accelerators that the trials are spread over, one a trial.
        title: Heading of the tables.
        simulated: The data are simulated; every table says so.
        simulation_note: One or two sentences on how they were simulated.

    Raises:
        ConfigError: A value is not usable; the message names it, what is expected, and the fix.

    Example:
        >>> config = TuneConfig(interactions="pairs.tsv", encoders=("id",), trials=8)
        >>> config.trials, config.base("id", "sasrec").epochs
        (8, 50)
    """

    interactions: str
    store: str | None = None
    out: str = "runs/tune"
    reuse: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ("id", "linkedout", "linkedout+id")
    backbones: tuple[str, ...] = ("sasrec",)
    trials: int = 16
    seed: int = 0
    values: dict[str, list[Any]] = field(default_factory=dict)
    preset: Literal["microlens"] | None = None
    split: str | None = None
    max_len: int | None = None
    epochs: int | None = None
    patience: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    jobs: int = 1
    threads: int = 0
    accelerator: str = "auto"
    devices: int = 1
    title: str = "Tuning"
    simulated: bool = False
    simulation_note: str = ""

    def __post_init__(self) -> None:
        for name in self.encoders:
            if not parse_encoder(name).trains:
                raise ConfigError(f"`encoders` holds {name!r}, which has nothing to tune; drop it")
        for name, values in self.values.items():
            self._check_name(name)
            if not isinstance(values, (list, tuple)) or not values:
                raise ConfigError(
                    f"`values[{name!r}]` is {values!r}; give a list, such as {name}=[0.1,0.3]"
                )
        for name in self.settings:
            one_of("settings", name, (*FREE, "dim", "lr"))
        for name in ("encoders", "backbones"):
            if not getattr(self, name):
                raise ConfigError(f"`{name}` is empty; give at least one")
        if self.trials < 1:
            raise ConfigError(f"`trials` is {self.trials}; give at least 1")
        for encoder in self.encoders:
            for backbone in self.backbones:
                self.base(encoder, backbone)  # refuses what the cells would refuse

    def _check_name(self, name: str) -> None:
        row, slash, setting = name.rpartition("/")
        one_of("values", setting, TUNABLE)
        if not slash:
            return
        one_of("values", row, self.encoders)
        if setting not in OF_ROWS:
            raise ConfigError(
                f"`values` has {name!r}, but the k-th trials of all rows share {setting}; give "
                f"{setting} for all rows"
            )
        one_of(f"values[{name!r}]", setting, space_of(row, {})[1])

    def base(self, encoder: str, backbone: str, **changes: Any) -> CompareConfig:
        """The comparison of one row, with the base's settings or with changes.

        Args:
            encoder: The row.
            backbone: Its sequence model.
            **changes: Other settings.

        Raises:
            ConfigError: A setting is not usable.
        """
        given = {name: getattr(self, name) for name in _SHARED} | self.settings | changes
        return CompareConfig(
            encoders=(encoder,),
            baseline=encoder,
            backbones=(backbone,),
            seeds=(self.seed,),
            html=False,
            **{name: listed(value) for name, value in given.items()},
        )


_SHARED = (
    "interactions", "store", "out", "preset", "split", "max_len", "epochs", "patience", "jobs",
    "threads", "accelerator", "devices", "title", "simulated", "simulation_note",
)  # fmt: skip
"""Fields that a comparison has under the same names."""
