"""The program that makes the weights: its targets, its caches, its resumption."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from linkedout_lightning.demo import language_stage, vision_stage
from linkedout_lightning.demo.model import build_model, build_processor
from linkedout_lightning.demo.optim import Optimizers
from linkedout_lightning.demo.render import render, sampled_instants, trajectory
from linkedout_lightning.demo.train import Run, TrainConfig, train
from linkedout_lightning.demo.world import ATTRIBUTES, sample_clips
from linkedout_lightning.errors import ConfigError


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture
def model(processor):
    torch.manual_seed(0)
    model = build_model(processor.tokenizer)
    vision_stage.start_well(model)
    return model.eval()


@pytest.mark.parametrize(
    "bad", [{"minutes": 0}, {"vision_share": 1.0}, {"clips": 10}, {"batch": 0}, {"held_out": 0}]
)
def test_settings_that_cannot_work_are_refused(tmp_path, bad):
    with pytest.raises(ConfigError):
        TrainConfig(out=tmp_path, **bad)


def test_covered_shares_are_those_of_the_masks():
    masks = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 2, 96, 96), np.uint8))
    cover = vision_stage._cover(masks)
    assert cover.shape == (2, 64, 18)
    row, column, figure, a, b = 3, 5, 1, 2, 0
    y, x = row * 12 + a * 4, column * 12 + b * 4
    expected = masks[1, figure, y : y + 4, x : x + 4].float().mean() / 255
    got = cover[1, row * 8 + column, figure * 9 + a * 3 + b]
    assert float(got) == pytest.approx(float(expected), rel=1e-5)


def test_frame_batches_are_reproducible_and_bounded():
    first, again = (vision_stage.FrameBatch(6, np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
    assert first.pixels.shape == (6, 3, 96, 96)
    assert first.pixels.abs().max() <= 1
    assert torch.isfinite(first.geometry).all()
    assert first.geometry.shape == (6, vision_stage.GEOMETRY)


def test_every_parameter_of_the_vision_side_learns(model):
    heads = vision_stage.FrameHeads(vision_dim=128, text_dim=192)
    batch = vision_stage.FrameBatch(8, np.random.default_rng(2))
    loss, report = vision_stage.frame_loss(model, heads, batch)
    loss.backward()
    assert 0 <= report["shape"] <= 1
    for module in (model.model.vision_model, model.model.connector, heads):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            # A key's bias shifts all scores of a query alike: softmax does not see it.
            assert parameter.grad.abs().sum() > 0 or name.endswith("k_proj.bias"), name


def test_evened_out_tokens_have_one_size_in_every_direction(model):
    rng = np.random.default_rng(3)
    clips = sample_clips(48, rng)
    frames = language_stage.clip_frames(clips, rng)
    before = language_stage.visual_tokens(model, frames).flatten(0, 1)
    language_stage.even_out(model, np.random.default_rng(4))
    after = language_stage.visual_tokens(model, frames).flatten(0, 1)
    assert float(after.square().mean().sqrt()) < 1.5 * language_stage.VISUAL_STD

    def spread(tokens):
        values = torch.linalg.eigvalsh(tokens.T @ tokens / len(tokens))
        return float(values[-1] / values.mean())

    assert spread(after) < 0.5 * spread(before)
    # Nothing is lost: the old tokens follow linearly from the new ones.
    solution = torch.linalg.lstsq(after.double(), before.double()).solution
    residual = (after.double() @ solution - before.double()).norm() / before.double().norm()
    assert float(residual) < 0.05


def test_clips_played_backwards_are_told_as_such(model, tmp_path):
    cache = language_stage.Cache(model, tmp_path / "tokens.npy", 64, 0)
    assert cache.tokens.shape == (64, 32, 192)
    events = ATTRIBUTES["event"]
    kept = 0
    for seed in range(3):
        drawn = cache.draw(64, np.random.default_rng(seed))
        plain = torch.from_numpy(cache.tokens.astype(np.float32)).unflatten(1, (8, 4))
        got = drawn.tokens.unflatten(1, (8, 4))
        for i in range(64):  # all 64 clips are drawn, in order
            backwards = (got[i] - plain[i].flip(0)).norm() < (got[i] - plain[i]).norm()
            word = events[cache.clips.code("event")[i]]
            told = events[drawn.clips.code("event")[i]]
            assert told == (language_stage.REVERSED.get(word, word) if backwards else word)
            palette = torch.from_numpy(cache.palettes[i].copy())
            assert torch.equal(drawn.palettes[i], palette.flip(0) if backwards else palette)
            kept += not backwards
    assert 60 < kept < 132
    assert np.array_equal(
        cache.tokens, language_stage.Cache(model, tmp_path / "tokens.npy", 64, 0).tokens
    )


def test_a_reversed_film_is_what_reversed_means():
    clips = sample_clips(30, np.random.default_rng(6))
    there = trajectory(clips, sampled_instants(8))
    back = trajectory(clips, 1 - sampled_instants(8))
    for name in ("x", "y", "half"):
        np.testing.assert_allclose(getattr(there, name), getattr(back, name)[:, ::-1], atol=1e-5)


def test_dialogues_are_what_the_processor_makes_of_them(processor):
    from PIL import Image

    book = language_stage.Phrasebook(processor)
    frames, _ = render(sample_clips(1, np.random.default_rng(0)), sampled_instants(8), size=128)
    text = processor.apply_chat_template(language_stage.demo_messages(), add_generation_prompt=True)
    images = [Image.fromarray(frame) for frame in frames[0]]
    inputs = processor(text=[text], images=[images], return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == book.prompt(language_stage.DEMO_PROMPT)
    words = {name: values[0] for name, values in ATTRIBUTES.items()}
    unknown = processor.tokenizer.unk_token_id
    for seed in range(40):
        ids, labels = book.dialogue(words, np.random.default_rng(seed))
        assert len(ids) == len(labels)
        assert unknown not in ids
        told = [i for i in labels if i != language_stage.IGNORED]
        assert told[-1] == processor.tokenizer.eos_token_id
        assert all(i == j for i, j in zip(ids, labels, strict=True) if j != language_stage.IGNORED)
        image = processor.tokenizer.convert_tokens_to_ids("<image>")
        assert ids.count(image) == 32


def test_learning_rates_rise_then_fall():
    layer = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(4, 4)])})
    optimizers = Optimizers([layer], muon_lr=1.0, adam_lr=0.5)
    rates = []
    for share in (0.0, 0.01, 0.02, 0.5, 1.0):
        layer["layers"][0](torch.ones(1, 4)).sum().backward()
        optimizers.step(share)
        rates.append([one.param_groups[0]["lr"] for one in optimizers.all])
    adam, muon = zip(*rates, strict=True)
    assert muon[0] < muon[1] < muon[2] > muon[3] > muon[4] > 0
    np.testing.assert_allclose(adam, np.array(muon) * 0.5)
    assert muon[3] == pytest.approx(0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_training_runs_resumes_and_exports(tmp_path, monkeypatch):
    monkeypatch.setattr(language_stage, "BATCH", 8)
    settings = {
        "out": tmp_path / "out",
        "work": tmp_path / "work",
        "clips": 64,
        "batch": 8,
        "held_out": 2,
        "minutes": 0.02,
    }
    train(TrainConfig(**settings))
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["progress"]["stage"] == "language"
    assert set(record["progress"]["last"]) == {"vision", "language"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "config.json", "processor_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]

    before = Run(TrainConfig(**settings, resume=True)).progress
    seconds = before.seconds["language"] + 1.0  # one more, of the stage's share of the minutes
    longer = settings | {"minutes": seconds / 60 / (1 - TrainConfig.vision_share)}
    train(TrainConfig(**longer, resume=True))
    after = Run(TrainConfig(**settings, resume=True)).progress
    assert after.steps["language"] > before.steps["language"]
    assert after.steps["vision"] == before.steps["vision"]  # that stage was over
