"""What a video costs a model of a published shape, counted from its matrices; nothing is run.

The models have no values in their weights. The video is noise, but goes through the family's real
processor, so that its patches and tokens are what a video of that size has.

    python benchmarks/costs.py
    python benchmarks/costs.py --frames 16 --size 720 1280
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import prefill_models  # before transformers: it finds torchvision for it
import torch

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.tap import TapInput, VideoLLMTap
from linkedout_lightning.tap.costs import (
    bytes_moved,
    count_flops,
    hours_per_million,
    memory_bytes,
    store_bytes,
)
from linkedout_lightning.tap.sizes import loads_of, measure
from linkedout_lightning.video import Frames

DEPTHS = (0.5, 0.75, 1.0)
TITLE = "a title of some sixty characters, as such items have them"


def rows_of(shape: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each depth of the deepest layer."""
    model, processor = prefill_models.build(
        shape, device="meta", dtype=torch.bfloat16, attention="sdpa", seed=0
    )
    height, width = options.size
    data = np.random.default_rng(0).integers(
        0, 256, (options.frames, height, width, 3), dtype=np.uint8
    )
    seconds = np.arange(options.frames, dtype=np.float64)
    shown = Frames(data, seconds, fps=25.0, duration=float(options.frames), backend="noise")
    rows = []
    for depth in DEPTHS:
        blocks = model.config.get_text_config().num_hidden_layers
        deepest = round(depth * blocks)
        layers = [deepest * (i + 1) // 4 for i in range(4)]
        tap = VideoLLMTap(model, processor=processor, layers=layers, frames=options.frames)
        batch = tap.prepare([TapInput("a", shown, {"title": TITLE})])
        (size,) = measure(tap)
        (load,) = loads_of(batch, [size], layers=len(layers))
        flops = count_flops(size, load)
        eight = sum([load] * 7, load)
        rows.append(
            {
                "model": shape,
                "deepest": deepest,
                "blocks": blocks,
                "tokens": load.tokens,
                "patches": load.patches,
                "parameters_billion": round(size.parameters / 1e9, 3),
                "tflop": round(flops.total / 1e12, 2),
                "tflop_text": round(flops.text / 1e12, 2),
                "tflop_vision": round(flops.vision / 1e12, 2),
                "gb_moved_batch_of_8": round(bytes_moved(size, eight) / 1e9, 1),
                "memory_gb_batch_of_8": round(memory_bytes(size, eight) / 1e9, 1),
                "store_bytes": store_bytes(len(layers), len(tap.slots), tap.hidden_size),
                "hours_per_million": round(
                    hours_per_million(flops.total, sustained=1e12 * options.tflops), 1
                ),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as they stand in docs/costs.md."""
    names = {
        "model": "model",
        "deepest": "deepest layer",
        "tokens": "tokens",
        "tflop_vision": "TFLOP vision",
        "tflop_text": "TFLOP blocks",
        "tflop": "TFLOP together",
        "store_bytes": "bytes in the store",
        "memory_gb_batch_of_8": "GB, 8 at once",
        "hours_per_million": "hours a million",
    }
    head = [" | ".join(names.values()), " | ".join("---" for _ in names)]
    return [
        f"| {line} |"
        for line in (
            *head,
            *(" | ".join(f"{r[n]:,}" if n != "model" else r[n] for n in names) for r in rows),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/costs.json"))
    parser.add_argument("--shapes", nargs="+", choices=prefill_models.SHAPES, default=["2b", "7b"])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=[360, 640], help="height and width")
    parser.add_argument("--tflops", type=float, default=400, help="assumed to be sustained")
    options = parser.parse_args()
    results = {
        "what": __doc__.splitlines()[0],
        "environment": environment() | {"transformers": version("transformers")},
        "settings": {k: str(v) if k == "out" else v for k, v in vars(options).items()},
        "rows": [row for shape in options.shapes for row in rows_of(shape, options)],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print("\n".join(table(results["rows"])))


if __name__ == "__main__":
    main()
