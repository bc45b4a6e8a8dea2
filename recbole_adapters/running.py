"""One process's part of a run: configuration, data, model, training, test."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from linkedout_lightning.compare.files import plain
from linkedout_lightning.compare.summaries import peak_mb
from linkedout_lightning.errors import ConfigError, LinkedOutError
from recbole_adapters.adapt import Adapted, with_item_encoder
from recbole_adapters.catalogue import Catalogue
from recbole_adapters.checks import check_settings
from recbole_adapters.compat import session
from recbole_adapters.data import Loaders, build_dataset, build_loaders
from recbole_adapters.distributed import Group, devices_of
from recbole_adapters.launcher import Request, Run, recbole_log
from recbole_adapters.naming import name_of
from recbole_adapters.options import SECTION, ItemEncoderOptions
from recbole_adapters.ranking import RowRanks
from recbole_adapters.settings import read_files
from recbole_adapters.slots import check_adaptable, find_model
from recbole_adapters.trainer import make_trainer

_OURS = ("local_rank", "world_size", "nproc", "offset", "ip", "port")
"""Settings by which RecBole would start its own NCCL group."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished run with what does not go into its JSON.

    Attributes:
        run: The figures.
        ranks: Ranks of the test rows; None if the test was no full ranking.
        catalogue: The items.
        model: The trained model, with the tested weights.
        config: RecBole's configuration.
        loaders: The data that it was trained, validated and tested on.
    """

    run: Run
    ranks: RowRanks | None
    catalogue: Catalogue
    model: nn.Module
    config: Any
    loaders: Loaders


def read_config(request: Request) -> Any:
    """RecBole's configuration of a run, for one process.

    Args:
        request: The run.

    Raises:
        ConfigError: Something in it is not usable.
    """
    from recbole.config import Config

    taken = [name for name in _OURS if name in request.config_dict]
    if taken:
        raise ConfigError(
            f"{', '.join(f'`{name}`' for name in taken)} start RecBole's own processes, which do "
            "not run on current torch; give `nproc` to `recbole_adapters.run`"
        )
    # Read here first: these errors are clearer than RecBole's.
    settings = read_files(request.config_files) | dict(request.config_dict)
    model = find_model(request.model) if isinstance(request.model, str) else request.model
    if ItemEncoderOptions.from_section(settings.get(SECTION)).replaces:
        check_adaptable(model)
    torch.cuda.is_available()  # before RecBole hides devices, which the driver heeds only once
    try:
        config = Config(
            model=model,
            dataset=request.dataset,
            config_file_list=list(request.config_files) or None,
            config_dict=dict(request.config_dict),
        )
    except (ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
        message = error.args[0] if error.args else error
        raise ConfigError(f"RecBole refuses the configuration: {message}") from error
    for name in _OURS:
        if name != "local_rank" and name in config:
            raise ConfigError(f"`{name}` belongs to RecBole's own launcher; give `nproc`")
    check_settings(config)
    config["device"] = devices_of(config)[0]
    return config


def run_here(
    request: Request,
    group: Group | None = None,
    *,
    factory: Callable[..., nn.Module] | None = None,
    listener: Any = None,
) -> Outcome:
    """Train and test in this process.

    Args:
        request: The run.
        group: The processes that share it; None: this one alone.
        factory: Makes the item encoder of a slot, in place of the ``linkedout:`` section's.
        listener: Called after each epoch with the trainer.
    """
    with session(), recbole_log(request.verbose and (group is None or group.rank == 0)):
        return _run(request, group, factory, listener)


def _run(
    request: Request,
    group: Group | None,
    factory: Callable[..., nn.Module] | None,
    listener: Any,
) -> Outcome:
    from recbole.utils import init_seed

    started = time.perf_counter()
    config = read_config(request)
    group = group or Group(0, 1, config["device"])
    config["device"] = group.device
    if group.rank or not request.verbose:
        config["show_progress"] = False
    options = ItemEncoderOptions.from_section(config[SECTION])
    init_seed(config["seed"], config["reproducibility"])
    dataset = build_dataset(config)
    loaders = build_loaders(
        config, dataset, mask_history=options.mask_history, rank=group.rank, world=group.size
    )
    prepared = time.perf_counter()
    # All processes start from the same model; what they draw in training differs by rank.
    init_seed(config["seed"], config["reproducibility"])
    model = build_model(request.model, config, loaders, factory=factory)
    if group.rank:
        torch.manual_seed(config["seed"] + group.rank)
    if options.checkpoint == "recbole":
        name_of(config.model_class)  # which RecBole pickles
    trainer = make_trainer(
        config,
        model,
        folder=request.folder,
        group=group,
        recbole_format=options.checkpoint == "recbole",
    )
    trainer.listener = listener
    built = time.perf_counter()
    best_score, best = trainer.fit(
        loaders.train,
        loaders.valid,
        saved=request.saved,
        verbose=group.rank == 0,
        show_progress=bool(config["show_progress"]),
    )
    fitted = time.perf_counter()
    test = trainer.evaluate(
        loaders.test,
        load_best_model=request.saved,
        show_progress=bool(config["show_progress"]),
    )
    tested = time.perf_counter()
    catalogue = Catalogue.of(loaders.train._dataset)
    alignment = getattr(model, "alignment", None)
    figures = Run(
        plain(
            {
                "best_valid_score": float(best_score) if best else None,
                "valid_score_bigger": config["valid_metric_bigger"],
                "best_valid_result": best and {name: float(value) for name, value in best.items()},
                "test_result": test and {name: float(value) for name, value in test.items()},
                "model": config["model"],
                "dataset": config["dataset"],
                "encoder": options.encoder,
                "stays_with_ids": getattr(model, "stays_with_ids", None),
                "nproc": group.size,
                "seed": config["seed"],
                "protocol": protocol(config, options),
                "alignment": alignment and alignment.to_json() | {"summary": alignment.summary()},
                "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "curve": trainer.curve,
                "rows": {n: len(part._dataset) for n, part in loaders._asdict().items()},
                "encodings": _encodings(model),
                "seconds": {
                    "data": prepared - started,
                    "model": built - prepared,
                    "fit": fitted - built,
                    "test": tested - fitted,
                },
                "peak_mb": peak_mb(),
                "folder": str(request.folder),
            }
        )
    )
    if request.saved and group.rank == 0:
        from recbole_adapters.saving import describe

        describe(request, config, figures, catalogue, own_encoder=factory is not None)
    group.wait()
    return Outcome(figures, trainer.evaluated, catalogue, model, config, loaders)


def build_model(
    model: str | type[Any],
    config: Any,
    loaders: Loaders,
    *,
    factory: Callable[..., nn.Module] | None = None,
) -> Any:
    """The untrained model of a configuration, adapted where the configuration wants it.

    Args:
        model: Name or class.
        config: RecBole's configuration.
        loaders: Its data.
        factory: Makes the item encoder of a slot, in place of the ``linkedout:`` section's.
    """
    base = find_model(model) if isinstance(model, str) else model
    wanted = ItemEncoderOptions.from_section(config[SECTION]).replaces or factory is not None
    if wanted and not issubclass(base, Adapted):
        base = with_item_encoder(base, factory) if factory else with_item_encoder(base)
    config.model_class = base
    try:
        return base(config, loaders.train._dataset).to(config["device"])
    except LinkedOutError:
        raise
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise ConfigError(f"RecBole cannot build {config['model']}: {error}") from error


def protocol(config: Any, options: ItemEncoderOptions) -> str:
    """How the figures were made, in one line."""
    arguments = config["eval_args"]
    split = ", ".join(f"{key} {value}" for key, value in (arguments["split"] or {}).items())
    masked = "history masked" if options.mask_history else "history not masked (RecBole's own)"
    return f"RecBole split {split}, ranking {arguments['mode']['test']}, {masked}"


def _encodings(model: Any) -> dict[str, int]:
    tables = getattr(model, "item_tables", {})
    return {name: table.encodings for name, table in tables.items()}
