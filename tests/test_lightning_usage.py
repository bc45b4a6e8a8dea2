"""Lightning as its users use it: loggers, checkpoints, resuming, early stopping, two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from linkedout_lightning import (
    IDItemEncoder,
    InteractionDataModule,
    LinkedOutItemEncoder,
    SequentialRecommender,
)

HERE = Path(__file__).parent
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """301 users who mostly walk from item i to item i + 1; an odd number, to share unevenly."""
    torch.manual_seed(0)
    rows = ["user,item,timestamp"]
    for user in range(301):
        item = int(torch.randint(0, 40, ()))
        for time in range(int(torch.randint(4, 11, ()))):
            rows.append(f"u{user},i{item},{time}")
            jump = int(torch.randint(2, 30, ())) if torch.rand(()) < 0.2 else 1
            item = (item + jump) % 40
    path = tmp_path_factory.mktemp("data") / "walks.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def _data(table: Path, **options: object) -> InteractionDataModule:
    data = InteractionDataModule(table, max_len=8, batch_size=64, eval_batch_size=50, **options)
    data.setup()
    return data


def _model(data: InteractionDataModule, **options: object) -> SequentialRecommender:
    torch.manual_seed(0)
    options = {"max_len": 8, "lr": 1e-2, "weight_decay": 0.01, **options}
    return SequentialRecommender(IDItemEncoder(data.num_items, dim=16), **options)


def _linkedout(data: InteractionDataModule, **options: object) -> LinkedOutItemEncoder:
    torch.manual_seed(0)
    features = torch.randn(data.num_items, 3, 2, 24)
    return LinkedOutItemEncoder.from_features(
        features, train_items=data.train_item_mask, dim=16, rank=8, **options
    )


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "nextitnet"])
@pytest.mark.parametrize("loss", ["full", "in_batch", "sampled"])
def test_fast_dev_run(table, backbone, loss):
    data = _data(table)
    trainer = L.Trainer(fast_dev_run=True, **QUIET)
    model = _model(data, backbone=backbone, loss=loss, negatives=16)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    assert trainer.callback_metrics["test/HR@10"].isfinite()


def test_training_beats_chance_logs_to_both_loggers_and_stops_early(table, tmp_path):
    data = _data(table)
    model = _model(data)
    best = ModelCheckpoint(
        tmp_path / "best", "best", monitor="val/HR@10", mode="max", auto_insert_metric_name=False
    )
    stop = EarlyStopping("val/HR@10", mode="max", patience=2, min_delta=0.01)
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tensorboard")]
    trainer = L.Trainer(
        max_epochs=40, logger=loggers, callbacks=[best, stop], log_every_n_steps=1, **QUIET
    )
    trainer.fit(model, data)
    assert 0 < stop.stopped_epoch < 39
    metrics = trainer.test(model, data, ckpt_path=best.best_model_path, verbose=False)[0]
    assert metrics["test/HR@10"] > 0.6  # chance is about 0.3
    header = next((tmp_path / "csv").rglob("metrics.csv")).read_text().splitlines()[0]
    assert {"train/loss", "val/HR@10", "val/NDCG@20", "test/MRR@10"} <= set(header.split(","))
    assert list((tmp_path / "tensorboard").rglob("events.out.*"))

    users, ranks = model.test_ranks
    assert users.tolist() == sorted(set(users.tolist()))
    assert len(users) == len(data._ready().test.users)
    assert (ranks <= 10).float().mean().item() == pytest.approx(metrics["test/HR@10"])
    hits, total = 0.0, 0.0
    for name in data.popularity_slices():
        count = metrics[f"test/{name}/users"]
        hits, total = hits + (metrics.get(f"test/{name}/HR@10", 0.0) * count), total + count
    assert total == len(users)
    assert hits / total == pytest.approx(metrics["test/HR@10"])


@pytest.mark.parametrize("encoder", ["id", "linkedout"])
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(table, tmp_path, encoder):
    def model(data):
        torch.manual_seed(0)
        items = (
            IDItemEncoder(data.num_items, dim=16, id_dropout=0.2)
            if encoder == "id"
            else _linkedout(data, id_fusion="concat", dropout=0.1)
        )
        return SequentialRecommender(
            items, max_len=8, dropout=0.3, loss="sampled", negatives=8, warmup_steps=20
        )

    def run(epochs: int, seed: int, resume: Path | None = None) -> SequentialRecommender:
        data = _data(table)
        trained = model(data)
        L.seed_everything(seed, verbose=False)
        trainer = L.Trainer(
            max_epochs=epochs, default_root_dir=tmp_path, logger=False,
            callbacks=[ModelCheckpoint(tmp_path / str(epochs), save_last=True)], **QUIET,
        )  # fmt: skip
        trainer.fit(trained, data, ckpt_path=resume)
        return trained

    whole = run(4, seed=1)
    run(2, seed=1)
    resumed = run(4, seed=99, resume=tmp_path / "2" / "last.ckpt")
    for (name, ours), theirs in zip(
        resumed.state_dict().items(), whole.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)


def test_a_checkpoint_holds_no_features_and_loads_around_a_new_encoder(table, tmp_path):
    data = _data(table)
    model = SequentialRecommender(_linkedout(data), "gru4rec", max_len=8, loss="in_batch")
    trainer = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    stored = torch.load(tmp_path / "model.ckpt", weights_only=True)
    catalogue = {data.num_items, data.num_items + 1}
    for name, tensor in stored["state_dict"].items():
        assert catalogue.isdisjoint(tensor.shape), name
    loaded = SequentialRecommender.load_from_checkpoint(
        tmp_path / "model.ckpt", item_encoder=_linkedout(data), weights_only=True
    )
    assert loaded.loss == "in_batch"
    inputs = torch.tensor([[0, 3, 8], [1, 2, 3]])
    torch.testing.assert_close(
        loaded.eval().scores(inputs), model.eval().scores(inputs), rtol=0, atol=0
    )


def test_bfloat16_training_and_gradient_clipping(table):
    data = _data(table)
    model = _model(data)
    trainer = L.Trainer(
        max_epochs=3, precision="bf16-mixed", gradient_clip_val=5.0, logger=False,
        enable_checkpointing=False, **QUIET,
    )  # fmt: skip
    trainer.fit(model, data)
    assert trainer.callback_metrics["val/HR@10"] > 0.4
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_data_module_of_another_catalogue_is_refused(table):
    data = _data(table)
    model = SequentialRecommender(IDItemEncoder(data.num_items + 1, dim=16), max_len=8)
    with pytest.raises(ValueError, match="item encoder has 41 items and the data module 40"):
        L.Trainer(fast_dev_run=True, **QUIET).fit(model, data)


def test_in_batch_without_counts_says_where_they_come_from(table):
    data = _data(table)
    model = _model(data, loss="in_batch")
    with pytest.raises(ValueError, match="needs `item_counts`"):
        L.Trainer(fast_dev_run=True, **QUIET).fit(
            model, data.train_dataloader(), data.val_dataloader()
        )


def test_two_processes_give_the_metrics_of_one(table, tmp_path):
    """Validation, test and every user's rank; then two epochs of training, equal on both ranks."""
    data = _data(table)
    model = _model(data)
    trainer = L.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    expected = trainer.test(model, data, verbose=False)[0]
    expected |= trainer.validate(model, data, verbose=False)[0]

    program = HERE / "snippets" / "two_processes.py"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(program), str(table), str(tmp_path / "model.ckpt"), str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    outcome = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]
    for found in ranks:
        assert found["metrics"].keys() == expected.keys()
        for name, value in expected.items():
            assert found["metrics"][name] == pytest.approx(value, abs=1e-6), name
        assert found["users"].tolist() == model.test_ranks.users.tolist()
        assert torch.equal(found["ranks"], model.test_ranks.ranks)
    for name, weight in ranks[0]["trained"].items():
        assert torch.equal(weight, ranks[1]["trained"][name]), name
    assert ranks[0]["noise"] != ranks[1]["noise"]  # dropout differs by process


def test_the_readmes_own_module_runs(table, tmp_path):
    sys.path.insert(0, str(HERE / "snippets"))
    try:
        import own_module
    finally:
        sys.path.pop(0)
    trainer = own_module.main(
        table, torch.randn(40, 3, 2, 24), max_epochs=2, logger=False,
        enable_checkpointing=False, **QUIET,
    )  # fmt: skip
    assert trainer.callback_metrics["HR@10"].isfinite()
