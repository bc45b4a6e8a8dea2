"""What an engine's workers do that decode.

A plain object that takes and gives Arrow tables and knows no engine. It imports neither torch nor
the store, as there may be many of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from linkedout_lightning.tap.decoding import files_of, seen_of
from linkedout_lightning.tap.engines.rows import Decoded, decoded_rows, units_of
from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.stamps import stamp
from linkedout_lightning.tap.units import Unit

if TYPE_CHECKING:
    from linkedout_lightning.video import DecodePool, Frames, FrameSampler

_AHEAD = 8  # videos, of the unit at hand


class DecodeStage:
    """Decodes units in processes that can be killed.

    Args:
        sampler: Where frames come from; ``None`` if nothing is decoded.
        sources: Which of an item's files are, of ``"video"`` and ``"cover"``.
        columns: Columns of an item that are used.
        workers: Processes that decode.
    """

    def __init__(
        self,
        sampler: FrameSampler | None,
        *,
        sources: Collection[str],
        columns: Sequence[str],
        workers: int = 1,
    ) -> None:
        self._sampler, self._workers = sampler, workers
        self._sources, self._columns = frozenset(sources), tuple(columns)
        self._pool: DecodePool | None = None

    def __call__(self, units: pa.Table) -> pa.Table:
        """Rows of units to as many rows of decoded units, which stay together."""
        return decoded_rows(map(self.decode, units_of(units)))

    def decode(self, unit: Unit) -> Decoded:
        """Decode the files of one unit."""
        start = time.monotonic()
        # What is changed while it is decoded is to be seen as changed.
        stamps = {
            item.item_id: stamp(item, columns=self._columns, sources=self._sources)
            for item in unit.items
        }
        items: list[tuple[Item, dict[str, Frames]]] = []
        failures: dict[str, str] = {}
        files = [files_of(item, self._sources) for item in unit.items]
        paths = [path for named in files for path in named.values()]
        outcomes = self._decoders().map(paths) if paths else iter(())
        for item, named in zip(unit.items, files, strict=True):
            seen = seen_of({name: next(outcomes) for name in named})
            if isinstance(seen, str):
                failures[item.item_id] = seen
            else:
                items.append((item, seen))
        spent = time.monotonic() - start
        return Decoded(unit.number, items, failures, stamps, unit.watch, spent)

    def close(self) -> None:
        """End the processes; the end of the worker does so too."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _decoders(self) -> DecodePool:
        if self._pool is None:
            from linkedout_lightning.video import DecodePool

            assert self._sampler is not None
            ahead = max(2 * self._workers, _AHEAD)
            self._pool = DecodePool(self._sampler, workers=self._workers, ahead=ahead)
        return self._pool
