"""A catalogue's frozen features: read from a store, whitened once, kept as tokens.

Letters: n items of a chunk, N items, L layers, S slots, D LLM hidden size, R whitened rank. A row
is an item's position in the catalogue, from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from linkedout_lightning.encoders.frozen import FrozenTokens
from linkedout_lightning.encoders.sources import FeatureStoreLike
from linkedout_lightning.errors import ConfigError, DataError, NonFiniteError, UnknownItemError
from linkedout_lightning.fusion.whitening import Whitening

MISSING = ("error", "zero", "mean")
# Raw features held at once, counted as float32.
CHUNK_BYTES = 64 << 20


class Chunk(NamedTuple):
    """Features of some catalogue rows.

    Attributes:
        features: ``(n, L, S, D)``; zero for items that the store lacks.
        mask: ``(n, S)`` bool; False for items that the store lacks.
        present: ``(n,)`` bool, whether the store has the item.
    """

    features: Tensor
    mask: Tensor
    present: Tensor


class CatalogueFeatures:
    """A catalogue's features, read from a store in chunks of bounded memory.

    Args:
        store: A feature store.
        item_ids: N ids; row r of the catalogue is ``item_ids[r]``.
        positions: Which of the store's layers make the L axis, in that order; may repeat.
        missing: ``error``, or what an item shows that the store lacks: ``zero`` no valid slot,
            ``mean`` the mean of the training items.

    Raises:
        UnknownItemError: The store lacks items and ``missing`` is ``error``, or it lacks all.
        ConfigError: An unknown ``missing``.
    """

    def __init__(
        self,
        store: FeatureStoreLike,
        item_ids: Sequence[str],
        *,
        positions: Sequence[int],
        missing: str = "error",
    ) -> None:
        if missing not in MISSING:
            raise ConfigError(f"`missing` is {missing!r}; give one of {', '.join(MISSING)}")
        stored = set(store.item_ids)
        absent = [i for i in item_ids if i not in stored]
        if absent and missing == "error":
            raise UnknownItemError(
                absent,
                "the feature store; extract them, or say with missing='zero' or missing='mean' "
                "what such items show",
            )
        if len(absent) == len(item_ids):
            raise UnknownItemError(absent, "the feature store: it has none of the catalogue")
        self.missing, self.absent = missing, frozenset(absent)
        self.item_ids = list(item_ids)
        self._store, self._positions = store, list(positions)
        #: Of the features, as the store has them.
        self.spec = spec = store.spec
        self._shape = (len(spec.layers), len(spec.slots), int(spec.hidden_size))
        # Layers to read, each once, and where each position is among them.
        read = sorted(set(positions))
        self._partial = len(read) < len(spec.layers) and "layers" in signature(store.get).parameters
        self._read_layers = [spec.layers[position] for position in read]
        self._places = [read.index(position) for position in positions]

    def __deepcopy__(self, memo: dict[int, object]) -> CatalogueFeatures:
        return self  # read-only, and a copy of a store or of its tensors is never wanted

    def __len__(self) -> int:
        return len(self.item_ids)

    def chunks(self, rows: Sequence[int]) -> Iterator[Chunk]:
        """The features of ``rows``, piece by piece in that order."""
        layers, slots, hidden = self._shape
        layers = max(len(self._positions), len(self._read_layers) if self._partial else layers)
        step = max(1, CHUNK_BYTES // (layers * slots * hidden * 4))
        for start in range(0, len(rows), step):
            yield self._read([self.item_ids[row] for row in rows[start : start + step]])

    def select(self, features: Tensor) -> Tensor:
        """The layers in use of features as the store has them, ``(n, L', S, D)``."""
        if features.dim() != 4 or features.shape[1:] != self._shape:
            layers, slots, hidden = self._shape
            raise DataError(
                f"features have shape {tuple(features.shape)}; expected (n, {layers}, {slots}, "
                f"{hidden}) as in the store: items, layers, token slots, hidden size"
            )
        return _at(features, self._positions)

    def _read(self, ids: list[str]) -> Chunk:
        present = torch.tensor([i not in self.absent for i in ids], dtype=torch.bool)
        if bool(present.all()):
            return Chunk(*self._get(ids), present)
        _, slots, hidden = self._shape
        features = torch.zeros(len(ids), len(self._positions), slots, hidden)
        mask = torch.zeros(len(ids), slots, dtype=torch.bool)
        if bool(present.any()):
            found, valid = self._get([i for i in ids if i not in self.absent])
            features[present], mask[present] = found.float().cpu(), valid.cpu()
        return Chunk(features, mask, present)

    def _get(self, ids: list[str]) -> tuple[Tensor, Tensor]:
        """Features ``(n, L, S, D)`` of the layers in use, and mask ``(n, S)``, from the store."""
        if not self._partial:
            features, mask = self._store.get(ids)
            return self.select(features), mask
        store: Any = self._store
        features, mask = store.get(ids, layers=self._read_layers)
        return _at(features, self._places), mask


def _at(features: Tensor, layers: list[int]) -> Tensor:
    """Features at these places of the layer axis, without a copy where they are all of it."""
    return features if layers == list(range(features.shape[1])) else features[:, layers]


class TokenTable:
    """The catalogue's tokens under a whitening, made when they are first needed.

    A copy of the table shares the source and the tokens, and goes its own way from there.

    Args:
        source: The catalogue's features.
        fit_rows: Rows of the training items, on which the whitening is fitted.
        dtype: Of the tokens in memory.
    """

    def __init__(
        self, source: CatalogueFeatures, *, fit_rows: Sequence[int], dtype: torch.dtype
    ) -> None:
        self.source, self.dtype = source, dtype
        self._fit_rows = fit_rows
        self._tokens: FrozenTokens | None = None
        self._revision = -1

    def fit(self, whitening: Whitening) -> None:
        """Fit ``whitening`` on the training items, unless it has statistics."""
        if not whitening.fitted:
            chunks = self.source.chunks(self._fit_rows)
            # Lightning's sanity check may be the first use, and what is made in inference mode
            # can never be part of a graph afterwards.
            with torch.inference_mode(False), torch.no_grad():
                whitening.fit((chunk.features, chunk.mask) for chunk in chunks)

    def tokens(self, whitening: Whitening) -> FrozenTokens:
        """The tokens under the statistics that ``whitening`` has now."""
        self.fit(whitening)
        if self._tokens is None or self._revision != whitening.revision:
            with torch.inference_mode(False), torch.no_grad():
                self._tokens = self._reduce(whitening)
            self._revision = whitening.revision
        return self._tokens

    def _reduce(self, whitening: Whitening) -> FrozenTokens:
        count = len(self.source)
        tokens = torch.zeros(
            whitening.layers, count + 1, whitening.slots, whitening.rank, dtype=self.dtype
        )
        mask = torch.zeros(count + 1, whitening.slots, dtype=torch.bool)
        start = 1  # row 0 is the padding's
        for chunk in self.source.chunks(range(count)):
            stop = start + len(chunk.mask)
            z = whitening(chunk.features, chunk.mask)  # (L, n, S, R)
            broken = ~torch.isfinite(z).all(-1).all(-1).all(0)
            if broken.any():
                names = [self.source.item_ids[start - 1 + int(r)] for r in broken.nonzero()[:5]]
                raise NonFiniteError(f"features hold NaN or infinity: items {', '.join(names)}")
            tokens[:, start:stop] = z
            mask[start:stop] = chunk.mask
            if self.source.missing == "mean":
                mask[start:stop] |= ~chunk.present.unsqueeze(-1)  # zero is the whitened mean
            start = stop
        return FrozenTokens(tokens, mask)
