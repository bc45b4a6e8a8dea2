"""The job from files to store, with a tiny model that sees and real (small) videos."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from clips import write_catalogue, write_clip

from linkedout_lightning.errors import ConfigError, DataError, StoreSpecError
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap import TapInput, VideoLLMTap
from linkedout_lightning.tap.extract import ExtractConfig, extract
from linkedout_lightning.video import FrameSampler

LAYERS = (0, 2, -1)
BROKEN = {"v1", "v4", "empty"}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> tuple[Path, Path]:
    return write_catalogue(tmp_path_factory.mktemp("catalogue"), videos=9, texts=5)


@pytest.fixture(scope="module")
def tap(tiny_video_llm) -> VideoLLMTap:
    return VideoLLMTap.from_pretrained(
        str(tiny_video_llm("idefics3")), layers=LAYERS, prompt="About {title}", frames=2
    )


@pytest.fixture
def config(catalogue, tiny_video_llm, tmp_path: Path) -> ExtractConfig:
    return configured(catalogue, tiny_video_llm, tmp_path)


def configured(catalogue, tiny_video_llm, folder: Path, **changes) -> ExtractConfig:
    values = {
        "model": str(tiny_video_llm("idefics3")),
        "out": str(folder / "features"),
        "items": str(catalogue[0]),
        "videos": str(catalogue[1]),
        "layers": LAYERS,
        "prompt": "About {title}",
        "frames": 2,
        "size": None,
        "store_dtype": "float32",
        "workers": 1,
        "batch_size": 2,
        "device": "cpu",
        **changes,
    }
    return ExtractConfig(**values)


def test_the_store_holds_what_the_tap_says(config: ExtractConfig, tap: VideoLLMTap) -> None:
    report = extract(config, progress=False)

    store = FeatureStore.open(config.out)
    assert store.item_ids == sorted(
        {f"v{i}" for i in range(9)} - BROKEN | {f"t{i}" for i in range(5)}
    )
    assert set(store.failures) == BROKEN
    assert store.failures["empty"] == "no video, no cover and no text that the prompt uses"
    assert store.spec.slots == ("visual", "text", "last")
    assert store.spec.layers == (0, 2, 4)
    assert store.spec.sampler["frames"] == 2

    titles = dict(line.split(",") for line in Path(config.items).read_text().split("\n")[1:-1])
    sampler = FrameSampler(frames=2)
    for item_id in store.item_ids:
        video = Path(config.videos, f"{item_id}.mp4")
        frames = sampler(video) if video.exists() else None
        alone = tap.encode([TapInput(item_id, frames, {"title": titles[item_id]})])
        found = store.get([item_id])
        assert torch.equal(found.mask, alone.mask)
        torch.testing.assert_close(found.features, alone.features, rtol=1e-4, atol=1e-5)

    assert (report.done, report.skipped, report.failed) == (12, 0, 3)
    assert report.exit_code == 3
    assert report.failures == store.failures
    assert report.items == 15
    assert report.store_items == 12
    assert report.tokens > 0
    parts = {"wait", "decode", "prepare", "transfer", "model", "write"}
    assert report.seconds.keys() == parts | {"load", "total"}
    assert report.by_others == 0
    assert "7 items have no video" not in report.summary()
    assert "6 items have no video file" in report.summary()
    assert "no such file" not in report.summary()


def test_small_videos_keep_their_size_by_default(tmp_path: Path) -> None:
    config = ExtractConfig(model="m", out="o")
    clip = write_clip(tmp_path / "v.mp4", seed=0)
    native, default = (FrameSampler(2, size=size)(clip).data for size in (None, config.size))
    assert torch.equal(torch.from_numpy(native), torch.from_numpy(default))


def test_nothing_is_done_twice(config: ExtractConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = extract(config, progress=False)
    version = FeatureStore.open(config.out).version

    def never(*_: object) -> None:
        pytest.fail("the model was run")

    monkeypatch.setattr(VideoLLMTap, "extract", never)
    again = extract(config, progress=False)
    assert (again.done, again.skipped, again.failed, again.failed_before) == (0, first.done, 3, 3)
    assert again.exit_code == 3
    assert FeatureStore.open(config.out).version == version


def test_only_what_changed_is_done_again(
    catalogue, tiny_video_llm, tmp_path: Path, tap: VideoLLMTap
) -> None:
    table, videos = write_catalogue(tmp_path / "own", videos=5, texts=3)
    config = configured((table, videos), tiny_video_llm, tmp_path)
    extract(config, progress=False, tap=tap)
    store = FeatureStore.open(config.out)
    before = store.get(["v0", "t0", "v2"]).features

    write_clip(videos / "v0.mp4", seed=99)
    write_clip(videos / "v1.mp4", seed=98)  # was broken
    os.utime(videos / "v3.mp4", ns=(5, 5))  # the same content: nothing to do
    lines = table.read_text().split("\n")
    lines = [f"{line} indeed" if line.startswith("t0,") else line for line in lines]
    table.write_text("\n".join([*lines[:-1], "new,a new title", ""]))

    report = extract(config, progress=False, tap=tap)
    assert (report.done, report.failed, report.failed_before) == (4, 2, 2)  # v0 v1 t0 new
    store.refresh()
    assert set(store.failures) == {"v4", "empty"}
    after = store.get(["v0", "t0", "v2"]).features
    assert not torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[2], after[2])

    (videos / "v4.mp4").unlink()
    write_clip(videos / "v4.mp4", seed=4)
    assert extract(config, progress=False, tap=tap).failed == 1


def test_items_that_are_gone_are_removed_when_asked(
    catalogue, tiny_video_llm, tmp_path: Path, tap: VideoLLMTap
) -> None:
    table, videos = write_catalogue(tmp_path / "own", videos=5, texts=3)
    config = configured((table, videos), tiny_video_llm, tmp_path)
    extract(config, progress=False, tap=tap)
    lines = table.read_text().split("\n")
    table.write_text("\n".join(line for line in lines if line.split(",")[0] not in ("v0", "v1")))
    assert extract(config, progress=False, tap=tap).pruned == 0
    assert "v0" in FeatureStore.open(config.out)

    pruning = dataclasses.replace(config, prune=True)
    report = extract(pruning, progress=False, tap=tap)
    store = FeatureStore.open(config.out)
    assert (report.pruned, report.done) == (2, 0)
    assert "removed         2" in report.summary()
    assert store.item_ids == ["t0", "t1", "t2", "v2", "v3"]
    assert set(store.failures) == {"v4", "empty"}

    table.write_text("\n".join([lines[0], "another,x", "v2,"]) + "\n")
    with pytest.raises(DataError, match="would remove 6 of the 7 items"):
        extract(pruning, progress=False, tap=tap)
    assert FeatureStore.open(config.out).item_ids == store.item_ids
    with pytest.raises(ConfigError, match="without `limit` and `shard`"):
        dataclasses.replace(pruning, limit=3)


def test_failed_items_are_tried_again_when_asked(
    config: ExtractConfig, catalogue, tiny_video_llm, tmp_path: Path, tap: VideoLLMTap
) -> None:
    extract(config, progress=False, tap=tap)
    again = configured(catalogue, tiny_video_llm, tmp_path, retry_failed=True)
    report = extract(again, progress=False, tap=tap)
    assert (report.done, report.failed, report.failed_before, report.skipped) == (0, 3, 0, 12)


def test_shares_together_are_the_whole(
    config: ExtractConfig, catalogue, tiny_video_llm, tmp_path: Path, tap: VideoLLMTap
) -> None:
    extract(config, progress=False, tap=tap)
    whole = FeatureStore.open(config.out)
    for share in ("2/3", "1/3", "3/3"):
        part = configured(catalogue, tiny_video_llm, tmp_path / "shares", shard=share)
        extract(part, progress=False, tap=tap)
    union = FeatureStore.open(tmp_path / "shares" / "features")
    assert union.item_ids == whole.item_ids
    assert union.failures == whole.failures
    torch.testing.assert_close(
        union.get(whole.item_ids).features, whole.get(whole.item_ids).features
    )


def test_other_settings_are_refused_by_name(
    config: ExtractConfig, catalogue, tiny_video_llm, tmp_path: Path
) -> None:
    few = {"limit": 2}
    extract(configured(catalogue, tiny_video_llm, tmp_path, **few), progress=False)
    other = configured(
        catalogue, tiny_video_llm, tmp_path, **few, layers=(1,), frames=3, prompt="{title}!"
    )
    with pytest.raises(StoreSpecError) as caught:
        extract(other, progress=False)
    for words in ("layers: (0, 2, 4) in the store, (1,) now", "sampler.frames: 2", "prompt: "):
        assert words in str(caught.value)
    assert len(FeatureStore.open(config.out)) == 1


def test_a_table_without_the_prompts_columns_is_refused(
    catalogue, tiny_video_llm, tmp_path: Path, tap: VideoLLMTap
) -> None:
    (tmp_path / "items.csv").write_text("id,name\n1,x\n")
    config = configured((tmp_path / "items.csv", catalogue[1]), tiny_video_llm, tmp_path)
    with pytest.raises(DataError, match=r"wants the columns title.* has name beside"):
        extract(config, progress=False, tap=tap)
    assert not Path(config.out).exists()


def test_an_item_on_which_the_model_fails_costs_itself(
    config: ExtractConfig, tap: VideoLLMTap, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = VideoLLMTap.extract

    def fails_on_v2(self, batch):
        if "v2" in batch.item_ids:
            raise IndexError("odd item")
        return plain(self, batch)

    monkeypatch.setattr(VideoLLMTap, "extract", fails_on_v2)
    report = extract(config, progress=False, tap=tap)
    assert (report.done, report.failed) == (11, 4)
    assert report.failures["v2"] == "the model failed: IndexError: odd item"


def test_a_model_that_only_reads(catalogue, tiny_video_llm, tmp_path: Path) -> None:
    config = configured(
        catalogue, tiny_video_llm, tmp_path, model=str(tiny_video_llm("llama")), batch_size=None
    )
    report = extract(config, progress=False)
    store = FeatureStore.open(config.out)
    assert store.spec.slots == ("text", "last")
    assert store.spec.sampler == {}
    assert "only reads text" in report.summary()
    # Without a title and without eyes there is nothing to go by.
    titles = dict(line.split(",") for line in Path(config.items).read_text().split("\n")[1:-1])
    assert store.item_ids == sorted(i for i, title in titles.items() if title)


def test_options_that_cannot_be() -> None:
    for wrong in (
        {"batch_size": 0},
        {"limit": -1},
        {"workers": 0},
        {"shard": "2/1"},
        {"dtype": "float8"},
        {"store_dtype": "auto"},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ExtractConfig(model="m", out="o", **wrong)


def test_a_device_that_is_not_there(config, catalogue, tiny_video_llm, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigError, match="`device` is 'cuda:7'"):
        extract(configured(catalogue, tiny_video_llm, tmp_path, device="cuda:7"), progress=False)
