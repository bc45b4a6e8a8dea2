"""Interactions for Lightning: a file in, batches of index tensors out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from os import PathLike
from typing import Protocol, runtime_checkable

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from linkedout_lightning.data.interactions import Interactions
from linkedout_lightning.data.loaders import EvalLoader, Share, TrainLoader, distributed_share
from linkedout_lightning.data.readers import read_interactions
from linkedout_lightning.data.report import DataReport
from linkedout_lightning.data.sequences import windows
from linkedout_lightning.data.splits import Split, cold_items, leave_one_out, temporal
from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.evaluation.slices import popularity_slices

SPLITS = ("leave_one_out", "temporal", "cold_items")


@runtime_checkable
class HasItemIds(Protocol):
    """Anything that knows which items it holds, such as a feature store."""

    @property
    def item_ids(self) -> list[str]:
        """The ids."""
        ...


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Lengths that a published protocol fixes.

    Attributes:
        min_len: Users with fewer rows are dropped.
        keep_last: Rows kept of each user, the latest.
        max_len: Longest input.
        duplicates: What happens to exact duplicates.
    """

    min_len: int
    keep_last: int
    max_len: int
    duplicates: str


PRESETS = {
    # The authors' SASRec code: of each user of 5 and more items the last 13 count; training sees
    # all but two of them, a question at most 10, and the history that a question masks is the
    # user's sequence before the target.
    "microlens": Preset(min_len=5, keep_last=13, max_len=10, duplicates="keep"),
}


