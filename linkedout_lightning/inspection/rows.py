"""Rows that carry nothing, and rows that repeat others, found in one pass.

Letters: ``n`` items, ``L`` layers, ``S`` token slots, ``D`` hidden size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linkedout_lightning.inspection.statistics import pooled

# A vector whose numbers spread less than this share of their size is one number, D times.
_FLAT = 1e-3
# Norms are judged by their logarithm: so many deviations off the median, and at least doubled or
# halved, as norms that hardly vary make any deviation look large.
_DEVIATIONS, _FACTOR = 10.0, 2.0


class RowSearch:
    """Looks at batches of rows, one after the other, and keeps sixteen bytes of each.

    Args:
        vectors: A sample's pooled vectors, float32 ``(n, L, D)``, that say which norms are usual.
        layers: Names of the ``L`` layers.
        listed: How many ids of each finding to keep.

    Attributes:
        looked_at: Rows seen.
        counts: Rows by finding: ``no_slot`` (every slot masked), ``zero`` (a valid slot holds only
            zeros), ``constant`` (a valid slot holds one number throughout), ``norm`` (a layer's
            norm is far from usual). A row counts once in each that it shows.
        examples: First ids of each finding.
    """

    def __init__(self, vectors: Tensor, layers: Sequence[int], *, listed: int) -> None:
        self.looked_at = 0
        self.counts = dict.fromkeys(("no_slot", "zero", "constant", "norm"), 0)
        self.examples: dict[str, list[dict[str, Any]]] = {name: [] for name in self.counts}
        self._layers, self._listed = list(layers), listed
        norms = vectors[vectors.any(-1).all(-1)].norm(dim=-1)
        logs = norms.log() if len(norms) else torch.zeros(1, len(self._layers))
        self._usual = logs.median(0).values  # (L,)
        deviation = 1.4826 * (logs - self._usual).abs().median(0).values
        self._most = (_DEVIATIONS * deviation).clamp(min=math.log(_FACTOR))
        self._digests: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
        self._alive: list[np.ndarray[Any, np.dtype[np.bool_]]] = []

    def add(self, item_ids: Sequence[str], features: Tensor, mask: Tensor) -> None:
        """Look at a batch.

        Args:
            item_ids: ``n`` ids.
            features: As stored, ``(n, L, S, D)``.
            mask: bool ``(n, S)``.
        """
        self.looked_at += len(item_ids)
        values = features.float()
        size, spread = _size_and_spread(values)  # (n, L, S) both
        valid = mask[:, None, :]
        dead = ~mask.any(1)
        zero = (valid & (size == 0)).any(2).any(1)
        constant = (valid & (size > 0) & (spread <= _FLAT * size)).any(2).any(1)
        self._note("no_slot", dead, item_ids)
        self._note("zero", zero, item_ids)
        self._note("constant", constant, item_ids)
        norms = torch.linalg.vector_norm(pooled(values, mask), dim=-1)  # (n, L)
        off = norms.log() - self._usual
        unusual = (off.abs() > self._most) & norms.isfinite() & (norms > 0)
        self._note("norm", unusual.any(1), item_ids, unusual=unusual, norms=norms, off=off)
        self._digests.append(_digests(features, mask))
        self._alive.append((size > 0).any(2).any(1).numpy())

    def duplicates(self) -> list[list[int]]:
        """Groups of rows, by place, that are equal in every bit; rows of zeros are left out."""
        if not self._digests:
            return []
        digests = np.concatenate(self._digests)  # (n, 2)
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        order = order[np.concatenate(self._alive)[order]]
        if not len(order):
            return []
        new = (digests[order[1:]] != digests[order[:-1]]).any(1)
        starts = np.flatnonzero(np.concatenate([[True], new]))
        sizes = np.diff(np.append(starts, len(order)))
        groups = [
            sorted(order[start : start + size].tolist())
            for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True)
        ]
        return sorted(groups, key=lambda group: (-len(group), group))

    def _note(
        self,
        finding: str,
        rows: Tensor,
        item_ids: Sequence[str],
        *,
        unusual: Tensor | None = None,
        norms: Tensor | None = None,
        off: Tensor | None = None,
    ) -> None:
        places = rows.nonzero().flatten().tolist()
        self.counts[finding] += len(places)
        kept = self.examples[finding]
        for place in places[: max(0, self._listed - len(kept))]:
            example: dict[str, Any] = {"item_id": item_ids[place]}
            if unusual is not None and norms is not None and off is not None:
                worst = int(torch.where(unusual[place], off[place].abs(), -1).argmax())
                example |= {
                    "layer": self._layers[worst],
                    "norm": float(f"{norms[place, worst].item():.5g}"),
                    "usual": float(f"{self._usual[worst].exp().item():.5g}"),
                }
            kept.append(example)


def _size_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square and standard deviation over D of ``(n, L, S, D)``, each ``(n, L, S)``."""
    size = torch.linalg.vector_norm(values, dim=-1) / math.sqrt(values.shape[-1])
    spread = (size.square() - values.mean(-1).square()).clamp(min=0).sqrt()
    # That difference is rounding where the spread is small, and torch's own is twenty times slower:
    # only what looks flat is measured again.
    doubtful = spread < 0.05 * size
    if doubtful.any():
        spread[doubtful] = values[doubtful].double().std(-1, correction=0).float()
    return size, spread


def _digests(features: Tensor, mask: Tensor) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """128 bits of every row's features and mask, ``(n, 2)``."""
    bits = features.contiguous().view(torch.uint8).flatten(1).numpy()
    joined = bytearray()
    for row, flags in zip(bits, mask.numpy(), strict=True):
        digest = hashlib.blake2b(row.data, digest_size=16)
        digest.update(flags.tobytes())
        joined += digest.digest()
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)
