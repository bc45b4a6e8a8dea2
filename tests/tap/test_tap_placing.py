"""Where weights lie and how they are saved: device maps, shards, types, code of a repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tap_oracle as oracle
import torch
from tap_oracle import PROMPT, frames, item
from tiny_models import IMAGE_FAMILIES, VIDEO_FAMILIES, build_tiny_video_llm

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap import TapInput, VideoLLMTap
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.opening import open_tap, outline_tap

Tiny = Callable[[str], Path]
SEEING = {"layers": [0, 2], "groups": ["visual", "text", "last"], "prompt": PROMPT}
READING = {"layers": [0, 2, 4], "groups": ["text", "last", "generated:3"], "prompt": PROMPT}


def items(*, seeing: bool = True) -> list[TapInput]:
    shown = frames(8) if seeing else None
    return [item("a", "A cat", shown), item("b", "Only text"), item("c", "Two dogs", shown)]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm", "llama"])
def test_weights_on_disk_give_the_same_features(
    tiny_video_llm: Tiny, tmp_path: Path, family: str
) -> None:
    pytest.importorskip("accelerate")
    folder, seeing = tiny_video_llm(family), family != "llama"
    options = SEEING if seeing else READING
    plain = VideoLLMTap.from_pretrained(folder, **options).encode(items(seeing=seeing))
    for device_map in ({"": "disk"}, _tail_on_disk(folder)):
        tap = VideoLLMTap.from_pretrained(
            folder,
            device_map=device_map,
            model_kwargs={"offload_folder": str(tmp_path / "offload")},
            **options,
        )
        assert any(p.device.type == "meta" for p in tap.model.parameters())
        assert tap.device == torch.device("cpu")
        for _ in range(2):  # accelerate has put everything back after the first
            output = tap.encode(items(seeing=seeing))
            assert torch.equal(output.mask, plain.mask)
            torch.testing.assert_close(output.features, plain.features, rtol=0, atol=1e-5)


def _tail_on_disk(folder: Path) -> dict[str, str]:
    """A device map with the last two decoder blocks, the norm and the head on disk."""
    model, _ = oracle.load(folder)
    names = {id(module): name for name, module in model.named_modules()}
    decoder = model.get_decoder()
    away = [*decoder.layers[2:], decoder.norm]
    places = {names[id(module)]: "disk" for module in away}
    # A map must name every parameter, so all else is named part by part.
    for name, _ in model.named_parameters():
        if not any(name.startswith(f"{module}.") for module in places):
            places[name.rpartition(".")[0]] = "cpu"
    return places


def test_from_the_options_of_an_extraction(tiny_video_llm: Tiny) -> None:
    pytest.importorskip("accelerate")
    options: dict[str, Any] = {
        "model": str(tiny_video_llm("qwen2_5_vl")),
        "out": "o",
        "layers": (2,),
        "prompt": PROMPT,
        "dtype": "float32",
    }
    tap = open_tap(ExtractConfig(**options, device="cpu"), progress=False)
    plain = tap.encode(items())
    spread = open_tap(ExtractConfig(**options, device_map="auto"), progress=False)
    torch.testing.assert_close(spread.encode(items()).features, plain.features)
    assert spread.fingerprint() == tap.fingerprint()
    outline = outline_tap(ExtractConfig(**options, device_map="auto"), progress=False)
    assert outline is not None
    assert outline.fingerprint() == tap.fingerprint()
    with pytest.raises(ConfigError, match="`device` is 'cpu' and `device_map` 'auto'; give one"):
        ExtractConfig(**options, device="cpu", device_map="auto")


def test_attention_and_type_pass_through(tiny_video_llm: Tiny) -> None:
    options: dict[str, Any] = {"model": str(tiny_video_llm("qwen2_5_vl")), "out": "o", "layers": 2}
    config = ExtractConfig(**options, attention="eager", dtype="bfloat16", device="cpu")
    tap = open_tap(config, progress=False)
    for part in (tap.model, tap.model.get_decoder()):
        assert part.config._attn_implementation == "eager"
        assert next(part.parameters()).dtype == torch.bfloat16
    output = tap.encode(items())
    assert output.features.dtype == torch.float32
    exact = open_tap(ExtractConfig(**options, dtype="float32", device="cpu"), progress=False)
    reference = exact.encode(items()).features
    assert 0 < oracle.relative_error(output.features, reference.double()) < 0.1


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.05), ("float16", 0.01)])
@pytest.mark.parametrize("family", [*VIDEO_FAMILIES, *IMAGE_FAMILIES])
def test_half_precision(tiny_video_llm: Tiny, family: str, dtype: str, bound: float) -> None:
    folder = tiny_video_llm(family)
    one = [item("a", "A cat", frames(4))]
    options = SEEING | {"layers": [0, 1]}
    exact = VideoLLMTap.from_pretrained(folder, dtype="float32", **options).encode(one).features
    half = VideoLLMTap.from_pretrained(folder, dtype=dtype, **options).encode(one).features
    assert half.dtype == torch.float32
    # Some units in the last place, of 8 and 11 bits, after a vision tower and a block.
    assert oracle.relative_error(half, exact.double()) < bound


def test_shards_and_the_checkpoints_own_type(tiny_video_llm: Tiny, tmp_path: Path) -> None:
    folder = tiny_video_llm("smolvlm")
    model, processor = oracle.load(folder)
    model.bfloat16().save_pretrained(tmp_path, max_shard_size="50KB")
    processor.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    tap = VideoLLMTap.from_pretrained(tmp_path, **SEEING)
    assert tap.fingerprint()["dtype"] == "bfloat16"
    whole = VideoLLMTap.from_pretrained(folder, dtype="bfloat16", **SEEING)
    assert torch.equal(tap.encode(items()).features, whole.encode(items()).features)
    # One shard changed is another revision.
    before = tap.fingerprint()["revision"]
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert VideoLLMTap.from_pretrained(tmp_path, **SEEING).fingerprint()["revision"] != before


@pytest.fixture
def foreign_code(tiny_video_llm: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose model type only its own code knows."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "foreign"
    shutil.copytree(tiny_video_llm("llama"), folder)
    (folder / "configuration_foreign.py").write_text(
        "from transformers import LlamaConfig\n"
        "class ForeignConfig(LlamaConfig):\n    model_type = 'foreign'\n"
    )
    (folder / "modeling_foreign.py").write_text(
        "from transformers import LlamaForCausalLM\n"
        "from .configuration_foreign import ForeignConfig\n"
        "class ForeignForCausalLM(LlamaForCausalLM):\n    config_class = ForeignConfig\n"
    )
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "foreign",
        "architectures": ["ForeignForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_foreign.ForeignConfig",
            "AutoModelForCausalLM": "modeling_foreign.ForeignForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_code_of_a_repository_runs_only_when_asked(
    foreign_code: Path, tiny_video_llm: Tiny
) -> None:
    options: dict[str, Any] = {"model": str(foreign_code), "out": "o", "layers": (2,)}
    options |= {"prompt": PROMPT, "dtype": "float32", "device": "cpu"}
    with pytest.raises(ConfigError, match=r"brings code of its own.*trust_remote_code=True"):
        VideoLLMTap.from_pretrained(foreign_code)
    with pytest.raises(ConfigError, match="brings code of its own"):
        open_tap(ExtractConfig(**options), progress=False)
    assert outline_tap(ExtractConfig(**options), progress=False) is None
    config = ExtractConfig(**options, trust_remote_code=True)
    tap = open_tap(config, progress=False)
    assert type(tap.model).__name__ == "ForeignForCausalLM"
    usual = open_tap(
        ExtractConfig(**(options | {"model": str(tiny_video_llm("llama"))})), progress=False
    )
    reading = items(seeing=False)
    assert torch.equal(tap.encode(reading).features, usual.encode(reading).features)
    outline = outline_tap(config, progress=False)
    assert outline is not None
    assert outline.fingerprint() == tap.fingerprint()


def test_by_hub_name_and_revision(tmp_path: Path) -> None:
    # A hub's cache as huggingface_hub lays it out, with two commits; nothing is downloaded.
    commits = {"main": "a" * 40, "v1": "b" * 40}
    repository = tmp_path / "hub" / "models--someone--tiny"
    for seed, (branch, commit) in enumerate(commits.items()):
        build_tiny_video_llm(repository / "snapshots" / commit, "llama", seed=seed)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    worker = [sys.executable, str(Path(__file__).with_name("hub_worker.py")), "someone/tiny"]
    finished = subprocess.run(
        [*worker, "default", "main", "v1", commits["v1"]],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["default"] == found["main"]
    assert found["v1"] == found[commits["v1"]]
    assert found["main"][:2] == ["someone/tiny", commits["main"]]
    assert found["v1"][:2] == ["someone/tiny", commits["v1"]]
    assert found["main"][2] != found["v1"][2]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration of '.*nowhere'"):
        VideoLLMTap.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "of_next_year"}')
    with pytest.raises(ConfigError, match=r"cannot read the configuration.*of_next_year"):
        VideoLLMTap.from_pretrained(tmp_path)
