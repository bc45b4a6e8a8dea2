"""``ablate``: plan the rows, run what is not done, tell what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linkedout_lightning.compare.ablation.config import AblateConfig
from linkedout_lightning.compare.ablation.markdown import render_markdown, render_terminal
from linkedout_lightning.compare.ablation.results import collect
from linkedout_lightning.compare.ablation.rows import plan_ablation
from linkedout_lightning.compare.files import write_json, write_text
from linkedout_lightning.compare.reuse import take_over
from linkedout_lightning.compare.run import Comparison, only_one_in, run_waiting


class Ablation(Comparison):
    """The content of ``ablation.json``, and what the command line needs of it."""

    def summary(self) -> str:
        """The findings and the files, for a terminal."""
        return render_terminal(self, out=self.out)


def ablate(config: AblateConfig, *, progress: bool = True) -> Ablation:
    """Run an ablation, or what is missing of it, and write its tables and its page.

    The cells are those of a comparison: a process each, resumed one by one, run anew where
    settings, data or features changed. One axis more trains that axis alone.

    Args:
        config: The base and the axes.
        progress: Show progress on standard error.

    Returns:
        What ``ablation.json`` holds.

    Raises:
        ConfigError: The configuration or an input is not usable, or something else is writing to
            the same folder.
        MissingExtraError: The HTML page is wanted and its packages are not installed.
        StoreError: The feature store cannot be opened.
    """
    if config.html:
        from linkedout_lightning.compare.report import check_installed

        check_installed()  # before hours of training, not after
    planned = plan_ablation(config)
    out = Path(config.out)
    with only_one_in(out):
        take_over(planned.cells, config.reuse)
        failures = run_waiting(planned.cells, planned.base, progress=progress)
        document: dict[str, Any] = collect(planned, grid=config.grid, failures=failures)
        write_json(out / "ablation.json", document)
        write_text(out / "ablation.md", render_markdown(document))
        if config.html:
            from linkedout_lightning.compare.ablation.report import render_html

            write_text(out / "ablation.html", render_html(document))
    return Ablation(document, out=out)
