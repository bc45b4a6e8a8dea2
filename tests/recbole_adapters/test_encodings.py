"""The catalogue is encoded once a training step and once an evaluation, however it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import World
from torch import nn

from recbole_adapters.launcher import Request
from recbole_adapters.running import run_here

EPOCHS = 2
SAMPLED = {"distribution": "uniform", "sample_num": 1}
EVALUATIONS = {
    "full": {},
    "sampled": {
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni20"}
    },
}  # fmt: skip


class Counted(nn.Module):
    """An encoder that counts its calls by itself, in training and in evaluation."""

    made: list[Counted] = []  # noqa: RUF012

    def __init__(self, slot: Any) -> None:
        super().__init__()
        self.num_items, self.dim = len(slot.catalogue.item_ids), slot.dim
        self.vectors = nn.Parameter(slot.embedding.weight.detach().clone())
        self.calls = {True: 0, False: 0}
        Counted.made.append(self)

    def all_items(self) -> torch.Tensor:
        self.calls[self.training] += 1
        return self.vectors * 1.0


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("SASRec", {}),
        ("GRU4Rec", {}),
        ("GRU4Rec", {"loss_type": "BPR", "train_neg_sample_args": SAMPLED}),
        ("HGN", {}),
        ("NPE", {}),
        ("TransRec", {}),
    ],
)
def test_once_a_step_and_once_an_evaluation(
    model: str, changes: dict[str, Any], evaluation: str, world: World, tmp_path: Path
) -> None:
    changes = changes | EVALUATIONS[evaluation] | {"eval_batch_size": 16}
    outcome, steps = _run(world, model, tmp_path, **changes)
    assert len(outcome.loaders.train) > 1
    assert len(outcome.loaders.test) > 1
    for encoder in Counted.made:
        assert encoder.calls == {True: EPOCHS * steps, False: EPOCHS + 1}
    wanted = EPOCHS * steps + EPOCHS + 1
    assert outcome.run["encodings"] == dict.fromkeys(outcome.model.item_tables, wanted)


def test_dynamic_negatives_cost_one_more_a_step(world: World, tmp_path: Path) -> None:
    # RecBole asks the model itself for hard negatives, before each step and with gradients on.
    dynamic = SAMPLED | {"dynamic": True, "candidate_num": 3}
    changes = {"loss_type": "BPR", "train_neg_sample_args": dynamic}
    _, steps = _run(world, "GRU4Rec", tmp_path, **changes)
    assert Counted.made[0].calls == {True: EPOCHS * steps, False: EPOCHS * steps + EPOCHS + 1}


def _run(world: World, model: str, folder: Path, **changes: Any) -> Any:
    Counted.made.clear()
    settings = world.settings(model, epochs=EPOCHS, **changes)
    request = Request(model, "tiny", config_dict=settings, folder=folder, verbose=False)
    outcome = run_here(request, factory=Counted)
    return outcome, len(outcome.loaders.train)
