"""Several prompts about one video: each by itself against one prefill that they share.

The model has a published shape (or a small one) and random weights; the frames are noise. FLOPs
are those that torch counts while it runs (the attention's too), seconds are CPU seconds on a CPU
and wall seconds on a GPU, the median of the repeats.

    python benchmarks/views.py --into docs/prompts.md
    python benchmarks/views.py --shape 7b --device cuda --dtype bfloat16 --batch 4 --size 448
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import prefill_models  # before anything imports transformers or lightning
import torch
from torch.utils.flop_counter import FlopCounterMode

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.tap import TapBatch, TapInput, VideoLLMTap, View
from linkedout_lightning.tap.prefix import shared_prefix
from linkedout_lightning.video import Frames

TITLE = "How to repair an old bicycle and ride it home before the rain begins"
PROMPTS = (
    "What is this video about? Its title is {title}.",
    "Who would like to watch {title}? Name the kind of person.",
    "Which mood does the video have, and how does it begin and end?",
    "List the things that can be seen.",
)


def taps_of(arguments: argparse.Namespace, count: int) -> dict[str, VideoLLMTap]:
    """A tap for each way, over one model."""
    model, processor = arguments.built
    views = {f"view{number}": View(prompt) for number, prompt in enumerate(PROMPTS[:count])}
    return {
        name: VideoLLMTap(model, processor=processor, layers=4, views=views, share_prefix=share)
        for name, share in (("separate", False), ("shared", True))
    }


def batch_of(tap: VideoLLMTap, arguments: argparse.Namespace) -> TapBatch:
    """Videos of noise."""
    chance = np.random.default_rng(arguments.seed)
    shape = (arguments.frames, arguments.size, arguments.size, 3)
    times = np.arange(arguments.frames) / 2
    items = [
        TapInput(
            str(number),
            Frames(chance.integers(0, 256, shape, dtype=np.uint8), times, 8.0, times[-1], "noise"),
            {"title": TITLE},
        )
        for number in range(arguments.batch)
    ]
    return tap.prepare(items).to(arguments.device)


def seconds_of(tap: VideoLLMTap, batch: TapBatch, device: str) -> float:
    """CPU seconds, or wall seconds of a GPU."""
    clock = time.process_time
    if device != "cpu":
        torch.cuda.synchronize()
        clock = time.perf_counter
    begin = clock()
    tap.extract(batch)
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - begin


def row_of(arguments: argparse.Namespace, count: int) -> dict[str, Any]:
    """One line of the table: so many prompts."""
    taps = taps_of(arguments, count)
    batches = {name: batch_of(tap, arguments) for name, tap in taps.items()}
    outputs = {name: tap.extract(batches[name]) for name, tap in taps.items()}  # and warm up
    scale = outputs["separate"].features.abs().amax(dim=(0, 2, 3), keepdim=True)
    error = (outputs["shared"].features - outputs["separate"].features).abs() / scale
    flops = {}
    for name, tap in taps.items():
        with FlopCounterMode(display=False) as counter:
            tap.extract(batches[name])
        flops[name] = counter.get_total_flops()
    seconds: dict[str, list[float]] = {name: [] for name in taps}
    for _ in range(arguments.repeats):
        for name, tap in taps.items():
            seconds[name].append(seconds_of(tap, batches[name], arguments.device))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    buckets = batches["separate"].buckets
    tap = taps["shared"]
    common = shared_prefix(
        buckets,
        visual_ids=tap.prepare.builders[0].visual_ids,
        pad_id=tap.prepare.tokenizer.pad_token_id,
        model=tap.model,
    )
    return {
        "prompts": count,
        "tokens": [bucket.inputs["input_ids"].shape[1] for bucket in buckets],
        "tokens_in_common": common and common.front.inputs["input_ids"].shape[1],
        "gflop": {name: round(value / 1e9, 2) for name, value in flops.items()},
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "flop_ratio": round(flops["separate"] / flops["shared"], 2),
        "time_ratio": round(medians["separate"] / medians["shared"], 2),
        "largest_difference": float(error.max()),
    }


def table(results: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "| prompts | tokens of each | in common | GFLOP, each by itself | shared | FLOPs | time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["rows"][1:]:
        gflop = row["gflop"]
        cells = [
            row["prompts"],
            ", ".join(map(str, row["tokens"])),
            row["tokens_in_common"],
            gflop["separate"],
            gflop["shared"],
            f"{row['flop_ratio']:.2f}× fewer",
            f"{row['time_ratio']:.2f}× less",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def write_into(document: Path, text: str) -> None:
    """Put the table between the marks that stand in a document."""
    before, _, rest = document.read_text(encoding="utf-8").partition(f"{_MARKS[0]}\n")
    _, _, after = rest.partition(_MARKS[1])
    document.write_text(f"{before}{_MARKS[0]}\n{text}\n{_MARKS[1]}{after}", encoding="utf-8")


_MARKS = ("<!-- views: table -->", "<!-- views: end -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/views.json"))
    parser.add_argument("--into", type=Path, help="a document to put the table into")
    parser.add_argument("--shape", choices=prefill_models.SHAPES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.built = prefill_models.build(
        arguments.shape,
        device=arguments.device,
        dtype=getattr(torch, arguments.dtype),
        attention="sdpa",
        seed=arguments.seed,
    )
    rows = [row_of(arguments, count) for count in range(1, len(PROMPTS) + 1)]
    settings = {k: v for k, v in vars(arguments).items() if k not in ("built", "out", "into")}
    results = {
        "what": "several prompts about one video; ratio = each by itself / with what they have in "
        "common run once; largest difference over the largest value of its layer",
        "environment": environment() | {"transformers": version("transformers")},
        "settings": settings,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.into:
        write_into(arguments.into, table(results))
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
