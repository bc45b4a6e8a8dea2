"""This package's trainer against RecBole's own, and where it must differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import World, run_plain

from linkedout_lightning.errors import NonFiniteError
from recbole_adapters import run
from recbole_adapters.distributed import Group
from recbole_adapters.launcher import Request
from recbole_adapters.running import run_here

FULL = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}


def run_ours(world: World, folder: Path, **changes: Any) -> tuple[Any, list[float], list[int]]:
    """The outcome, the sum of each epoch's losses, and the epochs at which a listener is called."""
    losses: list[float] = []
    heard: list[int] = []
    trainers: list[Any] = []

    def listen(trainer: Any) -> None:
        heard.append(trainer.curve[-1]["epoch"])
        trainers[:] = [trainer]

    request = Request("SASRec", "tiny", config_dict=world.settings(**changes), folder=folder)
    outcome = run_here(request, listener=listen)
    if trainers:
        losses += [loss for _, loss in sorted(trainers[0].train_loss_dict.items())]
    return outcome, losses, heard


@pytest.mark.parametrize(
    "changes",
    [
        {"enable_amp": True},
        {"clip_grad_norm": {"max_norm": 0.05, "norm_type": 2}},
        {"eval_step": 2, "epochs": 5},
        {"epochs": 12, "stopping_step": 0},
        {"metric_decimal_place": 2},
        {"weight_decay": 0.1, "learner": "sgd"},
        {"metrics": ["GAUC"], "valid_metric": "GAUC"},
        {"eval_args": FULL | {"mode": "uni9"}},
        {"eval_args": FULL | {"mode": "uni9"}, "metrics": ["AUC", "MAE"], "valid_metric": "AUC"},
        {"eval_args": FULL | {"split": {"RS": [0.8, 0.1, 0.1]}}},
        {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "popularity",
         "sample_num": 2}},
        {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1,
         "dynamic": True, "candidate_num": 3}},
    ],
)  # fmt: skip
def test_one_process_is_recbole(changes: dict[str, Any], world: World, tmp_path: Path) -> None:
    plain = run_plain("SASRec", world.settings(**changes))
    ours, losses, _ = run_ours(world, tmp_path, **changes)
    assert losses == plain.losses[: len(losses)]
    assert len(ours.run["curve"]) == len(plain.losses)
    assert ours.run["best_valid_result"] == plain.valid
    assert ours.run["test_result"] == plain.test


def test_metrics_that_fail_in_recbole(world: World, tmp_path: Path) -> None:
    """Its collector asks whole numbers for `.cpu()`; coverage against a count over the ranking."""
    changes = {"metrics": ["ItemCoverage", "Recall"], "valid_metric": "Recall@5"}
    with pytest.raises(AttributeError, match="'int' object has no attribute 'cpu'"):
        run_plain("SASRec", world.settings(**changes))
    outcome, *_ = run_ours(world, tmp_path, **changes)
    top: set[int] = set()
    with torch.no_grad():
        for batch in outcome.loaders.test:
            scores = outcome.model.eval().full_sort_predict(batch[0]).view(len(batch[0]), -1)
            scores[:, 0] = -torch.inf
            top |= set(scores.topk(5).indices.flatten().tolist())
    count = outcome.loaders.test._dataset.item_num
    assert outcome.run["test_result"]["itemcoverage@5"] == pytest.approx(len(top) / count)


@pytest.mark.parametrize(
    ("changes", "validated", "heard"),
    [
        ({"epochs": 4, "eval_step": 3}, [3], [1, 2, 3, 4]),
        ({"epochs": 2, "eval_step": 0}, [], [1, 2]),
        ({"epochs": 2, "eval_args": FULL | {"split": {"LS": "test_only"}}}, [], [1, 2]),
        ({"epochs": 0}, [], []),
    ],
)
def test_epochs_without_validation(
    changes: dict[str, Any], validated: list[int], heard: list[int], world: World, tmp_path: Path
) -> None:
    outcome, _, epochs = run_ours(world, tmp_path, **changes)
    assert epochs == heard
    assert [point["epoch"] for point in outcome.run["curve"] if point["val"]] == validated
    assert (outcome.run["best_valid_score"] is None) is not bool(validated)
    assert (tmp_path / "model.safetensors").is_file()
    assert outcome.run["test_result"]["recall@5"] >= 0


def test_validation_alone(world: World, tmp_path: Path) -> None:
    outcome, *_ = run_ours(world, tmp_path, eval_args=FULL | {"split": {"LS": "valid_only"}})
    assert outcome.run["test_result"] is None
    assert outcome.run["best_valid_result"]
    assert outcome.run.summary()


def test_nothing_is_saved_unasked(world: World, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("SASRec", "tiny", config_dict=world.settings(), out="x", saved=False, verbose=False)
    assert done["test_result"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_loss_that_is_no_number(world: World, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="training loss of epoch 1 is NaN"):
        run_ours(world, tmp_path, learning_rate=900000.0, epochs=3, train_batch_size=32)


def test_gradients_are_clipped_as_they_are(world: World, tmp_path: Path, monkeypatch: Any) -> None:
    """RecBole clips what its scaler has multiplied: with scale 2^16, nearly all is clipped away."""
    order: list[str] = []

    class Scaler:
        def __init__(self, device: str, *, enabled: bool) -> None:
            self.factor = 2.0**16

        def scale(self, loss: torch.Tensor) -> torch.Tensor:
            return loss * self.factor

        def unscale_(self, optimizer: Any) -> None:
            order.append("unscaled")
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad /= self.factor

        def step(self, optimizer: Any) -> None:
            optimizer.step()

        def update(self) -> None:
            order.append("updated")

    changes = {"learner": "sgd", "clip_grad_norm": {"max_norm": 0.5}, "epochs": 1}
    plain, losses, _ = run_ours(world, tmp_path / "plain", **changes)
    monkeypatch.setattr(torch.amp, "GradScaler", Scaler)
    scaled, scaled_losses, _ = run_ours(world, tmp_path / "scaled", **changes)
    assert order[:2] == ["unscaled", "updated"]
    assert scaled_losses == losses  # powers of two lose no bit
    assert scaled.run["test_result"] == plain.run["test_result"]


def test_gradients_count_by_rows_and_absent_ones_stay_absent() -> None:
    """A group of one changes nothing; see `test_processes.py` for more."""
    parameter = torch.nn.Parameter(torch.ones(2))
    assert Group(0, 1, torch.device("cpu")).average_gradients([parameter], 3) == 1.0
    assert parameter.grad is None
