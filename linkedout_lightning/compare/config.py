"""What a comparison is made of: the one schema of Python, YAML and the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from linkedout_lightning.compare.engines import ENGINES, planner
from linkedout_lightning.compare.names import (
    CONTROLS,
    FLOORS,
    FUSIONS,
    EncoderName,
    parse_encoder,
)
from linkedout_lightning.compare.tunables import (
    BACKBONES,
    LOSSES,
    SPLITS,
    TUNABLE,
    check_settings,
    one_of,
)
from linkedout_lightning.errors import ConfigError

__all__ = ["BACKBONES", "LOSSES", "SPLITS", "TUNABLE", "CompareConfig"]

_RESERVED = ("id", "id-dropout", "linkedout", *FLOORS, *CONTROLS, *FUSIONS)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """A matrix of encoders x backbones x seeds on one data set.

    Args:
        engine: native trains this package's models with Lightning; recbole trains RecBole's own
            sequential models by RecBole's trainer, split and prefix rows.
        interactions: Table of interactions: RecBole .inter, MicroLens pairs, Parquet or CSV; the
            engine recbole takes `dataset` in its place.
        dataset: RecBole's name of the data set, such as ml-100k; engine recbole.
        recbole_config: RecBole's YAML files, without a `linkedout:` section; later ones win. The
            name ml-100k stands for a file that comes with this package. Engine recbole.
        recbole_settings: RecBole's own keys that win over the files, such as {hidden_size: 128};
            overrides may hold such a mapping too. Engine recbole.
        mask_history: Take the items that a user had before out of the ranking, as the native engine
            always does; false is RecBole's own protocol, whose figures do not compare with masked
            ones. Engine recbole.
        out: Folder for the results; cells that stand there with the same configuration, data and
            features are not run again.
        reuse: Folders of comparisons, ablations or tunings whose finished cells are taken over
            where they are the same to the fingerprint.
        store: Feature store that linkedout and its controls read.
        stores: Further feature stores by name; each name is an encoder of its own.
        encoders: Rows: popularity, cooccurrence, id, id-dropout, linkedout, random, shuffled, last,
            layer:<k>, layer:* for one row a layer, mean, concat, weighted-sum, dff, mlp, names in
            `stores`; +id adds an ID vector.
        backbones: Sequence models: sasrec, gru4rec, nextitnet; with the engine recbole any
            sequential model by RecBole's name, such as BERT4Rec.
        seeds: One run of each trained cell a seed.
        baseline: Encoder that all others are tested against.
        preset: A published protocol: microlens sets split, lengths, loss and weight decay;
            microlens-100k goes from the official files in `root` to the whole table.
        format: Format of the interactions; auto decides by name and content.
        split: leave_one_out, temporal or cold_items; none given: the preset's, or leave_one_out.
        duplicates: drop or keep rows that repeat user, item and time; none given: the preset's, or
            drop.
        valid_share: Temporal split: share of the rows for validation.
        test_share: Temporal split: share of the rows for the test.
        cold_share: Share of the items that are cold in the split cold_items.
        split_seed: Seed of the choice of cold items, the same for all cells.
        max_len: Longest input sequence; none given: the preset's, or 50. With the engine recbole
            its MAX_ITEM_LIST_LENGTH.
        min_len: Users with fewer interactions are dropped and counted; none given: the preset's,
            or 3.
        user_column: Name of the user column; none given: the format's own.
        item_column: Name of the item column; none given: the format's own.
        time_column: Name of the time column; none given: the format's own.
        dim: Size of an item vector; none given: 128. With the engine recbole the model's own
            hidden_size or embedding_size; none given: as the model has it.
        layers: Layers of the store that encoders read; none given: all.
        slots: Token groups of the store that encoders read; none given: all.
        rank: Size of a whitened token.
        compressor: Layer token compressor: latent, mlp or mean.
        queries: Learned queries of the latent compressor.
        top_k: Layers that an item's gate keeps; none given: all.
        temperature: Temperature of the gate.
        balance_weight: Weight of the gate's load-balance loss.
        id_fusion: How the ID vector of an encoder with +id joins: add, concat or gate; none leaves
            it out.
        id_dropout: How often the ID vector is hidden in training where features stand beside it.
        cold_calibration: What a ranking does with the vectors of items that have no ID in an
            encoder with +id: none; moments, which brings them to the mean and spread of trained
            items' vectors; or budget, which goes as far on that way as the validation allows.
        cold_budget: The largest share of their HR@10 (or at the smallest of `ks`, without 10) that
            trained items may lose on the validation to the cold calibration budget.
        item_dropout: How often the encoder id-dropout hides an item's ID in training.
        expert_dropout: Dropout inside the layers' experts.
        whitening_power: 1 whitens the features, 0 only centres and rotates them.
        output_norm: Length of item vectors, those of id and id-dropout too: none (free), layer
            (LayerNorm) or unit. RecBole's own table, its row id, has none.
        missing: What an item without features gets: error, zero or mean.
        blocks: Blocks of SASRec; how often NextItNet goes through its dilations 1 and 4.
        heads: Attention heads of SASRec.
        gru_layers: Layers of GRU4Rec.
        loss: full, in_batch or sampled; none given: the preset's, or full.
        candidates: all, or trained: items that training never saw are no candidates of the full
            loss and no negatives of the sampled one, which would only push cold items down.
        negatives: Shared negatives of the sampled loss.
        lr: Learning rate of AdamW; none given: 0.001. With the engine recbole its learning_rate,
            of the optimiser that RecBole's `learner` names; none given: RecBole's.
        weight_decay: Weight decay of AdamW; none given: the preset's, or 0.01.
        dropout: Dropout of the sequence model.
        gradient_clip: Largest gradient norm; 0 for no limit.
        precision: Lightning's precision: 32-true, bf16-mixed and others; ranking is always done in
            float32. RecBole has `enable_amp` among its settings.
        batch_size: Sequences a training step; none given: 512. With the engine recbole its
            train_batch_size, prefix rows a step; none given: RecBole's.
        eval_batch_size: Users ranked at once; none given: 1024, or RecBole's.
        epochs: Most epochs of a cell; none given: 50, or RecBole's.
        patience: Epochs without a better validation figure before a cell stops; 0 for never; none
            given: 5, or RecBole's stopping_step.
        monitor: Validation figure that picks the best epoch, such as NDCG@10; with the engine
            recbole its valid_metric.
        ks: Cut-offs of the metrics.
        overrides: Settings of an encoder, a backbone or encoder/backbone that differ from the
            above, for example {id: {lr: 0.0003}, linkedout/gru4rec: {dropout: 0.2}}.
        jobs: Cells that run at the same time.
        threads: CPU threads of each cell; 0 shares the cores among the jobs.
        accelerator: Lightning's accelerator for the cells: auto, cpu, gpu and others.
        devices: Accelerators that the cells are spread over, one a cell.
        bootstrap: Resamples of the paired bootstrap over users.
        keep_checkpoints: Keep the best weights of each cell in its folder.
        html: Write report.html beside report.md and results.json.
        title: Heading of the report.
        simulated: The data are simulated; every table and page says so.
        simulation_note: One or two sentences on how they were simulated.

    Raises:
        ConfigError: A value is not usable; the message names it, what is expected, and the fix.

    Example:
        >>> config = CompareConfig(interactions="pairs.tsv", encoders=("id",), preset="microlens")
        >>> config.max_len, config.loss, config.weight_decay
        (10, 'in_batch', 0.1)
    """

    engine: str = "native"
    interactions: str | None = None
    dataset: str | None = None
    recbole_config: tuple[str, ...] = ()
    recbole_settings: dict[str, Any] = field(default_factory=dict)
    mask_history: bool = True
    out: str = "runs/compare"
    reuse: tuple[str, ...] = ()
    store: str | None = None
    stores: dict[str, str] = field(default_factory=dict)
    encoders: tuple[str, ...] = (
        "popularity",
        "cooccurrence",
        "id",
        "id-dropout",
        "random",
        "shuffled",
        "last",
        "linkedout",
        "random+id",
        "linkedout+id",
    )
    backbones: tuple[str, ...] = ("sasrec",)
    seeds: tuple[int, ...] = (0,)
    baseline: str = "id"
    preset: Literal["microlens", "microlens-100k"] | None = None
    format: str = "auto"
    split: str | None = None
    duplicates: str | None = None
    valid_share: float = 0.1
    test_share: float = 0.1
    cold_share: float = 0.1
    split_seed: int = 0
    max_len: int | None = None
    min_len: int | None = None
    user_column: str | None = None
    item_column: str | None = None
    time_column: str | None = None
    dim: int | None = None
    layers: tuple[int, ...] | None = None
    slots: tuple[str, ...] | None = None
    rank: int = 256
    compressor: str = "latent"
    queries: int = 2
    top_k: int | None = None
    temperature: float = 1.0
    balance_weight: float = 0.0
    id_fusion: str = "concat"
    id_dropout: float = 0.2
    cold_calibration: str = "none"
    cold_budget: float = 0.01
    item_dropout: float = 0.2
    expert_dropout: float = 0.0
    whitening_power: float = 1.0
    output_norm: str = "none"
    missing: str = "error"
    blocks: int = 2
    heads: int = 2
    gru_layers: int = 1
    loss: str | None = None
    candidates: str = "all"
    negatives: int = 2048
    lr: float | None = None
    weight_decay: float | None = None
    dropout: float = 0.1
    gradient_clip: float = 5.0
    precision: str = "32-true"
    batch_size: int | None = None
    eval_batch_size: int | None = None
    epochs: int | None = None
    patience: int | None = None
    monitor: str = "NDCG@10"
    ks: tuple[int, ...] = (10, 20)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: int = 1
    threads: int = 0
    accelerator: str = "auto"
    devices: int = 1
    bootstrap: int = 2000
    keep_checkpoints: bool = True
    html: bool = True
    title: str = "ID against LinkedOut"
    simulated: bool = False
    simulation_note: str = ""

    def __post_init__(self) -> None:
        one_of("engine", self.engine, ENGINES)
        for name in ("encoders", "backbones", "seeds", "ks"):
            self._as_distinct_tuple(name)
        for name, value in planner(self.engine).complete(self).items():
            object.__setattr__(self, name, value)
        self._check_matrix()
        check_settings(dataclasses.asdict(self), where="")
        self._check_overrides()

    def encoder(self, name: str) -> EncoderName:
        """The encoder of that name, taken apart."""
        return parse_encoder(name, stores=tuple(self.stores))

    def settings(self, encoder: str, backbone: str) -> dict[str, Any]:
        """The tunable settings of one cell, overrides applied: backbone, encoder, then the pair.

        Args:
            encoder: One of `encoders`.
            backbone: One of `backbones`.
        """
        chosen = {name: getattr(self, name) for name in planner(self.engine).TUNABLE}
        for key in (backbone, encoder, f"{encoder}/{backbone}"):
            for name, value in self.overrides.get(key, {}).items():
                # Mappings of settings add up; a value takes the place of another.
                chosen[name] = chosen[name] | value if isinstance(value, dict) else value
        return chosen

    def store_of(self, encoder: str) -> str | None:
        """Path of the feature store that an encoder reads, None if it reads none."""
        name = self.encoder(encoder)
        if not name.wants_features:
            return None
        return self.stores.get(name.base, self.store)

    def _as_distinct_tuple(self, name: str) -> None:
        values = tuple(getattr(self, name))
        if not values:
            raise ConfigError(f"`{name}` is empty; give at least one")
        if len(set(values)) != len(values):
            raise ConfigError(f"`{name}` names something twice: {', '.join(map(str, values))}")
        object.__setattr__(self, name, values)

    def _check_matrix(self) -> None:
        for name in self.encoders:
            parsed = self.encoder(name)
            if parsed.wants_features and self.store_of(name) is None:
                raise ConfigError(
                    f"`encoders` holds {name!r}, which reads features, but `store` is not given; "
                    "name the folder that `linkedout extract` wrote"
                )
        for name in self.stores:
            if parse_encoder(name, stores=(name,)).base != name or name in _RESERVED:
                raise ConfigError(f"`stores` uses the name {name!r}, which has a meaning already")
        if any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in self.seeds):
            raise ConfigError(f"`seeds` is {self.seeds}; give integers from 0")
        if any(not isinstance(k, int) or k < 1 for k in self.ks):
            raise ConfigError(f"`ks` is {self.ks}; give cut-offs of at least 1")
        figures = [f"{metric}@{k}" for k in self.ks for metric in ("HR", "NDCG", "MRR")]
        one_of("monitor", self.monitor, figures)
        if self.simulation_note and not self.simulated:
            raise ConfigError(
                "`simulation_note` is given, but `simulated` is false; set it to true"
            )

    def _check_overrides(self) -> None:
        pairs = [f"{e}/{b}" for e in self.encoders for b in self.backbones]
        for key, changes in self.overrides.items():
            one_of("overrides", key, [*self.encoders, *self.backbones, *pairs])
            if not isinstance(changes, Mapping):
                raise ConfigError(f"`overrides[{key!r}]` is {changes!r}; give settings by name")
            for name in changes:
                one_of(f"overrides[{key!r}]", name, planner(self.engine).TUNABLE)
            check_settings(changes, where=f"overrides[{key!r}].")

    def missing_files(self) -> list[str]:
        """Paths among the inputs that do not exist."""
        named = [path for path in (self.interactions, self.store) if path is not None]
        named += self.stores.values()
        # A store may lie in an object store; only opening it tells.
        return [path for path in named if "://" not in path and not Path(path).exists()]
