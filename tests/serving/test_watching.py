"""A video file becomes an item: the vector that an extraction and the model would have given it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from linkedout_lightning import (
    FeatureStore,
    LinkedOutItemEncoder,
    Ranker,
    SequentialRecommender,
    export_bundle,
)
from linkedout_lightning.cli import main
from linkedout_lightning.demo.model import WEIGHTS
from linkedout_lightning.errors import ConfigError, StoreSpecError, VideoDecodeError

CLIPS = 7


def write_clip(path: Path, *, seed: int) -> None:
    import av

    chance = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        for _ in range(12):
            small = chance.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            picture = small.repeat(8, axis=0).repeat(8, axis=1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, their features by the package's own small model, and a bundle without the last."""
    pytest.importorskip("av")
    from linkedout_lightning.tap.extract import ExtractConfig, extract

    folder = tmp_path_factory.mktemp("world")
    (folder / "videos").mkdir()
    lines = ["item_id,title"]
    for number in range(CLIPS):
        write_clip(folder / "videos" / f"v{number}.mp4", seed=number)
        lines.append(f"v{number},a red disc {number}")
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    extract(
        ExtractConfig(
            model=str(WEIGHTS), items=str(folder / "items.csv"), videos=str(folder / "videos"),
            out=str(folder / "features"), layers=(2, 8), prompt="About {title}", frames=4,
            size=32, workers=1, device="cpu",
        ),
        progress=False,
    )  # fmt: skip
    ids = [f"v{number}" for number in range(CLIPS - 1)]
    torch.manual_seed(0)
    encoder = LinkedOutItemEncoder(FeatureStore.open(folder / "features"), ids, dim=8, rank=4)
    model = SequentialRecommender(encoder, "gru4rec", max_len=5).eval()
    export_bundle(model, folder / "bundle", item_ids=ids, formats=())
    return folder


@pytest.fixture
def own(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "bundle", tmp_path / "b"))


def test_a_video_gets_the_vector_of_its_extraction(world: Path, own: Path, capsys) -> None:
    new, title = f"v{CLIPS - 1}", f"a red disc {CLIPS - 1}"
    video = str(world / "videos" / f"{new}.mp4")
    assert main(["add", "--bundle", str(own), "--video", video, "--title", title]) == 0
    assert f"1 items added; {CLIPS}" in capsys.readouterr().out
    watched, stored = Ranker.load(own), Ranker.load(world / "bundle")
    stored.add_from_store(world / "features", [new])
    one, other = (r._snapshot.take(torch.tensor([r._snapshot.row(new)])) for r in (watched, stored))
    # Batches of another make-up round otherwise.
    torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-3)
    users = [["v0", "v1"], [new]]
    assert watched.recommend(users, CLIPS).ids == stored.recommend(users, CLIPS).ids
    assert watched.columns(new) == {"title": title}


def test_some_videos_fail_and_the_others_come(
    world: Path, own: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    good = world / "videos" / "v6.mp4"
    words = ["add", "--bundle", str(own), "--video", str(good), str(tmp_path / "bad.mp4")]
    assert main(words) == 3
    shown = capsys.readouterr().out
    assert "1 items added" in shown
    assert "failed: bad: cannot decode" in shown
    assert "v6" in Ranker.load(own)
    assert "bad" not in Ranker.load(own)


def test_refusals(own: Path, world: Path, tmp_path: Path) -> None:
    ranker, good = Ranker.load(own), world / "videos" / "v6.mp4"
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(VideoDecodeError):
        ranker.add_videos(["a", "b"], [good, tmp_path / "bad.mp4"])
    assert "a" not in ranker
    with pytest.raises(ConfigError, match="there already"):
        ranker.add_videos(["v1"], [good])
    other = Path(shutil.copytree(WEIGHTS, tmp_path / "other"))
    weights = next(other.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StoreSpecError, match="revision"):
        ranker.add_videos(["a"], [good], model=str(other))
    renamed = Path(shutil.copytree(WEIGHTS, tmp_path / "renamed"))
    ranker.add_videos(["a"], [good], model=str(renamed))
    assert "a" in ranker


def test_a_model_in_an_unknown_folder_must_be_named(own: Path, world: Path, monkeypatch) -> None:
    monkeypatch.setattr("linkedout_lightning.demo.model.WEIGHTS", own)
    with pytest.raises(ConfigError, match="name that folder in `model`"):
        Ranker.load(own).add_videos(["a"], [world / "videos" / "v6.mp4"])


def test_without_the_extra_it_says_which(own: Path, world: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"linkedout-lightning\[video\]"):
        Ranker.load(own).add_videos(["a"], [world / "videos" / "v6.mp4"])
