"""The committed weights: how they load, what they see, and the probes that measure it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from linkedout_lightning.demo import probe
from linkedout_lightning.demo.model import WEIGHTS, demo_messages, normalize
from linkedout_lightning.demo.render import render, sampled_instants
from linkedout_lightning.demo.world import NAMES, sample_clips


@pytest.fixture(scope="module")
def processor():
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(WEIGHTS)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(WEIGHTS).eval()


def plain_frames(n: int, seed: int):
    clips = sample_clips(n, np.random.default_rng(seed))
    return render(clips, sampled_instants(8), size=128)[0], clips


def test_the_folder_is_small_and_holds_no_code():
    names = {path.name for path in WEIGHTS.iterdir()}
    assert {"model.safetensors", "training.json", "probes.json", "PROBES.md"} <= names
    assert {path.suffix for path in WEIGHTS.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 15e6


def test_it_is_a_stock_model_in_float32(model, processor):
    assert type(model).__module__ == "transformers.models.idefics3.modeling_idefics3"
    assert type(processor).__module__ == "transformers.models.idefics3.processing_idefics3"
    assert model.dtype == torch.float32
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_processor_gives_what_training_gave(processor):
    clips = sample_clips(2, np.random.default_rng(0))
    frames, _ = render(clips, sampled_instants(8), size=96)
    pixels = probe.processor_inputs(processor, frames)["pixel_values"]
    torch.testing.assert_close(pixels, normalize(torch.from_numpy(frames)), atol=1e-5, rtol=0)


def test_layer_features_are_the_pooled_hidden_states(model, processor):
    frames, _ = plain_frames(2, 1)
    got = probe.layer_features(model, processor, frames)
    inputs = probe.processor_inputs(processor, frames)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    image = [i for i, word in enumerate(words) if word == "<image>"]
    text = [words.index("describe") + k for k in range(4)]
    assert len(image) == 32
    assert words[text[-1]] == "."
    assert got["visual"].shape == (2, len(states), 192)
    for k in range(len(states) - 1):
        for slot, at in (("visual", image), ("text", text), ("last", [-1]), ("frames", image[:4])):
            expected = states[k][:, at].mean(1)
            torch.testing.assert_close(got[slot][:, k, :192], expected, atol=1e-5, rtol=1e-5)
    # The deepest one is kept before the final norm that transformers applies.
    normed = model.model.text_model.norm(got["last"][:, -1])
    torch.testing.assert_close(normed, states[-1][:, -1], atol=1e-4, rtol=1e-4)


def test_probes_agree_with_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    clips = sample_clips(300, rng)
    codes = torch.from_numpy(clips.codes)
    hints = torch.nn.functional.one_hot(codes[:, 8], 8).float() @ torch.randn(8, 10)
    x = hints + 1.5 * torch.randn(300, 10)
    train, test = slice(0, 200), slice(200, 300)
    decay = 3e-3
    got = probe.probe(x[train], codes[train], x[test], codes[test], decay=decay)
    mean, std = x[train].mean(0), x[train].std(0) + 1e-4
    z = ((x - mean) / std).numpy()
    # One half |w|^2 / (C n) is the decay's term.
    oracle = LogisticRegression(C=1 / (2 * decay * 200), max_iter=2000)
    oracle.fit(z[train], codes[train, 8].numpy())
    assert got["event"] == pytest.approx(oracle.score(z[test], codes[test, 8].numpy()), abs=0.021)
    assert got["event"] > 0.3


def test_captions_of_fresh_clips_are_right(model, processor):
    clips = sample_clips(20, np.random.default_rng(77))
    accuracy, texts = probe.caption_report(model, processor, probe.decoded_frames(clips), clips)
    assert len(texts) == 20
    for name, floor in probe.FLOORS.items():
        assert accuracy[name] >= floor, (name, accuracy)


def test_the_report_beside_the_weights_holds_the_floors():
    report = json.loads((WEIGHTS / "probes.json").read_text())
    for name, floor in probe.FLOORS.items():
        assert report["best"][name] >= floor
    rows = report["layers"]["visual"]
    assert len(rows) == 9
    assert set(rows[0]) == set(NAMES)
    assert report["simulated"] is True


@pytest.mark.slow
def test_probe_floors_hold_on_fresh_clips(model, processor):
    """The committed weights, anew: fitted on 600 rendered clips, tested on 300 decoded ones."""
    frames, clips = plain_frames(600, 501)
    train = probe.layer_features(model, processor, frames)
    test_clips = sample_clips(300, np.random.default_rng(502))
    test = probe.layer_features(model, processor, probe.decoded_frames(test_clips))
    report = probe.probe_layers(train, clips, test, test_clips, slots=("visual", "last"))
    found = probe.best(report)
    for name, floor in probe.FLOORS.items():
        assert found[name] >= floor, (name, found)


def test_the_prompt_is_the_one_that_others_use(processor):
    text = processor.apply_chat_template(demo_messages(), add_generation_prompt=True)
    assert text == (
        "<s>user : " + "<image>" * 8 + "Describe this video.<end_of_utterance>assistant : "
    )
