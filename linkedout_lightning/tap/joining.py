"""How a job joins those that are at the same store, and leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap.claims import Claims, claims_on
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.cutting import cut_units
from linkedout_lightning.tap.job import Job, work_of
from linkedout_lightning.tap.sharing import UnitSource
from linkedout_lightning.tap.tally import Tally
from linkedout_lightning.tap.units import Unit

_FEW_PIECES = 16


@contextmanager
def joined(
    config: ExtractConfig, job: Job, run: Tally
) -> Iterator[tuple[Claims, UnitSource, list[Unit]]]:
    """The claims on a job's store, and what of its work nobody else is at.

    What is claimed is given up when the block is left, whichever way; the store is then compacted
    where appends have cut it into many pieces.

    Args:
        config: The extraction.
        job: What is to be done.
        run: Its work is what is still to be done now, and in the end it says what others did.
    """
    tap, store = job.tap, job.store
    assert store is not None
    with claims_on(store.path, lease=config.lease) as claims:
        # Once more, as whatever others finished before these claims were read is in the store now.
        run.work = work_of(config, job.work.todo, tap, store.refresh())
        units = cut_units(
            run.work.todo,
            tap.prepare,
            sources=tap.sources,
            batch_size=config.batch_size,
            batch_tokens=config.batch_tokens,
        )
        looking = FeatureStore.open(store.path)  # for whichever thread takes units
        source = UnitSource(
            units,
            claims,
            columns=tap.columns,
            still_todo=lambda some: work_of(config, some, tap, looking.refresh()).todo,
        )
        yield claims, source, units
        run.by_others = source.by_others
    if store.refresh().pieces > _FEW_PIECES:
        # Somebody who is at it too may have begun an append on a version of a moment ago.
        store.compact(keep=timedelta(minutes=10) if run.by_others else timedelta(0))
