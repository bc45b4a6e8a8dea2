r"""Videos a second and the share of the peak in prefill, with the floor; and the whole job's idle.

Models of the published 2B and 7B shapes with random weights, real processors, real H.264 files:

1. Prefill alone, batch by batch: seconds, FLOPs by the formulas of `docs/costs.md`, their share of
   what this device reaches on a square product of the same type, and the floor from FLOPs and
   bytes; with SDPA as transformers calls it, with the windows of the tower joined, and with
   compiled blocks.
2. The job: `linkedout extract` over a folder, decoding included: videos a second, what `--plan`
   said before, and for how much of the time the device was idle: between the calls of the model by
   events on its stream, and within them by the kernels that the profiler saw.

Results are written after each part, and parts that would go beyond ``--minutes`` are left out and
named.

    python benchmarks/prefill.py --preset small
    python benchmarks/prefill.py --preset 2b 7b --device cuda --dtype bfloat16 \
        --out benchmarks/results/prefill.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import prefill_models  # first: it finds torchvision for transformers
import torch

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.tap import TapBatch, TapInput, VideoLLMTap
from linkedout_lightning.tap.costs import bytes_moved, count_flops, floor_seconds, memory_bytes
from linkedout_lightning.tap.extract import ExtractConfig, extract
from linkedout_lightning.tap.rates import copy_rate, matrix_rate, now, settle
from linkedout_lightning.tap.sizes import loads_of, measure
from linkedout_lightning.tap.windows import join_windows
from linkedout_lightning.video import Frames, FrameSampler

TITLE = "a title of some sixty characters, as such items have them"


class Bench:
    """One run of the program.

    Args:
        options: The command line.
        folder: Where videos and stores are put.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.device = torch.device(options.device)
        self.dtype = getattr(torch, options.dtype)
        self.end = time.monotonic() + 60 * options.minutes
        self.results: dict[str, Any] = {
            "what": __doc__.splitlines()[0],
            "scale": "GPU"
            if self.device.type == "cuda"
            else f"CPU, {', '.join(options.preset)}: it shows the program, not what a GPU would do",
            "environment": environment()
            | {
                "transformers": version("transformers"),
                "torch_threads": torch.get_num_threads(),
                "load_average": os.getloadavg(),
            },
            "settings": {k: str(v) if k == "out" else v for k, v in vars(options).items()},
            "prefill": [],
            "job": [],
            "left_out": [],
        }

    def run(self) -> None:
        """All parts, the cheaper first."""
        self.peak = matrix_rate(self.device, self.dtype)
        self.bandwidth = copy_rate(self.device)
        self.results["peak_tflops"] = round(self.peak / 1e12, 4)
        self.results["copy_gb_per_second"] = round(self.bandwidth / 1e9, 1)
        self.write()
        start = time.perf_counter()
        videos = prefill_models.write_videos(
            self.folder / "videos",
            count=self.options.videos,
            distinct=self.options.distinct,
            size=tuple(self.options.size),
            seconds=self.options.seconds,
            seed=self.options.seed,
        )
        self.results["writing_videos_seconds"] = round(time.perf_counter() - start, 1)
        sampler = FrameSampler(frames=self.options.frames, size=384)
        shown = [sampler(path) for path in videos[: self.options.distinct]]
        self.results["frames"] = list(shown[0].data.shape)
        for preset in self.options.preset:
            self.one(preset, shown)
            self.free()

    def one(self, preset: str, shown: list[Frames]) -> None:
        """All of one model; what is done to it in place comes last."""
        model, processor = prefill_models.build(
            preset,
            device=self.options.device,
            dtype=self.dtype,
            attention="sdpa",
            seed=self.options.seed,
        )
        settle(self.device)

        def tap(depth: float = 1.0, *, compiled: bool = False) -> VideoLLMTap:
            blocks = model.config.get_text_config().num_hidden_layers
            deepest = round(depth * blocks)
            return VideoLLMTap(
                model,
                processor=processor,
                layers=sorted({max(1, deepest * (i + 1) // 4) for i in range(4)}),
                frames=self.options.frames,
                compile=compiled,
                # The digest of so many weights would be part of the job's first minutes.
                model_name=f"random weights, {preset}",
                revision=f"seed {self.options.seed}",
            )

        for count in self.options.batch:
            self.prefill(preset, "sdpa", tap(), shown, count)
        best = "sdpa"
        if join_windows(model):
            best = "joined windows"
            for count in self.options.batch:
                self.prefill(preset, best, tap(), shown, count)
        self.prefill(preset, f"{best}, 3/4 of the depth", tap(0.75), shown, max(self.options.batch))
        self.job(preset, best, tap(), shown)
        if not self.options.no_compile:
            compiled = tap(compiled=True)
            for count in self.options.batch[-2:]:
                self.prefill(preset, f"{best}, compiled", compiled, shown, count)
            self.job(preset, f"{best}, compiled", compiled, shown)

    def free(self) -> None:
        """Give a model's memory back."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def prefill(
        self, preset: str, variant: str, tap: VideoLLMTap, shown: list[Frames], count: int
    ) -> None:
        """One batch size, prepared and on the device."""
        name = f"{preset}, {variant}, {count} videos"
        if self._late(name):
            return
        batch = tap.prepare(self._items(shown, count)).to(self.device)
        cuda = self.device.type == "cuda"
        try:
            start = time.perf_counter()
            for _ in range(2):
                tap.extract(batch)
            settle(self.device)
            warming = time.perf_counter() - start
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            times = [self._timed(lambda: tap.extract(batch)) for _ in range(self.options.repeats)]
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            self.results["left_out"].append(f"{name}: {str(error)[:100]}")
            return
        seconds = statistics.median(times)
        (size,) = measure(tap)
        (load,) = loads_of(batch, [size], layers=len(tap.layers))
        flops = count_flops(size, load)
        moved = bytes_moved(size, load)
        floor = floor_seconds(flops.total, moved, peak=self.peak, bandwidth=self.bandwidth)
        row = {
            "model": preset,
            "variant": variant,
            "videos": count,
            "tokens": batch.tokens,
            "seconds": round(seconds, 5),
            "all_seconds": [round(t, 5) for t in times],
            "warming_seconds": round(warming, 2),
            "videos_per_second": round(count / seconds, 3),
            "tflop": round(flops.total / 1e12, 5),
            "tflop_vision": round(flops.vision / 1e12, 5),
            "tflops": round(flops.total / seconds / 1e12, 4),
            "share_of_peak": round(flops.total / seconds / self.peak, 4),
            "gb_moved_at_least": round(moved / 1e9, 3),
            "floor_seconds": round(floor, 5),
            "times_floor": round(seconds / floor, 2),
            "memory_gb_by_formula": round(memory_bytes(size, load) / 1e9, 3),
        }
        if cuda:
            row["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
            row["kernels_share"] = round(self._kernels(tap, batch) / seconds, 4)
        self.results["prefill"].append(row)
        self.write(row)

    def job(self, preset: str, variant: str, tap: VideoLLMTap, shown: list[Frames]) -> None:
        """The extraction of the whole folder, planned first, and the device's idle time."""
        name = f"{preset}, {variant}, the job"
        if self._late(name, least=120):
            return
        config = ExtractConfig(
            model="in memory",
            out=str(self.folder / f"store {preset} {variant}"),
            videos=str(self.folder / "videos"),
            frames=self.options.frames,
            batch_size=max(self.options.batch),
            batch_tokens=10**6,
            workers=self.options.workers,
        )
        plan = extract(replace(config, plan=max(16, max(self.options.batch))), tap=tap)
        watch = _Watch(tap, cuda=self.device.type == "cuda")
        with watch:
            report = extract(config, tap=tap)
        row = {
            "model": preset,
            "variant": variant,
            "videos": report.done,
            "failed": report.failed,
            "seconds": report.seconds,
            "videos_per_second": round(report.items_per_second, 3),
            "bottleneck": report.bottleneck,
            "idle_between_calls": round(watch.idle(), 4),
            "planned_seconds": round(plan.seconds - plan.loading, 2),
            "planned_interval": [round(end - plan.loading, 2) for end in plan.interval],
            "measured_seconds": round(report.seconds["total"] - report.seconds["load"], 2),
            "planned_bottleneck": plan.bottleneck,
            "planned_memory_gb": round(plan.memory / 1e9, 3),
        }
        if self.device.type == "cuda":
            batch = tap.prepare(self._items(shown, config.batch_size)).to(self.device)
            within = self._kernels(tap, batch) / self._timed(lambda: tap.extract(batch))
            row["idle_in_all"] = round(1 - (1 - watch.idle()) * min(1.0, within), 4)
        self.results["job"].append(row)
        self.write(row)

    def _items(self, shown: list[Frames], count: int) -> list[TapInput]:
        # Titles of different lengths, so that a batch is padded as real ones are.
        texts = [TITLE[: 20 + 7 * n % 40] for n in range(count)]
        frames = [shown[n % len(shown)] for n in range(count)]
        return [
            TapInput(str(n), f, {"title": t})
            for n, (f, t) in enumerate(zip(frames, texts, strict=True))
        ]

    def _timed(self, call: Callable[[], Any]) -> float:
        """Seconds by the device's own events; on a CPU by :func:`now`."""
        if self.device.type != "cuda":
            begin = now(self.device)
            call()
            return now(self.device) - begin
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        call()
        events[1].record()
        torch.cuda.synchronize()
        return events[0].elapsed_time(events[1]) / 1e3

    def _kernels(self, tap: VideoLLMTap, batch: TapBatch) -> float:
        """Seconds of the kernels of one call."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            tap.extract(batch)
            torch.cuda.synchronize()
        return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6

    def _late(self, name: str, *, least: float = 20) -> bool:
        if time.monotonic() + least < self.end:
            return False
        self.results["left_out"].append(f"{name}: out of time")
        return True

    def write(self, row: dict[str, Any] | None = None) -> None:
        """Keep what is known so far."""
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        self.options.out.write_text(json.dumps(self.results, indent=2) + "\n")
        if row is not None:
            print(json.dumps(row), flush=True)


class _Watch:
    """Notes when the model's calls begin and end, on the device's own clock.

    Args:
        tap: Whose calls.
        cuda: By events on the stream; else by the wall clock.
    """

    def __init__(self, tap: VideoLLMTap, *, cuda: bool) -> None:
        self._tap, self._cuda = tap, cuda
        self._spans: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        plain = self._tap.extract

        def watched(batch: TapBatch) -> Any:
            start = self._now()
            output = plain(batch)
            self._spans.append((start, self._now()))
            return output

        self._tap.extract = watched  # type: ignore[method-assign]

    def __exit__(self, *exception: object) -> None:
        del self._tap.extract

    def idle(self) -> float:
        """Share of the time from the first call's begin to the last one's end that no call took."""
        if self._cuda:
            torch.cuda.synchronize()
        whole = self._between(self._spans[0][0], self._spans[-1][1])
        return 1 - sum(self._between(*span) for span in self._spans) / whole

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end) / 1e3 if self._cuda else end - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", nargs="+", choices=prefill_models.SHAPES, default=["small"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/prefill_cpu.json"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--videos", type=int, help="of the job; 24, or 512 on a GPU")
    parser.add_argument("--distinct", type=int, default=16, help="videos that differ")
    parser.add_argument("--size", type=int, nargs=2, help="height and width; 180 320, 360 640")
    parser.add_argument("--seconds", type=float, help="of a video; 4, or 10 on a GPU")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int, nargs="+", help="1 4, or 1 8 16 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    usual = {
        "videos": (24, 512),
        "size": ([180, 320], [360, 640]),
        "seconds": (4.0, 10.0),
        "batch": ([1, 4], [1, 8, 16]),
    }
    for name, (small, large) in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, large if cuda else small)
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        bench.run()
    bench.write()


if __name__ == "__main__":
    main()
