from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from linkedout_lightning.data import InteractionDataModule, Interactions, from_columns
from linkedout_lightning.data.batches import TrainBatch
from linkedout_lightning.errors import ConfigError, DataError

PAIRS = "microlens/MicroLens-50k_pairs.tsv.gz"
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


def interactions(users: int = 40, items: int = 30, seed: int = 0) -> Interactions:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 12, (users,), generator=generator)
    user = torch.repeat_interleave(torch.arange(users), lengths).tolist()
    item = torch.randint(0, items, (len(user),), generator=generator).tolist()
    columns = [f"u{u}" for u in user], [f"i{i}" for i in item]
    return Interactions.from_raw(from_columns(*columns, [float(t) for t in range(len(user))]))


def ready(**options: Any) -> InteractionDataModule:
    data = InteractionDataModule(options.pop("path", None) or interactions(), **options)
    data.setup()
    return data


class Watcher(LightningModule):
    """Trains nothing and remembers the batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[list[int]]] = []

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        assert isinstance(batch, TrainBatch)  # a NamedTuple survives Lightning's transfer
        self.seen.append(batch.items.tolist())
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Makes Lightning ask for the validation's batches."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_attributes_fit_each_other() -> None:
    data = ready()
    assert len(data.item_ids) == data.num_items == 30
    assert len(data.user_ids) == data.num_users == 40
    assert data.train_counts.shape == data.train_item_mask.shape == (31,)
    assert int(data.train_counts.sum()) == data.report.train_rows == data.report.rows - 2 * 40
    assert not data.train_item_mask[0]
    report = data.report
    assert (report.valid_users, report.test_users, report.train_items) == (
        40, 40, int(data.train_item_mask.sum()),
    )  # fmt: skip


@pytest.mark.parametrize("max_len", [2, 50])
def test_training_holds_each_transition_once(max_len: int) -> None:
    data = ready(max_len=max_len, batch_size=7)
    found = [
        pair
        for batch in data.train_dataloader()
        for pair in zip(batch.inputs.flatten().tolist(), batch.targets.flatten().tolist(),
                        strict=True) if pair[1]
    ]  # fmt: skip
    source = data.interactions
    rows = list(zip(source.user_index.tolist(), source.item_index.tolist(), strict=True))
    users = [[i for u, i in rows if u == user][:-2] for user in range(40)]
    expected = [pair for own in users for pair in pairwise(own)]
    assert sorted(found) == sorted(expected)
    assert all(batch.inputs.shape[1] <= max_len for batch in data.train_dataloader())


def test_popularity_slices() -> None:
    data = ready(path=interactions(users=300, items=237), split="cold_items", cold_share=0.2)
    slices, counts = data.popularity_slices(), data.train_counts
    assert list(slices) == [f"decile_{n}" for n in range(1, 11)] + ["cold"]
    together = torch.stack(list(slices.values())).long().sum(0)
    assert together.tolist() == [0] + [1] * data.num_items  # a partition
    assert int(slices["cold"].sum()) == data.report.cold_items >= round(0.2 * 237)
    assert not counts[slices["cold"]].any()
    sizes = [int(mask.sum()) for mask in list(slices.values())[:-1]]
    assert max(sizes) - min(sizes) <= 1
    deciles = [counts[mask] for mask in list(slices.values())[:-1]]
    for more, less in pairwise(deciles):
        assert more.min() >= less.max()


def test_seeds_of_training_share_a_split() -> None:
    first, second = (ready(split="cold_items", seed=s, split_seed=7) for s in (0, 1))
    assert torch.equal(first.train_counts, second.train_counts)
    batches = [next(iter(data.train_dataloader())).items for data in (first, second)]
    assert batches[0].shape != batches[1].shape or not torch.equal(*batches)


def test_features_are_compared_with_the_catalogue() -> None:
    data = ready(item_features=[f"i{n}" for n in range(5, 40)])
    missing = torch.tensor([False] + [int(i[1:]) < 5 for i in data.item_ids])
    report = data.report
    assert report.items_without_features == int(missing.sum()) == 5
    assert report.rows_without_features == int(missing[data.interactions.item_index].sum())
    assert report.features_without_items == 10

    class Store:
        item_ids = data.item_ids

    assert ready(item_features=Store()).report.items_without_features == 0


def test_presets_and_faults(tmp_path: Path) -> None:
    data = InteractionDataModule("x", preset="microlens")
    assert (data.max_len, data.min_len, data.keep_last, data.duplicates) == (10, 5, 13, "keep")
    with pytest.raises(ConfigError, match="`max_len` is 50, but the preset fixes it at 10"):
        InteractionDataModule("x", preset="microlens", max_len=50)
    with pytest.raises(ConfigError, match="microlens, or None"):
        InteractionDataModule("x", preset="movielens")
    with pytest.raises(ConfigError, match="leave_one_out, temporal, cold_items"):
        InteractionDataModule("x", split="random")
    with pytest.raises(ConfigError, match=r"FeatureStore.open"):
        InteractionDataModule("x", item_features="features/")
    with pytest.raises(ConfigError, match="max_len"):
        InteractionDataModule("x", max_len=0)
    with pytest.raises(ConfigError, match=r"setup\(\)"):
        _ = InteractionDataModule("x").num_items
    with pytest.raises(DataError, match="no user has two items"):
        ready(path=Interactions.from_raw(from_columns(list("uuuvvv"), list("abcabc"))))
    path = tmp_path / "log.csv"
    path.write_text("who,video,timestamp\n" + "".join(f"u,{i},{i}\n" for i in range(9)))
    assert ready(path=path, user_column="who").report.rows == 9


def test_microlens_figures(shared_data: Path) -> None:
    data = ready(path=shared_data / PAIRS, preset="microlens")
    report = data.report
    assert (report.rows_read, report.users, report.items) == (359_708, 50_000, 19_099)
    assert (report.rows, report.truncated_rows, report.vanished_items) == (339_511, 20_197, 121)
    assert (report.train_rows, report.train_items) == (239_511, 18_331)
    assert (report.valid_users, report.test_users) == (50_000, 50_000)
    targets = torch.cat([batch.target for batch in data.test_dataloader()])
    assert int((data.train_counts[targets] == 0).sum()) == 2_261

    import gzip

    with gzip.open(shared_data / PAIRS, "rt") as lines:
        sequences = [line.split("\t")[1].split()[-13:] for line in lines]
    names = ["", *data.item_ids]

    def named(rows: Tensor) -> list[list[str]]:
        return [[names[i] for i in row if i] for row in rows.tolist()]

    assert sorted(row for b in data.train_dataloader() for row in named(b.items)) == sorted(
        s[:-2] for s in sequences
    )
    for loader, end in ((data.val_dataloader(), -1), (data.test_dataloader(), None)):
        for batch in list(loader)[::12]:
            wanted = [sequences[user][:end] for user in batch.users.tolist()]
            assert named(batch.inputs) == [s[:-1][-10:] for s in wanted]
            assert named(batch.history) == [s[:-1] for s in wanted]
            assert [names[i] for i in batch.target] == [s[-1] for s in wanted]


def test_untrimmed_microlens_figures(shared_data: Path) -> None:
    report = ready(path=shared_data / PAIRS, min_len=5).report
    assert (report.train_rows, report.train_items) == (259_708, 18_490)
    assert (report.rows, report.items) == (359_708, 19_220)


def test_lightning_drives_it() -> None:
    data, model = InteractionDataModule(interactions(), batch_size=8), Watcher()
    Trainer(max_epochs=3, enable_checkpointing=False, **QUIET).fit(model, datamodule=data)
    steps = len(data.train_dataloader())
    plain = data.train_dataloader()
    assert model.seen == [batch.items.tolist() for _ in range(3) for batch in plain]
    assert model.seen[:steps] != model.seen[steps : 2 * steps]


@pytest.mark.parametrize("stop_at", [3, 5, 8])  # inside, at the end of, and after an epoch
def test_lightning_resumes_with_the_next_batch(tmp_path: Path, stop_at: int) -> None:
    def fit(steps: int, resume: Path | None) -> list[list[list[int]]]:
        data, model = InteractionDataModule(interactions(), batch_size=8), Watcher()
        save = ModelCheckpoint(tmp_path, every_n_train_steps=stop_at, save_top_k=-1)
        trainer = Trainer(max_steps=steps, callbacks=[save], **QUIET)
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
        return model.seen

    whole = fit(13, None)
    (tmp_path / "whole").mkdir()
    for old in tmp_path.glob("*.ckpt"):
        old.rename(tmp_path / "whole" / old.name)
    begun = fit(stop_at, None)
    (saved,) = tmp_path.glob("*.ckpt")
    assert begun + fit(13, saved) == whole


TWO_PROCESSES = """
import json, sys
import torch
from lightning import LightningModule, Trainer
from linkedout_lightning.data import InteractionDataModule
from linkedout_lightning.data.loaders import EvalLoader, TrainLoader
from linkedout_lightning.evaluation import Coverage, RankingMetrics, target_ranks

