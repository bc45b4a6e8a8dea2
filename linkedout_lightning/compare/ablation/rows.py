"""The rows of an ablation: the base and its variants, each a row of a comparison.

Two changes that come to the same recipe, such as all layers and the base's own, are one row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.ablation.axes import Axis, Surroundings, Value, build_axis
from linkedout_lightning.compare.ablation.config import AblateConfig
from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.files import digest
from linkedout_lightning.compare.names import IDS, parse_encoder
from linkedout_lightning.compare.plan import Cell, folder_name, plan
from linkedout_lightning.compare.tunables import LATER
from linkedout_lightning.errors import ConfigError

BASE = "base"
_LONGEST = 100  # characters of a folder's name; most file systems take 255 bytes


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recipe.

    Attributes:
        name: Unique; ``base``, or ``axis=value`` (joined by ``; `` in a grid).
        label: For people.
        encoder: Name of its encoder in a comparison.
        changes: What is different from the base, as the axes have it.
        cells: Its runs, one a seed.
    """

    name: str
    label: str
    encoder: str
    changes: Mapping[str, Any]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """All that is to be trained, and which row each value of an axis is.

    Attributes:
        base: The comparison that the base is the one row of.
        axes: The axes with something to change.
        empty: Axes without, and why.
        rows: The base first, then by axis.
        places: For each axis, the row of each of its values; for a grid under the name ``grid``
            the row of each combination, the last axis running fastest.
    """

    base: CompareConfig
    axes: tuple[Axis, ...]
    empty: Mapping[str, str]
    rows: tuple[Row, ...]
    places: Mapping[str, tuple[str, ...]]

    @property
    def cells(self) -> list[Cell]:
        """All cells, seed by seed so that early tables are whole."""
        return sorted(
            (cell for row in self.rows for cell in row.cells),
            key=lambda cell: self.base.seeds.index(cell.seed),
        )


def plan_ablation(config: AblateConfig) -> AblationPlan:
    """Work out the rows of an ablation; nothing is trained.

    Args:
        config: The ablation.

    Raises:
        ConfigError: An input does not exist, values that the store or the base does not allow, two
            axes of a grid that change the same, or more rows than `max_rows`.
        StoreError: There is no feature store.
    """
    from linkedout_lightning.store import FeatureStore

    base = config.base()
    if missing := base.missing_files():
        raise ConfigError(f"no such file or folder: {', '.join(map(repr, missing))}")
    spec = FeatureStore.open(config.store).spec
    around = Surroundings(
        layers=tuple(spec.layers),
        slots=tuple(spec.slots),
        hidden_size=spec.hidden_size,
        rank=base.rank,
        with_id=parse_encoder(config.encoder).knows_ids,
        max_pairs=config.max_pairs,
    )
    built = [build_axis(n, around, values=config.values.get(n)) for n in config.axes]
    axes = tuple(axis for axis in built if axis.values)
    empty = {axis.name: _why_empty(axis.name, around) for axis in built if not axis.values}
    rows = _Rows(config, spec)
    rows.add(BASE, "base", {})
    places: dict[str, tuple[str, ...]] = {}
    if config.grid:
        _check_grid(axes)
        places["grid"] = tuple(_combination(rows, axes, c) for c in product(*_values(axes)))
    else:
        for axis in axes:
            names = (f"{axis.name}={value.label}" for value in axis.values)
            places[axis.name] = tuple(
                rows.add(name, f"{axis.title}: {value.label}", value.changes)
                for name, value in zip(names, axis.values, strict=True)
            )
    if len(rows.found) > config.max_rows:
        raise ConfigError(
            f"the plan has {len(rows.found)} rows, more than `max_rows` = {config.max_rows}; name "
            "fewer `axes`, or raise it"
        )
    return AblationPlan(
        base=base, axes=axes, empty=empty, rows=tuple(rows.found.values()), places=places
    )


class _Rows:
    """The rows found so far; each recipe once."""

    def __init__(self, config: AblateConfig, spec: Any) -> None:
        self.config = config
        self.found: dict[str, Row] = {}
        self._base = config.base()
        self._everything = {"layers": tuple(spec.layers), "slots": tuple(spec.slots)}
        self._known: dict[str, Any] = {}
        self._by_print: dict[str, str] = {}

    def add(self, name: str, label: str, changes: Mapping[str, Any]) -> str:
        """Name of the row with these changes, a new one if there is none yet."""
        encoder, settings = self._resolve(changes)
        cells = plan(self.config.base(encoder, **settings), known=self._known)
        same = cells[0].fingerprint
        if same not in self._by_print:
            self._by_print[same] = name
            place = self._place(name)
            self.found[name] = Row(
                name=name, label=label, encoder=encoder, changes=dict(changes),
                cells=tuple(
                    dataclasses.replace(
                        cell,
                        row=name,
                        folder=Path(self.config.out)
                        / "cells"
                        / folder_name(place, cell.backbone, cell.seed),
                    )
                    for cell in cells
                ),
            )  # fmt: skip
        return self._by_print[same]

    def _place(self, name: str) -> str:
        """The row's name in its folders' names: short, and of no other row."""
        short = name[:_LONGEST]
        taken = {row.cells[0].folder.name for row in self.found.values()}
        if len(name) <= _LONGEST and folder_name(short, *self._first) not in taken:
            return short
        return f"{short}-{digest(name)[:8]}"

    @property
    def _first(self) -> tuple[str, int]:
        return self.config.backbone, self._base.seeds[0]

    def _resolve(self, changes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Encoder and settings of the base with changes, in the one way that they can be said."""
        base = parse_encoder(self.config.encoder)
        settings = {name: value for name, value in changes.items() if name != "encoder"}
        core = changes.get("encoder", base.base)
        with_id = base.knows_ids
        if "id_fusion" in settings:
            with_id = settings["id_fusion"] != "none"
        if core in IDS:
            return core, settings
        if core == "dff":  # with its own gate on the ID, or without an ID
            settings["id_fusion"] = LATER["id_fusion"] if with_id else "none"
        elif not with_id:
            settings["id_fusion"] = LATER["id_fusion"]
        if core != "linkedout" and core not in ("random", "shuffled", "last"):
            settings["top_k"] = None  # there is no gate
        # All that the store has is what nothing said means: one recipe, one fingerprint.
        for name, everything in self._everything.items():
            if tuple(settings.get(name, getattr(self._base, name)) or ()) == everything:
                settings[name] = None
        return core + ("+id" if with_id and core != "dff" else ""), settings


def _combination(rows: _Rows, axes: Sequence[Axis], values: Sequence[Value]) -> str:
    changes = {name: change for value in values for name, change in value.changes.items()}
    said = [f"{axis.name}={value.label}" for axis, value in zip(axes, values, strict=True)]
    label = ", ".join(value.label for value in values)
    return rows.add("; ".join(said), label, changes)


def _values(axes: Sequence[Axis]) -> list[tuple[Value, ...]]:
    return [axis.values for axis in axes]


def _check_grid(axes: Sequence[Axis]) -> None:
    changed: dict[str, str] = {}
    for axis in axes:
        for name in {name for value in axis.values for name in value.changes}:
            if name in changed:
                raise ConfigError(
                    f"the axes {changed[name]!r} and {axis.name!r} both change `{name}`, and "
                    "cannot be combined in one `grid`; take one of them"
                )
            changed[name] = axis.name


def _why_empty(name: str, around: Surroundings) -> str:
    if name == "slots":
        return f"the store has one token group, {around.slots[0]}"
    if name == "id_dropout":
        return "the base has no ID vector"
    return f"the store has {len(around.layers)} layer"
