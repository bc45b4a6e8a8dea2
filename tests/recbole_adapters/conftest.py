"""What the tests of the RecBole adapters share."""

from __future__ import annotations

import importlib.util

import pytest
from small_world import World, write_dataset, write_store

collect_ignore_glob = [] if importlib.util.find_spec("recbole") else ["test_*.py"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A made-up dataset and features of its items."""
    folder = tmp_path_factory.mktemp("recbole")
    write_store(folder / "features")
    return World(write_dataset(folder), folder / "features", folder / "runs")


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """Features of the first 1,600 of ml-100k's 1,682 items, some of which nobody here has seen."""
    from small_world import write_store

    folder = tmp_path_factory.mktemp("films") / "features"
    write_store(folder, tuple(str(number) for number in range(1, 1601)))
    return folder
