"""An item table that looks like ``nn.Embedding`` and gets its rows from an item encoder.

``N`` items, ``V`` rows (padding and items, and extra tokens such as [MASK]), ``H`` width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError


class ItemTable(nn.Module):
    """Stands where a model kept its ``nn.Embedding`` of items.

    Inside :meth:`held` the rows are computed at the first use and kept until the end, so that a
    training step encodes the catalogue once however often the model looks items up. Outside, with
    no gradient wanted and the module in evaluation, they are kept for as long as no parameter
    changes: one encoding an evaluation. In all other cases each use computes them anew. The rows
    are computed, so writing into :attr:`weight` does not last.

    Args:
        encoder: An item encoder of N items; ``all_items()`` gives ``(N + 1, H)``.
        like: The embedding that is replaced, of V rows.

    Raises:
        ConfigError: The encoder is of another width or of more items than the embedding.
    """

    def __init__(self, encoder: nn.Module, *, like: nn.Embedding) -> None:
        super().__init__()
        dim, items = int(encoder.dim), int(encoder.num_items)  # type: ignore[arg-type]
        extra = like.num_embeddings - (items + 1)
        if dim != like.embedding_dim or extra < 0:
            raise ConfigError(
                f"the item encoder gives {items} items of width {dim}; the model's table has "
                f"{like.num_embeddings - 1} items of width {like.embedding_dim}"
            )
        self.encoder = encoder
        self.num_embeddings, self.embedding_dim = like.num_embeddings, like.embedding_dim
        self.padding_idx = like.padding_idx
        #: Read by models that tie their output layer to the table.
        self.bias: Tensor | None = None
        #: Rows that no item has, such as that of a [MASK] token.
        self.extra: nn.Parameter | None = None
        if extra:
            self.extra = nn.Parameter(like.weight.detach()[-extra:].clone())
        #: How often the whole catalogue was encoded so far.
        self.encodings = 0
        self._kept = _Kept()

    @property
    def weight(self) -> Tensor:
        """``(V, H)``."""
        kept = self._kept
        if kept.depth:
            if kept.rows is None:
                kept.rows = self._encode()
            return kept.rows
        if not self.keeps:
            return self._encode()
        state = self._state()
        if kept.rows is None or kept.made_from != state:
            kept.rows, kept.made_from = self._encode(), state
        return kept.rows

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise AttributeError(
                "the rows of an item table come from its item encoder and cannot be set; train or "
                "load the encoder's own parameters"
            )
        super().__setattr__(name, value)

    @property
    def keeps(self) -> bool:
        """Whether rows outlive their use: in evaluation, where no gradient is wanted."""
        return not (self.training or torch.is_grad_enabled())

    def forward(self, ids: Tensor) -> Tensor:
        """``(…)`` ids to ``(…, H)``."""
        return nn.functional.embedding(ids, self.weight, padding_idx=self.padding_idx)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Compute the rows once for all uses inside; may be nested."""
        kept = self._kept
        if not kept.depth:
            kept.rows = kept.made_from = None
        kept.depth += 1
        try:
            yield
        finally:
            kept.depth -= 1
            if not kept.depth:
                kept.rows = None  # and with it the graph

    def auxiliary_loss(self) -> Tensor | None:
        """What the encoder adds to the loss of the step at hand.

        None outside :meth:`held`, and where nobody has looked an item up in it: the encoder then
        remembers an earlier step, whose graph is gone.
        """
        used = self._kept.depth and self._kept.rows is not None
        return auxiliary_loss(self.encoder) if used else None

    def extra_repr(self) -> str:
        """The sizes, shown by ``print(model)``."""
        return f"{self.num_embeddings}, {self.embedding_dim}"

    def _encode(self) -> Tensor:
        self.encodings += 1
        rows: Tensor = self.encoder.all_items()  # type: ignore[operator]
        if self.extra is not None:
            rows = torch.cat([rows, self.extra.to(rows.dtype)])
        if torch.is_autocast_enabled(rows.device.type):
            # A table of parameters stays as it is under autocast, and models count on that.
            own = next(self.parameters(), rows)
            rows = rows.to(own.dtype)
        return rows

    def _state(self) -> tuple[Any, ...]:
        tensors = (*self.parameters(), *self.buffers())
        # Rows made in inference mode are of no use outside, nor autocast's coarser ones.
        modes = (
            torch.is_inference_mode_enabled(),
            any(torch.is_autocast_enabled(kind) for kind in {t.device.type for t in tensors}),
        )
        return (modes, *((id(t), t._version, t.data_ptr(), t.device) for t in tensors))


class _Kept:
    """Rows that are kept for a while; a plain object, so that no module registers them.

    Attributes:
        rows: ``(V, H)``.
        made_from: State of the parameters that they were made from.
        depth: How often :meth:`ItemTable.held` was entered.
    """

    rows: Tensor | None = None
    made_from: object = None
    depth: int = 0

    def __deepcopy__(self, memo: object) -> _Kept:
        return _Kept()  # rows may belong to a graph, which cannot be copied

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()


class IdentityEncoder(nn.Module):
    """A trainable copy of a model's own item table; the oracle of the exactness tests.

    Args:
        rows: ``(N + 1, H)``, as the model initialised them, the padding's row too.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.num_items, self.dim = len(rows) - 1, rows.shape[1]
        self.weight = nn.Parameter(rows.detach().clone())

    def forward(self, item_index: Tensor) -> Tensor:
        """``(…)`` to ``(…, H)``."""
        return nn.functional.embedding(item_index, self.weight)

    def all_items(self) -> Tensor:
        """``(N + 1, H)``; the padding's row is what RecBole made of it."""
        return self.weight


class Projected(nn.Module):
    """An item encoder followed by a linear map to the width that a model wants.

    Args:
        encoder: An item encoder of width ``encoder.dim``.
        dim: Width wanted.
    """

    def __init__(self, encoder: nn.Module, dim: int) -> None:
        super().__init__()
        self.encoder, self.dim = encoder, dim
        self.num_items = int(encoder.num_items)  # type: ignore[arg-type]
        self.projection = nn.Linear(int(encoder.dim), dim, bias=False)  # type: ignore[arg-type]

    def forward(self, item_index: Tensor) -> Tensor:
        """``(…)`` to ``(…, dim)``."""
        projected: Tensor = self.projection(self.encoder(item_index))
        return projected

    def all_items(self) -> Tensor:
        """``(N + 1, dim)``; row 0 is zero, as the map has no bias."""
        projected: Tensor = self.projection(self.encoder.all_items())  # type: ignore[operator]
        return projected

    def auxiliary_loss(self) -> Tensor | None:
        """That of the encoder."""
        return auxiliary_loss(self.encoder)


def auxiliary_loss(encoder: nn.Module) -> Tensor | None:
    """What an encoder adds to the loss; None for encoders that add nothing."""
    wanted = getattr(encoder, "auxiliary_loss", None)
    found: Tensor | None = wanted() if callable(wanted) else None
    return found


@contextmanager
def all_held(tables: Iterable[ItemTable]) -> Iterator[None]:
    """Inside, each table computes its rows once."""
    with ExitStack() as stack:
        for table in tables:
            stack.enter_context(table.held())
        yield
