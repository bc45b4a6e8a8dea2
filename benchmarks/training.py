"""A training epoch and a full-ranking evaluation on MicroLens-50K, against a plain PyTorch loop.

The plain loop is what one writes without this package: padded ``B x 10`` positions through
``nn.TransformerEncoder``, the whole matrix of logits at once, and a sort of the catalogue for each
user. Both sides have the same sizes, data, batch size and losses, run in turn in this one process,
and are timed in CPU seconds. Beside each stands the floor: the matrix products that the task
cannot do without, at the rate that this machine reaches on a square product.

    python benchmarks/training.py --root MICROLENS_FOLDER
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linkedout_lightning import IDItemEncoder, InteractionDataModule, SequentialRecommender
from linkedout_lightning.compare.environment import environment

PAIRS = "MicroLens-50k_pairs.tsv.gz"
INPUTS = 10


class PlainSASRec(nn.Module):
    """Embedding, positions, torch's encoder: no packing, no trimming, no caching."""

    def __init__(self, num_items: int, dim: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, dim, padding_idx=0)
        nn.init.normal_(self.items.weight, std=0.02)
        self.positions = nn.Embedding(INPUTS, dim)
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(0.1)
        layer = nn.TransformerEncoderLayer(dim, 2, 4 * dim, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, inputs: Tensor) -> Tensor:  # noqa: D102
        order = torch.arange(INPUTS)
        x = self.dropout(self.norm(self.items(inputs) + self.positions(order)))
        future = order[None, :] > order[:, None]  # (M, M)
        padding = (inputs == 0)[:, None, :] & (order[None, :] != order[:, None])  # (B, M, M)
        mask = (future | padding).repeat_interleave(2, 0)  # one for each head
        return self.encoder(x, mask=mask)


def plain_loss(model: PlainSASRec, items: Tensor, loss: str, log_popularity: Tensor) -> Tensor:
    states = model(items[:, :-1])  # (B, M, H)
    target = items[:, 1:]
    if loss == "full":
        real = (items[:, :-1] != 0) & (target != 0)
        return F.cross_entropy(states[real] @ model.items.weight[1:].T, target[real] - 1)
    distinct, columns = torch.unique(items, return_inverse=True)
    logits = states @ model.items(distinct).T - log_popularity[distinct]  # (B, M, C)
    own = torch.zeros(len(items), len(distinct), dtype=torch.bool).scatter_(1, columns, True)
    label = F.one_hot(columns[:, 1:], len(distinct)).bool()
    logits = logits.masked_fill(own[:, None] & ~label, -1e4)
    ignored = (items[:, :-1] == 0) | (target == 0)
    wanted = columns[:, 1:].masked_fill(ignored, -100)
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())


