"""Seconds an epoch, seconds an evaluation and peak memory: plain RecBole against this package.

SASRec with learned ids, one width, depth and input length, the full softmax, the same file, the
last item of a user for the test. RecBole is its own dataset, loaders and ``Trainer``, with nothing
of ours but what lets it start on current libraries. Each side runs in a process of its own with one
thread, in turn, and is timed in CPU seconds, which other work on the machine disturbs less.

    python benchmarks/recbole_speed.py --data ml-100k
    python benchmarks/recbole_speed.py --data ml-100k --inputs 50
    python benchmarks/recbole_speed.py --data microlens --root MICROLENS_FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from recbole_native import atomic_file

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.compare.summaries import peak_mb

DIM, BLOCKS, HEADS, DROPOUT = 64, 2, 2, 0.2
RECBOLE_BATCH, NATIVE_BATCH = 2048, 128  # prefixes and windows a step


def time_native(inter: Path, inputs: int, epochs: int, evaluations: int) -> dict[str, Any]:
    """One entry of the result."""
    import logging

    import lightning as L

    from linkedout_lightning import IDItemEncoder, InteractionDataModule, SequentialRecommender

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    started = time.process_time()
    data = InteractionDataModule(
        inter, max_len=inputs, min_len=3, duplicates="keep", batch_size=NATIVE_BATCH,
        eval_batch_size=1024,
    )  # fmt: skip
    data.setup()
    prepared = time.process_time()
    model = SequentialRecommender(
        IDItemEncoder(data.num_items, dim=DIM), "sasrec",
        backbone_options={"blocks": BLOCKS, "heads": HEADS},
        loss="full", max_len=inputs, dropout=DROPOUT, lr=1e-3, weight_decay=0.0,
    )  # fmt: skip

    class Clock(L.Callback):
        def __init__(self) -> None:
            self.train: list[float] = []
            self.test: list[float] = []

        def on_train_epoch_start(self, *_: Any) -> None:
            self.begin = time.process_time()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.train.append(time.process_time() - self.begin)

        def on_test_epoch_start(self, *_: Any) -> None:
            self.begin = time.process_time()

        def on_test_end(self, *_: Any) -> None:
            self.test.append(time.process_time() - self.begin)

    clock = Clock()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        callbacks=[clock],
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    for _ in range(evaluations):
        trainer.test(model, datamodule=data, verbose=False)
    return {
        "prepare": prepared - started,
        "epochs": clock.train,
        "evaluations": clock.test,
        "parameters": sum(p.numel() for p in model.parameters()),
        "users": data.report.test_users,
        "items": data.num_items,
        "transitions": data.report.train_rows - data.num_users,
    }


def time_recbole(inter: Path, inputs: int, epochs: int, evaluations: int) -> dict[str, Any]:
    """One entry of the result."""
    from recbole_adapters.compat import session

    with session():
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.model.sequential_recommender import SASRec
        from recbole.trainer import Trainer
        from recbole.utils import init_seed

        started = time.process_time()
        config = Config(
            model="SASRec",
            dataset=inter.stem,
            config_dict={
                "data_path": str(inter.parents[1]),
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "checkpoint_dir": str(inter.parents[2] / "recbole"),
                "MAX_ITEM_LIST_LENGTH": inputs,
                "hidden_size": DIM,
                "inner_size": 4 * DIM,
                "n_layers": BLOCKS,
                "n_heads": HEADS,
                "hidden_dropout_prob": DROPOUT,
                "attn_dropout_prob": DROPOUT,
                "train_neg_sample_args": None,
                "train_batch_size": RECBOLE_BATCH,
                "eval_batch_size": 1024,
                "metrics": ["Hit", "NDCG", "MRR"],
                "topk": [10, 20],
                "valid_metric": "NDCG@10",
                "eval_args": {
                    "split": {"LS": "valid_and_test"},
                    "order": "TO",
                    "group_by": "user",
                    "mode": "full",
                },
            },
        )
        init_seed(config["seed"], config["reproducibility"])
        train, _, test = data_preparation(config, create_dataset(config))
        prepared = time.process_time()
        model = SASRec(config, train._dataset).to(config["device"])
        trainer = Trainer(config, model)
        trainer.eval_collector.data_collect(train)
        trained, tested = [], []
        for epoch in range(epochs):
            begin = time.process_time()
            trainer._train_epoch(train, epoch)
            trained.append(time.process_time() - begin)
        for _ in range(evaluations):
            begin = time.process_time()
            trainer.evaluate(test, load_best_model=False)
            tested.append(time.process_time() - begin)
    return {
        "prepare": prepared - started,
        "epochs": trained,
        "evaluations": tested,
        "parameters": sum(p.numel() for p in model.parameters()),
        "users": len(test._dataset),
        "items": model.n_items - 1,
    }


def matmul_rate() -> float:
    """FLOP/s of one thread on products of the ranking's shape."""
    torch.set_num_threads(1)
    states, table = torch.randn(1024, DIM), torch.randn(DIM, 8192)
    states @ table
    seconds = []
    for _ in range(20):
        begin = time.process_time()
        states @ table
        seconds.append(time.process_time() - begin)
    return 2 * states.numel() * table.shape[1] / statistics.median(seconds)


SIDES = {"native": time_native, "recbole": time_recbole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("ml-100k", "microlens"), default="ml-100k")
    parser.add_argument("--root", type=Path, help="MicroLens' folder")
    parser.add_argument("--inputs", type=int, default=10)
    parser.add_argument("--recbole-epochs", type=int, default=1)
    parser.add_argument("--native-epochs", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/recbole_native"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    inter = atomic_file(arguments.data, arguments.root, arguments.work / "data")
    if arguments.side:
        torch.set_num_threads(1)
        epochs = getattr(arguments, f"{arguments.side}_epochs")
        row = SIDES[arguments.side](inter, arguments.inputs, epochs, arguments.evaluations)
        print(json.dumps(row | {"peak_mb": peak_mb()}))
        return

    rows = {}
    for side in SIDES:
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{side}: {done.stderr}")
        row = json.loads(done.stdout.splitlines()[-1])
        row["epoch"] = statistics.median(row["epochs"])
        row["evaluation"] = statistics.median(row["evaluations"])
        rows[side] = row
    rate, native = matmul_rate(), rows["native"]
    products = 2 * native["items"] * DIM / rate  # seconds a state, of scores alone
    floors = {
        "matmul_gflops": rate / 1e9,
        "epoch": 3 * native["transitions"] * products,
        "evaluation": native["users"] * products,
    }
    parts = ("prepare", "epoch", "evaluation", "peak_mb")
    ratios = {part: rows["recbole"][part] / rows["native"][part] for part in parts}
    document = {
        "environment": environment(recbole=True),
        "unit": "CPU seconds of one thread; peak_mb resident",
        "model": {"dim": DIM, "blocks": BLOCKS, "heads": HEADS, "inputs": arguments.inputs},
        **rows,
        "recbole_over_native": ratios,
        # What the scores alone cost either side: forward and backward of the full softmax, and the
        # products of the ranking. No ratio can be larger than RecBole's time over the floor.
        "floor": floors,
        "recbole_over_floor": {k: rows["recbole"][k] / floors[k] for k in ("epoch", "evaluation")},
        "native_over_floor": {k: native[k] / floors[k] for k in ("epoch", "evaluation")},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / f"recbole_speed_{arguments.data}_{arguments.inputs}.json"
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
