"""One process of a group that runs the cases of `test_processes.py` one after another."""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch

from recbole_adapters.distributed import Group, started
from recbole_adapters.launcher import Request
from recbole_adapters.running import run_here


def run_case(case: dict[str, Any], folder: Path, group: Group | None) -> dict[str, Any]:
    """A case's figures, ranks, and the parameters as they are after the test."""
    settings = case["settings"]
    request = Request(case["model"], "tiny", config_dict=settings, folder=folder, verbose=False)
    outcome = run_here(request, group)
    ranks = outcome.ranks
    return {
        "run": outcome.run.to_json(),
        "ranks": ranks and [column.tolist() for column in ranks],
        "sum": sum(p.detach().double().abs().sum().item() for p in outcome.model.parameters()),
    }


def main() -> None:
    cases, rank, size, out = (
        json.loads(sys.argv[1]),
        int(sys.argv[2]),
        int(sys.argv[3]),
        sys.argv[4],
    )
    folder = Path(out)
    torch.set_num_threads(1)
    with started(rank, size, torch.device("cpu"), meeting=f"file://{folder / 'meeting'}") as group:
        left = weakref.ref(torch.distributed.group.WORLD)
        for name, case in cases.items():
            found = run_case(case, folder / name, group)
            (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
    (folder / f"group-{rank}.json").write_text(json.dumps(left() is not None))


if __name__ == "__main__":
    main()
