"""The formulas of a plan against what torch counts and what the real processor makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf_processors
import numpy as np
import pytest
import torch
from official_layout import write_layout
from torch.utils.flop_counter import FlopCounterMode

from linkedout_lightning.compare.presets import MicroLens100K, microlens_100k
from linkedout_lightning.compare.presets.costs import (
    QWEN_7B,
    Catalogue,
    extraction_seconds,
    published_load,
    training_cost,
    up_to,
)
from linkedout_lightning.compare.presets.planned import PresetPlan
from linkedout_lightning.compare.presets.recipes import MODEL
from linkedout_lightning.sequence.backbones import build_backbone
from linkedout_lightning.tap.costs import count_flops
from linkedout_lightning.tap.sizes import size_of

TEXT = {
    "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]
    },
}  # fmt: skip
VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "out_hidden_size": 3584,
}  # fmt: skip
"""As the model's authors publish them."""


@pytest.fixture(scope="module")
def qwen() -> Any:
    """Qwen2.5-VL-7B without values in its weights."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION, tie_word_embeddings=False)
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)


@pytest.mark.parametrize(("deepest", "generated"), [(28, 0), (27, 0), (27, 16)])
def test_the_recorded_shape_is_that_of_the_published_model(
    qwen: Any, deepest: int, generated: int
) -> None:
    counted = size_of(qwen, deepest=28 if generated else deepest, generated=generated)
    assert up_to(QWEN_7B, deepest=deepest, generated=generated) == counted


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(8, 384, 683), (8, 640, 360), (5, 200, 300)]
)
def test_patches_are_as_many_as_the_real_processor_makes(
    frames: int, height: int, width: int
) -> None:
    if cure := hf_processors.missing():
        pytest.skip(cure)
    from transformers import Qwen2VLVideoProcessor

    processor = Qwen2VLVideoProcessor(patch_size=14, temporal_patch_size=2, merge_size=2)
    shown = torch.from_numpy(np.zeros((frames, 3, height, width), dtype=np.uint8))
    made = processor([shown], return_tensors="pt", do_sample_frames=False)
    load = published_load(frames=frames, height=height, width=width, text=0, slots=1, layers=1)
    assert load.patches == made["pixel_values_videos"].shape[0]
    (grid,) = made["video_grid_thw"].tolist()
    assert load.frame_squares == grid[0] * (grid[1] * grid[2]) ** 2
    assert load.tokens == grid[0] * grid[1] * grid[2] // 4


def test_seconds_are_the_larger_of_products_and_memory() -> None:
    load = published_load(frames=8, height=384, width=683, text=41, slots=3, layers=4)
    flops = count_flops(QWEN_7B, load).total
    fast_memory = extraction_seconds(QWEN_7B, load, batch=1, peak=1e14, bandwidth=1e20)
    assert fast_memory == pytest.approx(flops / 1e14)
    # Each generated token reads all weights and the head once a batch.
    talking = up_to(QWEN_7B, deepest=28, generated=16)
    weights = (QWEN_7B.text.weights + QWEN_7B.head) * 2
    slow = extraction_seconds(talking, load, batch=8, peak=1e30, bandwidth=1e12)
    silent = extraction_seconds(QWEN_7B, load, batch=8, peak=1e30, bandwidth=1e12)
    assert slow - silent == pytest.approx(16 * weights / 8 / 1e12, rel=0.2)


@pytest.mark.parametrize("backbone", ["sasrec", "nextitnet"])
@pytest.mark.parametrize("loss", ["full", "in_batch", "sampled"])
def test_training_costs_what_torch_counts(backbone: str, loss: str) -> None:
    """A plain step and a plain evaluation of a small model, all sequences full."""
    users, items, dim, length = 64, 500, 32, 10
    comparison = MicroLens100K(
        root=".",
        settings={"dim": dim, "batch_size": users, "epochs": 1, "loss": loss, "negatives": 100},
    ).compare_config("pairs.csv")
    settings = comparison.settings("id", backbone) | {"max_len": length}
    data = Catalogue(
        users=users, items=items, positions=users * length, layers=1, slots=1, hidden=1
    )
    cost = training_cost(settings, backbone, features=False, ids=True, data=data)
    # A batch of more positions than items has all of these among its candidates, at most.
    table = torch.randn(items, dim, requires_grad=True)
    model = build_backbone(backbone, dim, max_len=length, dropout=0.0)
    inputs = torch.randn(users, length, dim, requires_grad=True)
    seen = torch.ones(users, length, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        states = model(inputs, seen).flatten(0, 1)
        target = torch.zeros(len(states), dtype=torch.long)
        torch.nn.functional.cross_entropy(states @ table.T, target).backward()
    train = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _ = model(inputs, seen)[:, -1] @ table.T
    # Validated once an epoch, and tested once.
    assert cost.flops == pytest.approx(train + 2 * counter.get_total_flops(), rel=0.08)
    assert cost.steps == 1


def test_a_plan_of_the_recipes_own_model_needs_neither_its_files_nor_a_network(
    tmp_path: Path,
) -> None:
    root = write_layout(tmp_path / "data", items=12, users=20)
    plans = {}
    for recipe in ("recommended", "paper"):
        plan = microlens_100k(
            MicroLens100K(root=str(root), recipe=recipe, plan=True),  # type: ignore[arg-type]
            progress=False,
        )
        assert isinstance(plan, PresetPlan)
        assert plan.model == MODEL
        assert (plan.layers, plan.slots, plan.hidden) == (4, 3, 3584)
        assert plan.store_bytes == 12 * (4 * 3 * 3584 * 2 + 1 + 80)
        assert plan.frame == (48, 64)
        plans[recipe] = plan
    # Its generated tokens run all blocks 16 times more.
    assert plans["paper"].gpu_hours > plans["recommended"].gpu_hours
    assert plans["paper"].training_hours > 0
    assert set(plans["paper"].training) >= {"id/sasrec", "linkedout/nextitnet"}


def test_what_is_assumed_scales_the_hours(tmp_path: Path) -> None:
    root = write_layout(tmp_path / "data", items=12, users=20)

    def hours(**assumed: float) -> PresetPlan:
        plan = microlens_100k(MicroLens100K(root=str(root), plan=True, assume=assumed))
        assert isinstance(plan, PresetPlan)
        return plan

    usual = hours(gb_per_second=1e12)
    half = hours(gb_per_second=1e12, tflops=200, step_ms=30)
    assert half.gpu_hours == pytest.approx(2 * usual.gpu_hours)
    assert half.training_hours == pytest.approx(2 * usual.training_hours)
    assert "tflops 200" in half.summary()
