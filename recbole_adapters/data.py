"""RecBole's dataset and loaders, without its pickles, with history masking and exact sharing.

``E`` rows (one a prefix), ``B`` rows of a batch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError


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
        ConfigError: The configuration names a pickled dataset.
        DataError: The dataset is not there.
    """
    for name in ("dataset_save_path", "dataloaders_save_path"):
        if config[name]:
            raise ConfigError(
                f"`{name}` is {config[name]!r}, a pickle, which would run whatever code it holds; "
                "leave it out and let the dataset be read from its files"
            )
    _check_files(config)
    datasets = importlib.import_module("recbole.data.dataset")
    kind = getattr(datasets, f"{config['model']}Dataset", datasets.SequentialDataset)
    try:
        return kind(config)
    except ValueError as error:
        raise DataError(f"the dataset {config['dataset']!r}: {error}") from error


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

    try:
        parts = dataset.build()
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"RecBole cannot split {config['dataset']!r} by USER_ID_FIELD "
            f"{config['USER_ID_FIELD']!r}, ITEM_ID_FIELD {config['ITEM_ID_FIELD']!r}, TIME_FIELD "
            f"{config['TIME_FIELD']!r}: {error}"
        ) from error
    for part, name in zip(parts, Loaders._fields, strict=True):
        if not len(part):
            raise DataError(f"the split of {config['dataset']!r} leaves the {name} part empty")
    samplers = create_samplers(config, dataset, parts)
    loaders = []
    for phase, part, sampler in zip(Loaders._fields, parts, samplers, strict=True):
        kind = get_dataloader(config, phase)
        shuffle = config["shuffle"] if phase == "train" else False
        loaders.append(kind(config, part, sampler, shuffle=shuffle))
    if mask_history:
        history = Histories.of(parts)
        for position, loader in enumerate(loaders[1:], start=1):
            _mask(loader, history, part=position)
    if world > 1:
        for loader in loaders:
            _share(loader, rank, world)
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
        lengths = torch.cat([part.inter_feat[first.item_list_length_field] for part in parts])
        # A user's rows stand in time order part after part; a stable sort keeps that.
        order = torch.argsort(users, stable=True)
        sorted_users = users[order]
        opens = torch.ones(len(order), dtype=torch.bool)
        opens[1:] = sorted_users[1:] != sorted_users[:-1]
        if not bool((lengths[order][opens] == 1).all()):
            raise DataError(
                "a user's first row has more than one item in its list; masking the history needs "
                "RecBole's own augmentation, one row a prefix, and not `benchmark_filename`"
            )
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


def _mask(loader: Any, history: Histories, *, part: int) -> None:
    from recbole.data.dataloader.general_dataloader import FullSortEvalDataLoader

    if not isinstance(loader, FullSortEvalDataLoader):
        raise ConfigError(
            "`linkedout.mask_history` needs `eval_args.mode: full`; sampled negatives are drawn "
            "by RecBole itself"
        )

    def collate(index: list[int]) -> tuple[Any, Any, Tensor, Tensor]:
        interaction, _, positive_u, positive_i = type(loader).collate_fn(loader, index)
        row, item = history.before(part, np.asarray(index))
        others = item != positive_i[row]  # a target competes even where the user had it before
        return interaction, (row[others], item[others]), positive_u, positive_i

    loader.collate_fn = collate


def _share(loader: Any, rank: int, world: int) -> None:
    """Deal each batch of a loader out among processes, so that together they see what one sees."""
    base = type(loader)
    training = loader.shuffle or hasattr(loader, "neg_sample_num")

    class Shared(base):  # type: ignore[misc, valid-type]
        #: Rows of the last batch that this process had, and that all had.
        share = (0, 0)

        def __iter__(self) -> Iterator[Any]:
            # What a DataLoader draws before its sampler does: every process has the same
            # generator, hence the order of one process.
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
            for batch in self.batch_sampler:
                mine = batch[rank::world]
                self.share = (len(mine), len(batch))
                if mine or self.in_training:
                    yield self.collate_fn(mine or batch[:1])

    loader.__class__ = Shared
    loader.in_training = training
    loader.shuffle = False  # RecBole would ask the sampler for an epoch that it does not have


def _check_files(config: Any) -> None:
    folder = Path(config["data_path"])
    named = config["benchmark_filename"]
    suffixes = [f".{part}.inter" for part in named] if named else [".inter"]
    absent = [
        str(folder / f"{config['dataset']}{suffix}")
        for suffix in suffixes
        if not (folder / f"{config['dataset']}{suffix}").is_file()
    ]
    if absent:
        raise DataError(
            f"no dataset {config['dataset']!r}: {', '.join(absent)} is not there; name the folder "
            "above the dataset's own by `data_path`, or take ml-100k, which RecBole brings"
        )
