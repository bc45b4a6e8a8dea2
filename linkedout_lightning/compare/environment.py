"""What a comparison ran on: hardware, versions and the command."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from linkedout_lightning.machine import usable_cores

_PACKAGES = ("linkedout-lightning", "torch", "lightning", "torchmetrics", "numpy", "pylance")


def environment(*, recbole: bool = False) -> dict[str, Any]:
    """Hardware, versions, command and time, JSON-able.

    Args:
        recbole: Name the versions of RecBole and pandas too.
    """
    import torch

    packages = (*_PACKAGES, *(("recbole", "pandas") if recbole else ()))

    devices = range(torch.cuda.device_count())
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gb": _memory_gb(),
        "accelerators": [torch.cuda.get_device_name(i) for i in devices],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "command": shlex.join([Path(sys.argv[0]).name, *map(shareable, sys.argv[1:])]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def shareable(argument: str) -> str:
    """An argument without the folders of this machine, for reports that are passed on.

    Example:
        >>> shareable("--store=/data/features"), shareable("runs/features")
        ('--store=…/features', 'runs/features')
    """
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return argument
    inside = path.is_relative_to(Path.cwd())
    return option + equals + (str(path.relative_to(Path.cwd())) if inside else f"…/{path.name}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1)
    except (ValueError, OSError, AttributeError):
        return None
