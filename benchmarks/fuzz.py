"""Thousands of damaged videos through a pool: outcomes, restarts and memory.

Short videos in eight formats are damaged by a seeded generator (flipped bytes; with ``--others``
also truncated files and files with blocks doubled, swapped or cut out) and decoded by a pool of
workers. Each must give frames or a reason; a hang would end at the time limit and be counted, and
so would a crash. The memory of this process and of the workers is taken all along the way; and
then, as a worker's memory follows the largest frame so far, the same clips go several times through
one worker that is never replaced.

    python benchmarks/fuzz.py
    python benchmarks/fuzz.py --folder CLIPS
    python benchmarks/fuzz.py --clips 200 --others 50 --backends pyav
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# The seeds and the damage are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "video"))

from mutations import KINDS, spoilt_videos, write_seeds

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video import DecodePool, FrameSampler, isolation

FLIPS, OTHERS = KINDS[:2], KINDS[2:]


def rss_mb(pid: int | str = "self") -> float | None:
    """Resident memory; ``None`` if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(s.split()[1]) / 1024 for s in status if s.startswith("VmRSS")), None)


def reason_kind(reason: str) -> str:
    """A reason without its numbers and quotations, to count by."""
    text = re.sub(r"\d+x\d+", "WxH", reason)
    text = re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "N", text)
    return re.sub(r"'[^']*'", "'…'", text)[:100]


