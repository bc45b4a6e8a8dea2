"""What the tests of serving share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bundles import make_model, write_bundle

from linkedout_lightning import Ranker, SequentialRecommender


@pytest.fixture(scope="session")
def model() -> SequentialRecommender:
    return make_model()


@pytest.fixture(scope="session")
def bundle(model: SequentialRecommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that nobody changes."""
    columns = {"title": [f"Title {number}" for number in range(model.num_items)]}
    return write_bundle(
        model, tmp_path_factory.mktemp("bundle") / "b", layers=True, columns=columns
    )


@pytest.fixture(scope="session")
def with_formats(model: SequentialRecommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the sequence encoder in every format; nobody changes it."""
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("formats") / "b"
    return write_bundle(model, out, formats=("torch.export", "onnx"))


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


@pytest.fixture
def ranker(own: Path) -> Ranker:
    return Ranker.load(own)
