# ruff: noqa: E402
"""Extraction as a pipeline against decode-then-run, over the same videos and the same model.

The plain way is what one writes first: decode a batch of videos in the process, run the processor
and the model, append to the store, go on. Both ways alternate; decoding and the model are also
timed alone, which gives the floor of any overlap: the longer of the two. The model is a small
Qwen2-VL with random weights on one thread, so that a second core can decode meanwhile; the videos
are synthetic (moving blocks, H.264).

    python benchmarks/pipeline.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import hf_processors

hf_processors.install()  # before anything imports transformers

import av
import numpy as np
import prefill_models
import torch

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap import TapInput, VideoLLMTap
from linkedout_lightning.tap.extract import ExtractConfig, extract
from linkedout_lightning.tap.sink import store_spec
from linkedout_lightning.video import FrameSampler


def write_video(path: Path, *, seed: int, size: int, seconds: int) -> None:
    """Moving blocks; H.264 with a key frame every two seconds."""
    chance = np.random.default_rng(seed)
    picture = chance.integers(0, 256, (size // 16, size * 2 // 16, 3), dtype=np.uint8)
    picture = picture.repeat(16, axis=0).repeat(16, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "48", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], "yuv420p"
        for step in range(24 * seconds):
            shown = np.roll(picture, 3 * step, axis=1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def decode_then_run(tap: VideoLLMTap, sampler: FrameSampler, videos: list[Path], out: Path) -> None:
    store = FeatureStore.create(out, store_spec(tap, sampler=sampler))
    for start in range(0, len(videos), 8):
        items = [TapInput(v.stem, sampler(v), {}) for v in videos[start : start + 8]]
        output = tap.extract(tap.prepare(items)).cpu()
        store.append(output.item_ids, output.features.half(), output.mask)


def timed(run: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), os.times()
    run()
    now = os.times()
    used = sum(now[:4]) - sum(cpu[:4])
    return {"wall_s": time.perf_counter() - wall, "cpu_s": used}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=48)
    parser.add_argument("--size", type=int, default=720, help="height of the videos")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=112, help="of a frame's sides")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pipeline.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    root = Path(tempfile.mkdtemp())
    try:
        folder = root / "videos"
        folder.mkdir()
        for number in range(arguments.videos):
            write_video(
                folder / f"v{number}.mp4",
                seed=number,
                size=arguments.size,
                seconds=arguments.seconds,
            )
        videos = sorted(folder.iterdir())
        model, processor = prefill_models.build(
            "small", device="cpu", dtype=torch.float32, attention="sdpa", seed=0
        )
        tap = VideoLLMTap(model, processor=processor, layers=2, frames=arguments.frames)
        size = (arguments.pixels, arguments.pixels)
        sampler = FrameSampler(tap.frames, size=size, isolate=False)
        ways: dict[str, list[dict[str, float]]] = {"decode_then_run": [], "pipeline": []}
        parts: dict[str, list[dict[str, float]]] = {"decode_alone": [], "run_alone": []}
        for repeat in range(arguments.repeats + 1):
            plain, piped = root / f"plain{repeat}", root / f"piped{repeat}"
            first = timed(lambda out=plain: decode_then_run(tap, sampler, videos, out))
            config = ExtractConfig(
                model="small", out=str(piped), videos=str(folder), workers=1, size=size
            )
            second = timed(lambda c=config: extract(c, tap=tap, progress=False))
            shown = []
            decoded = timed(lambda s=shown: s.extend(sampler(v) for v in videos))
            inputs = [TapInput(str(i), f, {}) for i, f in enumerate(shown)]
            alone = timed(
                lambda i=inputs: [
                    tap.extract(tap.prepare(i[k : k + 8])) for k in range(0, len(i), 8)
                ]
            )
            print(
                f"round {repeat}: one after the other {first['wall_s']:.1f} s, pipeline "
                f"{second['wall_s']:.1f} s; alone: decoding {decoded['wall_s']:.1f} s, the model "
                f"{alone['wall_s']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
            if repeat:  # the first round warms caches up
                ways["decode_then_run"].append(first)
                ways["pipeline"].append(second)
                parts["decode_alone"].append(decoded)
                parts["run_alone"].append(alone)
        report = extract(
            ExtractConfig(
                model="small", out=str(root / "last"), videos=str(folder), workers=1, size=size
            ),
            tap=tap,
            progress=False,
        )
    finally:
        shutil.rmtree(root)

    def median(rows: list[dict[str, float]]) -> float:
        return statistics.median(row["wall_s"] for row in rows)

    floor = max(median(rows) for rows in parts.values())
    result = {
        "command": "python benchmarks/pipeline.py " + " ".join(sys.argv[1:]),
        "environment": environment(),
        "videos": arguments.videos,
        "simulated": "synthetic videos, random weights",
        **ways,
        **parts,
        "wall_ratio_plain_to_pipeline": round(
            median(ways["decode_then_run"]) / median(ways["pipeline"]), 3
        ),
        "wall_ratio_pipeline_to_floor": round(median(ways["pipeline"]) / floor, 3),
        "pipeline_seconds": report.seconds,
        "bottleneck": report.bottleneck,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
