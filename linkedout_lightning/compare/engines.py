"""What trains the cells: this package's models, or RecBole's; the one place that names both."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from linkedout_lightning.compare.config import CompareConfig
    from linkedout_lightning.compare.names import EncoderName

ENGINES = {
    "native": ("linkedout_lightning.compare.native", "linkedout_lightning.compare.training"),
    "recbole": ("recbole_adapters.comparing", "recbole_adapters.compare_cell"),
}
"""Modules of each engine: what plans its cells, and what runs one in a process of its own."""


class Planner(Protocol):
    """The part of an engine that knows what a cell depends on; a module."""

    @property
    def TUNABLE(self) -> tuple[str, ...]:  # noqa: N802
        """Settings that `overrides` may change."""
        ...

    def complete(self, config: CompareConfig) -> dict[str, Any]:
        """Values of fields that were not given; refuses fields of the other engine."""
        ...

    def inputs(self, config: CompareConfig) -> dict[str, Any]:
        """What tells one state of the data from another."""
        ...

    def settings(
        self, config: CompareConfig, encoder: str, backbone: str, store: str | None
    ) -> dict[str, Any]:
        """All that decides a cell's result; JSON-able."""
        ...

    def protocol(self, config: CompareConfig) -> dict[str, Any]:
        """The engine's part of `protocol` in results.json."""
        ...


class Runner(Protocol):
    """The part of an engine that runs one cell; a module."""

    def evaluate_floor(
        self, name: EncoderName, spec: dict[str, Any], folder: Path
    ) -> dict[str, Any]:
        """Rank by a rule that needs no training."""
        ...

    def train_and_test(
        self, name: EncoderName, spec: dict[str, Any], folder: Path
    ) -> dict[str, Any]:
        """Train, choose the best epoch by the validation, test it once."""
        ...


def planner(engine: str) -> Planner:
    """The part of an engine that plans."""
    return cast(Planner, import_module(ENGINES[engine][0]))


def runner(engine: str) -> Runner:
    """The part of an engine that runs a cell."""
    return cast(Runner, import_module(ENGINES[engine][1]))
