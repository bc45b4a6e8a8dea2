"""A server that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from served_world import CLIP, Served, write_film, write_id, write_linkedout


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles `linkedout`, `other` and `id`."""
    folder = tmp_path_factory.mktemp("bundles")
    write_linkedout(folder / "linkedout")
    write_linkedout(folder / "other", seed=5)
    write_id(folder / "id")
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small films of the items v001 to v006."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(1, 7):
        write_film(folder / f"v{number:03d}.mp4", shade=40 * number)
    return folder


@pytest.fixture(scope="session")
def served(bundles: Path, clips: Path) -> Iterator[Served]:
    """A server with two models and a token."""
    server = Served(
        *("--bundle", f"linkedout={bundles / 'linkedout'}", "--bundle", f"id={bundles / 'id'}"),
        *("--media", str(clips)),
    )
    yield server
    assert server.end() == 0, "".join(server.lines)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, clips, and what lies beside the clips."""
    root = tmp_path_factory.mktemp("strict")
    write_id(root / "bundles" / "id")
    (root / "media").mkdir()
    (root / "media" / "v001.mp4").write_bytes(CLIP)
    (root / "secret.mp4").write_bytes(b"between us")
    (root / "media" / "v002.mp4").symlink_to(root / "secret.mp4")
    (root / "media" / ".hidden.mp4").write_bytes(b"between us")
    return root


@pytest.fixture(scope="session")
def strict(folders: Path) -> Iterator[Served]:
    """A server with short patience and few places."""
    server = Served(
        *("--bundle", str(folders / "bundles" / "id"), "--media", str(folders / "media")),
        *("--videos", str(folders / "media"), "--receive_timeout", "1", "--concurrency", "2"),
    )
    yield server
    assert server.end() == 0, "".join(server.lines)
