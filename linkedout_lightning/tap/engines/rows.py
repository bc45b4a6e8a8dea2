"""Units of work as rows of Arrow tables, before and after their files are decoded.

A unit is one row, so that an engine can neither split nor join what is committed together. Frames
are bytes in a list beside their description; nothing in a row is pickled. No torch is imported
here, which workers that decode do without.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.units import Unit

if TYPE_CHECKING:
    from linkedout_lightning.video import Frames

_BYTES = pa.list_(pa.large_binary())
_HANDED = pa.schema([("number", pa.int64()), ("watch", pa.bool_()), ("items", pa.string())])
_MOST_ITEMS = 512


@dataclass(frozen=True)
class Decoded:
    """A unit whose files have been decoded.

    Attributes:
        number: The unit's.
        items: Items with their frames by source.
        failures: Reasons of those that could not be decoded.
        stamps: What each of them was made from.
        watch: Whether there were files to decode.
        seconds: What decoding took.
    """

    number: int
    items: list[tuple[Item, dict[str, Frames]]]
    failures: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    watch: bool = False
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """How many items it has, failures too."""
        return len(self.items) + len(self.failures)


@dataclass(frozen=True)
class Done:
    """What became of a unit; all of it is in the store.

    Attributes:
        number: The unit's.
        done: How many items got features.
        failures: Reasons of the others.
        tokens: Tokens read since the worker said so last.
        seconds: Seconds by part since then.
        worker: Which worker it was.
        ready: When that one had its model, in seconds since 1970.
    """

    number: int
    done: int
    failures: dict[str, str]
    tokens: int
    seconds: dict[str, float]
    worker: str
    ready: float


def unit_rows(units: Iterable[Unit]) -> pa.Table:
    """Units as they are handed out."""
    rows = [
        {
            "number": unit.number,
            "watch": unit.watch,
            "items": json.dumps([asdict(item) for item in unit.items]),
        }
        for unit in units
    ]
    return pa.Table.from_pylist(rows, schema=_HANDED)


def blocks_of(units: Sequence[Unit], *, workers: int) -> Iterator[list[Unit]]:
    """Units that travel, and are committed, together: one with files, or some texts.

    A commit costs more than the texts of one unit; frames take too much room for more.

    Args:
        units: The units, those with files first.
        workers: How many share them; each is to get several blocks.
    """
    texts = sum(len(unit.items) for unit in units if not unit.watch)
    most = max(1, min(_MOST_ITEMS, texts // (4 * workers)))
    block: list[Unit] = []
    for unit in units:
        if block and (
            unit.watch or block[-1].watch or sum(len(u.items) for u in [*block, unit]) > most
        ):
            yield block
            block = []
        block.append(unit)
    if block:
        yield block


def units_of(table: pa.Table) -> list[Unit]:
    """The units of such rows."""
    return [
        Unit(row["number"], tuple(Item(**item) for item in json.loads(row["items"])), row["watch"])
        for row in table.to_pylist()
    ]


def decoded_rows(units: Iterable[Decoded]) -> pa.Table:
    """Decoded units as they travel."""
    return pa.concat_tables([_decoded_row(unit) for unit in units])


def decoded_of(table: pa.Table) -> list[Decoded]:
    """The decoded units of some rows; their pixels are copies."""
    units = []
    for row in range(table.num_rows):
        facts = json.loads(table["facts"][row].as_py())
        arrays = table["frames"][row].values
        items = [
            (Item(**item), {name: _frames(described, arrays) for name, described in seen.items()})
            for item, seen in facts.pop("items")
        ]
        units.append(Decoded(table["number"][row].as_py(), items, **facts))
    return units


def done_rows(units: Sequence[Done]) -> pa.Table:
    """What became of some units, as it flows back."""
    return pa.table({"done": [json.dumps(asdict(unit)) for unit in units]})


def done_of(table: pa.Table) -> list[Done]:
    """The units of such rows."""
    return [Done(**json.loads(text)) for text in table["done"].to_pylist()]


def _decoded_row(unit: Decoded) -> pa.Table:
    arrays: list[np.ndarray] = []
    items = [
        [asdict(item), {name: _described(frames, arrays) for name, frames in seen.items()}]
        for item, seen in unit.items
    ]
    facts = {
        "items": items,
        "failures": unit.failures,
        "stamps": unit.stamps,
        "watch": unit.watch,
        "seconds": unit.seconds,
    }
    return pa.table(
        {"number": [unit.number], "facts": [json.dumps(facts)], "frames": _bytes(arrays)}
    )


def _described(frames: Frames, arrays: list[np.ndarray]) -> dict[str, Any]:
    arrays.append(np.ascontiguousarray(frames.data))
    return {
        "at": len(arrays) - 1,
        "shape": frames.data.shape,
        "timestamps": frames.timestamps.tolist(),
        "fps": frames.fps,
        "duration": frames.duration,
        "backend": frames.backend,
        "fallback_reason": frames.fallback_reason,
    }


def _frames(described: Mapping[str, Any], arrays: pa.Array) -> Frames:
    from linkedout_lightning.video import Frames

    given = dict(described)
    data = np.frombuffer(arrays[given.pop("at")].as_buffer(), dtype=np.uint8)
    return Frames(
        # A copy, as an engine's memory cannot be written, which torch wants, and is soon needed.
        data=data.reshape(given.pop("shape")).copy(),
        timestamps=np.array(given.pop("timestamps"), dtype=np.float64),
        **given,
    )


def _bytes(arrays: Sequence[np.ndarray]) -> pa.Array:
    """A list of one list of bytes, copied once; Python objects on the way would copy them again."""
    ends = np.cumsum([0, *(a.nbytes for a in arrays)], dtype=np.int64)
    data = np.concatenate([a.reshape(-1) for a in arrays]) if arrays else np.zeros(0, np.uint8)
    values = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(arrays), [None, pa.py_buffer(ends), pa.py_buffer(data)]
    )
    return pa.ListArray.from_arrays(pa.array([0, len(arrays)], pa.int32()), values).cast(_BYTES)
