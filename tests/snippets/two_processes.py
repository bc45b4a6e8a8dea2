"""Run under torchrun: evaluate a checkpoint with ddp on the CPU, then train; one file a rank."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L
import torch

from linkedout_lightning import IDItemEncoder, InteractionDataModule, SequentialRecommender


def main(table: str, checkpoint: str, out: str) -> None:
    options = {
        "accelerator": "cpu", "devices": 2, "strategy": "ddp", "logger": False,
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    data = InteractionDataModule(table, max_len=8, batch_size=32, eval_batch_size=50)
    data.setup()
    model = SequentialRecommender.load_from_checkpoint(
        checkpoint, item_encoder=IDItemEncoder(data.num_items, dim=16)
    )
    trainer = L.Trainer(**options)
    metrics = dict(trainer.test(model, data, verbose=False)[0])
    metrics |= trainer.validate(model, data, verbose=False)[0]
    users, ranks = model.test_ranks

    torch.manual_seed(0)
    fresh = SequentialRecommender(IDItemEncoder(data.num_items, dim=16), max_len=8, loss="in_batch")
    trainer = L.Trainer(max_epochs=2, **options)
    trainer.fit(fresh, data)
    torch.save(
        {
            "metrics": metrics,
            "users": users,
            "ranks": ranks,
            "trained": fresh.state_dict(),
            "noise": torch.rand(()).item(),
        },
        Path(out) / f"rank{trainer.global_rank}.pt",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
