"""Items through data loaders and ``Trainer.predict``, in one process and in two."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from clips import write_catalogue
from torch.utils.data import DataLoader

from linkedout_lightning.errors import ConfigError, LinkedOutError
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap import TapInput, VideoLLMTap
from linkedout_lightning.tap.dataset import Collate, Sample, VideoDataset
from linkedout_lightning.tap.items import read_items
from linkedout_lightning.video import FrameSampler

BROKEN = {"v1", "v4", "empty"}

# As a user of Lightning writes it; it is run again for the second process by Lightning itself.
PROGRAM = """
import json, sys
from pathlib import Path

import torch
from lightning import Callback, Trainer

from linkedout_lightning import FeatureStore, FrameSampler, VideoLLMTap
from linkedout_lightning.tap.dataset import VideoDataModule
from linkedout_lightning.tap.extract import ExtractConfig, extract
from linkedout_lightning.tap.items import read_items
from linkedout_lightning.tap.sink import store_spec
from linkedout_lightning.tap.writer import StoreWriter


class Log(Callback):
    def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, loader=0):
        with open(sys.argv[4], "a") as file:
            ids = [*outputs.item_ids, *batch.failures]
            file.write(json.dumps([trainer.global_rank, ids]) + "\\n")


def main(model, table, videos):
    torch.set_num_threads(1)
    tap = VideoLLMTap.from_pretrained(model, layers=(0, 2, -1), prompt="About {title}", frames=2)
    sampler = FrameSampler(tap.frames)
    spec = store_spec(tap, sampler=sampler, dtype="float32")
    store = FeatureStore.create(sys.argv[5], spec, exist_ok=True)
    items = read_items(table, videos)
    for some in (items[:7], items, items, items):
        data = VideoDataModule(
            some, tap=tap, store=store, sampler=sampler, batch_size=3, workers=1
        )
        writer = StoreWriter(store)
        trainer = Trainer(
            accelerator="cpu", devices=2, strategy="ddp", callbacks=[writer, Log()],
            logger=False, enable_progress_bar=False, enable_model_summary=False,
        )
        trainer.predict(tap, datamodule=data, return_predictions=False)
        with open(sys.argv[4], "a") as file:
            counts = [len(data.work.todo), data.work.skipped, len(data.work.known_failures)]
            file.write(json.dumps(["end", trainer.global_rank, counts]) + "\\n")
        trainer.strategy.barrier()
        if len(data.work.todo) == 0 and trainer.is_global_zero:
            changed = Path(videos) / "v2.mp4"
            changed.write_bytes((Path(videos) / "v3.mp4").read_bytes())
        trainer.strategy.barrier()
    if trainer.is_global_zero:
        # Here, as other processes may have other image processors of the same name.
        config = ExtractConfig(
            model=model, items=table, videos=videos, out=sys.argv[5] + "-plain", layers=(0, 2, -1),
            prompt="About {title}", frames=2, size=None, store_dtype="float32", workers=1,
            device="cpu",
        )
        assert extract(config, progress=False).exit_code == 3


if __name__ == "__main__":
    main(*sys.argv[1:4])
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> tuple[Path, Path]:
    return write_catalogue(tmp_path, videos=9, texts=5)


@pytest.fixture(scope="module")
def tap(tiny_video_llm) -> VideoLLMTap:
    return VideoLLMTap.from_pretrained(
        str(tiny_video_llm("idefics3")), layers=(0, 2, -1), prompt="About {title}", frames=2
    )


def assert_same(found: FeatureStore, wanted: FeatureStore) -> None:
    assert found.spec.differences(wanted.spec) == []
    assert found.item_ids == wanted.item_ids
    assert found.failures == wanted.failures
    assert found.fingerprints() == wanted.fingerprints()
    ours, theirs = found.get(wanted.item_ids), wanted.get(wanted.item_ids)
    torch.testing.assert_close(ours.features, theirs.features, rtol=0, atol=1e-4)
    assert torch.equal(ours.mask, theirs.mask)


