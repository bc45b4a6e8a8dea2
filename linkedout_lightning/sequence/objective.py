"""A batch's loss: which items a step needs, each encoded once, and what is made of them.

``B`` batch, ``M`` inputs, ``P`` real positions, ``C`` items of a step, ``N`` items, ``H`` item dim.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linkedout_lightning.encoders.protocol import ItemEncoder
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.sequence.losses import full_loss, in_batch_loss, sampled_loss
from linkedout_lightning.sequence.negatives import NegativeSampler

LOSSES = ("full", "in_batch", "sampled")
CANDIDATES = ("all", "trained")


class BatchLoss(NamedTuple):
    """A loss and what it is a mean over.

    Attributes:
        value: Scalar.
        positions: Count of real positions, ``P``.
    """

    value: Tensor
    positions: int


class NextItemObjective(nn.Module):
    """Loss of next-item prediction over padded batches of item indices.

    Args:
        loss: ``"full"``, ``"in_batch"`` or ``"sampled"``.
        num_items: Size of the catalogue, ``N``.
        counts: ``(N + 1,)`` training counts; may follow later through :meth:`use_counts`.
        negatives: Draws a batch, for ``sampled``.
        negative_sampling: ``"uniform"`` or ``"popularity"``.
        candidates: ``"all"``, or ``"trained"``: items without a training interaction are no
            candidates of ``full`` and no negatives of ``sampled``. They are never a target, so as
            candidates they are only ever pushed down, with all new items that resemble them.
            ``in_batch`` never has them.
        chunk_size: Rows of the softmax in memory at a time; by default what fits a cache.

    Raises:
        ConfigError: An argument is not usable.
    """

    log_popularity: Tensor | None
    trained: Tensor | None
    column: Tensor | None

    def __init__(
        self,
        loss: str,
        *,
        num_items: int,
        counts: Tensor | None = None,
        negatives: int = 2048,
        negative_sampling: str = "uniform",
        candidates: str = "all",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ConfigError(f"unknown loss {loss!r}; give one of {', '.join(LOSSES)}")
        if candidates not in CANDIDATES:
            raise ConfigError(
                f"`candidates` is {candidates!r}; give one of {', '.join(CANDIDATES)}"
            )
        self.candidates = candidates
        self.loss, self.num_items, self.chunk_size = loss, num_items, chunk_size
        self.negatives, self.negative_sampling = negatives, negative_sampling
        for name in ("log_popularity", "trained", "column"):
            self.register_buffer(name, None, persistent=False)
        self.sampler: NegativeSampler | None = None
        if counts is not None:
            self.use_counts(counts)
        elif loss == "sampled" and negative_sampling != "popularity" and candidates == "all":
            self.sampler = NegativeSampler(num_items, draws=negatives, sampling=negative_sampling)

    @property
    def needs_counts(self) -> bool:
        """Whether training counts are still to be given."""
        return (
            (self.loss == "in_batch" and self.log_popularity is None)
            or (self.loss == "sampled" and self.sampler is None)
            or (self.loss == "full" and self.candidates == "trained" and self.trained is None)
        )

    def use_counts(self, counts: Tensor, device: torch.device | None = None) -> None:
        """Take the training counts ``(N + 1,)``, the padding's first.

        Raises:
            ConfigError: They are of another catalogue.
        """
        if counts.shape != (self.num_items + 1,):
            raise ConfigError(
                f"`item_counts` must be (N + 1,) = ({self.num_items + 1},), with the padding's "
                f"count first, got {tuple(counts.shape)}"
            )
        if self.loss == "in_batch":
            known = counts.double().clamp(min=1)  # an item that was never counted occurs once
            log_popularity = (known / counts[1:].sum().clamp(min=1)).log().float()
            log_popularity[0] = torch.inf  # padding is no candidate
            self.log_popularity = log_popularity.to(device)
        elif self.loss == "sampled":
            sampler = NegativeSampler(
                self.num_items,
                draws=self.negatives,
                sampling=self.negative_sampling,
                counts=counts,
                trained_only=self.candidates == "trained",
            )
            self.sampler = sampler.to(device)
        elif self.candidates == "trained":
            known = counts.clone()
            known[0] = 0
            trained = known.nonzero().squeeze(1)  # (C,)
            column = torch.zeros(self.num_items + 1, dtype=torch.int64)
            column[trained] = torch.arange(1, len(trained) + 1)
            self.trained, self.column = trained.to(device), column.to(device)

    def forward(self, encoder: ItemEncoder, backbone: nn.Module, items: Tensor) -> BatchLoss:
        """Loss of a batch ``items`` ``(B, M + 1)`` int64, left-padded with 0."""
        inputs, targets = items[:, :-1], items[:, 1:]
        real = ((inputs != 0) & (targets != 0)).flatten().nonzero().squeeze(1)  # (P,)
        if self.loss == "full":
            table = encoder.all_items()  # (N + 1, H)
            states = _states(backbone, table, items, real)
            target = targets.flatten()[real]
            if self.trained is not None and self.column is not None:
                table = torch.cat([table[:1], table.index_select(0, self.trained)])  # (C + 1, H)
                target = self.column[target]
            value = full_loss(states, table, target, chunk_size=self.chunk_size)
        elif self.loss == "in_batch":
            value = self._in_batch(encoder, backbone, items, real)
        else:
            value = self._sampled(encoder, backbone, items, real)
        return BatchLoss(value, len(real))

    def _in_batch(
        self, encoder: ItemEncoder, backbone: nn.Module, items: Tensor, real: Tensor
    ) -> Tensor:
        assert self.log_popularity is not None
        distinct, columns, copies = torch.unique(items, return_inverse=True, return_counts=True)
        vectors = encoder(distinct)  # (C, H)
        return in_batch_loss(
            _states(backbone, vectors, columns, real, items[:, :-1] != 0),
            vectors,
            columns[:, 1:].flatten()[real],
            log_popularity=self.log_popularity[distinct],
            multiplicity=copies,
            own_columns=columns[real // (items.shape[1] - 1)],
            chunk_size=self.chunk_size,
        )

    def _sampled(
        self, encoder: ItemEncoder, backbone: nn.Module, items: Tensor, real: Tensor
    ) -> Tensor:
        assert self.sampler is not None
        drawn = self.sampler()
        wanted = torch.cat([items.flatten(), drawn.items])
        distinct, where = torch.unique(wanted, return_inverse=True)
        vectors = encoder(distinct)  # (C, H)
        columns = where[: items.numel()].view_as(items)
        return sampled_loss(
            _states(backbone, vectors, columns, real, items[:, :-1] != 0),
            vectors.index_select(0, columns[:, 1:].flatten()[real]),
            vectors.index_select(0, where[items.numel() :]),
            target=items[:, 1:].flatten()[real],
            negative_items=drawn.items,
            log_expected=drawn.log_expected,
        )


def _states(
    backbone: nn.Module,
    vectors: Tensor,
    columns: Tensor,
    real: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """``(P, H)`` states at the real positions of ``columns`` ``(B, M + 1)`` into ``vectors``."""
    inputs = columns[:, :-1]
    states = backbone(F.embedding(inputs, vectors), inputs != 0 if mask is None else mask)
    flat: Tensor = states.flatten(0, 1).index_select(0, real)
    return flat
