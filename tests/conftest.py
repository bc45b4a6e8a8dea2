"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _shared_data() -> Path | None:
    named = os.environ.get("LINKEDOUT_SHARED_DATA")
    for folder in (Path(named) if named else None, Path(__file__).parents[2] / "shared" / "data"):
        if folder is not None and folder.is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real clips and interactions, which licences keep out of the project."""
    folder = _shared_data()
    if folder is None:
        pytest.skip("no shared data: name its folder in LINKEDOUT_SHARED_DATA")
    return folder
