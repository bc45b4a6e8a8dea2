"""Item vectors in memory: float32, float16 or int8, and products with them.

``B`` queries, ``n`` items, ``H`` item dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.serving.manifest import DTYPES

_TORCH = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}


@dataclass(frozen=True)
class VectorTable:
    """``n`` vectors.

    int8 keeps, for each item, a scale and ``H`` whole numbers from −127 to 127: an error of at most
    half a scale a coordinate, which is 1/254 of the item's largest one.

    Args:
        values: ``(n, H)`` float32, float16 or int8, contiguous.
        scale: ``(n,)`` float32 for int8, otherwise None.
    """

    values: Tensor
    scale: Tensor | None = None

    @classmethod
    def of(cls, vectors: Tensor, dtype: str = "float32") -> Self:
        """Keep float32 ``(n, H)`` vectors as ``dtype``.

        Raises:
            ConfigError: An unknown dtype.

        Example:
            >>> table = VectorTable.of(torch.tensor([[1.0, -0.5]]), "int8")
            >>> table.values.tolist()
            [[127, -64]]
        """
        check_dtype(dtype)
        vectors = vectors.detach().float().contiguous()
        if dtype != "int8":
            return cls(vectors.to(_TORCH[dtype]))
        largest = vectors.abs().amax(1)
        # A zero vector has no scale of its own; one keeps it zero.
        scale = torch.where(largest > 0, largest, torch.full_like(largest, 127.0)) / 127
        return cls((vectors / scale[:, None]).round().to(torch.int8), scale)

    @property
    def dtype(self) -> str:
        """Name of the numbers' type."""
        return str(self.values.dtype).removeprefix("torch.")

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(t.nbytes for t in (self.values, self.scale) if t is not None)

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Tensor) -> Tensor:
        """Vectors of some rows, float32 ``(len(rows), H)``."""
        taken = self.values.index_select(0, rows).float()
        return taken if self.scale is None else taken * self.scale.index_select(0, rows)[:, None]

    def all(self) -> Tensor:
        """All vectors, float32 ``(n, H)``."""
        return self.span(0, len(self))

    def span(self, start: int, stop: int) -> Tensor:
        """Vectors of neighbouring rows, float32; of a float32 table a view."""
        part = self.values[start:stop].float()
        return part if self.scale is None else part * self.scale[start:stop, None]

    def scores(self, queries: Tensor, start: int, stop: int) -> Tensor:
        """Dot products of float32 ``(B, H)`` queries with some rows, float32 ``(B, rows)``."""
        part = self.values[start:stop]
        if self.scale is None:
            return queries @ part.float().T
        # The scale after the product: one multiplication an item in place of H.
        return (queries @ part.float().T).mul_(self.scale[start:stop])

    def joined(self, other: VectorTable) -> VectorTable:
        """This table with another of its dtype below it, in new memory."""
        scale = None
        if self.scale is not None and other.scale is not None:
            scale = torch.cat([self.scale, other.scale])
        return VectorTable(torch.cat([self.values, other.values]), scale)

    def kept(self, rows: Tensor) -> VectorTable:
        """Some of the rows, in new memory."""
        scale = None if self.scale is None else self.scale.index_select(0, rows)
        return VectorTable(self.values.index_select(0, rows), scale)


def check_dtype(dtype: str) -> str:
    """Refuse what is no dtype of item vectors.

    Raises:
        ConfigError: It is none.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"`dtype` is {dtype!r}; give one of {', '.join(DTYPES)}")
    return dtype
