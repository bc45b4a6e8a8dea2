"""Trained cells and their explanation, made once for the session."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

# What every page must hold to stands beside the first of them.
sys.path.append(str(Path(__file__).parents[1] / "compare"))

from explained_world import train_cells, write_world

from linkedout_lightning.explain import ExplainConfig, Explanation, explain


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of interactions, features and items."""
    return write_world(tmp_path_factory.mktemp("explained"))


@pytest.fixture(scope="session")
def run(world: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison's folder: three encoders, two seeds."""
    return train_cells(world, tmp_path_factory.mktemp("cells") / "run")


@pytest.fixture(scope="session")
def options(world: dict[str, str], run: Path) -> dict[str, Any]:
    """What an explanation of that folder is asked with."""
    return {
        "cells": (str(run),), "items": world["items"], "min_items": 5, "near": 4, "listed": 3,
        "query_count": 4, "sample": 0, "bootstrap": 200, "accelerator": "cpu",
    }  # fmt: skip


@pytest.fixture(scope="session")
def explained(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    """The explanation with its page."""
    out = tmp_path_factory.mktemp("explanation")
    return explain(ExplainConfig(**options, out=str(out)), progress=False)


@pytest.fixture
def document(explained: Explanation) -> dict[str, Any]:
    """Its figures, for a test to change."""
    return copy.deepcopy(dict(explained))
