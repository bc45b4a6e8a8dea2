"""Processes that change a bundle and end in the middle.

Called as ``python dying.py ACTION BUNDLE OUT COUNT``: it forks before torch has any thread.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bundles import DIM, make_model, write_bundle

from linkedout_lightning import Ranker

ENDED = 9


def die_at(step: int) -> None:
    """End this process at its ``step``-th system call that makes something last."""
    left = step

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(ENDED)
            return call(*arguments)

        return run

    os.fsync, os.replace, os.rename = map(dying, (os.fsync, os.replace, os.rename))


def add(path: Path, step: int) -> None:
    ranker = Ranker.load(path)
    die_at(step)
    ranker.add_items(["n"], torch.ones(1, DIM), durable=True)


def export(path: Path, step: int) -> None:
    model = make_model("gru4rec", "id")
    die_at(step)
    write_bundle(model, path, overwrite=True)


def add_many(path: Path, number: int) -> None:
    ranker = Ranker.load(path)
    for step in range(6):
        ranker.add_items([f"n{number}-{step}"], torch.ones(1, DIM), durable=True)


def child(work: Callable[[Path, int], None], path: Path, number: int) -> int:
    if process := os.fork():
        return process
    code = 1
    try:
        work(path, number)
        code = 0
    finally:
        os._exit(code)


def main(action: str, bundle: str, out: str, count: str) -> int:
    torch.set_num_threads(1)
    steps = range(int(count))
    if action == "together":
        running = [child(add_many, Path(bundle), number) for number in steps]
        return max(os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in running)
    for step in steps:
        own = Path(shutil.copytree(bundle, Path(out) / str(step)))
        process = child({"add": add, "export": export}[action], own, step)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        (Path(out) / f"{step}.code").write_text(str(code))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
