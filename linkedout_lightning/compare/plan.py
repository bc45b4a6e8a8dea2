"""The cells of a comparison, what each depends on, and which of them are done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linkedout_lightning import __version__
from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.engines import planner
from linkedout_lightning.compare.files import digest, read_json
from linkedout_lightning.compare.names import EVERY_LAYER
from linkedout_lightning.errors import ConfigError

NO_BACKBONE = "none"
"""Backbone of the floors, which are no sequence models."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One run: an encoder in a sequence model with a seed.

    Attributes:
        encoder: Name of the encoder.
        backbone: Name of the sequence model.
        seed: Seed of everything random.
        settings: All that decides the result; JSON-able.
        inputs: Digest of the interactions and version of the features.
        folder: Where its files go.
        engine: What trains it.
        row: Name of its row where the encoder's is not enough.
    """

    encoder: str
    backbone: str
    seed: int
    settings: dict[str, Any]
    inputs: dict[str, Any]
    folder: Path
    engine: str = "native"
    row: str | None = None

    @property
    def name(self) -> str:
        """The row of the tables that the cell is a run of."""
        return self.row or self.encoder

    @property
    def label(self) -> str:
        """For progress lines and errors."""
        if self.backbone == NO_BACKBONE:
            return self.name
        return f"{self.name} · {self.backbone} · seed {self.seed}"

    @property
    def fingerprint(self) -> str:
        """Changes with anything that could change the result."""
        return digest(
            {
                "engine": self.engine,
                "encoder": self.encoder,
                "backbone": self.backbone,
                "seed": self.seed,
                # Where the inputs lie does not matter; what is in them does.
                "settings": {k: v for k, v in self.settings.items() if k not in _NOT_RESULT},
                "inputs": self.inputs,
                "version": __version__,
            }
        )

    def result(self) -> dict[str, Any] | None:
        """The finished result of exactly this cell, None if it must (still) be run."""
        found = read_json(self.folder / "result.json")
        if not isinstance(found, dict) or found.get("fingerprint") != self.fingerprint:
            return None
        return None if found.get("error") else found

    def to_json(self) -> dict[str, Any]:
        """What the cell's own process needs."""
        return {
            "engine": self.engine,
            "encoder": self.encoder,
            "backbone": self.backbone,
            "seed": self.seed,
            "settings": self.settings,
            "fingerprint": self.fingerprint,
        }


_DATA = ""  # key of the data's digest among the stores' versions: no store has an empty path
_NOT_RESULT = ("interactions", "data_path", "gpu_id", "store", "accelerator", "keep_checkpoints")


def with_every_layer(config: CompareConfig) -> CompareConfig:
    """The same comparison with a row for each layer of the store in place of ``layer:*``.

    Raises:
        StoreError: There is no feature store.
    """
    if all(config.encoder(name).base != EVERY_LAYER for name in config.encoders):
        return config
    from linkedout_lightning.store import FeatureStore

    # A configuration with such a row has a store, by its own checks.
    layers = config.layers or FeatureStore.open(str(config.store)).spec.layers
    rows: list[str] = []
    for name in config.encoders:
        of_all = config.encoder(name).base == EVERY_LAYER
        rows += [name.replace("*", str(layer)) for layer in layers] if of_all else [name]
    return replace(
        config,
        encoders=tuple(dict.fromkeys(rows)),
        overrides=_for_every_layer(config.overrides, layers),
    )


def _for_every_layer(
    overrides: dict[str, dict[str, Any]], layers: Sequence[int]
) -> dict[str, dict[str, Any]]:
    return {
        key.replace("*", str(layer)): changes
        for key, changes in overrides.items()
        for layer in (layers if "*" in key else layers[:1])
    }


def plan(config: CompareConfig, *, known: dict[str, Any] | None = None) -> list[Cell]:
    """All cells of the matrix, floors first, then seed by seed so that early tables are whole.

    Args:
        config: The comparison.
        known: What an earlier call found out of the same inputs; it is added to.

    Raises:
        ConfigError: An input does not exist.
    """
    missing = config.missing_files()
    if missing:
        raise ConfigError(f"no such file or folder: {', '.join(map(repr, missing))}")
    engine = planner(config.engine)
    versions = {} if known is None else known
    if _DATA not in versions:
        versions[_DATA] = engine.inputs(config)
    floors = [(name, NO_BACKBONE, config.seeds[0]) for name in _named(config, trains=False)]
    trained = [
        (name, backbone, seed)
        for seed in config.seeds
        for backbone in config.backbones
        for name in _named(config, trains=True)
    ]
    cells = []
    for encoder, backbone, seed in floors + trained:
        store = config.store_of(encoder)
        inputs = dict(versions[_DATA])
        if store is not None:
            if store not in versions:
                versions[store] = store_version(store)
            inputs["store"] = versions[store]
        cells.append(
            Cell(
                encoder=encoder,
                backbone=backbone,
                seed=seed,
                settings=engine.settings(config, encoder, backbone, store),
                inputs=inputs,
                folder=Path(config.out) / "cells" / folder_name(encoder, backbone, seed),
                engine=config.engine,
            )
        )
    return cells


def store_version(path: str) -> dict[str, Any]:
    """What tells one state of a feature store from another without reading the features.

    Raises:
        StoreError: There is no feature store.
    """
    from linkedout_lightning.store import FeatureStore

    store = FeatureStore.open(path)
    # A store made anew may have the version number of the one before, but its files' names differ.
    files = sorted(file.name for file in Path(path).rglob("*.lance"))
    return {
        "files": digest(files),
        "version": store.version,
        "items": len(store),
        "spec": store.spec.to_json(),
        "fingerprints": digest(store.fingerprints()),
    }


def _named(config: CompareConfig, *, trains: bool) -> list[str]:
    return [name for name in config.encoders if config.encoder(name).trains == trains]


def folder_name(encoder: str, backbone: str, seed: int) -> str:
    """Name of a cell's folder, without anything that a file system may refuse."""
    encoder = re.sub(r"[^\w+-]", "-", encoder)
    return encoder if backbone == NO_BACKBONE else f"{encoder}.{backbone}.seed{seed}"
