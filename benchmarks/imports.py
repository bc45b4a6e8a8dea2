"""What ``import linkedout_lightning`` costs beside ``import torch, lightning``.

    python benchmarks/imports.py --repeats 5

Processes are fresh and take turns, so that a busy machine weighs on all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from linkedout_lightning.compare.environment import environment

NAMES = (
    "FeatureStore, FrameSampler, IDItemEncoder, InteractionDataModule, LinkedOutItemEncoder, "
    "SequentialRecommender, VideoLLMTap"
)
STATEMENTS = {
    "torch and lightning": "import torch, lightning",
    "the package": "import torch, lightning, linkedout_lightning",
    "the package and every public name": (
        f"import torch, lightning; from linkedout_lightning import {NAMES}"
    ),
}


def seconds(statement: str) -> tuple[float, float]:
    """CPU and wall seconds of a fresh process that runs the statement."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = os.times()
    cpu = after.children_user + after.children_system
    return cpu - before.children_user - before.children_system, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/imports.json"))
    arguments = parser.parse_args()
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in STATEMENTS}
    for _ in range(arguments.repeats):
        for name, statement in STATEMENTS.items():
            measured[name].append(seconds(statement))
    base = statistics.median(cpu for cpu, _ in measured["torch and lightning"])
    rows = []
    for name, pairs in measured.items():
        cpu = statistics.median(pair[0] for pair in pairs)
        rows.append(
            {
                "name": name,
                "cpu_seconds": round(cpu, 3),
                "wall_seconds": round(statistics.median(pair[1] for pair in pairs), 3),
                "ratio_of_cpu": round(cpu / base, 3),
            }
        )
        print(rows[-1])
    document = {
        "what": "medians over fresh processes; ratio to `import torch, lightning` in the same run",
        "environment": environment() | {"load_average": list(os.getloadavg())},
        "repeats": arguments.repeats,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
