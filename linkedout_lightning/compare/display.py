"""How a comparison shows what it is doing: bars on a terminal, lines in a log, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

from linkedout_lightning.compare.plan import Cell


def outcome(result: Mapping[str, Any]) -> str:
    """A cell's result in a few words.

    Example:
        >>> outcome({"metrics": {"HR@10": 0.12345, "NDCG@10": 0.05}, "seconds": 12.3})
        'HR@10 0.1235, NDCG@10 0.0500 (12 s)'
    """
    return _in_words(result, "metrics")


def validated(result: Mapping[str, Any]) -> str:
    """The same with the validation's figures, where nobody may see the test's.

    Example:
        >>> validated({"best_val": {"HR@10": 0.2}, "metrics": {"HR@10": 0.1}, "seconds": 12.3})
        'validation HR@10 0.2000 (12 s)'
    """
    return _in_words(result, "best_val", before="validation ")


def _in_words(result: Mapping[str, Any], of: str, *, before: str = "") -> str:
    if result.get("error"):
        return f"FAILED, {result['error']}"
    figures = [f"{n} {v:.4f}" for n, v in result[of].items() if not n.startswith("MRR")]
    return f"{before}{', '.join(figures[:2])} ({result['seconds']:.0f} s)"


class Display(Protocol):
    """What the runner tells."""

    def started(self, cell: Cell, slot: int) -> None:
        """A cell's process was started in a slot."""

    def progressed(self, cell: Cell, slot: int, progress: Mapping[str, Any]) -> None:
        """A running cell wrote its progress file."""

    def finished(self, cell: Cell, slot: int, result: Mapping[str, Any]) -> None:
        """A cell ended, with a result or with ``error``."""

    def close(self) -> None:
        """Nothing more will be told."""


class Silent:
    """Shows nothing."""

    def started(self, cell: Cell, slot: int) -> None:
        """Nothing."""

    def progressed(self, cell: Cell, slot: int, progress: Mapping[str, Any]) -> None:
        """Nothing."""

    def finished(self, cell: Cell, slot: int, result: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """One line for each cell that ends, for logs and pipes.

    Args:
        total: Cells in all.
        done: Cells that were finished before.
        stream: Where to write.
        command: What the lines begin with.
        told: A result in a few words.
    """

    def __init__(
        self,
        total: int,
        done: int,
        *,
        stream: TextIO | None = None,
        command: str = "compare",
        told: Callable[[Mapping[str, Any]], str] = outcome,
    ) -> None:
        self.total, self.done, self.stream = total, done, stream or sys.stderr
        self.command, self.told = command, told
        if done:
            self._say(f"{command}: {done} of {total} cells are done already")

    def started(self, cell: Cell, slot: int) -> None:
        """Nothing; the end is what counts in a log."""

    def progressed(self, cell: Cell, slot: int, progress: Mapping[str, Any]) -> None:
        """Nothing."""

    def finished(self, cell: Cell, slot: int, result: Mapping[str, Any]) -> None:
        """A line with the cell's figures, or with its error."""
        del slot
        self.done += 1
        self._say(f"{self.command}: [{self.done}/{self.total}] {cell.label}: {self.told(result)}")

    def close(self) -> None:
        """Nothing."""

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class Bars:
    """One bar over all cells with rate and time left, and one for each cell that runs.

    Args:
        total: Cells in all.
        done: Cells that were finished before.
        jobs: Slots.
        stream: A terminal.
        told: A result in a few words.
    """

    def __init__(
        self,
        total: int,
        done: int,
        jobs: int,
        *,
        stream: TextIO | None = None,
        told: Callable[[Mapping[str, Any]], str] = outcome,
    ) -> None:
        from tqdm import tqdm

        stream, self._told = stream or sys.stderr, told
        self._overall = tqdm(
            total=total, initial=done, desc="cells", unit="cell", file=stream, dynamic_ncols=True
        )
        self._slots = [
            tqdm(
                total=1.0,
                position=slot + 1,
                leave=False,
                file=stream,
                dynamic_ncols=True,
                bar_format="  {bar:16} {desc}",
            )
            for slot in range(jobs)
        ]

    def started(self, cell: Cell, slot: int) -> None:
        """Name the cell on its slot's line."""
        bar = self._slots[slot]
        bar.reset(total=1.0)
        bar.set_description_str(f"{cell.label}  starting")

    def progressed(self, cell: Cell, slot: int, progress: Mapping[str, Any]) -> None:
        """Epoch and validation figures."""
        bar, epochs = self._slots[slot], progress.get("epochs") or 1
        reached = progress["epochs_done"] + progress["share_of_epoch"]
        bar.n = min(1.0, reached / epochs)
        text = f"{cell.label}  epoch {min(progress['epochs_done'] + 1, epochs)}/{epochs}"
        if progress.get("train_loss") is not None:
            text += f"  loss {progress['train_loss']:.3f}"
        if progress.get("last") is not None:
            text += f"  val {progress['monitor']} {progress['last']:.4f}"
            text += f" (best {progress['best']:.4f}, epoch {progress['best_epoch']})"
        bar.set_description_str(text)

    def finished(self, cell: Cell, slot: int, result: Mapping[str, Any]) -> None:
        """Leave a line above the bars."""
        bar = self._slots[slot]
        bar.reset(total=1.0)
        bar.set_description_str("")
        self._overall.write(f"{cell.label}: {self._told(result)}", file=self._overall.fp)
        self._overall.update()

    def close(self) -> None:
        """Take the bars off the screen."""
        for bar in (*self._slots, self._overall):
            bar.close()


def choose_display(
    progress: bool, *, total: int, done: int, jobs: int, tuning: bool = False
) -> Display:
    """Bars on a terminal, lines elsewhere, nothing where progress is not wanted.

    Args:
        progress: Whether anything is shown.
        total: Cells in all.
        done: Cells that were finished before.
        jobs: Slots.
        tuning: Something is to be chosen: the validation's figures are shown, and not the test's.
    """
    told = validated if tuning else outcome
    if not progress:
        return Silent()
    if sys.stderr.isatty():
        return Bars(total, done, jobs, told=told)
    return Lines(total, done, command="tune" if tuning else "compare", told=told)
