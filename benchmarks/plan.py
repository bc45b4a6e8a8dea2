"""What `linkedout extract --plan` said, against what the extraction then took.

Four jobs, in each of which another part is the slowest: many tiny clips (the processor), large
clips before a tiny model (decoding), a model that takes its time without taking a core, as one on a
GPU does (the tiny one, and a pause for every item), and a model that is large for this machine.
Each is planned from 16 items and then run, several times in turn.

    python benchmarks/plan.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import prefill_models  # first: it finds torchvision for transformers
import torch

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.tap import TapBatch, TapOutput, VideoLLMTap
from linkedout_lightning.tap.extract import ExtractConfig, extract

# Clips, their height and width and seconds; the model.
JOBS: dict[str, tuple[int, tuple[int, int], float, str]] = {
    "many tiny clips": (300, (48, 64), 2.0, "tiny"),
    "large clips": (60, (720, 1280), 3.0, "tiny"),
    "a device apart": (300, (48, 64), 2.0, "pausing"),
    "a large model": (60, (96, 160), 2.0, "small"),
}

PAUSE = 0.05  # seconds an item


class Pausing(VideoLLMTap):
    """A tap whose model is elsewhere: the caller waits, and no core works."""

    def extract(self, batch: TapBatch) -> TapOutput:
        """The same features, later."""
        time.sleep(PAUSE * len(batch))
        return super().extract(batch)


def tap_of(model: str, folder: Path, seed: int) -> VideoLLMTap:
    """A model with random weights: a tiny one of the tests', or the small one of prefill.py."""
    if model != "small":
        from tiny_models import build_tiny_video_llm

        path = build_tiny_video_llm(folder / "tiny", "idefics3", seed=seed)
        kind = Pausing if model == "pausing" else VideoLLMTap
        return kind.from_pretrained(str(path), layers=[2, 4], frames=4)
    made, processor = prefill_models.build(
        "small", device="cpu", dtype=torch.float32, attention="sdpa", seed=seed
    )
    return VideoLLMTap(made, processor=processor, layers=[4, 8], frames=8)


def one(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One job: planned and run in turn."""
    count, size, seconds, model = JOBS[name]
    videos = folder / name
    prefill_models.write_videos(
        videos, count=count, distinct=12, size=size, seconds=seconds, seed=options.seed
    )
    tap = tap_of(model, folder, options.seed)
    rounds = []
    for number in range(options.repeats):
        config = ExtractConfig(
            model=model,
            out=str(folder / f"store {name} {number}"),
            videos=str(videos),
            workers=options.workers,
            device="cpu",
        )
        plan = extract(replace(config, plan=options.sample), tap=tap, progress=False)
        report = extract(config, tap=tap, progress=False)
        said, was = plan.seconds - plan.loading, report.seconds["total"] - report.seconds["load"]
        low, high = (end - plan.loading for end in plan.interval)
        store = sum(f.stat().st_size for f in Path(config.out).rglob("*") if f.is_file())
        rounds.append(
            {
                "planned_seconds": round(said, 2),
                "planned_interval": [round(low, 2), round(high, 2)],
                "measured_seconds": round(was, 2),
                "planned_over_measured": round(said / was, 3),
                "in_interval": low <= was <= high,
                "planned_bottleneck": plan.bottleneck,
                "planned_parts": {part: round(s, 2) for part, s in plan.parts.items()},
                "bottleneck": report.bottleneck,
                "parts": report.seconds,
                "planned_store_bytes": plan.store_end,
                "store_bytes": store,
                "load_average": round(os.getloadavg()[0], 1),
            }
        )
        print(name, json.dumps(rounds[-1]), flush=True)
    ratios = [row["planned_over_measured"] for row in rounds]
    return {
        "job": name,
        "videos": count,
        "size": size,
        "model": model,
        "median_planned_over_measured": round(statistics.median(ratios), 3),
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/plan.json"))
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sample", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        jobs = [one(name, options, Path(folder)) for name in options.jobs]
    results = {
        "what": __doc__.splitlines()[0],
        "environment": environment() | {"transformers": version("transformers")},
        "settings": {k: str(v) if k == "out" else v for k, v in vars(options).items()},
        "jobs": jobs,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
