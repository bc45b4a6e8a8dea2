"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hf_processors

hf_processors.install()  # before anything imports lightning or transformers

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from object_server import bucket  # noqa: E402, F401 - a fixture
from tiny_models import NEEDS_TORCHVISION, build_tiny_video_llm  # noqa: E402

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


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


@pytest.fixture(scope="session")
def tiny_video_llm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model by family, made once; see `tiny_models.FAMILIES`."""
    folders: dict[str, Path] = {}

    def build(family: str = "idefics3") -> Path:
        if family in NEEDS_TORCHVISION and (cure := hf_processors.missing()):
            pytest.fail(cure)
        if family not in folders:
            folders[family] = build_tiny_video_llm(tmp_path_factory.mktemp(family), family)
        return folders[family]

    return build