class InteractionDataModule(LightningDataModule):
    """Reads interactions, splits them, and serves batches of index tensors.

    Args:
        path: A file that :func:`~linkedout_lightning.data.readers.read_interactions` reads, or
            :class:`Interactions`.
        format: Its format; ``"auto"`` goes by the name.
        split: ``"leave_one_out"``, ``"temporal"`` (a global instant, no leak from the future) or
            ``"cold_items"`` (a share of the items never occurs in training).
        max_len: Longest input, ``M``; 50 without a preset. Longer training sequences are cut into
            windows, so that every transition is learned from once.
        min_len: Users with fewer rows, over all time, are dropped and counted; 3 without a preset.
        preset: ``"microlens"`` for that protocol's lengths.
        batch_size: Training sequences a step and process; with ``bucket`` on average.
        eval_batch_size: Users a step and process.
        seed: Of the order of training.
        split_seed: Of the choice of cold items, the same as ``seed`` by default; hold it fixed to
            compare seeds of training.
        item_features: A feature store, or item ids, to report which items lack features.
        user_column: Name of the column where the usual names do not fit.
        item_column: Likewise.
        time_column: Likewise; ``"row-order"`` where there is no time.
        duplicates: ``"drop"`` (the default without a preset) or ``"keep"`` rows that repeat user,
            item and time.
        valid_share: Temporal split: share of the rows for validation.
        test_share: Temporal split: share of the rows for the test.
        cold_share: Share of the items that is cold in the split ``cold_items``.
        bucket: Batches sequences of like length together, see :class:`TrainLoader`.
        pin_memory: Batches in page-locked memory.

    Attributes:
        report: What was read, dropped and kept, as :class:`DataReport`; printed by ``setup``.

    Example:
        >>> from linkedout_lightning.data.interactions import Interactions
        >>> from linkedout_lightning.data.readers import from_columns
        >>> rows = from_columns(["u"] * 4 + ["v"] * 3, list("abcd") + list("bca"))
        >>> data = InteractionDataModule(Interactions.from_raw(rows), batch_size=2)
        >>> data.setup()
        >>> next(iter(data.test_dataloader())).inputs
        tensor([[0, 2, 3],
                [1, 2, 3]])
    """

    def __init__(
        self,
        path: str | PathLike[str] | Interactions,
        *,
        format: str = "auto",
        split: str = "leave_one_out",
        max_len: int | None = None,
        min_len: int | None = None,
        preset: str | None = None,
        batch_size: int = 512,
        eval_batch_size: int = 1024,
        seed: int = 0,
        split_seed: int | None = None,
        item_features: HasItemIds | Collection[str] | None = None,
        user_column: str | None = None,
        item_column: str | None = None,
        time_column: str | None = None,
        duplicates: str | None = None,
        valid_share: float = 0.1,
        test_share: float = 0.1,
        cold_share: float = 0.1,
        bucket: bool = True,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        if split not in SPLITS:
            raise ConfigError(f"`split` is {split!r}; give one of {', '.join(SPLITS)}")
        if preset is not None and preset not in PRESETS:
            raise ConfigError(f"`preset` is {preset!r}; give one of {', '.join(PRESETS)}, or None")
        if isinstance(item_features, str):
            raise ConfigError(
                f"`item_features` is the text {item_features!r}; open the store first: "
                "FeatureStore.open(path)"
            )
        fixed = PRESETS[preset] if preset else None
        self.path, self.format, self.split, self.preset = path, format, split, preset
        self.max_len = _fixed("max_len", max_len, fixed.max_len if fixed else None, 50)
        self.min_len = _fixed("min_len", min_len, fixed.min_len if fixed else None, 3)
        self.keep_last = fixed.keep_last if fixed else None
        self.duplicates = duplicates or (fixed.duplicates if fixed else "drop")
        if self.max_len < 1:
            raise ConfigError(f"`max_len` must be at least 1, got {self.max_len}")
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.split_seed = seed if split_seed is None else split_seed
        self.item_features = item_features
        self.columns = {
            "user_column": user_column,
            "item_column": item_column,
            "time_column": time_column,
        }
        self.valid_share, self.test_share = valid_share, test_share
        self.cold_share = cold_share
        self.bucket, self.pin_memory = bucket, pin_memory
        self._data: Interactions | None = None
        self._split: Split | None = None
        self._report: DataReport | None = None

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 (one set for all stages)
        """Read, prepare and split, once.

        Raises:
            DataError: The file or its content is not usable, or nothing is left to train on.
        """
        if self._split is not None:
            return
        data = self.path
        if not isinstance(data, Interactions):
            raw = read_interactions(data, format=self.format, **self.columns)
            data = Interactions.from_raw(raw, duplicates=self.duplicates)
        data = data.prepared(min_len=self.min_len, keep_last=self.keep_last)
        if self.split == "temporal":
            split = temporal(data, valid_share=self.valid_share, test_share=self.test_share)
        elif self.split == "cold_items":
            split = cold_items(data, share=self.cold_share, seed=self.split_seed)
        else:
            split = leave_one_out(data)
        self._train_start, self._train_stop = windows(
            split.train_start, split.train_stop, self.max_len
        )
        if not len(self._train_start):
            raise DataError(
                f"{data.report.source}: after the split {self.split!r} no user has two items to "
                "learn a transition from"
            )
        self._data, self._split = data, split
        self._report = self._complete(data.report, split)
        rank_zero_info(str(self._report))

    def train_dataloader(self) -> TrainLoader:
        """Batches of :class:`~linkedout_lightning.data.batches.TrainBatch`."""
        return TrainLoader(
            self._ready().items,
            self._train_start,
            self._train_stop,
            batch_size=self.batch_size,
            seed=self.seed,
            bucket=50 if self.bucket else 0,
            pin_memory=self.pin_memory,
            share=self._share,
        )

    def val_dataloader(self) -> EvalLoader:
        """Batches of :class:`~linkedout_lightning.data.batches.EvalBatch`, validation."""
        return self._eval_loader(valid=True)

    def test_dataloader(self) -> EvalLoader:
        """Batches of :class:`~linkedout_lightning.data.batches.EvalBatch`, test."""
        return self._eval_loader(valid=False)

    def predict_dataloader(self) -> EvalLoader:
        """The test's batches."""
        return self.test_dataloader()

    @property
    def parts(self) -> Split:
        """Training sequences and questions as ranges, see :class:`Split`."""
        return self._ready()

    @property
    def interactions(self) -> Interactions:
        """All the interactions that were kept."""
        self._ready()
        assert self._data is not None
        return self._data

    @property
    def item_ids(self) -> list[str]:
        """Catalogue; item index ``i`` is ``item_ids[i - 1]``."""
        return self.interactions.item_ids

    @property
    def user_ids(self) -> list[str]:
        """Users by index."""
        return self.interactions.user_ids

    @property
    def num_items(self) -> int:
        """``N``."""
        return self.interactions.num_items

    @property
    def num_users(self) -> int:
        """``U``."""
        return self.interactions.num_users

    @property
    def train_counts(self) -> Tensor:
        """``(N + 1,)`` int64, how often training sees each item."""
        return self._ready().train_counts

    @property
    def train_item_mask(self) -> Tensor:
        """``(N + 1,)`` bool, the items that training sees."""
        return self.train_counts > 0

    @property
    def train_item_ids(self) -> list[str]:
        """Ids of the items that occur in training: what an item encoder may be fitted on."""
        kept = self.train_item_mask[1:].tolist()
        return [item for item, trained in zip(self.item_ids, kept, strict=True) if trained]

    @property
    def report(self) -> DataReport:
        """What was read, dropped and kept."""
        self._ready()
        assert self._report is not None
        return self._report

    def popularity_slices(self) -> dict[str, Tensor]:
        """Items by popularity, ``(N + 1,)`` bool each.

        ``decile_1`` (most popular) to ``decile_10`` hold equally many *items* of those that
        training sees, ordered by their count there (ties by index); ``cold`` holds the others.
        """
        return popularity_slices(self.train_counts)

    def _ready(self) -> Split:
        if self._split is None:
            raise ConfigError("the data is not read yet: call setup() first")
        return self._split

    def _share(self) -> Share:
        share = distributed_share()
        if share.of > 1 and self.trainer is not None:
            # A strategy may give several processes the same data, as tensor parallelism does.
            given = self.trainer.distributed_sampler_kwargs
            if given:
                return Share(given["rank"], given["num_replicas"])
        return share

    def _eval_loader(self, *, valid: bool) -> EvalLoader:
        split = self._ready()
        return EvalLoader(
            split.items,
            self.interactions.item_index,
            split.valid if valid else split.test,
            max_len=self.max_len,
            batch_size=self.eval_batch_size,
            pin_memory=self.pin_memory,
            share=self._share,
        )

    def _complete(self, report: DataReport, split: Split) -> DataReport:
        assert self._data is not None
        seen = int((split.train_counts > 0).sum())
        lengths = split.train_stop - split.train_start
        report = replace(
            report,
            train_rows=int(split.train_counts.sum()),
            train_items=seen,
            train_sequences=len(self._train_start),
            untrainable_sequences=int((lengths < 2).sum()),
            valid_users=len(split.valid.users),
            test_users=len(split.test.users),
            valid_skipped=split.valid.skipped,
            test_skipped=split.test.skipped,
            cold_items=self._data.num_items - seen,
        )
        if self.item_features is None:
            return report
        given = self.item_features
        known = set(given.item_ids if isinstance(given, HasItemIds) else given)
        catalogue = self._data.item_ids
        missing = torch.tensor([False] + [i not in known for i in catalogue])
        return replace(
            report,
            items_without_features=int(missing.sum()),
            rows_without_features=int(missing[self._data.item_index].sum()),
            features_without_items=len(known.difference(catalogue)),
        )


def _fixed(name: str, given: int | None, preset: int | None, default: int) -> int:
    if preset is None:
        return default if given is None else given
    if given is not None and given != preset:
        raise ConfigError(f"`{name}` is {given}, but the preset fixes it at {preset}; drop one")
    return preset
