"""Deciding without weights: the outline is named as the loaded model is, and nothing is skipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from clips import write_catalogue

from linkedout_lightning.errors import StoreSpecError
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap import opening
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.extract import extract
from linkedout_lightning.tap.sink import store_spec


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "bfloat16", "layers": (0, -1)},
        {"attention": "eager", "groups": ("last",), "prompt": "Hi {title}"},
    ],
)
@pytest.mark.parametrize(
    "family", ["idefics3", "smolvlm", "qwen2_5_vl", "qwen3_vl", "llama", "gpt2"]
)
def test_an_outline_is_named_as_the_loaded_model_is(tiny_video_llm, family, options) -> None:
    options = {"layers": 2, **options}
    config = ExtractConfig(model=str(tiny_video_llm(family)), out="o", device="cpu", **options)
    outline, loaded = opening.outline_tap(config, progress=False), opening.open_tap(config)
    assert outline is not None
    assert {p.device.type for p in outline.model.parameters()} == {"meta"}
    assert outline.fingerprint() == loaded.fingerprint()
    assert store_spec(outline) == store_spec(loaded)
    for name in ("sees", "columns", "frames", "slots", "hidden_size"):
        assert getattr(outline, name) == getattr(loaded, name)


@pytest.mark.parametrize("change", ["no dtype", "quantized"])
def test_there_is_no_outline_of_what_only_loading_tells(tiny_video_llm, tmp_path, change) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_video_llm("llama"), folder)
    settings = json.loads((folder / "config.json").read_text())
    if change == "no dtype":
        settings.pop("dtype")
    else:
        settings["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(settings))
    config = ExtractConfig(model=str(folder), out="o", layers=2)
    assert opening.outline_tap(config) is None
    if change == "no dtype":
        explicit = ExtractConfig(model=str(folder), out="o", layers=2, dtype="float32")
        assert opening.outline_tap(explicit) is not None


def test_weights_are_loaded_only_for_work(
    tiny_video_llm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, videos = write_catalogue(tmp_path, videos=3, texts=3)
    model = tmp_path / "model"
    shutil.copytree(tiny_video_llm("idefics3"), model)

    def run(**changes: object):
        options = {"layers": (1, 2), "frames": 2, "workers": 1, "device": "cpu", **changes}
        config = ExtractConfig(
            model=str(model), out=str(tmp_path / "features"), items=str(table),
            videos=str(videos), **options,
        )  # fmt: skip
        return extract(config, progress=False)

    loads = []
    plain = opening.load_pretrained

    def counted(*args: object, **options: object):
        loads.append(args)
        return plain(*args, **options)

    monkeypatch.setattr(opening, "load_pretrained", counted)
    first = run()
    version = FeatureStore.open(tmp_path / "features").version
    assert len(loads) == 1
    again = run()
    assert len(loads) == 1
    assert (again.done, again.skipped) == (0, first.done)
    assert (again.failures, again.versions) == (first.failures, first.versions)
    assert again.notes == first.notes
    assert FeatureStore.open(tmp_path / "features").version == version

    # Another prompt, other weights of the same shape: refused by the model as it is loaded.
    with pytest.raises(StoreSpecError, match="prompt"):
        run(prompt="Hi {title}")
    assert len(loads) == 2
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(StoreSpecError, match="revision"):
        run()
    assert len(loads) == 3
    (model / "model.safetensors").write_bytes(weights)

    assert run(retry_failed=True).failed == len(first.failures)
    assert len(loads) == 4
    with table.open("a") as lines:
        lines.write("new,a new title\n")
    assert run().done == 1
    assert len(loads) == 5
    before = FeatureStore.open(tmp_path / "features").get(["t0"]).features
    table.write_text(table.read_text().replace("t0,", "t0,now "))
    assert run().done == 1
    assert len(loads) == 6
    assert not torch.equal(before, FeatureStore.open(tmp_path / "features").get(["t0"]).features)
