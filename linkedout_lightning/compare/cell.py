"""One cell in a process of its own: ``python -m linkedout_lightning.compare.cell CELL.json``.

A process a cell gives each its own peak memory, its own threads and its own death.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.files import read_json, write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cell that a file describes; ``result.json`` and ``ranks.safetensors`` go beside it.

    Returns:
        0, or 1 if the cell failed; ``result.json`` then holds ``error``.
    """
    parser = argparse.ArgumentParser(prog="python -m linkedout_lightning.compare.cell")
    parser.add_argument("cell", type=Path, help="the cell.json that `linkedout compare` wrote")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--leashed", action="store_true", help="end when standard input closes")
    arguments = parser.parse_args(argv)
    if arguments.leashed:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    spec = read_json(arguments.cell)
    if not isinstance(spec, dict):
        parser.error(f"{arguments.cell} holds no cell")
    import torch

    torch.set_num_threads(arguments.threads)
    folder = arguments.cell.parent
    identity = {key: spec[key] for key in ("engine", "encoder", "backbone", "seed", "fingerprint")}
    try:
        result = run_cell(spec, folder)
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        write_json(folder / "result.json", identity | {"error": message})
        return 1
    write_json(folder / "result.json", identity | result)
    return 0


def run_cell(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train and test, or only test where there is nothing to train.

    Args:
        spec: Encoder, backbone, seed, settings.
        folder: Where ranks, progress and the best weights go.

    Returns:
        The part of ``result.json`` that says what came out.
    """
    from safetensors.torch import save_file

    from linkedout_lightning.compare.engines import runner
    from linkedout_lightning.compare.names import parse_encoder
    from linkedout_lightning.compare.summaries import nest_slices, peak_device_mb, peak_mb

    warnings.filterwarnings("ignore", module="lightning")
    started = time.perf_counter()
    settings = spec["settings"]
    stores = [spec["encoder"].partition("+")[0]] if settings.get("named_store") else []
    name = parse_encoder(spec["encoder"], stores=stores)
    engine = runner(spec["engine"])
    run = engine.train_and_test if name.trains else engine.evaluate_floor
    outcome = run(name, spec, folder)
    metrics, slices = nest_slices(outcome.pop("flat"))
    ranks = outcome.pop("ranks")
    unfinished = folder / f".ranks.{os.getpid()}"
    save_file({"users": ranks.users.cpu(), "ranks": ranks.ranks.cpu()}, unfinished)
    os.replace(unfinished, folder / "ranks.safetensors")
    return {
        "metrics": metrics,
        "slices": slices,
        **outcome,
        "seconds": time.perf_counter() - started,
        "peak_mb": peak_mb(),
        "peak_device_mb": peak_device_mb(),
    }


def _end_with_parent() -> None:
    # The parent holds the other end and never writes: this returns when the parent is gone,
    # however it went, and two processes never write into one cell.
    # The descriptor itself is read: a buffer's lock, held here, would break the regular exit.
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
