"""A layer left out of a trained encoder, without training anew, and what that does to rankings.

Letters: B items of a chunk, N items, L layers, U users.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning as pl
import torch
from torch import Tensor, nn

from linkedout_lightning.data import InteractionDataModule
from linkedout_lightning.data.batches import EvalBatch
from linkedout_lightning.encoders import LinkedOutItemEncoder
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.evaluation.metrics import UserRanks
from linkedout_lightning.fusion.fusers import Fused
from linkedout_lightning.sequence import SequentialRecommender


class _Loader:
    """Batches as one loader: Lightning takes a list for a list of loaders."""

    def __init__(self, batches: Sequence[EvalBatch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[EvalBatch]:
        return iter(self._batches)


def renormalised(weights: Tensor, layer: int, *, top_k: int | None = None) -> Tensor:
    """Shares of the layers that remain when one is taken away.

    Args:
        weights: ``(B, L)``, rows sum to 1; of a gate with ``top_k`` those before the choice.
        layer: Position of the layer on the L axis.
        top_k: How many of the remaining layers an item keeps; None: all.

    Returns:
        ``(B, L)``, zero for the layer, rows sum to 1. An item that the layer had all to itself
        shares evenly.

    Example:
        >>> renormalised(torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]), 0)
        tensor([[0.0000, 0.6000, 0.4000],
                [0.0000, 0.5000, 0.5000]])
    """
    kept = torch.ones_like(weights)
    kept[:, layer] = 0
    rest = weights * kept
    if top_k is not None and top_k < weights.shape[1] - 1:
        # The layer itself must not be among the chosen, even where all others weigh nothing.
        best = rest.masked_fill(kept == 0, -1.0).topk(top_k, dim=1).indices
        kept = torch.zeros_like(kept).scatter(1, best, 1.0)
        rest = weights * kept
    total = rest.sum(1, keepdim=True)
    even = kept / kept.sum(1, keepdim=True)
    return torch.where(total > 0, rest / total.clamp(min=torch.finfo(rest.dtype).tiny), even)


class Without(nn.Module):
    """A fuser that weighs one layer with nothing.

    Args:
        fuser: One whose vector is the weighted sum of the layers.
        layer: Position of the layer.
    """

    def __init__(self, fuser: nn.Module, layer: int) -> None:
        super().__init__()
        self.fuser, self.layer = fuser, layer

    def forward(self, experts: Tensor) -> Fused:
        """``(L, B, H)`` to the vectors of the remaining layers."""
        fused: Fused = self.fuser(experts)
        weights = fused.weights if fused.dense is None else fused.dense
        if weights is None:
            raise ConfigError("only a fuser with a weight a layer can leave one out")
        weights = renormalised(weights, self.layer, top_k=getattr(self.fuser, "top_k", None))
        return Fused((experts * weights.T.unsqueeze(-1)).sum(0), weights)


def can_leave_out(encoder: nn.Module) -> bool:
    """Whether the item's content is a weighted sum of at least two different layers."""
    return (
        isinstance(encoder, LinkedOutItemEncoder)
        and len(set(encoder.layers)) > 1
        and type(encoder.fuser).__name__ in ("MoEFuser", "MeanFuser", "WeightedSumFuser")
    )


@contextmanager
def left_out(encoder: LinkedOutItemEncoder, layer: int) -> Iterator[None]:
    """The encoder without one of its layers, for as long as the block lasts.

    Args:
        encoder: One that :func:`can_leave_out` is true of.
        layer: Position of the layer.
    """
    whole = encoder.fuser
    encoder.fuser = Without(whole, layer)
    try:
        yield
    finally:
        encoder.fuser = whole


def rank_test_users(
    model: SequentialRecommender,
    questions: Sequence[EvalBatch],
    *,
    accelerator: str = "auto",
) -> UserRanks:
    """Ranks of test users, exactly as the comparison's own test makes them.

    Args:
        model: The model, in evaluation mode.
        questions: From :func:`questions_of_test`.
        accelerator: Lightning's accelerator.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.test(model, dataloaders=_Loader(questions), verbose=False)
    assert model.test_ranks is not None
    return UserRanks(model.test_ranks.users.cpu(), model.test_ranks.ranks.cpu())


def questions_of_test(
    data: InteractionDataModule, *, users: int = 0, seed: int = 0
) -> list[EvalBatch]:
    """The batches of the test, or those of users drawn at random.

    Args:
        data: Set up.
        users: How many; 0 for all.
        seed: Of the draw.
    """
    batches = list(data.test_dataloader())
    everybody = torch.cat([batch.users for batch in batches]).sort().values
    if not 0 < users < len(everybody):
        return batches
    generator = torch.Generator().manual_seed(seed)
    drawn = everybody[torch.randperm(len(everybody), generator=generator)[:users]]
    kept = [(batch, torch.isin(batch.users, drawn)) for batch in batches]
    return [EvalBatch(*(t[some] for t in batch)) for batch, some in kept if bool(some.any())]


def targets_of(questions: Sequence[EvalBatch]) -> Tensor:
    """``(U,)`` int64, each user's target, ordered by user as the ranks are."""
    users = torch.cat([batch.users for batch in questions])
    targets = torch.cat([batch.target for batch in questions])
    return targets[users.argsort(stable=True)]
