"""``tune``: draw the trials, run what is not done, choose by the validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linkedout_lightning.compare.files import write_json, write_text
from linkedout_lightning.compare.reuse import take_over
from linkedout_lightning.compare.run import Comparison, only_one_in, run_waiting
from linkedout_lightning.compare.tuning.config import TuneConfig
from linkedout_lightning.compare.tuning.markdown import render_markdown, render_terminal
from linkedout_lightning.compare.tuning.results import collect, tuned_settings
from linkedout_lightning.compare.tuning.trials import plan_trials


class Tuning(Comparison):
    """The content of ``tune.json``, and what the command line needs of it."""

    def summary(self) -> str:
        """What was chosen, and the files, for a terminal."""
        return render_terminal(self, out=self.out)


def tune(config: TuneConfig, *, progress: bool = True) -> Tuning:
    """Try settings of each row with an equal budget, and write down what the validation chooses.

    The trials are cells of a comparison: a process each, resumed one by one, run anew where
    settings, data or features changed. More trials train only those that are new.

    Args:
        config: Rows, budget and values.
        progress: Show progress on standard error.

    Returns:
        What ``tune.json`` holds. Beside it lie ``tune.md`` and ``tuned.yaml``, whose `overrides`
        and `encoders` are options of `linkedout compare`.

    Raises:
        ConfigError: The configuration or an input is not usable, or something else is writing to
            the same folder.
        StoreError: The feature store cannot be opened.
    """
    import yaml

    trials = plan_trials(config)
    out = Path(config.out)
    first = trials[0].config
    with only_one_in(out):
        cells = [trial.cell for trial in trials]
        take_over(cells, config.reuse)
        failures = run_waiting(cells, first, progress=progress, tuning=True)
        document: dict[str, Any] = collect(config, trials, failures=failures)
        write_json(out / "tune.json", document)
        write_text(out / "tune.md", render_markdown(document))
        write_text(out / "tuned.yaml", yaml.safe_dump(tuned_settings(document), sort_keys=False))
    return Tuning(document, out=out)
