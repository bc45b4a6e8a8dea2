"""Train and evaluate a sequence model over item vectors with Lightning.

``B`` batch, ``M`` inputs, ``N`` items, ``H`` item dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linkedout_lightning.data.batches import EvalBatch, TrainBatch
from linkedout_lightning.encoders.calibration import CALIBRATIONS, calibrated, cold_items
from linkedout_lightning.encoders.protocol import ItemEncoder
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.evaluation.metrics import RankingMetrics, UserRanks
from linkedout_lightning.evaluation.ranks import target_ranks
from linkedout_lightning.sequence.backbones import build_backbone, last_state
from linkedout_lightning.sequence.cold import (
    ColdChoice,
    ColdTradeOff,
    Lift,
    of_other_calibration,
    warn_nothing_to_measure,
)
from linkedout_lightning.sequence.objective import NextItemObjective
from linkedout_lightning.sequence.optimizers import adamw_with_warmup

_CPU_CELLS, _GPU_CELLS = 1 << 22, 1 << 28


class SequentialRecommender(pl.LightningModule):
    """Next-item recommendation: an item encoder, a sequence backbone and a softmax loss.

    A training step encodes each item that it needs once: the distinct items of the batch (and the
    negatives of ``sampled``), or the whole catalogue for ``full``. An evaluation encodes the
    catalogue once, ranks all of it for every user and drops it.

    Logged: ``train/loss``; ``val/HR@10``, ``val/NDCG@10``, ``val/MRR@10`` and so on for each
    cut-off; the same under ``test/``, and by slice as ``test/cold/HR@10``. After a test,
    :attr:`test_ranks` holds each user's rank.

    Checkpoints hold weights and the arguments below, without the encoder object and without its
    features: ``SequentialRecommender.load_from_checkpoint(path, item_encoder=encoder)``. A run
    resumed at the end of an epoch gives the weights of an undisturbed one, dropout included: each
    epoch's noise is drawn from a seed of its own.

    Args:
        item_encoder: Module with ``forward(index)``, ``all_items()``, ``dim`` and ``num_items``.
        backbone: ``"sasrec"``, ``"gru4rec"``, ``"nextitnet"``, or a module from item vectors
            ``(B, M, H)`` and mask ``(B, M)`` to states ``(B, M, H)``.
        loss: ``"full"`` (softmax over the catalogue), ``"in_batch"`` (MicroLens': over the batch's
            items, corrected for popularity) or ``"sampled"`` (over shared negatives, corrected).
        max_len: Longest input, ``M``.
        lr: Learning rate of AdamW.
        encoder_lr: Another learning rate for the item encoder.
        weight_decay: On all parameters, as MicroLens has it.
        warmup_steps: Steps over which the learning rates rise linearly; constant afterwards.
        dropout: Dropout of a backbone given by name.
        backbone_options: Further arguments of a backbone given by name: ``blocks``, ``heads``;
            ``hidden``, ``layers``; ``blocks``, ``dilations``, ``kernel``.
        item_counts: ``(N + 1,)`` training interactions by item, for ``in_batch``, for negatives by
            popularity and for ``candidates="trained"``. By default the data module's
            ``train_counts``.
        negatives: Draws a batch for ``sampled``.
        negative_sampling: ``"uniform"`` or ``"popularity"``.
        candidates: ``"all"``, or ``"trained"``: items without a training interaction are neither
            candidates of ``full`` nor negatives of ``sampled``, which would only push cold items
            down.
        chunk_size: Rows of the softmax in memory at a time; by default what fits a cache.
        cold_calibration: What a ranking does with the vectors of items without an ID of their own:
            ``"none"``; ``"moments"``, which brings them to the mean and spread that trained items
            have (:mod:`linkedout_lightning.encoders.calibration`); or ``"budget"``, as far on that
            way as the last validation found affordable, whatever data it had
            (:mod:`linkedout_lightning.sequence.cold`); its own figures are those of ``"none"``.
            For encoders that join an ID to content; inputs and training are the same with all.
        cold_budget: The largest share of their HR@10 (or at the smallest cut-off, without 10) that
            trained items may lose on the validation to ``cold_calibration="budget"``.
        ks: Cut-offs of the metrics.
        slices: Name to ``(N + 1,)`` bool of target items, for the test metrics. By default the
            data module's ``popularity_slices()``.

    Raises:
        ConfigError: An argument is not usable.

    Example:
        >>> from linkedout_lightning import IDItemEncoder
        >>> model = SequentialRecommender(IDItemEncoder(100, dim=16), max_len=10)
        >>> model.scores(torch.tensor([[0, 3, 7]])).shape
        torch.Size([1, 101])
    """

    def __init__(
        self,
        item_encoder: nn.Module,
        backbone: str | nn.Module = "sasrec",
        *,
        loss: str = "full",
        max_len: int = 50,
        lr: float = 1e-3,
        encoder_lr: float | None = None,
        weight_decay: float = 0.1,
        warmup_steps: int = 0,
        dropout: float = 0.1,
        backbone_options: Mapping[str, Any] | None = None,
        item_counts: Tensor | None = None,
        negatives: int = 2048,
        negative_sampling: str = "uniform",
        candidates: str = "all",
        chunk_size: int | None = None,
        cold_calibration: str = "none",
        cold_budget: float = 0.01,
        ks: Sequence[int] = (10, 20),
        slices: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        _check_encoder(item_encoder)
        if cold_calibration not in CALIBRATIONS:
            raise ConfigError(
                f"`cold_calibration` is {cold_calibration!r}; give one of {', '.join(CALIBRATIONS)}"
            )
        if lr <= 0 or weight_decay < 0 or warmup_steps < 0:
            raise ConfigError(
                "`lr` must be positive, `weight_decay` and `warmup_steps` not negative, "
                f"got {lr}, {weight_decay}, {warmup_steps}"
            )
        ignored = ["item_encoder", "item_counts", "slices"]
        if isinstance(backbone, nn.Module):
            ignored.append("backbone")
        self.save_hyperparameters(ignore=ignored)
        self.item_encoder = item_encoder
        self.backbone = (
            build_backbone(
                backbone,
                self.encoder.dim,
                max_len=max_len,
                dropout=dropout,
                **(backbone_options or {}),
            )
            if isinstance(backbone, str)
            else backbone
        )
        self.objective = NextItemObjective(
            loss,
            num_items=self.num_items,
            counts=item_counts,
            negatives=negatives,
            negative_sampling=negative_sampling,
            candidates=candidates,
            chunk_size=chunk_size,
        )
        self.loss, self.max_len, self.ks = loss, max_len, tuple(ks)
        self.cold_calibration = cold_calibration
        self.slices = dict(slices) if slices is not None else None
        self.val_metrics = RankingMetrics(self.ks)
        self.test_metrics = RankingMetrics(self.ks, self.slices, keep_ranks=True)
        #: What the last validation found about the strength of ``cold_calibration="budget"``.
        self.cold_choice: ColdChoice | None = None
        if cold_calibration == "budget":
            k = 10 if 10 in self.ks else min(self.ks)
            self.cold_trade_off = ColdTradeOff(k=k, budget=cold_budget)
            # Travels with the weights; an integer, which no precision rounds.
            self.register_buffer("cold_step", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_pre_hook(of_other_calibration)  # type: ignore[no-untyped-call]
        #: Users and their ranks, in the order of users, after a test.
        self.test_ranks: UserRanks | None = None
        self._optimizer_options: dict[str, Any] = {
            "lr": lr,
            "encoder_lr": encoder_lr,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
        }
        self._table: Tensor | None = None
        self._candidates: Tensor | None = None
        self._lift: Lift | None = None
        self._seed: int | None = None
        self.example_input_array = torch.arange(2 * max_len).view(2, max_len) % self.num_items + 1

    # ---- item vectors and states ---------------------------------------------------------------

    @property
    def encoder(self) -> ItemEncoder:
        """The item encoder, by its protocol."""
        return cast(ItemEncoder, self.item_encoder)

    @property
    def num_items(self) -> int:
        """``N``, without padding."""
        return self.encoder.num_items

    def item_table(self) -> Tensor:
        """``(N + 1, H)``: all item vectors; during an evaluation, the ones made at its start."""
        return self.encoder.all_items() if self._table is None else self._table

    def candidate_table(self) -> Tensor:
        """``(N + 1, H)``: the vectors that states are multiplied with, cold items calibrated."""
        if self._candidates is not None:
            return self._candidates
        return calibrated(self.item_encoder, self.item_table(), self.calibration_strength)

    @property
    def calibration_strength(self) -> float:
        """How far cold items' vectors are brought to the measure of the others, from 0 to 1."""
        if self.cold_calibration == "budget":
            return self.cold_trade_off.strengths[int(cast(Tensor, self.cold_step))]
        return float(self.cold_calibration == "moments")

    def forward(self, inputs: Tensor) -> Tensor:
        """The same as :meth:`encode_sequences`."""
        return self.encode_sequences(inputs)

    def encode_sequences(self, inputs: Tensor) -> Tensor:
        """``(B, M)`` int64 item indices, left-padded with 0, to user states ``(B, H)``."""
        if not inputs.shape[1]:  # nobody in the batch has a history
            inputs = inputs.new_zeros(len(inputs), 1)
        if self._table is not None:
            vectors = F.embedding(inputs, self._table)
        else:
            items, columns = torch.unique(inputs, return_inverse=True)
            vectors = F.embedding(columns, self.encoder(items))
        return last_state(self.backbone, vectors, inputs != 0)

    def scores(self, inputs: Tensor) -> Tensor:
        """``(B, N + 1)``: dot products with all items; column 0 is padding and means nothing."""
        return _dot(self.encode_sequences(inputs), self.candidate_table().T)

    # ---- training ------------------------------------------------------------------------------

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """Loss over the batch's real positions, plus the encoder's auxiliary loss."""
        del batch_idx
        loss, positions = self.objective(self.encoder, self.backbone, batch.items)
        auxiliary = getattr(self.item_encoder, "auxiliary_loss", lambda: None)()
        self.log(
            "train/loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True,
            batch_size=max(positions, 1), sync_dist=True,
        )  # fmt: skip
        total: Tensor = loss if auxiliary is None else loss + auxiliary
        return total

    def configure_optimizers(self) -> Any:
        """AdamW, its rate constant after an optional warm-up."""
        return adamw_with_warmup(
            self.backbone,
            self.item_encoder,
            **self._optimizer_options,
            # Under mixed precision Lightning refuses to clip gradients for a fused step.
            fused=not (self.trainer.gradient_clip_val and "mixed" in str(self.trainer.precision)),
        )

    # ---- evaluation ----------------------------------------------------------------------------

    def validation_step(self, batch: EvalBatch, batch_idx: int) -> None:
        """Rank the catalogue for the batch's users."""
        del batch_idx
        states = self.encode_sequences(batch.inputs)
        ranks = self._ranks(states, batch)
        self.val_metrics.update(ranks, batch.target, batch.users)
        if self._lift is not None:
            self.cold_trade_off.update(ranks, states, batch, self.item_table(), self._lift)

    def test_step(self, batch: EvalBatch, batch_idx: int) -> None:
        """Rank the catalogue for the batch's users and keep each rank."""
        del batch_idx
        ranks = self._ranks(self.encode_sequences(batch.inputs), batch)
        self.test_metrics.update(ranks, batch.target, batch.users)

    def _ranks(self, states: Tensor, batch: EvalBatch) -> Tensor:
        columns = self.candidate_table().T
        # Scores of a few users at a time stay in the cache between product and comparison, and a
        # large catalogue does not need (B, N + 1) numbers at once.
        budget = _CPU_CELLS if states.device.type == "cpu" else _GPU_CELLS
        users = max(32, budget // columns.shape[1])
        ranks = batch.target.new_empty(len(states))
        for begin in range(0, len(states), users):
            part = slice(begin, begin + users)
            scores = _dot(states[part], columns)
            ranks[part] = target_ranks(scores, batch.target[part], batch.history[part])
        return ranks

    def on_validation_epoch_start(self) -> None:
        """Encode the catalogue."""
        self.val_metrics.reset()  # of a validation that failed half-way
        self._encode_catalogue()
        if self.cold_calibration == "budget":
            self.cold_trade_off.reset()
            self._candidates = table = self.item_table()
            if (cold := cold_items(self.item_encoder)) is not None:
                self._lift = Lift.between(table, calibrated(self.item_encoder, table), cold)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, settle the cold items' strength, forget the catalogue's vectors."""
        if self._lift is not None:
            self.cold_choice = self.cold_trade_off.choose()
            step = self.cold_trade_off.strengths.index(self.cold_choice.strength)
            cast(Tensor, self.cold_step).fill_(step)
        self._table = self._candidates = self._lift = None
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_start(self) -> None:
        """Encode the catalogue."""
        self.test_metrics.reset()
        self._encode_catalogue()

    def on_test_epoch_end(self) -> None:
        """Log the metrics, keep the ranks and forget the catalogue's vectors."""
        self._table = self._candidates = None
        self.test_ranks = self.test_metrics.ranks()
        self._log_metrics("test", self.test_metrics)

    def _encode_catalogue(self) -> None:
        self._table = self._candidates = None
        self._table = self.encoder.all_items()
        self._candidates = self.candidate_table()

    def _log_metrics(self, stage: str, metrics: RankingMetrics) -> None:
        shown = f"{stage}/HR@{self.ks[0]}"
        for name, value in metrics.compute().items():
            name = f"{stage}/{name}"
            # Every process has the same value already; sync_dist only says so to Lightning.
            self.log(name, value, prog_bar=name == shown, sync_dist=True)
        metrics.reset()

    # ---- what the data module knows, and resuming ----------------------------------------------

    def setup(self, stage: str) -> None:
        """Take counts and slices from the data module where they were not given.

        Raises:
            ConfigError: The data module has another catalogue, or the loss lacks its counts.
        """
        # An evaluation that failed may have left them.
        self._table = self._candidates = self._lift = None
        data: Any = getattr(self.trainer, "datamodule", None)
        theirs = getattr(data, "num_items", self.num_items)
        if theirs != self.num_items:
            raise ConfigError(
                f"the item encoder has {self.num_items} items and the data module {theirs}; build "
                "the encoder from the data module's `item_ids` after its setup()"
            )
        if stage == "fit" and self.objective.needs_counts:
            counts = getattr(data, "train_counts", None)
            if counts is None:
                raise ConfigError(
                    f"loss={self.loss!r} needs `item_counts`, the (N + 1,) training counts; pass "
                    "them, or train with an InteractionDataModule, which has them"
                )
            self.objective.use_counts(counts, self.device)
        if self.slices is None and hasattr(data, "popularity_slices"):
            self.slices = dict(data.popularity_slices())
            self.test_metrics = RankingMetrics(self.ks, self.slices, keep_ranks=True)
            self.test_metrics.to(self.device)

    def on_fit_start(self) -> None:
        """Fix the seed of the run's noise, unless a checkpoint brought it."""
        if self._seed is None:
            self._seed = torch.initial_seed() % 2**31
        if self.cold_calibration == "budget" and cold_items(self.item_encoder) is None:
            warn_nothing_to_measure()

    def on_train_epoch_start(self) -> None:
        """Seed the epoch's dropout and negatives, so that a resumed run draws the same ones."""
        assert self._seed is not None
        mixed = (self._seed * 1_000_003 + self.current_epoch) * 1_000_003 + self.global_rank
        torch.manual_seed(mixed % 2**63)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the seed of the run's noise."""
        checkpoint["linkedout_seed"] = self._seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the seed of the run's noise."""
        self._seed = checkpoint.get("linkedout_seed", self._seed)


def _dot(states: Tensor, columns: Tensor) -> Tensor:
    """Product in full precision under autocast too.

    bfloat16 has 8 significant bits, so that thousands of items would tie with a target, and ties
    count against the model.
    """
    with torch.autocast(states.device.type, enabled=False):
        kind = torch.promote_types(torch.float32, states.dtype)
        return states.to(kind) @ columns.to(kind)


def _check_encoder(encoder: nn.Module) -> None:
    missing = [n for n in ("dim", "num_items", "all_items", "forward") if not hasattr(encoder, n)]
    if missing:
        raise ConfigError(
            f"{type(encoder).__name__} is no item encoder: it lacks {', '.join(missing)}; "
            "see linkedout_lightning.encoders.ItemEncoder"
        )
