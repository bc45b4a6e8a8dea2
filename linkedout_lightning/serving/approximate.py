"""Searching with faiss: ``flat`` looks at every item, ``ivf`` at those near the query.

faiss' own files are never read: reading one runs C++ code over whatever stands in it. What an IVF
index needs beside the vectors, its centroids and each item's list, are two plain tensors.

``B`` queries, ``n`` items, ``C`` lists, ``H`` item dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, MissingExtraError
from linkedout_lightning.serving.table import VectorTable

_CODES = {"float32": "Flat", "float16": "SQfp16", "int8": "SQ8"}
_CHUNK = 1 << 16
_POINTS_PER_LIST, _ROUNDS = 64, 10
_FEWEST_PROBES = 32


@dataclass(frozen=True)
class Lists:
    """Where an IVF index puts its items.

    Args:
        centroids: ``(C, H)`` float32.
        assigned: ``(n,)`` int64, each item's list.
    """

    centroids: Tensor
    assigned: Tensor


class FaissIndex:
    """An index of faiss over inner products.

    Args:
        table: ``n`` vectors; the index keeps a copy in faiss' form of the same dtype.
        kind: ``"flat"`` or ``"ivf"``.
        lists: Of ``ivf``, C; by default about 4·√n.
        probes: Of ``ivf``, how many lists a query looks at; by default a 64th of them, at least 32.
        made: The lists, where they are known already.

    Raises:
        MissingExtraError: faiss is not installed.
        ConfigError: Lists or probes out of range.
    """

    def __init__(
        self,
        table: VectorTable,
        *,
        kind: str,
        lists: int | None = None,
        probes: int | None = None,
        made: Lists | None = None,
    ) -> None:
        faiss = _faiss()
        self.kind, self._probes = kind, 0
        self._made = made
        self._options = {"lists": lists, "probes": probes}
        dim, code = table.values.shape[1], _CODES[table.dtype]
        if kind == "flat":
            self._index = faiss.index_factory(dim, code, faiss.METRIC_INNER_PRODUCT)
            self._fill(table)
            return
        count = default_lists(len(table)) if lists is None else lists
        if made is not None:
            count = len(made.centroids)
        if not 1 <= count <= len(table):
            raise ConfigError(f"`lists` is {count}; give 1 to {len(table)}, the number of items")
        self._probes = max(_FEWEST_PROBES, count // 64) if probes is None else probes
        if self._probes < 1:
            raise ConfigError(f"`probes` is {probes}; give 1 to {count}")
        self._probes = min(self._probes, count)
        if made is None:
            self._made = make_lists(table, count)
        self._index = faiss.index_factory(dim, f"IVF{count},{code}", faiss.METRIC_INNER_PRODUCT)
        self._fill(table)

    @property
    def nbytes(self) -> int:
        """Bytes of faiss' copy of the vectors, and of the lists."""
        index = self._index
        size = int(index.ntotal) * int(index.sa_code_size() if self._probes else index.code_size)
        if self._made is not None:
            # faiss keeps each item's number beside it.
            size += self._made.centroids.nbytes + 2 * self._made.assigned.nbytes
        return size

    def search(self, queries: Tensor, k: int, *, banned: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`~linkedout_lightning.serving.exact.Index` has it; ``ivf`` may miss items."""
        faiss = _faiss()
        selector = None
        if len(banned):
            rows = np.ascontiguousarray(banned.numpy())
            batch = faiss.IDSelectorBatch(rows)
            selector = faiss.IDSelectorNot(batch)
        if self._probes:
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=self._probes)
        else:
            parameters = None if selector is None else faiss.SearchParameters(sel=selector)
        found = np.ascontiguousarray(queries.numpy(), dtype=np.float32)
        scores, rows = self._index.search(found, k, params=parameters)
        # Where a query found too few, faiss says row -1.
        missing = torch.from_numpy(rows) < 0
        return (
            torch.from_numpy(scores).masked_fill(missing, -torch.inf),
            torch.from_numpy(rows).masked_fill(missing, 0),
        )

    def after(self, table: VectorTable, kept: Tensor) -> FaissIndex:
        """The index of other items, by the same lists.

        Args:
            table: The items.
            kept: The rows of the present items that begin ``table``, in that order.
        """
        made = None
        if self._made is not None:
            new = table.kept(torch.arange(len(kept), len(table))).all()
            assigned = torch.cat([self._made.assigned[kept], _nearest(self._made.centroids, new)])
            made = Lists(self._made.centroids, assigned)
        return FaissIndex(table, kind=self.kind, made=made, **self._options)

    def _fill(self, table: VectorTable) -> None:
        faiss, index, made = _faiss(), self._index, self._made
        if made is not None:
            index.quantizer.add(made.centroids.numpy())
        if not index.is_trained:
            # Of the quantised kinds: ranges of the numbers. Centroids are not touched.
            _train(index, table, with_lists=made is not None)
        index.is_trained = True
        for start in range(0, len(table), _CHUNK):
            part = np.ascontiguousarray(table.span(start, start + _CHUNK).numpy())
            if made is None:
                index.add(part)
                continue
            ids = np.arange(start, start + len(part), dtype=np.int64)
            lists = np.ascontiguousarray(made.assigned[start : start + len(part)].numpy())
            index.add_core(
                len(part), faiss.swig_ptr(part), faiss.swig_ptr(ids), faiss.swig_ptr(lists)
            )


def default_lists(items: int) -> int:
    """About 4·√n, a power of two.

    Example:
        >>> default_lists(1_000_000), default_lists(20_000), default_lists(3)
        (4096, 512, 1)
    """
    return max(1, min(1 << round(math.log2(4 * math.sqrt(items))), items // 32))


def make_lists(table: VectorTable, count: int) -> Lists:
    """Cluster the items.

    Args:
        table: The items.
        count: C.
    """
    faiss = _faiss()
    generator = torch.Generator().manual_seed(0)
    wanted = min(len(table), count * _POINTS_PER_LIST)
    rows = torch.randperm(len(table), generator=generator)[:wanted].sort().values
    clustering = faiss.Kmeans(
        table.values.shape[1],
        count,
        niter=_ROUNDS,
        seed=1,
        spherical=True,  # as faiss has it for inner products
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_LIST,
    )
    clustering.train(np.ascontiguousarray(table.take(rows).numpy()))
    centroids = torch.from_numpy(np.ascontiguousarray(clustering.centroids))
    parts = [
        _nearest(centroids, table.span(start, start + _CHUNK))
        for start in range(0, len(table), _CHUNK)
    ]
    return Lists(centroids, torch.cat(parts))


def _nearest(centroids: Tensor, vectors: Tensor) -> Tensor:
    """Each vector's list, by inner product, which is how a query chooses its lists."""
    if not len(vectors):
        return torch.empty(0, dtype=torch.long)
    parts = [(part @ centroids.T).argmax(1) for part in torch.split(vectors, 4096)]
    return torch.cat(parts)


def _train(index: Any, table: VectorTable, *, with_lists: bool) -> None:
    """Ranges of a scalar quantiser, from a sample."""
    step = max(1, len(table) // 100_000)
    sample = np.ascontiguousarray(table.take(torch.arange(0, len(table), step)).numpy())
    if not with_lists:
        index.train(sample)
    elif hasattr(index, "sq"):
        index.by_residual = False
        index.sq.train(sample)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss-cpu", "search", "the indexes flat and ivf") from error
    return faiss