class Model(LightningModule):
    def __init__(self, items, slices):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Parameter(torch.randn(items + 1, 8, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(()))  # DDP sends buffers in each forward pass
        self.metrics = RankingMetrics(ks=(5, 10), slices=slices, keep_ranks=True)
        self.coverage = Coverage(5, items)
        self.sizes = []

    def training_step(self, batch, batch_idx):
        assert isinstance(self.trainer.train_dataloader, TrainLoader)
        self.sizes.append(len(batch.items))
        return self.table[batch.items].sum() * self.scale

    def validation_step(self, batch, batch_idx):
        assert isinstance(self.trainer.val_dataloaders, EvalLoader)
        real = (batch.inputs > 0).unsqueeze(2)  # batches are trimmed, so padding differs
        scores = (self.table[batch.inputs] * real).sum(1) @ self.table.T * self.scale
        self.metrics.update(
            target_ranks(scores, batch.target, batch.history), batch.target, batch.users)
        self.coverage.update(scores.topk(5).indices)

    def on_validation_epoch_end(self):
        users, ranks = self.metrics.ranks()
        self.result = {
            "metrics": {k: float(v) for k, v in self.metrics.compute().items()},
            "coverage": float(self.coverage.compute()),
            "users": users.tolist(), "ranks": ranks.tolist(),
        }
        self.metrics.reset()
        self.coverage.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

def main(path, processes):
    data = InteractionDataModule(path, batch_size=8, eval_batch_size=6)
    data.setup()
    model = Model(data.num_items, data.popularity_slices())
    trainer = Trainer(
        max_epochs=2, devices=processes, strategy="ddp" if processes > 1 else "auto",
        accelerator="cpu", logger=False, enable_checkpointing=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(model, datamodule=data)
    return trainer.global_rank, {**model.result, "sizes": model.sizes}

if __name__ == "__main__":
    rank, result = main(sys.argv[1], 2)
    with open(f"{sys.argv[2]}.{rank}", "w") as file:
        json.dump(result, file)
"""


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    data = interactions(users=41)
    set_up = ready(path=data)
    path, script = tmp_path / "log.csv", tmp_path / "train.py"
    lines = [
        f"{data.user_ids[u]},{data.item_ids[i - 1]},{t}"
        for u, i, t in zip(data.user_index, data.item_index, data.timestamp.tolist(), strict=True)
    ]
    path.write_text("\n".join(["user,item,timestamp", *lines]))
    script.write_text(TWO_PROCESSES)
    scope: dict[str, Any] = {"__name__": "script"}
    exec(TWO_PROCESSES, scope)
    one = scope["main"](path, 1)[1]
    command = [sys.executable, str(script), str(path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"out.{rank}").read_text()) for rank in (0, 1))
    assert one["users"] == first["users"] == second["users"] == list(range(41))
    assert one["ranks"] == first["ranks"]
    for result in (first, second):
        assert result["metrics"] == one["metrics"]
        assert result["coverage"] == one["coverage"]
    assert first["sizes"] == second["sizes"]
    assert sum(first["sizes"]) == 2 * -(-len(set_up.train_dataloader().start) // 2)
    assert sum(one["sizes"]) == 2 * len(set_up.train_dataloader().start)
