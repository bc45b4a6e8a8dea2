"""Formulas of costs against torch's own counter, on runs of the tap."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from tap_oracle import frames, item
from tiny_models import VIDEO_FAMILIES, byte_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from linkedout_lightning.store import StoreSpec
from linkedout_lightning.tap import VideoLLMTap
from linkedout_lightning.tap.costs import (
    Load,
    ModelSize,
    Stack,
    bytes_moved,
    count_flops,
    floor_seconds,
    hours_per_million,
    memory_bytes,
    store_bytes,
)
from linkedout_lightning.tap.sizes import loads_of, measure, size_of

READS = ("llama", "gpt2")
SEES = (*VIDEO_FAMILIES, "idefics3")
# Left out are rotary tables and a tower's class tokens, and VideoLLaMA3 merges before its projector
# what is counted behind it. These towers have 16 patches a frame to one class token, so a run that
# ends before the first block shows more of that than any real model.
BOUND, BOUND_OF_TOWER = 0.03, 0.13
EXACT = (*READS, "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "smolvlm", "idefics3")


def counted(tap: VideoLLMTap, batch: Any) -> int:
    """FLOPs by torch's counter, which lacks the name of the CPU's attention kernel."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
        return sdpa_flop_count(query, key, value)

    with FlopCounterMode(display=False, custom_mapping={kernel: attention}) as counter:
        tap.extract(batch)
    return counter.get_total_flops()


def tapped(folder: Any, layers: Any, *, sees: bool, **options: Any) -> VideoLLMTap:
    groups = ("visual:2", "text", "last") if sees else ("text", "last")
    return VideoLLMTap.from_pretrained(
        str(folder), layers=layers, groups=groups, prompt="About: {title}.", **options
    )


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        *((family, "sdpa") for family in (*READS, *SEES)),
        ("llama", "eager"),
        ("qwen2_5_vl", "eager"),
    ],
)
def test_flops_are_those_that_torch_counts(tiny_video_llm, family: str, attention: str) -> None:
    sees = family in SEES
    shown = [frames(4, seed=1), frames(4, seed=2)] if sees else [None, None]
    for layers in ([4], [1, 2], [0]):
        tap = tapped(tiny_video_llm(family), layers, sees=sees, attn_implementation=attention)
        batch = tap.prepare([item("a", "words " * 9, shown[0]), item("b", "few", shown[1])])
        (size,) = measure(tap)
        (load,) = loads_of(batch, [size], layers=len(layers))
        formula = count_flops(size, load, causal=False)
        bound = 1e-9 if family in EXACT else BOUND if max(layers) else BOUND_OF_TOWER
        assert formula.total == pytest.approx(counted(tap, batch), rel=bound)
        assert (formula.vision > 0) == sees
        assert formula.generated == 0


def test_views_are_counted_one_by_one(tiny_video_llm) -> None:
    views = {
        "watch": {"prompt": "{title}", "groups": ["visual", "last"]},
        "read": {"prompt": "Now: {title}", "sees": "nothing", "groups": ["text"]},
    }
    folder = str(tiny_video_llm("qwen2_5_vl"))
    tap = VideoLLMTap.from_pretrained(folder, layers=[2], views=views)
    batch = tap.prepare([item("a", "words", frames(4)), item("b", "others", frames(8))])
    sizes = measure(tap)
    parts = [
        count_flops(size, load, causal=False)
        for size, load in zip(sizes, loads_of(batch, sizes, layers=1), strict=True)
    ]
    assert sum(part.total for part in parts) == counted(tap, batch)
    assert [part.vision > 0 for part in parts] == [True, False]


def test_generated_tokens_are_counted_through_all_blocks_and_the_head(tiny_video_llm) -> None:
    tap = VideoLLMTap.from_pretrained(
        str(tiny_video_llm("llama")), layers=[2], groups=["last", "generated:5"], prompt="{title}"
    )
    (size,) = measure(tap)
    assert (size.text.blocks, size.generated) == (4, 5)
    batch = tap.prepare([item("a", "some words here"), item("b", "four or more words")])
    (load,) = loads_of(batch, [size], layers=1)
    formula = count_flops(size, load, causal=False)
    # The last step ends at layer 2 of 4, and the prefill calls the head once for each row.
    assert formula.total == pytest.approx(counted(tap, batch), rel=0.07)
    assert formula.generated > 0


