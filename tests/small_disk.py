"""A disk that runs full soon: a real file system in memory, mounted for one test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, *, size: int) -> Iterator[Path]:
    """Mount ``size`` bytes at a new folder; the test is skipped where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine allows no mounts")
    try:
        yield folder
    finally:
        # Lazily, as a test that failed may still hold a file.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    """Change the options of a mount, such as ``ro`` or its size."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)
