"""A new video over HTTP: watched once by the small video LLM of the package, then recommended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from served_world import TOKEN, Served

from linkedout_lightning import FeatureStore, LinkedOutItemEncoder, Ranker, SequentialRecommender
from linkedout_lightning.serving import export_bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of twelve clips, and a bundle that knows the first ten of them."""
    from linkedout_lightning.demo import WEIGHTS, generate_world
    from linkedout_lightning.tap.config import ExtractConfig
    from linkedout_lightning.tap.extract import extract

    root = tmp_path_factory.mktemp("watched")
    generate_world(root, items=12, users=30, cold=2, steps=4, progress=False)
    store = root / "features"
    extract(
        ExtractConfig(
            model=str(WEIGHTS), items=str(root / "items.parquet"), videos=str(root / "videos"),
            out=str(store), layers=(1, 3), groups=("visual", "last"), prompt="What is shown?",
            frames=4, dtype="float32",
        ),
        progress=False,
    )  # fmt: skip
    items = sorted(FeatureStore.open(store).item_ids)
    torch.manual_seed(2)
    encoder = LinkedOutItemEncoder(FeatureStore.open(store), items[:10], dim=16, rank=8)
    model = SequentialRecommender(encoder, "gru4rec", max_len=5, backbone_options={"hidden": 16})
    export_bundle(model, root / "bundle", item_ids=items[:10], formats=())
    return root


def test_a_video_becomes_the_item_that_its_features_make(watched: Path) -> None:
    item = sorted(FeatureStore.open(watched / "features").item_ids)[10]
    server = Served(
        *("--bundle", str(watched / "bundle"), "--videos", str(watched / "videos")),
        *("--media", str(watched / "videos"), "--device", "cpu"),
    )
    history = ["clip_00001", "clip_00004"]
    body = {"items": [{"id": item, "video": f"{item}.mp4", "columns": {"title": "Brand new"}}]}
    assert server.post("/items", body, token=TOKEN).json["items"] == 11
    ranker = Ranker.load(watched / "bundle")
    ranker.add_from_store(watched / "features", [item])
    for asked in (history, [item]):
        expected = ranker.recommend([asked], 11)
        reply = server.recommend(asked, 11).json["items"]
        assert [one["id"] for one in reply] == expected.ids[0]
        assert [one["score"] for one in reply] == pytest.approx(expected.scores[0], abs=1e-3)
    found = server.get(f"/items/{item}").json
    assert (found["columns"], found["clip"]["type"]) == ({"title": "Brand new"}, "video/mp4")
    assert set(found["gates"]) == {"1", "3"}

    (watched / "videos" / "broken.mp4").write_bytes(b"no video")
    body = {"items": [{"id": "broken", "video": "broken.mp4"}]}
    refused = server.post("/items", body, token=TOKEN)
    assert (refused.status, "broken.mp4" in refused.json["detail"]) == (422, True)
    assert server.get("/healthz").json["models"] == {"bundle": 11}
    assert server.end() == 0
