"""Several views from files to a store, by a YAML file and by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import write_clip

from linkedout_lightning import FeatureStore, LinkedOutItemEncoder
from linkedout_lightning.cli import main
from linkedout_lightning.tap import TapInput, VideoLLMTap
from linkedout_lightning.tap.items import read_items
from linkedout_lightning.video import FrameSampler

YAML = """
model: {model}
items: {folder}/items.csv
videos: {folder}/videos
covers: {folder}/covers
layers: [1, -1]
frames: 2
size: null
store_dtype: float32
device: cpu
workers: 1
batch_size: 2
views:
  watch:
    prompt: "Title: {{title}}"
    groups: [visual:2, text, last]
  cover:
    prompt: ""
    sees: cover
  read:
    prompt: "{{title}}; {{tags}}"
    sees: nothing
    groups: [text, "generated:2"]
"""
VIEWS = {
    "watch": {"prompt": "Title: {title}", "groups": ["visual:2", "text", "last"]},
    "cover": {"prompt": "", "sees": "cover"},
    "read": {
        "prompt": "{title}; {tags}",
        "sees": "nothing",
        "groups": ["text", "generated:2"],
    },
}
ROWS = {
    "both": ("A cat", "pets"),
    "video": ("", ""),
    "cover": ("", ""),
    "text": ("Two dogs", ""),
    "tags": ("", "ships"),
    "other": ("Rain", "weather"),
    "void": ("", ""),
}


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    from PIL import Image

    chance = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    (tmp_path / "covers").mkdir()
    for number, name in enumerate(("both", "video", "other")):
        write_clip(tmp_path / "videos" / f"{name}.mp4", seed=number)
    for name, shape in (("both", (32, 40, 3)), ("cover", (48, 32, 3))):
        picture = Image.fromarray(chance.integers(0, 256, shape, dtype=np.uint8))
        picture.save(tmp_path / "covers" / f"{name}.png")
    lines = ["item_id,title,tags", *(f"{name},{a},{b}" for name, (a, b) in ROWS.items())]
    (tmp_path / "items.csv").write_text("\n".join(lines))
    return tmp_path


def expected(folder: Path, model: Path) -> tuple[VideoLLMTap, list[TapInput]]:
    tap = VideoLLMTap.from_pretrained(str(model), layers=[1, -1], views=VIEWS)
    sampler = FrameSampler(frames=2, size=None)
    found = [
        TapInput(
            item.item_id,
            None if item.video is None else sampler(item.video),
            item.columns,
            cover=None if item.cover is None else sampler(item.cover),
        )
        for item in read_items(folder / "items.csv", folder / "videos", covers=folder / "covers")
    ]
    return tap, found


def test_from_a_yaml_file_to_item_vectors(
    catalogue: Path, tiny_video_llm: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_video_llm("idefics3")
    (catalogue / "views.yaml").write_text(YAML.format(model=model, folder=catalogue))
    out = catalogue / "features"
    command = ["extract", "--config", str(catalogue / "views.yaml"), "--out", str(out), "--json"]
    assert main(command) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["failures"].keys() == {"void"}

    tap, inputs = expected(catalogue, model)
    store = FeatureStore.open(out)
    assert store.spec.slots == tap.slots
    assert store.spec.views["read"] == VIEWS["read"]
    alone = tap.encode(inputs[:-1], batch_size=1)
    found = store.get(alone.item_ids)
    assert torch.equal(found.mask, alone.mask)
    torch.testing.assert_close(found.features, alone.features, rtol=1e-4, atol=1e-5)
    known = dict(zip(alone.item_ids, found.mask.tolist(), strict=True))
    assert known["cover"] == [slot in ("cover/visual", "cover/last") for slot in tap.slots]
    assert known["tags"] == [slot.startswith("read/") for slot in tap.slots]

    encoder = LinkedOutItemEncoder(store, alone.item_ids, dim=8, rank=4)
    assert torch.isfinite(encoder.all_items()).all()

    # The same in one line: nothing is left to do, so it is the same specification.
    words = [
        *("watch.prompt=Title: {title}", "watch.groups=[visual:2,text,last]"),
        *("cover.prompt=", "cover.sees=cover"),
        *("read.prompt={title}; {tags}", "read.sees=nothing", "read.groups=text,generated:2"),
    ]
    options = {"model": model, "items": catalogue / "items.csv", "out": out, "device": "cpu"}
    options |= {"videos": catalogue / "videos", "covers": catalogue / "covers", "frames": 2}
    options |= {"layers": "[1,-1]", "size": "null", "store_dtype": "float32"}
    line = [f"--{name}={value}" for name, value in options.items()]
    assert main(["extract", *line, "--views", *words, "--json"]) == 3
    again = json.loads(capsys.readouterr().out)
    assert (again["done"], again["skipped"]) == (0, 6)

    words[0] = "watch.prompt=About: {title}"
    assert main(["extract", *line, "--views", *words, "--json"]) == 2
    message = capsys.readouterr().err
    assert "views.watch.prompt: 'Title: {title}' in the store, 'About: {title}' now" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.promt=x"], "the view 'a' has the keys promt; the keys are prompt, sees, groups"),
        (["a.sees=sound"], "the view 'a': `sees` is 'sound'; give one of video, cover, nothing"),
        (["a/b.sees=video"], "the name 'a/b'"),
        (["a.prompt={tags}"], "wants the columns tags"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    catalogue: Path,
    tiny_video_llm: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    (catalogue / "few.csv").write_text("item_id,title\ntext,Two dogs\n")
    out = catalogue / "features"
    options = {"model": tiny_video_llm("idefics3"), "items": catalogue / "few.csv", "out": out}
    line = [f"--{name}={value}" for name, value in options.items()]
    assert main(["extract", *line, "--quiet", "--views", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not out.exists()
