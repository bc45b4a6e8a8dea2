from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap import TapInput, VideoLLMTap
from linkedout_lightning.tap.sink import store_spec
from linkedout_lightning.tap.writer import StoreWriter


def test_predict_fills_a_store(tiny_video_llm, tmp_path: Path) -> None:
    tap = VideoLLMTap.from_pretrained(
        str(tiny_video_llm("llama")), layers=(1, 3), groups=("text", "last")
    )
    items = [TapInput(str(i), None, {"title": "word " * (i % 4)}) for i in range(11)]
    store = FeatureStore.create(tmp_path / "s", store_spec(tap, dtype="float32"))
    writer = StoreWriter(store, fingerprints={"1": "one"}, rows=4)
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[writer],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(items, batch_size=3, collate_fn=tap.prepare)
    assert trainer.predict(tap, loader, return_predictions=False) is None

    blank = {"0", "4", "8"}
    found = FeatureStore.open(store.path)
    ids = [i.item_id for i in items if i.item_id not in blank]
    assert found.item_ids == sorted(ids)
    assert set(found.failures) == set(writer.failures) == blank
    assert found.fingerprints()["1"] == "one"
    truth = tap.encode([i for i in items if i.item_id not in blank])
    torch.testing.assert_close(found.get(ids).features, truth.features, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.get(ids).mask, truth.mask)


def test_a_run_that_breaks_off_keeps_what_was_finished(tiny_video_llm, tmp_path: Path) -> None:
    tap = VideoLLMTap.from_pretrained(str(tiny_video_llm("llama")), groups=("last",))
    store = FeatureStore.create(tmp_path / "s", store_spec(tap))

    class Breaks(lightning.Callback):
        def on_predict_batch_start(self, trainer, module, batch, batch_idx, loader=0) -> None:
            if batch_idx == 2:
                raise RuntimeError("the cluster is shut down")

    items = [TapInput(str(i), None, {"title": "word"}) for i in range(8)]
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[StoreWriter(store), Breaks()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(RuntimeError, match="shut down"):
        trainer.predict(tap, DataLoader(items, batch_size=2, collate_fn=tap.prepare))
    assert FeatureStore.open(store.path).item_ids == ["0", "1", "2", "3"]
