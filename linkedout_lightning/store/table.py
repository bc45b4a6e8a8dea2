"""Tensors as Arrow columns and back, bit for bit.

Letters: ``n`` items, ``L`` layers, ``S`` token slots, ``D`` hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from linkedout_lightning.errors import StoreError
from linkedout_lightning.store.spec import StoreSpec

SPEC_KEY = b"linkedout.spec"
FORMAT_KEY = b"linkedout.format"
FORMAT = b"1"
FEATURE_COLUMNS = ["features", "mask"]


def schema(spec: StoreSpec) -> pa.Schema:
    """Columns of the table, with the specification in its metadata.

    The specification travels in the schema so that it comes into being with the table, in one
    commit. A row with a ``reason`` is a failure; its features are null and cost no space.
    """
    layers, slots, width = spec.shape
    # The extension is named here and not imported: `lance.arrow` needs pandas for it.
    bfloat16 = {"ARROW:extension:name": "lance.bfloat16", "ARROW:extension:metadata": ""}
    number = {
        "float16": pa.field("item", pa.float16()),
        "bfloat16": pa.field("item", pa.binary(2), metadata=bfloat16),
        "float32": pa.field("item", pa.float32()),
    }[spec.dtype]
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("features", pa.list_(number, layers * slots * width)),
            pa.field("mask", pa.list_(pa.bool_(), slots)),
            pa.field("fingerprint", pa.string()),
            pa.field("reason", pa.string()),
        ],
        metadata={FORMAT_KEY: FORMAT, SPEC_KEY: json.dumps(spec.to_json()).encode()},
    )


def spec_of(dataset: Any, path: str) -> StoreSpec:
    """The specification of the store that a table is.

    Raises:
        StoreError: It is some other table, or of a format that is not known.
    """
    metadata = dataset.schema.metadata or {}
    if SPEC_KEY not in metadata:
        raise StoreError(f"{path!r} is a Lance table, but not a feature store")
    if metadata.get(FORMAT_KEY) != FORMAT:
        raise StoreError(
            f"the feature store at {path!r} has format {metadata.get(FORMAT_KEY)!r}, "
            f"this version of linkedout-lightning reads {FORMAT!r}"
        )
    return StoreSpec.from_json(json.loads(metadata[SPEC_KEY]))


def feature_rows(
    item_ids: Sequence[str],
    features: Tensor,
    mask: Tensor,
    *,
    fingerprints: Sequence[str],
    spec: StoreSpec,
) -> pa.Table:
    """Rows of items, ``features (n, L, S, D)`` in the dtype of ``spec`` and ``mask (n, S)``."""
    columns = schema(spec)
    count = len(item_ids)
    bits = _bits(features.detach().cpu().contiguous()).numpy().reshape(-1)
    number = columns.field("features").type.value_type
    values = pa.Array.from_buffers(number, bits.size, [None, pa.py_buffer(bits)])
    flags = pa.array(mask.detach().cpu().numpy().reshape(-1))
    return pa.table(
        [
            pa.array(list(item_ids), pa.string()),
            pa.FixedSizeListArray.from_arrays(values, type=columns.field("features").type),
            pa.FixedSizeListArray.from_arrays(flags, type=columns.field("mask").type),
            pa.array(list(fingerprints), pa.string()),
            pa.nulls(count, pa.string()),
        ],
        schema=columns,
    )


def failure_rows(
    item_ids: Sequence[str],
    reasons: Sequence[str],
    *,
    fingerprints: Sequence[str],
    spec: StoreSpec,
) -> pa.Table:
    """Rows of items that yielded nothing."""
    columns = schema(spec)
    return pa.table(
        [
            pa.array(list(item_ids), pa.string()),
            pa.nulls(len(item_ids), columns.field("features").type),
            pa.nulls(len(item_ids), columns.field("mask").type),
            pa.array(list(fingerprints), pa.string()),
            pa.array(list(reasons), pa.string()),
        ],
        schema=columns,
    )


class Gathered:
    """Preallocated result of a gather, filled piece by piece.

    Args:
        count: Number of items ``n``.
        spec: Specification of the store.
        layers: Places of the layers to keep, in that order; None: all.
    """

    def __init__(self, count: int, spec: StoreSpec, *, layers: Sequence[int] | None = None) -> None:
        depth, slots, width = spec.shape
        kept = depth if layers is None else len(layers)
        self.features = torch.empty(count, kept, slots, width, dtype=spec.torch_dtype)
        self.mask = torch.empty(count, slots, dtype=torch.bool)  # (n, S)
        self._shape = (depth, slots * width)
        self._layers = None if layers is None else list(layers)
        self._bits = _bits(self.features.flatten(2)).numpy()  # (n, L, S * D)
        self._flags = self.mask.numpy()

    def fill(self, where: np.ndarray[Any, Any], rows: pa.Table) -> None:
        """Put ``rows`` at the positions ``where``."""
        slots = self._flags.shape[1]
        start = 0
        for batch in rows.select(FEATURE_COLUMNS).to_batches():
            at = where[start : start + batch.num_rows]
            values = batch.column(0).flatten()
            if isinstance(values, pa.ExtensionArray):
                values = values.storage
            bits = np.frombuffer(
                values.buffers()[1],
                self._bits.dtype,
                count=len(values),
                offset=values.offset * self._bits.itemsize,
            )
            bits = bits.reshape(-1, *self._shape)  # (b, L, S * D)
            if self._layers is None:
                self._bits[at] = bits
            else:
                for place, layer in enumerate(self._layers):
                    self._bits[at, place] = bits[:, layer]
            flags = batch.column(1).flatten().to_numpy(zero_copy_only=False)
            self._flags[at] = flags.reshape(-1, slots)
            start += batch.num_rows


def gather(
    dataset: Any,
    wanted: np.ndarray[Any, np.dtype[np.int64]],
    *,
    spec: StoreSpec,
    layers: Sequence[int] | None,
    block_bytes: int,
) -> Gathered:
    """Rows of a dataset, block by block.

    Args:
        dataset: The Lance dataset.
        wanted: Row positions, in the order asked; may repeat.
        spec: Specification of the store.
        layers: Places of the layers to keep; None: all.
        block_bytes: Features that Arrow holds at once.
    """
    result = Gathered(len(wanted), spec, layers=layers)
    # Reading in storage order is what a disk likes; the result is filled in the order asked.
    order = np.argsort(wanted, kind="stable")
    step = max(1, block_bytes // spec.bytes_per_item)
    for start in range(0, len(wanted), step):
        where = order[start : start + step]
        rows, inverse = np.unique(wanted[where], return_inverse=True)
        taken = dataset.take(rows, columns=FEATURE_COLUMNS)
        if len(rows) < len(where):
            taken = taken.take(inverse)
        result.fill(where, taken)
    return result


def delete_items(dataset: Any, item_ids: Sequence[str]) -> None:
    """Remove every row of some items in one commit and move ``dataset`` to it."""
    ids = pa.field("item_id", pa.string(), nullable=False)
    gone = pa.table([pa.array(item_ids, ids.type)], schema=pa.schema([ids]))
    # A join that reads the ids alone. As SQL, `item_id IN (…)` of a million ids took 13 s and a
    # gigabyte where this takes one second.
    dataset.merge_insert("item_id").when_matched_delete().execute(gone)


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as integers: numpy knows no bfloat16, and a float copy may quiet NaNs."""
    return tensor.view(torch.int16 if tensor.element_size() == 2 else torch.int32)