class Memory(TorchDispatchMode):
    """Peak of the bytes that the results of operations hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.now, self.peak = set[int](), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map(self._see, result)
        return result

    def _see(self, value: Any) -> None:
        if not isinstance(value, torch.Tensor):
            return
        storage = value.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if size and key not in self.alive and key not in self.known:
            self.alive.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size

    def of(self, tap: VideoLLMTap, batch: Any) -> int:
        self.known = {p.untyped_storage().data_ptr() for p in tap.model.parameters()}
        with self:
            tap.extract(batch)
        return self.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_a_usual_shape_is_estimated_closely(dtype: torch.dtype) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=300,
    )
    model = LlamaForCausalLM(config).to(dtype)
    tap = VideoLLMTap(model, processor=byte_tokenizer(), layers=[3], groups=("text", "last"))
    batch = tap.prepare([item(str(i), "words " * (60 - i)) for i in range(4)])
    assert estimated(tap, batch) == pytest.approx(measured(tap, batch), rel=0.1)


# Recurrent blocks hold four times what the formula says, and Gemma 4 states for every layer.
@pytest.mark.parametrize(
    "family", [family for family in SEES if family not in ("qwen3_5", "gemma4")]
)
def test_memory_of_the_tiny_ones_is_estimated_within_a_factor(tiny_video_llm, family: str) -> None:
    tap = tapped(tiny_video_llm(family), [4], sees=True)
    shown = [frames(8, seed=i) for i in range(8)]
    batch = tap.prepare([item(str(i), "many words " * 12, shown[i]) for i in range(8)])
    assert 0.6 < estimated(tap, batch) / measured(tap, batch) < 1.6


def estimated(tap: VideoLLMTap, batch: Any) -> int:
    """Without the weights."""
    (size,) = measure(tap)
    weights = size.parameters * size.itemsize
    assert weights == sum(p.numel() * p.element_size() for p in tap.model.parameters())
    return memory_bytes(size, loads_of(batch, [size], layers=1)[0]) - weights


def measured(tap: VideoLLMTap, batch: Any) -> int:
    """What the operations made, and the batch itself."""
    given = [v for bucket in batch.buckets for v in bucket.inputs.values()]
    return Memory().of(tap, batch) + sum(v.untyped_storage().nbytes() for v in given)


def test_a_7b_model_by_its_configuration_alone() -> None:
    """Against the parameter counts that its authors give, and the shares worked out by hand."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    size = size_of(model, deepest=28)
    assert size.parameters == pytest.approx(8.29e9, rel=0.01)
    assert size.text.weights == pytest.approx(6.53e9, rel=0.01)
    assert size.vision is not None
    assert size.vision.stack.weights == pytest.approx(0.63e9, rel=0.03)
    assert (size.vision.merged, size.vision.full_blocks, size.vision.window) == (4, 4, 64)
    assert (size.text.attention, size.text.keys, size.text.widest) == (3584, 512, 18944)
    # 16 frames of 280 x 280, in 8 steps of 400 patches: 800 visual tokens, and 50 of text.
    load = Load(850, 850**2, 1, patches=3200, frame_squares=8 * 400**2, slots=3, layers=4)
    whole = count_flops(size, load)
    assert whole.text / whole.total == pytest.approx(0.72, abs=0.02)
    half = count_flops(size_of(model, deepest=14), load)
    assert half.text * 2 == whole.text
    assert half.vision == whole.vision


STACK = Stack(blocks=2, weights=100, hidden=4, attention=4, keys=2, widest=8)
SIZE = ModelSize(text=STACK, vision=None, parameters=130, itemsize=2, head=20)


def test_bytes_and_floor_by_hand() -> None:
    load = Load(tokens=10, squares=50, sequences=2)
    # Weights once a batch; two blocks, each with the stream of 4 numbers in and out of two halves.
    assert bytes_moved(SIZE, load) == 2 * (100 + 2 * 4 * 10 * 4)
    assert bytes_moved(SIZE, load, batches=3) == 2 * (300 + 2 * 4 * 10 * 4)
    assert count_flops(SIZE, load).text == 2 * 10 * 100 + 2 * 2 * 50 * 4
    assert count_flops(SIZE, load, causal=False).text == 2 * 10 * 100 + 2 * 4 * 50 * 4
    assert floor_seconds(100, 10, peak=10, bandwidth=10) == 10
    assert floor_seconds(100, 1000, peak=10, bandwidth=10) == 100
    assert hours_per_million(3.6e12, sustained=1e12) == pytest.approx(1000)


def test_bytes_of_the_store_are_those_of_its_specification() -> None:
    spec = StoreSpec(model="m", revision="r", layers=(1, 2), slots=("a", "b", "c"), hidden_size=8)
    assert store_bytes(2, 3, 8) - 1 == spec.bytes_per_item


def test_loads_add_up() -> None:
    assert Load(3, 9, 1, slots=2) + Load(4, 16, 1, 5, 25, 1, 3) == Load(7, 25, 2, 5, 25, 2, 3)
