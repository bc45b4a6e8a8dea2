"""``run``: train and test a RecBole model by configuration, on one process or several."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linkedout_lightning.errors import ConfigError

Listener = Callable[[Any], None]


@dataclass(frozen=True)
class Request:
    """What a run is made of; crosses process borders.

    Attributes:
        model: RecBole's name of the model, or a class that can be imported.
        dataset: Name of the dataset.
        config_files: RecBole's YAML files, later ones win.
        config_dict: Settings that win over the files.
        folder: Where the run's files go.
        saved: Keep the best weights; otherwise the last epoch's are tested.
        verbose: Write RecBole's own log to standard error.
    """

    model: str | type[Any]
    dataset: str | None
    config_files: tuple[str, ...] = ()
    config_dict: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path("saved")
    saved: bool = True
    verbose: bool = True


class Run(dict[str, Any]):
    """What a run gave, with the keys of RecBole's own ``run`` and more.

    ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result`` and ``test_result`` are
    RecBole's; ``model``, ``dataset``, ``nproc``, ``protocol``, ``alignment``, ``stays_with_ids``,
    ``parameters``, ``curve``, ``encodings``, ``seconds``, ``peak_mb`` and ``folder`` are added. All
    is JSON-able.
    """

    @property
    def exit_code(self) -> int:
        """0: the run was done."""
        return 0

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return dict(self)

    def summary(self) -> str:
        """For a terminal."""
        lines = [f"{self['model']} on {self['dataset']}, {self['protocol']}"]
        if self["alignment"]:
            lines.append(self["alignment"]["summary"])
        if self.get("stays_with_ids"):
            lines.append(f"stays bound to ids: {self['stays_with_ids']}")
        for name in ("best_valid_result", "test_result"):
            figures = self[name] or {}
            shown = "   ".join(f"{metric} {value:.4f}" for metric, value in figures.items())
            lines.append(f"{'validation' if 'valid' in name else 'test':<10} {shown}")
        lines.append(f"files      {self['folder']}")
        return "\n".join(lines)


def run(
    model: str | type[Any],
    dataset: str | None = None,
    config_files: Sequence[str | os.PathLike[str]] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    nproc: int = 1,
    *,
    out: str | os.PathLike[str] | None = None,
    saved: bool = True,
    verbose: bool = True,
) -> Run:
    """Train a RecBole sequential model and test its best epoch.

    RecBole's configuration keys keep their meaning. A ``linkedout:`` section
    (:class:`~recbole_adapters.options.ItemEncoderOptions`) puts an item encoder in the place of
    the model's item table; without one the model is RecBole's own.

    Args:
        model: RecBole's name of the model, or a class, such as :func:`with_item_encoder` gives.
        dataset: RecBole's name of the dataset, such as ``ml-100k``.
        config_files: RecBole's YAML files; later ones win.
        config_dict: Settings that win over the files.
        nproc: Processes, one a GPU where there are any; gradients and figures are those of one.
            Leave it at 1 under ``torchrun``, whose processes are joined.
        out: Folder for the run's files; by default one named after model and dataset in
            ``checkpoint_dir``.
        saved: Keep the best weights and test them; otherwise test the last epoch's.
        verbose: Write RecBole's log to standard error.

    Returns:
        The figures.

    Raises:
        ConfigError: A model, a key or a value that is not usable.
        DataError: No such dataset, or a feature store of other items.
        MissingExtraError: RecBole is not installed.
    """
    from recbole_adapters.compat import require_recbole
    from recbole_adapters.distributed import launched

    require_recbole()
    if isinstance(nproc, bool) or not isinstance(nproc, int) or nproc < 1:
        raise ConfigError(f"`nproc` is {nproc!r}; give a number of processes from 1")
    files = tuple(os.fspath(file) for file in config_files or ())
    for file in files:
        if not Path(file).is_file():
            raise ConfigError(f"no configuration file {file!r}")
    request = Request(
        model=model,
        dataset=dataset,
        config_files=files,
        config_dict=dict(config_dict or {}),
        folder=Path(out) if out is not None else Path(),
        saved=saved,
        verbose=verbose,
    )
    if launched() is not None:
        if nproc > 1:
            raise ConfigError(
                f"`nproc` is {nproc}, but torchrun has started the processes already; leave it out"
            )
        from recbole_adapters.processes import run_launched

        return run_launched(request, out=out is not None)
    if out is None:
        request = with_default_folder(request)
    if nproc > 1:
        from recbole_adapters.processes import run_processes

        return run_processes(request, nproc)
    from recbole_adapters.running import run_here

    figures: Run = run_here(request).run
    return figures


def with_default_folder(request: Request) -> Request:
    """A request whose files go to a new folder in ``checkpoint_dir``.

    Args:
        request: One without a folder.
    """
    import dataclasses

    from recbole_adapters.compat import session
    from recbole_adapters.running import read_config

    with session():
        config = read_config(request)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{config['model']}-{config['dataset']}-{stamp}"
    return dataclasses.replace(request, folder=Path(config["checkpoint_dir"]) / name)


@contextmanager
def recbole_log(verbose: bool) -> Iterator[None]:
    """Show RecBole's log, which goes to the root logger, on standard error.

    Args:
        verbose: Whether to show it at all.
    """
    if not verbose:
        yield
        return
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_plain)
    root.addHandler(handler)
    before = root.level
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def _plain(record: logging.LogRecord) -> bool:
    if not sys.stderr.isatty():
        import re

        record.msg = re.sub(r"\x1b\[[0-9;]*m", "", str(record.msg))
    # Only RecBole speaks to the root logger by name "root" here; libraries have loggers of theirs.
    return record.name == "root"
