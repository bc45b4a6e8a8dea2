"""RecBole's trainer with checkpoints that are no pickles, and figures over all rows exactly once.

RecBole's loop over epochs, its early stopping, optimisers and metrics are its own. What is
replaced, for one process as for several: an epoch's steps, since RecBole clips gradients that its
scaler has not unscaled yet; and over several processes its averages, since it rounds each
process's figures before it averages them, weighs them by the number of parts of a batch, counts
padded rows twice, prints the loss of one process and names the checkpoint by each process's clock.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from linkedout_lightning.errors import DataError, NonFiniteError
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
    # RecBole's constructor makes its folder unless it is there, and fails if another process makes
    # it meanwhile.
    folder.mkdir(parents=True, exist_ok=True)
    with _set(config, checkpoint_dir=str(folder)):
        trainer = kind(config, model)
    trainer.group, trainer.recbole_format = group, recbole_format
    suffix = "pth" if recbole_format else "safetensors"
    trainer.saved_model_file = str(folder / f"model.{suffix}")
    group.copy_first(model)
    return trainer


class ExactTrainer:
    """Put in front of one of RecBole's trainers by :func:`make_trainer`.

    Attributes:
        group: The processes that train together.
        curve: One point an epoch: ``epoch``, ``train_loss``, ``val`` and ``seconds``.
        evaluated: Ranks of the last evaluation's rows; None if it was not a full ranking.
        listener: Called with this trainer after each epoch, and after its validation if it has one.
    """

    group: Group
    recbole_format: bool
    saved_model_file: str
    # RecBole's:
    config: Any
    model: Any
    optimizer: Any
    device: torch.device
    enable_amp: bool
    enable_scaler: bool
    clip_grad_norm: Any
    eval_step: int
    eval_collector: Any

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)  # type: ignore[call-arg]
        self.curve: list[dict[str, Any]] = []
        self.evaluated: RowRanks | None = None
        self.listener: Any = None
        self._log = RankLog()
        self._validates = False

    def fit(self, train_data: Any, valid_data: Any = None, *rest: Any, **options: Any) -> Any:
        """RecBole's own, which gives the best validation score and its figures."""
        self._validates = bool(valid_data) and self.eval_step > 0
        found = super().fit(train_data, valid_data, *rest, **options)  # type: ignore[misc]
        if options.get("saved", True) and not Path(self.saved_model_file).is_file():
            self._save_checkpoint(len(self.curve) - 1)  # pre-training validates nothing
        return found

    def save_pretrained_model(self, epoch: int, saved_model_file: str) -> None:
        """Write what fine-tuning starts from: tensors alone, which torch loads unasked."""
        if not self.group.rank:
            torch.save({"epoch": epoch, "state_dict": self.model.state_dict()}, saved_model_file)

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> Any:
        started = time.perf_counter()
        self.model.train()
        loss_func = loss_func or self.model.calculate_loss
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        totals: list[float] = []
        single = True
        for batch in _bar(train_data, f"Train {epoch_idx:>5}", shown=show_progress):
            self.optimizer.zero_grad()
            losses: tuple[Tensor, ...] = ()
            if batch is not None:  # a process may have no row of a small batch
                with torch.autocast(device_type=self.device.type, enabled=self.enable_amp):
                    found = loss_func(batch.to(self.device))
                single = not isinstance(found, tuple)
                losses = (found,) if single else found
                loss: Any = sum(losses)
                self._check_nan(loss)
                scaler.scale(loss).backward()
            rows = 0 if batch is None else len(batch)
            share = self.group.average_gradients(self.model.parameters(), rows)
            totals = totals or [0.0] * len(losses)
            for position, part in enumerate(losses):
                totals[position] += part.item() * share
            if self.clip_grad_norm:
                scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
            scaler.step(self.optimizer)
            scaler.update()
        parts = [found for found in self.group.gather(totals) if found]
        sums = tuple(sum(column) for column in zip(*parts, strict=True))
        self.curve.append(
            {
                "epoch": epoch_idx + 1,
                "train_loss": sum(sums) / max(len(train_data), 1),
                "val": {},
                "seconds": time.perf_counter() - started,
            }
        )
        validated = self._validates and (epoch_idx + 1) % self.eval_step == 0
        if not validated and self.listener is not None:
            self.listener(self)
        return sums[0] if single else sums

    def _check_nan(self, loss: Any) -> None:
        if torch.isnan(loss):
            raise NonFiniteError(
                f"the training loss of epoch {len(self.curve) + 1} is NaN; a smaller "
                "`learning_rate`, or `clip_grad_norm: {max_norm: 1.0}`, may hold it"
            )

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        score, result = super()._valid_epoch(valid_data, show_progress=show_progress)  # type: ignore[misc]
        self.curve[-1]["val"] = {name: float(value) for name, value in result.items()}
        if self.listener is not None:
            self.listener(self)
        return score, result

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        interaction, scores, positive_u, positive_i = super()._full_sort_batch_eval(  # type: ignore[misc]
            batched_data
        )
        rows = torch.arange(len(scores), device=positive_u.device)
        if torch.equal(positive_u, rows):  # one target a row
            self._log.add(interaction[self.config["USER_ID_FIELD"]], positive_i, scores)
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
        with self._collecting(eval_data):
            result = super().evaluate(  # type: ignore[misc]
                eval_data, load_best_model=False, show_progress=show_progress
            )
        self.evaluated = RankLog.join(self.group.gather(self._log.rows()), self._order(eval_data))
        return result

    def _order(self, eval_data: Any) -> Tensor | None:
        return eval_data.order() if self.group.size > 1 and eval_data else None

    @contextlib.contextmanager
    def _collecting(self, eval_data: Any) -> Iterator[None]:
        """Let RecBole's collector hand out the rows of all processes, in the order of one.

        RecBole's own also fails on figures that are no tensors, as ItemCoverage, GiniIndex and
        the like have them.
        """
        collector = self.eval_collector

        def collected() -> Any:
            from recbole.evaluator.collector import DataStruct

            struct, rows = DataStruct(), {}
            for name, value in list(collector.data_struct._data_dict.items()):
                if name in _OF_ROWS:
                    rows[name] = value.cpu()
                    del collector.data_struct[name]
                else:
                    struct.set(name, value)
            everyone = self.group.gather(rows)
            for name in dict.fromkeys(name for part in everyone for name in part):
                joint = torch.cat([part[name] for part in everyone if name in part])
                order = self._order(eval_data)
                if order is not None and len(order) == len(joint):
                    joint = joint[order]
                struct.set(name, joint)
            return struct

        collector.get_data_struct = collected
        try:
            yield
        finally:
            del collector.get_data_struct

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        if self.group.rank:
            return
        if self.recbole_format:
            super()._save_checkpoint(epoch, verbose=verbose, **kwargs)  # type: ignore[misc]
        else:
            save_weights(self.model, Path(self.saved_model_file))

    def _load(self, file: str) -> None:
        if not self.group.rank:
            self._load_here(file)
        # Not from the file: other machines may not see it, or not yet.
        self.group.copy_first(self.model)

    def _load_here(self, file: str) -> None:
        if not self.recbole_format:
            load_weights(self.model, Path(file))
            return
        # The pickle that this run itself has written a moment ago; a user's never comes here.
        written = torch.load(file, map_location="cpu", weights_only=False)
        self.model.load_state_dict(written["state_dict"])
        self.model.load_other_parameter(written.get("other_parameter"))


_OF_ROWS = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")
"""What RecBole's collector has a row of for each evaluated row, and forgets after each use."""


def _bar(batches: Any, name: str, *, shown: bool) -> Any:
    if not shown:
        return batches
    from tqdm import tqdm

    return tqdm(batches, total=len(batches), ncols=100, desc=name)


@contextlib.contextmanager
def _set(config: Any, **settings: Any) -> Iterator[None]:
    before = {name: config[name] for name in settings}
    for name, value in settings.items():
        config[name] = value
    try:
        yield
    finally:
        for name, value in before.items():
            config[name] = value


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
    """Load what :func:`save_weights` wrote.

    Raises:
        DataError: The file is damaged, or holds the weights of another model.
    """
    from safetensors import SafetensorError

    try:
        model.load_state_dict(load_file(file, device="cpu"))
    except (SafetensorError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0].rstrip(": ")
        raise DataError(f"{str(file)!r} holds no weights of this model: {first}") from error
