"""A server that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from served_world import Served, write_id, write_linkedout


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles `linkedout`, `other` and `id`."""
    folder = tmp_path_factory.mktemp("bundles")
    write_linkedout(folder / "linkedout")
    write_linkedout(folder / "other", seed=5)
    write_id(folder / "id")
    return folder


@pytest.fixture(scope="module")
def served(bundles: Path) -> Iterator[Served]:
    """A server with two models and a token."""
    server = Served(
        "--bundle", f"linkedout={bundles / 'linkedout'}", "--bundle", f"id={bundles / 'id'}"
    )
    yield server
    assert server.end() == 0, "".join(server.lines)
