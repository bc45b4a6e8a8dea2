"""RecBole's trainer with checkpoints that are no pickles, and figures over all rows exactly once.

RecBole's own evaluation over several processes rounds each process's figures before it averages
them, weighs the average by the number of parts of a batch, and counts padded rows twice. Here the
processes' rows are joined and the figures are taken once.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_adapters.distributed import Group
from recbole_adapters.ranking import RankLog, RowRanks


def make_trainer(
    config: Any, model: Any, *, folder: Path, group: Group, recbole_format: bool
) -> Any:
    """The trainer that RecBole has for a model, with this module's behaviour.

    Args:
        config: RecBole's configuration.
        model: The model, on its device.
        folder: Where the best weights go.
        group: The processes that train together.
        recbole_format: Write RecBole's pickle in place of safetensors.
    """
    from recbole.utils import get_trainer

    base = get_trainer(config["MODEL_TYPE"], config["model"])
    kind = type(base.__name__, (ExactTrainer, base), {"__module__": __name__})
    with group.wrapping():
        trainer = kind(config, model)
    trainer.group, trainer.recbole_format = group, recbole_format
    suffix = "pth" if recbole_format else "safetensors"
    trainer.saved_model_file = str(folder / f"model.{suffix}")
    return trainer


class ExactTrainer:
    """Put in front of one of RecBole's trainers by :func:`make_trainer`.

    Attributes:
        group: The processes that train together.
        curve: One point an epoch: ``epoch``, ``train_loss``, ``val`` and ``seconds``.
        evaluated: Ranks of the last evaluation's rows; None if it was not a full ranking.
        listener: Called after each epoch's training and evaluation with this trainer.
    """

    group: Group
    recbole_format: bool
    saved_model_file: str

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)  # type: ignore[call-arg]
        self.curve: list[dict[str, Any]] = []
        self.evaluated: RowRanks | None = None
        self.listener: Any = None
        self._log = RankLog()

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> Any:
        started = time.perf_counter()
        loss_func = loss_func or self.model.calculate_loss  # type: ignore[attr-defined]
        if self.group.size > 1:
            loss_func = self._weighted(loss_func, train_data)
        total = super()._train_epoch(  # type: ignore[misc]
            train_data, epoch_idx, loss_func=loss_func, show_progress=show_progress
        )
        total = self.group.mean(total)
        self.curve.append(
            {
                "epoch": epoch_idx + 1,
                "train_loss": (sum(total) if isinstance(total, tuple) else total)
                / max(len(train_data), 1),
                "val": {},
                "seconds": time.perf_counter() - started,
            }
        )
        return total

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        score, result = super()._valid_epoch(valid_data, show_progress=show_progress)  # type: ignore[misc]
        self.curve[-1]["val"] = {name: float(value) for name, value in result.items()}
        if self.listener is not None:
            self.listener(self)
        return score, result

    def _weighted(self, loss_func: Any, train_data: Any) -> Any:
        """The loss so weighed that DDP's mean over processes is the mean over the batch."""

        def weighted(interaction: Any) -> Any:
            mine, everyone = train_data.share
            weight = self.group.size * mine / everyone
            loss = loss_func(interaction)
            return tuple(x * weight for x in loss) if isinstance(loss, tuple) else loss * weight

        return weighted

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        interaction, scores, positive_u, positive_i = super()._full_sort_batch_eval(  # type: ignore[misc]
            batched_data
        )
        rows = torch.arange(len(scores), device=positive_u.device)
        if torch.equal(positive_u, rows):  # one target a row
            users = interaction[self.config["USER_ID_FIELD"]]  # type: ignore[attr-defined]
            self._log.add(users, positive_i, scores)
        return interaction, scores, positive_u, positive_i

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """RecBole's figures over the rows of all processes.

        Args:
            eval_data: A loader.
            load_best_model: Load the best weights of this run first.
            model_file: Another file of this package's format.
            show_progress: Show a bar.
        """
        if load_best_model:
            self._load(model_file or self.saved_model_file)
        self._log = RankLog()
        collector = self.eval_collector  # type: ignore[attr-defined]
        with self.group.joining(collector), self.group.alone(self.config):  # type: ignore[attr-defined]
            result = super().evaluate(  # type: ignore[misc]
                eval_data, load_best_model=False, show_progress=show_progress
            )
        self.evaluated = self._log.collect(self.group.join if self.group.size > 1 else None)
        return result

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        if self.recbole_format:
            super()._save_checkpoint(epoch, verbose=verbose, **kwargs)  # type: ignore[misc]
        elif self.group.rank == 0:
            save_weights(self.model, Path(self.saved_model_file))  # type: ignore[attr-defined]
        self.group.wait()

    def _load(self, file: str) -> None:
        model = self.model  # type: ignore[attr-defined]
        if not self.recbole_format:
            load_weights(model, Path(file))
            return
        # The pickle that this run itself has written a moment ago; a user's never comes here.
        written = torch.load(file, map_location="cpu", weights_only=False)
        model.load_state_dict(written["state_dict"])
        model.load_other_parameter(written.get("other_parameter"))


def save_weights(model: Any, file: Path) -> None:
    """Write a model's ``state_dict`` as safetensors, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        tensors[name] = value.detach().cpu().contiguous().clone()
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(tensors, unfinished)
    os.replace(unfinished, file)


def load_weights(model: Any, file: Path) -> None:
    """Load what :func:`save_weights` wrote."""
    model.load_state_dict(load_file(file, device="cpu"))
