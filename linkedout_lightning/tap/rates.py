"""What a device reaches on the simplest work: the yardsticks that costs are held against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_GPU_SIDE, _CPU_SIDE = 8192, 1024
_GPU_BYTES, _CPU_BYTES = 2**30, 2**26
_TRIES = 8


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product, the best of some.

    Args:
        device: Where.
        dtype: Of both factors.
    """
    side = _CPU_SIDE if device.type == "cpu" else _GPU_SIDE
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _best(lambda: left @ right, device)


def copy_rate(device: torch.device) -> float:
    """Bytes a second through the device's memory, read and written, of a large copy."""
    count = _CPU_BYTES if device.type == "cpu" else _GPU_BYTES
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / _best(lambda: target.copy_(source), device)


def now(device: torch.device) -> float:
    """Seconds of a clock for work on a device.

    On a CPU with one thread it is the processor's time, of which other programs take none.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best(call: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(_TRIES):
        settle(device)
        start = now(device)
        call()
        settle(device)
        times.append(now(device) - start)
    return min(times)