def run(backend: str, originals: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """One backend over all clips."""
    total = arguments.clips + arguments.others
    outcomes: Counter[str] = Counter()
    fallbacks: Counter[str] = Counter()
    memory: list[dict[str, Any]] = []
    wrong: list[str] = []
    longest = 0.0
    sampler = FrameSampler(8, size=(64, 64), backend=backend, timeout_s=arguments.timeout_s)
    with (
        tempfile.TemporaryDirectory() as folder,
        DecodePool(sampler, workers=arguments.workers) as pool,
    ):
        begun = last = time.perf_counter()
        written: deque[Path] = deque()
        for count, outcome in enumerate(
            pool.map(_paths(originals, Path(folder), arguments, written)), start=1
        ):
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            path = written.popleft()
            path.unlink()
            if isinstance(outcome, VideoDecodeError):
                outcomes[reason_kind(outcome.reason)] += 1
            else:
                outcomes["frames"] += 1
                if outcome.fallback_reason is not None:
                    fallbacks[reason_kind(outcome.fallback_reason)] += 1
                finite = np.isfinite([*outcome.timestamps, outcome.fps, outcome.duration]).all()
                if outcome.data.shape != (8, 64, 64, 3) or not finite:
                    wrong.append(path.name)
            if count % max(1, total // 40) == 0 or count == total:
                memory.append(_memory(count, pool))
        wall, restarts = time.perf_counter() - begun, pool.restarts
    done = sum(outcomes.values())
    return {
        "backend": backend,
        "clips": done,
        "frames": outcomes["frames"],
        "reasons": done - outcomes["frames"],
        "crashes": sum(n for reason, n in outcomes.items() if "crashed" in reason),
        "crashes_survived_by_fallback": sum(n for r, n in fallbacks.items() if "crashed" in r),
        "ended_at_the_time_limit": sum(n for r, n in outcomes.items() if "took longer" in r),
        "hangs_survived_by_fallback": sum(n for r, n in fallbacks.items() if "took longer" in r),
        "unforeseen_errors": sum(n for r, n in outcomes.items() if "decoder failed" in r),
        "results_of_a_wrong_shape": wrong,
        "worker_restarts": restarts,
        "wall_seconds": round(wall, 1),
        "longest_wait_seconds": round(longest, 2),
        "memory": {"start": memory[0], "middle": memory[len(memory) // 2], "end": memory[-1]},
        "parent_growth_mb": round(memory[-1]["parent_mb"] - memory[0]["parent_mb"], 1),
        "workers_mb_by_quarter": _quarters(memory),
        "memory_all": memory,
        "by_reason": dict(outcomes.most_common()),
        "fallback_reasons": dict(fallbacks.most_common()),
    }


def rounds(backend: str, originals: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """The same clips again and again through one worker: memory that grows is lost."""
    isolation.VIDEOS_A_PROCESS = sys.maxsize
    sampler = FrameSampler(8, size=(64, 64), backend=backend, timeout_s=arguments.timeout_s)
    memory = []
    with (
        tempfile.TemporaryDirectory() as folder,
        DecodePool(sampler, workers=1) as pool,
    ):
        for _ in range(arguments.rounds):
            rng = np.random.default_rng(arguments.seed)
            for _ in pool.map(spoilt_videos(originals, Path(folder), 480, rng=rng)):
                pass
            memory.append(_memory(480, pool))
    return {
        "clips": 480,
        "worker_mb_after_each_round": [mb for row in memory for mb in row["workers_mb"]],
        "parent_mb_after_each_round": [row["parent_mb"] for row in memory],
        "worker_restarts": memory[-1]["restarts"],
    }


def _paths(
    originals: list[Path], folder: Path, arguments: argparse.Namespace, written: deque[Path]
) -> Iterator[Path]:
    rng = np.random.default_rng(arguments.seed)
    flipped = spoilt_videos(originals, folder, arguments.clips, kinds=FLIPS, rng=rng)
    others = spoilt_videos(originals, folder, arguments.others, kinds=OTHERS, rng=rng)
    for path in itertools.chain(flipped, others):
        written.append(path)
        yield path


def _memory(count: int, pool: DecodePool) -> dict[str, Any]:
    workers = [mb for pid in pool.pids if (mb := rss_mb(pid)) is not None]
    return {
        "clips": count,
        "parent_mb": round(rss_mb() or 0, 1),
        "workers_mb": [round(mb, 1) for mb in workers],
        "restarts": pool.restarts,
    }


def _quarters(memory: list[dict[str, Any]]) -> list[float]:
    """Median memory of a worker in each quarter of the run."""
    size = max(1, len(memory) // 4)
    quarters = [memory[i * size : (i + 1) * size] for i in range(4)]
    return [
        round(statistics.median(mb for row in rows for mb in row["workers_mb"]), 1)
        for rows in quarters
        if any(row["workers_mb"] for row in rows)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fuzz.json"))
    parser.add_argument("--folder", type=Path, help="damage these clips too (those up to 1 MiB)")
    parser.add_argument("--clips", type=int, default=2000, help="clips with flipped bytes")
    parser.add_argument("--others", type=int, default=400, help="clips with other damage")
    parser.add_argument("--backends", nargs="+", default=["pyav", "decord"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--timeout-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        originals = write_seeds(Path(folder))
        formats = [path.suffix[1:] for path in originals]
        if arguments.folder is not None:
            small = (p for p in sorted(arguments.folder.iterdir()) if p.stat().st_size <= 1 << 20)
            originals += [path for path in small if path.is_file()]
        results = [run(backend, originals, arguments) for backend in arguments.backends]
        synthetic = originals[: len(formats)]
        for result in results:
            result["rounds"] = rounds(result["backend"], synthetic, arguments)
    # Imports torch, which would hide what the pool itself takes.
    from linkedout_lightning.compare.environment import environment

    packages = {name: version(name) for name in ("av", "decord")}
    document = {
        "what": "damaged videos through DecodePool; memory is resident memory in MiB",
        "environment": {**environment(), "decoders": packages, "seed": arguments.seed},
        "settings": {
            "clips_with_flipped_bytes": arguments.clips,
            "clips_with_other_damage": arguments.others,
            "damage": list(KINDS),
            "synthetic_originals": formats,
            "real_originals": [path.name for path in originals[len(formats) :]],
            "workers": arguments.workers,
            "timeout_s": arguments.timeout_s,
        },
        "runs": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for row in results:
        shown = {k: v for k, v in row.items() if k not in ("memory_all", "by_reason")}
        print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