def test_a_loader_decodes_in_its_workers(catalogue, tap: VideoLLMTap) -> None:
    items = read_items(*catalogue)
    data = VideoDataset(items, tap=tap, sampler=FrameSampler(tap.frames))
    loader = DataLoader(data, batch_size=4, num_workers=1, collate_fn=data.collate)
    batches = list(loader)
    assert [len(batch) + len(batch.failures) for batch in batches] == [4, 4, 4, 3]
    assert [i for batch in batches for i in batch.stamps] == [item.item_id for item in items]
    reasons = {item: why for batch in batches for item, why in batch.failures.items()}
    assert set(reasons) == {"v1", "v4"}
    sampler = FrameSampler(tap.frames)
    inputs = [
        TapInput(i.item_id, sampler(i.video) if i.video else None, i.columns)
        for i in items
        if i.item_id not in reasons
    ]
    truth = tap.encode(inputs)
    outputs = [tap.extract(batch) for batch in batches]
    assert [i for output in outputs for i in output.item_ids] == truth.item_ids
    found = torch.cat([output.features for output in outputs])
    torch.testing.assert_close(found, truth.features, rtol=0, atol=1e-4)


def test_what_the_processor_refuses_costs_itself_alone() -> None:
    class Refusing:
        def __call__(self, items):
            if any(item.item_id.startswith("bad") for item in items):
                raise ValueError("too many pixels")
            from linkedout_lightning.tap.types import TapBatch

            return TapBatch([item.item_id for item in items], [])

    collate = Collate(Refusing())

    def samples(*ids: str) -> list[Sample]:
        return [Sample(i, f"stamp of {i}", TapInput(i)) for i in ids]

    batch = collate([*samples("a", "bad", "b"), Sample("c", "s", "no video stream")])
    assert batch.item_ids == ["a", "b"]
    reason = "the model failed: ValueError: too many pixels"
    assert batch.failures == {"c": "no video stream", "bad": reason}
    assert list(batch.stamps) == ["a", "bad", "b", "c"]
    assert collate(samples("bad")).item_ids == []
    for number in range(14):
        collate(samples(f"bad{number}"))
    with pytest.raises(LinkedOutError, match="16 items in a row"):
        collate(samples("bad"))


def test_no_sampler_is_an_error_where_the_model_sees(tap: VideoLLMTap) -> None:
    with pytest.raises(ConfigError, match="give `sampler`"):
        VideoDataset([], tap=tap)


def test_a_dataset_travels_without_the_model(catalogue, tap: VideoLLMTap) -> None:
    data = VideoDataset(read_items(*catalogue), tap=tap, sampler=FrameSampler(tap.frames))
    packed = pickle.dumps(data)
    assert b"modeling_idefics3" not in packed
    assert [item.item_id for item in pickle.loads(packed).items[:2]] == ["v0", "v1"]


def test_two_processes_do_each_item_once(catalogue, tiny_video_llm, tmp_path: Path) -> None:
    program, log, out = tmp_path / "predict.py", tmp_path / "log", tmp_path / "features"
    program.write_text(PROGRAM)
    model = str(tiny_video_llm("idefics3"))
    ran = subprocess.run(
        [sys.executable, program, model, *map(str, catalogue), log, out],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    rounds: list[list[tuple[int, list[str]]]] = [[]]
    counts = []
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        if entry[0] != "end":
            rounds[-1].append(entry)
        elif entry[1] == 0:
            counts.append(entry[2])
    # To do, there already, failed before: 7 items, the others, nothing, and a changed one.
    assert counts == [[7, 0, 0], [8, 5, 2], [0, 12, 3], [1, 11, 3]]
    by_rank: dict[int, list[str]] = {0: [], 1: []}
    for rank, ids in rounds[0]:
        by_rank[rank] += ids
    assert [len(by_rank[0]), len(by_rank[1])] == [4 + 4 + 1, 3 + 4]
    done = Counter(by_rank[0] + by_rank[1])
    assert done.pop("v2") == 2
    assert set(done.values()) == {1}
    assert done.keys() | {"v2"} == {item.item_id for item in read_items(*catalogue)}

    found = FeatureStore.open(out)
    assert set(found.failures) == BROKEN
    assert_same(found, FeatureStore.open(f"{out}-plain"))
