"""``compare``: plan the matrix, run what is not done, tell what came out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.display import choose_display
from linkedout_lightning.compare.files import write_json, write_text
from linkedout_lightning.compare.markdown import render_markdown, render_terminal
from linkedout_lightning.compare.plan import Cell, plan, with_every_layer
from linkedout_lightning.compare.processes import run_cells
from linkedout_lightning.compare.results import collect
from linkedout_lightning.compare.reuse import take_over
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.machine import usable_cores


class Comparison(dict[str, Any]):
    """The content of ``results.json``, and what the command line needs of it.

    Args:
        results: The content.
        out: The folder that holds it.
    """

    def __init__(self, results: dict[str, Any], *, out: Path) -> None:
        super().__init__(results)
        self.out = out

    @property
    def exit_code(self) -> int:
        """0 if all cells were done, 3 if some failed, 1 if none was done."""
        if not self["failed"]:
            return 0
        return 3 if self["cells"] else 1

    def to_json(self) -> dict[str, Any]:
        """The content as a plain dictionary."""
        return dict(self)

    def summary(self) -> str:
        """The table, the findings and the files, for a terminal."""
        return render_terminal(self, out=self.out)


def compare(
    config: CompareConfig, *, progress: bool = True, beside: Mapping[str, Any] | None = None
) -> Comparison:
    """Run a comparison, or what is missing of it, and write its table and report.

    Every cell is a process of its own and leaves its result in its folder; a comparison that was
    interrupted or killed goes on where it stood when it is started again. Cells whose settings,
    data or features changed are run anew.

    Args:
        config: The matrix.
        progress: Show progress on standard error.
        beside: Further parts of ``results.json``: ``preset`` with ``lines`` about where the data
            come from, ``cited`` with figures of publications.

    Returns:
        What ``results.json`` holds.

    Raises:
        ConfigError: The configuration or an input is not usable, or another comparison is writing
            to the same folder.
        MissingExtraError: The HTML page is wanted and its packages are not installed.
        StoreError: A feature store cannot be opened.
    """
    if config.html:
        from linkedout_lightning.compare.report import check_installed

        check_installed()  # before hours of training, not after
    config = with_every_layer(config)
    cells = plan(config)
    out = Path(config.out)
    with only_one_in(out):
        take_over(cells, config.reuse)
        failures = run_waiting(cells, config, progress=progress)
        results = collect(config, cells, failures=failures) | dict(beside or {})
        write_json(out / "results.json", results)
        write_text(out / "report.md", render_markdown(results))
        if config.html:
            from linkedout_lightning.compare.report import render_html

            write_text(out / "report.html", render_html(results))
    return Comparison(results, out=out)


def run_waiting(
    cells: Sequence[Cell], config: CompareConfig, *, progress: bool, tuning: bool = False
) -> dict[Path, str]:
    """Run the cells that are not done.

    Args:
        cells: All cells of a plan.
        config: How many at a time, with what threads and devices.
        progress: Show progress on standard error.
        tuning: The cells are trials: their test figures are not shown.

    Returns:
        Folder of each cell that failed, and why.

    Raises:
        ConfigError: The data are of no use with the split; no cell was started then.
        DataError: Likewise.
    """
    waiting = [cell for cell in cells if cell.result() is None]
    if waiting and config.engine == "native":
        _check_data(waiting[0], told=progress)
    jobs = min(config.jobs, max(len(waiting), 1))
    display = choose_display(
        progress, total=len(cells), done=len(cells) - len(waiting), jobs=jobs, tuning=tuning
    )
    try:
        return run_cells(
            waiting,
            jobs=jobs,
            threads=config.threads or _fair_threads(jobs),
            devices=config.devices,
            display=display,
        )
    finally:
        display.close()


def _check_data(cell: Cell, *, told: bool) -> None:
    """Read and split the data once: what is wrong with them is said once, and not by every cell."""
    from linkedout_lightning.compare.training import read_data

    speaker = logging.getLogger("lightning.pytorch")
    level = speaker.level
    speaker.setLevel(level if told else logging.WARNING)
    try:
        read_data({"settings": cell.settings, "seed": cell.seed})
    finally:
        speaker.setLevel(level)


def _fair_threads(jobs: int) -> int:
    """The user's own limit, or an equal share of the cores."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdigit() and int(named) else max(1, usable_cores() // jobs)


@contextmanager
def only_one_in(out: Path) -> Iterator[None]:
    """Make the folder, and keep others from writing to it meanwhile.

    Raises:
        ConfigError: Another comparison is writing to it.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this system; two comparisons in one folder are then unguarded
        yield
        return
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system frees it at any death
        except OSError:
            raise ConfigError(
                f"another comparison is writing to {str(out)!r}; wait for it, or name another "
                "folder with `out`"
            ) from None
        yield
