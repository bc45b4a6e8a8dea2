"""``linkedout recbole``: train and test a RecBole model by RecBole's own configuration."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass, field
from typing import Any

from linkedout_lightning.errors import ConfigError
from recbole_adapters.launcher import Run, run
from recbole_adapters.options import SECTION, ItemEncoderOptions


@dataclass(frozen=True, kw_only=True)
class RecBoleConfig:
    """One RecBole model on one data set.

    Args:
        model: RecBole's name of a sequential model, such as SASRec, GRU4Rec or BERT4Rec.
        dataset: RecBole's name of the data set: ml-100k, which RecBole brings, or that of a folder
            in `data_path` with NAME/NAME.inter; none given: `dataset` in the files.
        config: RecBole's YAML files, its keys unchanged, with a `linkedout:` section for the item
            encoder; later files win. The names ml-100k and linkedout stand for files that come
            with this package. None given: RecBole's defaults.
        set: Settings that win over the files, as KEY=VALUE; a dot reaches into a section, as in
            linkedout.store=features or eval_args.mode=full.
        nproc: Processes that train together, one a GPU where there are any.
        out: Folder for the weights, the catalogue and the figures; none given: one named after
            model, data set and time in RecBole's `checkpoint_dir`.
        saved: Keep the best epoch's weights and test them; false tests the last epoch's.
    """

    model: str
    dataset: str | None = None
    config: tuple[str, ...] = ()
    set: dict[str, Any] = field(default_factory=dict)
    nproc: int = 1
    out: str | None = None
    saved: bool = True


def recbole(config: RecBoleConfig, *, progress: bool = True) -> Run:
    """Train a RecBole sequential model and test its best epoch.

    Args:
        config: Model, data set and settings.
        progress: Write RecBole's log to standard error, with its bars where that is a terminal.

    Returns:
        The figures.

    Raises:
        ConfigError: A model, a key or a value that is not usable.
        DataError: No such data set, or a feature store of other items.
        MissingExtraError: RecBole is not installed.
    """
    from recbole_adapters.compat import require_recbole
    from recbole_adapters.settings import (
        check_keys,
        default_negatives,
        find_files,
        read_files,
        with_pairs,
    )

    require_recbole()
    files = find_files(config.config)
    given = read_files(files)
    if config.dataset is None and not (given | config.set).get("dataset"):
        raise ConfigError(
            "no data set: give --dataset, such as ml-100k, which RecBole brings, or the key "
            "`dataset` in a --config file"
        )
    check_keys(config.set, model=config.model)
    settings = with_pairs(config.set, given)
    settings |= default_negatives(config.model, given | settings)
    if config.out is not None:
        settings["checkpoint_dir"] = config.out  # RecBole makes that folder, used or not
    if not (progress and sys.stderr.isatty()):
        settings["show_progress"] = False
    return run(
        config.model,
        config.dataset,
        files,
        settings,
        config.nproc,
        out=config.out,
        saved=config.saved,
        verbose=progress,
    )


def details() -> str:
    """What ``linkedout recbole --help`` says beside the options: the section and its keys."""
    documented = inspect.getdoc(ItemEncoderOptions) or ""
    arguments = documented.partition("Args:\n")[2].partition("\n\n")[0]
    keys = re.sub(r"^ {4}(\w+): ", r"  \1\n      ", arguments, flags=re.M)
    keys = re.sub(r"\n {8}(?=\S)", "\n      ", keys)
    return _DETAILS.format(section=SECTION, keys=keys)


_DETAILS = """\
A configuration file is RecBole's own, and one more section puts LinkedOut's item vectors in the
place of the model's ID table; without it the model is plain RecBole:

  epochs: 50                     # RecBole's keys, unchanged
  learning_rate: 0.001
  {section}:
    store: features              # the folder that `linkedout extract` wrote
    id_fusion: concat            # a learned ID vector beside the features
    missing: mean                # what an item without features gets

The tokens of the data set's items are looked up among the store's item ids. How many have features
and how many have none is reported, and `missing` is the rule for those that have none; features
of items that the data set does not have are counted and left alone.

RecBole's protocol is kept: its split, one row a prefix, a full ranking in which the items that a
user had before compete too. `mask_history: true` takes those out, as `linkedout fit` and
`linkedout compare` do; figures with and without it do not compare. Where no file says anything of
`train_neg_sample_args`, models with the loss CE get none, as RecBole demands of them.

The folder holds model.safetensors, run.json and items.json: no pickle, no features.
`recbole_adapters.load(FOLDER)` gives the trained model in any process.

Keys of the `{section}:` section:
{keys}
"""
