"""An empty store."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_rows import make_spec

from linkedout_lightning.store import FeatureStore


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "features", make_spec())