def plain_epoch(model: PlainSASRec, items: Tensor, loss: str, batch: int, logp: Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    model.train()
    for rows in torch.randperm(len(items)).split(batch):
        optimizer.zero_grad()
        plain_loss(model, items[rows], loss, logp).backward()
        optimizer.step()


@torch.no_grad()
def plain_evaluation(model: PlainSASRec, batches: list[Any]) -> float:
    model.eval()
    hits = users = 0
    for batch in batches:
        inputs = F.pad(batch.inputs, (INPUTS - batch.inputs.shape[1], 0))
        scores = model(inputs)[:, -1] @ model.items.weight.T
        wanted = scores.gather(1, batch.target[:, None])
        scores.scatter_(1, batch.history, -torch.inf).scatter_(1, batch.target[:, None], wanted)
        scores[:, 0] = -torch.inf
        order = scores.argsort(dim=1, descending=True)
        hits += int((order[:, :10] == batch.target[:, None]).sum())
        users += len(inputs)
    return hits / users


def cpu_seconds(action: Callable[[], Any]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin


def peak_gflops(dtype: torch.dtype) -> float:
    """Rate of a 1024 x 1024 x 1024 product, best of ten."""
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    return 2 * 1024**3 / min(cpu_seconds(lambda: a @ b) for _ in range(10)) / 1e9


def epoch_gflop(batches: list[Tensor], loss: str, num_items: int, dim: int) -> float:
    """Products of an epoch: 12 d^2 weights a block and position, then the logits; times three."""
    total = 0
    for items in batches:
        positions = int(((items[:, :-1] != 0) & (items[:, 1:] != 0)).sum())
        columns = num_items if loss == "full" else int((items.unique() != 0).sum())
        total += positions * 2 * (2 * 12 * dim**2 + columns * dim)
    return 3 * total / 1e9


def evaluation_gflop(batches: list[Any], num_items: int, dim: int) -> float:
    """Scores of all items, and of the last block only the last query."""
    total = 0
    for batch in batches:
        positions = int((batch.inputs != 0).sum())
        total += positions * 14 * dim**2 + len(batch.users) * (10 * dim**2 + num_items * dim)
    return 2 * total / 1e9


class Batches:
    """A list of batches as one loader; Lightning takes a plain list for several loaders."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def trainer(**options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, barebones=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help=f"folder with {PAIRS}")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training.json"))
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--losses", nargs="+", default=["in_batch", "full"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--eval-users", type=int, default=10_240, help="for both sides")
    parser.add_argument("--steps", type=int, help="fewer than an epoch's, to try the program")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not (arguments.root / PAIRS).is_file():
        sys.exit(f"{arguments.root} holds no {PAIRS}")
    torch.set_num_threads(arguments.threads)
    torch.backends.mha.set_fastpath_enabled(False)  # wrong on fully masked rows
    L.seed_everything(arguments.seed, verbose=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    data = InteractionDataModule(
        arguments.root / PAIRS, preset="microlens", batch_size=arguments.batch_size
    )
    data.setup()
    num_items, dim = data.num_items, arguments.dim
    batches = [batch.items for batch in data.train_dataloader()]
    batches = batches[: arguments.steps]
    padded = torch.cat([F.pad(b, (INPUTS + 1 - b.shape[1], 0)) for b in batches])
    log_popularity = (data.train_counts.clamp(min=1) / data.train_counts.sum()).log()
    log_popularity[0] = torch.inf
    test = list(data.test_dataloader())
    test = test[:: max(1, math.floor(sum(len(b.users) for b in test) / arguments.eval_users))]

    peak = {"float32": peak_gflops(torch.float32), "bfloat16": peak_gflops(torch.bfloat16)}
    rows = []
    for loss in arguments.losses:
        gflop = epoch_gflop(batches, loss, num_items, dim)
        seconds: dict[str, list[float]] = {"plain": [], "float32": [], "bfloat16": []}
        for _ in range(arguments.repeats):
            plain = PlainSASRec(num_items, dim)
            seconds["plain"].append(
                cpu_seconds(
                    lambda plain=plain, loss=loss: plain_epoch(
                        plain, padded, loss, arguments.batch_size, log_popularity
                    )
                )
            )
            for name, precision in (("float32", "32-true"), ("bfloat16", "bf16-mixed")):
                model = SequentialRecommender(
                    IDItemEncoder(num_items, dim=dim), loss=loss, max_len=INPUTS
                )
                run = trainer(
                    max_epochs=1, limit_val_batches=0, precision=precision,
                    limit_train_batches=len(batches),
                )  # fmt: skip
                seconds[name].append(
                    cpu_seconds(lambda run=run, model=model: run.fit(model, datamodule=data))
                )
        rows.append(
            summary(f"training epoch, loss {loss}", seconds, gflop=gflop, peak=peak)
            | {"sequences": len(padded), "batch_size": arguments.batch_size}
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    seconds = {"plain": [], "float32": []}
    plain = PlainSASRec(num_items, dim)
    model = SequentialRecommender(IDItemEncoder(num_items, dim=dim), max_len=INPUTS)
    for _ in range(arguments.repeats):
        seconds["plain"].append(cpu_seconds(lambda: plain_evaluation(plain, test)))
        seconds["float32"].append(
            cpu_seconds(lambda: trainer().test(model, dataloaders=Batches(test), verbose=False))
        )
    rows.append(
        summary(
            "full-ranking evaluation", seconds,
            gflop=evaluation_gflop(test, num_items, dim), peak=peak,
        )
        | {"users": sum(len(b.users) for b in test)}
    )  # fmt: skip
    results = {
        "what": "CPU seconds, the median of the repeats; ratio = plain loop / this package",
        "environment": environment() | {"load_average": os.getloadavg(), "seed": arguments.seed},
        "model": f"SASRec, 2 blocks, 2 heads, d = {dim}, {num_items} items",
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "peak_gflops": {name: round(rate, 1) for name, rate in peak.items()},
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def summary(
    name: str, seconds: dict[str, list[float]], *, gflop: float, peak: dict[str, float]
) -> dict[str, Any]:
    median = {kind: statistics.median(times) for kind, times in seconds.items()}
    floor = {kind: gflop / peak[kind] for kind in median if kind in peak}
    return {
        "name": name,
        "gflop": round(gflop, 1),
        "seconds": {kind: round(value, 2) for kind, value in median.items()},
        "all_seconds": {kind: [round(v, 2) for v in times] for kind, times in seconds.items()},
        "floor_seconds": {kind: round(value, 2) for kind, value in floor.items()},
        "ratio_to_plain": {
            kind: round(median["plain"] / median[kind], 2) for kind in median if kind != "plain"
        },
        "times_floor": {kind: round(median[kind] / floor[kind], 2) for kind in floor},
    }


if __name__ == "__main__":
    main()
