"""RecBole's dataset and loaders, without its pickles, with history masking and exact sharing.

``E`` rows (one a prefix), ``B`` rows of a batch.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError
from recbole_adapters.checks import check_files, check_parts
from recbole_adapters.sharing import shared


class Loaders(NamedTuple):
    """RecBole's three loaders."""

    train: Any
    valid: Any
    test: Any


def build_dataset(config: Any) -> Any:
    """RecBole's filtered dataset, as ``recbole.data.create_dataset`` makes it.

    Args:
        config: RecBole's configuration.

    Raises:
        ConfigError: The configuration names a pickled dataset, or a column that is not there.
        DataError: The dataset is not there.
    """
    for name in ("dataset_save_path", "dataloaders_save_path"):
        if config[name]:
            raise ConfigError(
                f"`{name}` is {config[name]!r}, a pickle, which would run whatever code it holds; "
                "leave it out and let the dataset be read from its files"
            )
    check_files(config)
    datasets = importlib.import_module("recbole.data.dataset")
    kind = getattr(datasets, f"{config['model']}Dataset", datasets.SequentialDataset)
    try:
        return kind(config)
    except ValueError as error:
        raise DataError(f"the dataset {config['dataset']!r}: {error}") from error
    except KeyError as error:
        raise ConfigError(
            f"the dataset {config['dataset']!r} has no column {error}, which the configuration "
            f"names; see {_columns(config)}, and `load_col`"
        ) from error


def build_loaders(
    config: Any, dataset: Any, *, mask_history: bool, rank: int = 0, world: int = 1
) -> Loaders:
    """RecBole's loaders, as ``recbole.data.data_preparation`` makes them.

    Args:
        config: RecBole's configuration of one process, whatever ``world`` is.
        dataset: What :func:`build_dataset` gave.
        mask_history: Let the evaluation take the items that a user had before out of the ranking.
        rank: This process among those that share the batches.
        world: Processes that share the batches: each batch is dealt out among them whole.

    Raises:
        DataError: A part of the split is empty.
        ConfigError: The dataset has no column that RecBole was told of.
    """
    from recbole.data.utils import create_samplers, get_dataloader

    if mask_history and config["benchmark_filename"]:
        raise ConfigError(
            "`linkedout.mask_history` needs one row for each prefix of a history, which RecBole "
            "makes of a plain .inter file; `benchmark_filename` brings rows of its own: leave out "
            "one of the two"
        )
    try:
        parts = dataset.build()
    except (KeyError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"RecBole cannot split {config['dataset']!r} by {_columns(config)}: {error}"
        ) from error
    check_parts(config, parts, world)
    samplers = create_samplers(config, dataset, parts)
    history = Histories.of(parts) if mask_history else None
    loaders = []
    for position, phase in enumerate(Loaders._fields):
        kind = get_dataloader(config, phase)
        if history is not None and phase != "train":
            kind = _masked(kind, history, part=position)
        kind = shared(kind, rank=rank, world=world)
        shuffle = config["shuffle"] if phase == "train" else False
        loaders.append(kind(config, parts[position], samplers[position], shuffle=shuffle))
    return Loaders(*loaders)


class Histories(NamedTuple):
    """Every user's items in time order, and how far each row of a part reaches into them.

    Attributes:
        items: ``(E + U,)`` item ids, user by user.
        start: For each part, ``(E_part,)`` where the row's user begins.
        stop: For each part, ``(E_part,)`` where the row's target stands.
    """

    items: Tensor
    start: tuple[Tensor, ...]
    stop: tuple[Tensor, ...]

    @classmethod
    def of(cls, parts: Any) -> Histories:
        """Those of the parts of a split, whose rows each user's are in time order.

        Args:
            parts: RecBole's datasets for training, validation and test.
        """
        first = parts[0]
        uid, iid = first.uid_field, first.iid_field
        list_field = getattr(first, f"{iid}_list_field")
        users = torch.cat([part.inter_feat[uid] for part in parts])
        targets = torch.cat([part.inter_feat[iid] for part in parts])
        firsts = torch.cat([part.inter_feat[list_field][:, 0] for part in parts])
        # A user's rows stand in time order part after part; a stable sort keeps that.
        order = torch.argsort(users, stable=True)
        sorted_users = users[order]
        opens = torch.ones(len(order), dtype=torch.bool)
        opens[1:] = sorted_users[1:] != sorted_users[:-1]
        number = opens.cumsum(0) - 1  # of the user
        place = torch.arange(len(order)) + number + 1  # of the row's target in `items`
        items = torch.empty(len(order) + int(opens.sum()), dtype=torch.long)
        items[place] = targets[order]
        begin = place[opens] - 1
        items[begin] = firsts[order][opens]
        stop, start = torch.empty_like(place), torch.empty_like(place)
        stop[order], start[order] = place, begin[number]
        sizes = [len(part) for part in parts]
        return cls(items, torch.split(start, sizes), torch.split(stop, sizes))

    def before(self, part: int, rows: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        """What stands before the targets of some rows of a part.

        Returns:
            Row numbers within ``rows`` and item ids, one pair for each item before a target.
        """
        chosen = torch.as_tensor(rows)
        start, stop = self.start[part][chosen], self.stop[part][chosen]
        counts = stop - start
        row = torch.repeat_interleave(torch.arange(len(chosen)), counts)
        ends = counts.cumsum(0)
        offset = torch.arange(int(ends[-1]) if len(ends) else 0) - (ends - counts)[row]
        return row, self.items[start[row] + offset]


class _Masked:
    """Put in front of RecBole's full-ranking loader: takes a user's past out of the ranking."""

    history: Histories
    part: int

    def collate_fn(self, index: list[int]) -> tuple[Any, Any, Tensor, Tensor]:
        interaction, _, positive_u, positive_i = super().collate_fn(index)  # type: ignore[misc]
        row, item = self.history.before(self.part, np.asarray(index))
        others = item != positive_i[row]  # a target competes even where the user had it before
        return interaction, (row[others], item[others]), positive_u, positive_i


def _masked(kind: type[Any], history: Histories, *, part: int) -> type[Any]:
    from recbole.data.dataloader import FullSortEvalDataLoader

    if not issubclass(kind, FullSortEvalDataLoader):
        raise ConfigError(
            "`linkedout.mask_history` needs `eval_args.mode: full`; sampled negatives are drawn "
            "by RecBole itself"
        )
    return type(kind.__name__, (_Masked, kind), {"history": history, "part": part})


def _columns(config: Any) -> str:
    fields = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
    return ", ".join(f"{field} {config[field]!r}" for field in fields)
