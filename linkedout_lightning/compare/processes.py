"""Runs cells as processes, a few at a time, and outlives whatever happens to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from linkedout_lightning.compare.display import Display
from linkedout_lightning.compare.files import read_json, write_json
from linkedout_lightning.compare.plan import Cell

_POLL_SECONDS = 0.1
_WRITTEN = (
    "result.json", "progress.json", "ranks.safetensors", "best.ckpt", "model.safetensors",
    "run.json", "items.json",
)  # fmt: skip


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    shown: float = 0.0


def run_cells(
    cells: Sequence[Cell], *, jobs: int, threads: int, devices: int, display: Display
) -> dict[Path, str]:
    """Run cells, at most ``jobs`` at once; one that fails does not stop the others.

    Args:
        cells: What to run, in that order.
        jobs: Processes at once.
        threads: CPU threads of each.
        devices: Accelerators to spread the processes over; 1 leaves the choice to Lightning.
        display: Told of each step.

    Returns:
        Folder of each cell that failed, and why.
    """
    waiting, running = list(cells), dict[int, _Running]()
    failures: dict[Path, str] = {}
    try:
        while waiting or running:
            for slot in range(jobs):
                if slot not in running and waiting:
                    cell = waiting.pop(0)
                    running[slot] = _start(cell, threads=threads, device=slot % devices, of=devices)
                    display.started(cell, slot)
            for slot, job in list(running.items()):
                _show_progress(job, slot, display)
                if job.process.poll() is not None:
                    del running[slot]
                    result = _result(job)
                    if result.get("error"):
                        failures[job.cell.folder] = result["error"]
                    display.finished(job.cell, slot, result)
            time.sleep(_POLL_SECONDS)
    finally:
        for job in running.values():
            job.process.kill()
        for job in running.values():
            _end(job)
    return failures


def _start(cell: Cell, *, threads: int, device: int, of: int) -> _Running:
    cell.folder.mkdir(parents=True, exist_ok=True)
    for name in _WRITTEN:
        (cell.folder / name).unlink(missing_ok=True)
    write_json(cell.folder / "cell.json", cell.to_json())
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if of > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(of)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[device % len(visible)]
    log = (cell.folder / "log.txt").open("wb")
    arguments = [str(cell.folder / "cell.json"), "--threads", str(threads), "--leashed"]
    process = subprocess.Popen(
        [sys.executable, "-m", "linkedout_lightning.compare.cell", *arguments],
        stdin=subprocess.PIPE,  # its end is the child's sign that this process is gone
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches this process alone, which ends its children
    )
    return _Running(cell, process, log)


def _show_progress(job: _Running, slot: int, display: Display) -> None:
    path = job.cell.folder / "progress.json"
    try:
        changed = path.stat().st_mtime
    except FileNotFoundError:
        return
    if changed != job.shown:
        job.shown = changed
        progress = read_json(path)
        if isinstance(progress, dict):
            display.progressed(job.cell, slot, progress)


def _end(job: _Running) -> None:
    job.process.wait()
    if job.process.stdin is not None:
        job.process.stdin.close()
    job.log.close()


def _result(job: _Running) -> dict[str, Any]:
    _end(job)
    result = job.cell.result()
    if result is not None:
        return result
    found = read_json(job.cell.folder / "result.json")
    if isinstance(found, dict) and found.get("error"):
        return found
    code = job.process.returncode
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return {"error": f"its process was ended by {name}{hint}"}
    log = job.cell.folder / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return {"error": f"its process ended with code {code}: {lines[-1] if lines else 'no output'}"}
