"""Items as Lightning and data loaders take them: decoded in the loader's workers.

:func:`linkedout_lightning.tap.extract.extract` needs none of this. It is for those whose jobs run
under a ``Trainer``, on its devices, nodes and launchers.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from linkedout_lightning.errors import ConfigError, LinkedOutError, VideoDecodeError
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap.decoding import files_of, seen_of
from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.plan import Work, plan_work
from linkedout_lightning.tap.stamps import stamp
from linkedout_lightning.tap.types import TapBatch, TapInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from linkedout_lightning.tap.tap import VideoLLMTap
    from linkedout_lightning.video import Frames, FrameSampler

# So many refusals in a row, without a success: it is the processor or its settings, not the items.
_HOPELESS = 16


@dataclass(frozen=True)
class Sample:
    """One item of a :class:`VideoDataset`.

    Attributes:
        item_id: Its id.
        stamp: What it was made from.
        decoded: The item with its frames, or why there are none.
    """

    item_id: str
    stamp: str
    decoded: TapInput | str


class VideoDataset(Dataset[Sample]):
    """A map-style dataset of items, decoded as they are asked for.

    Files are decoded as everywhere, in a process that has a limit of time and of memory, one
    beside each of the loader's workers. One that cannot be decoded is a sample with a reason: it
    leaves its batch whole, and :class:`~linkedout_lightning.tap.writer.StoreWriter` records it.

    Args:
        items: The items.
        tap: Whose processor, columns and sources; the model itself does not travel to workers.
        sampler: Where frames come from; ``None`` for a model that only reads text.

    Raises:
        ConfigError: The tap sees, and there is no sampler.

    Example::

        data = VideoDataset(read_items(None, "videos"), tap=tap, sampler=FrameSampler(tap.frames))
        loader = DataLoader(data, batch_size=8, num_workers=4, collate_fn=data.collate)
    """

    def __init__(
        self, items: Sequence[Item], *, tap: VideoLLMTap, sampler: FrameSampler | None = None
    ) -> None:
        if tap.sources and sampler is None:
            raise ConfigError("the model sees, so give `sampler`, such as FrameSampler(tap.frames)")
        self.items = list(items)
        self.collate = Collate(tap.prepare)
        self._sampler = sampler
        self._sources, self._columns = tap.sources, tuple(tap.columns)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        made_from = stamp(item, columns=self._columns, sources=self._sources)
        files = files_of(item, self._sources)
        seen = seen_of({name: self._decoded(path) for name, path in files.items()})
        decoded = seen if isinstance(seen, str) else TapInput.of(item, seen)
        return Sample(item.item_id, made_from, decoded)

    def _decoded(self, path: str) -> Frames | VideoDecodeError:
        assert self._sampler is not None
        try:
            return self._sampler(path)
        except VideoDecodeError as error:
            return error


@dataclass
class Collate:
    """Makes a batch of samples, for a data loader's ``collate_fn``.

    Args:
        prepare: The tap's.
    """

    prepare: Any
    _refused: int = field(default=0, init=False)

    def __call__(self, samples: Sequence[Sample]) -> TapBatch:
        """A batch of what was decoded, which says why the rest was not.

        Raises:
            ConfigError: The model cannot take such input at all.
            LinkedOutError: The processor refuses item after item.
        """
        failures = {s.item_id: s.decoded for s in samples if isinstance(s.decoded, str)}
        inputs = [s.decoded for s in samples if isinstance(s.decoded, TapInput)]
        batch = TapBatch([], [])
        try:
            if inputs:
                batch = self.prepare(inputs)
                self._refused = 0
        except ConfigError:
            raise
        except Exception:
            # Somebody's frames are too much for the processor: the others go on without.
            failures |= self._refusals(inputs)
            if fine := [item for item in inputs if item.item_id not in failures]:
                batch = self.prepare(fine)
        stamps = {sample.item_id: sample.stamp for sample in samples}
        return replace(batch, failures=failures, stamps=stamps)

    def _refusals(self, inputs: Sequence[TapInput]) -> dict[str, str]:
        failures = {}
        for item in inputs:
            try:
                self.prepare([item])
                self._refused = 0
            except Exception as error:
                reason = f"the model failed: {f'{type(error).__name__}: {error}'[:300]}"
                failures[item.item_id] = reason
                self._refused += 1
                if self._refused >= _HOPELESS:
                    raise LinkedOutError(
                        f"the processor refused {_HOPELESS} items in a row, so it is not the "
                        f"items; the last time: {reason}"
                    ) from error
        return failures


class VideoDataModule(LightningDataModule):
    """What a store does not hold yet, for ``Trainer.predict`` on any number of processes.

    The first process compares the items with the store, and all take its word for what is to be
    done; each does its part, no item is done twice for padding, and a part may be empty. Run it
    again after a fault: it does the rest.

    Args:
        items: All items.
        tap: The tap that will predict.
        store: Where features go; see :func:`linkedout_lightning.tap.sink.store_spec`.
        sampler: Where frames come from; ``None`` for a model that only reads text.
        batch_size: Items that go through the model at once.
        workers: The loader's worker processes, in each process of the run; 0 decodes between
            batches.
        retry_failed: Try items again that failed before.

    Attributes:
        work: What was to be done, once it is set up.

    Raises:
        ConfigError: The tap sees, and there is no sampler.

    Example::

        store = FeatureStore.create("features", store_spec(tap, sampler=sampler), exist_ok=True)
        data = VideoDataModule(items, tap=tap, store=store, sampler=sampler, workers=4)
        trainer = Trainer(devices=2, strategy="ddp", callbacks=[StoreWriter(store)], logger=False)
        trainer.predict(tap, datamodule=data, return_predictions=False)
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        tap: VideoLLMTap,
        store: FeatureStore,
        sampler: FrameSampler | None = None,
        batch_size: int = 8,
        workers: int = 2,
        retry_failed: bool = False,
    ) -> None:
        super().__init__()
        # Of a single changed item the second process has no part.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.work = Work([], 0, {})
        self._items, self._tap, self._store, self._sampler = list(items), tap, store, sampler
        self._batch_size, self._workers = batch_size, workers
        self._retry_failed = retry_failed
        self._dataset = VideoDataset([], tap=tap, sampler=sampler)

    def setup(self, stage: str) -> None:
        """Decide what is to be done; called by the trainer in every process."""
        del stage
        assert self.trainer is not None
        work = Work([], 0, {})
        if self.trainer.is_global_zero:
            work = plan_work(
                self._items,
                self._store.refresh(),
                columns=self._tap.columns,
                sources=self._tap.sources,
                retry_failed=self._retry_failed,
            )
        # Processes that looked for themselves might see each other's first results already, and
        # would then cut different lists into parts.
        ids = {item.item_id for item in work.todo}
        ids, skipped, known = self.trainer.strategy.broadcast(
            (ids, work.skipped, work.known_failures)
        )
        self.work = Work([item for item in self._items if item.item_id in ids], skipped, known)
        self._dataset = VideoDataset(self.work.todo, tap=self._tap, sampler=self._sampler)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The loader of this process's part."""
        assert self.trainer is not None
        options: Mapping[str, Any] = {}
        if self._workers:
            options = {"multiprocessing_context": _context(), "prefetch_factor": 2}
        return DataLoader(
            self._dataset,
            batch_size=self._batch_size,
            num_workers=self._workers,
            collate_fn=self._dataset.collate,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            sampler=_Part(
                self._dataset,
                num_replicas=self.trainer.world_size,
                rank=self.trainer.global_rank,
                shuffle=False,
            ),
            **options,
        )


class _Part(DistributedSampler[int]):
    """Every n-th item. Nothing is repeated, and with few items a part may be empty.

    Lightning's own sampler for predictions, which it puts in where there is none of this class,
    wants an item for every process.
    """

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]


def _context() -> Any:
    """How workers start. Forked from this process they would hold copies of the store's threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "transformers"])  # once, in place of once a worker
    return context
