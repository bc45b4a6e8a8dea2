"""The tap against ``output_hidden_states=True``: time and peak memory, by the deepest layer wanted.

All variants pool the same tokens of the same layers of one Llama with random weights, in turn, in
one process (CPU seconds on a CPU, wall seconds on a GPU). Peak memory is taken in a process of its
own for each, over what stood before the forward pass. Beside the times stands the floor: the matrix
products of the layers up to the deepest wanted, at the rate that this machine reaches on a square
product.

    python benchmarks/tap.py
    python benchmarks/tap.py --preset 7b --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.tap import TapBatch, TapInput, VideoLLMTap

# hidden, MLP, blocks, heads, key-value heads, vocabulary
PRESETS = {
    "small": (512, 1536, 12, 8, 4, 49_152),
    "2b": (1536, 8960, 28, 12, 2, 151_936),
    "7b": (3584, 18_944, 28, 28, 4, 152_064),
}
DEPTHS = (0.25, 0.5, 0.75, 1.0)
GROUPS = ("text", "last")


def build(arguments: argparse.Namespace) -> tuple[LlamaForCausalLM, Any]:
    """Model and a tokenizer that makes a token of every byte."""
    hidden, mlp, blocks, heads, kv_heads, vocabulary = PRESETS[arguments.preset]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        max_position_embeddings=32_768,
    )
    torch.manual_seed(arguments.seed)
    with torch.device(arguments.device):
        torch.set_default_dtype(getattr(torch, arguments.dtype))
        model = LlamaForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)
    return model, tokenizer


def layers_to(depth: float, blocks: int) -> list[int]:
    """Up to four layers, evenly spaced up to a share of the depth."""
    deepest = max(1, round(depth * blocks))
    return sorted({max(1, deepest * (i + 1) // 4) for i in range(4)})


@torch.inference_mode()
def naive(run: Callable[..., Any], batch: TapBatch, layers: list[int]) -> Tensor:
    """All hidden states, then pooled by the same weights."""
    bucket = batch.buckets[0]
    states = run(**bucket.inputs, output_hidden_states=True, use_cache=False).hidden_states
    return torch.stack([bucket.weights @ states[k].float() for k in layers], dim=1)


def variants(
    arguments: argparse.Namespace,
) -> tuple[dict[str, Callable[[], Any]], dict[str, int], Any]:
    """What is compared: a call for each, and its deepest layer."""
    model, tokenizer = build(arguments)
    blocks = model.config.num_hidden_layers
    texts = ["x" * arguments.tokens] * arguments.batch
    items = [TapInput(str(n), columns={"title": text}) for n, text in enumerate(texts)]
    calls: dict[str, Callable[[], Any]] = {}
    deepest: dict[str, int] = {}
    for depth in DEPTHS:
        layers = layers_to(depth, blocks)
        tap = VideoLLMTap(
            model, processor=tokenizer, layers=layers, groups=GROUPS, max_chars=arguments.tokens
        )
        batch = tap.prepare(items).to(arguments.device)
        name = f"tap, deepest layer {layers[-1]} of {blocks}"
        calls[name] = lambda tap=tap, batch=batch: tap.extract(batch).features
        deepest[name] = layers[-1]
    layers = layers_to(1.0, blocks)
    for name, run in (("all hidden states", model), ("all hidden states, no head", model.model)):
        calls[name] = lambda run=run, batch=batch, layers=layers: naive(run, batch, layers)
        deepest[name] = blocks
    return calls, deepest, model


def seconds_of(call: Callable[[], Any], device: str) -> float:
    """CPU seconds, or wall seconds of a GPU."""
    if device == "cpu":
        begin = time.process_time()
        call()
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def _memory_of_process(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def peak_mb(call: Callable[[], Any], device: str) -> float:
    """Most memory of a call, over what stood before it."""
    if device != "cpu":
        call()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _memory_of_process("VmRSS")
    call()
    return (_memory_of_process("VmHWM") - before) / 1e6


def memory(arguments: argparse.Namespace, names: list[str]) -> dict[str, float]:
    """Peak memory of each variant, each in a process of its own."""
    shared = [f"--{k}={getattr(arguments, k)}" for k in _SHARED]
    return {
        name: float(
            subprocess.run(
                [sys.executable, __file__, *shared, f"--memory-of={name}"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()[-1]
        )
        for name in names
    }


def peak_gflops(device: str, dtype: torch.dtype) -> float:
    """Rate of a square product, best of ten."""
    side = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds_of(lambda: a @ b, device) for _ in range(10)) / 1e9


def gflop(config: Any, *, blocks: int, batch: int, tokens: int) -> float:
    """Products of so many blocks: weights, and the half of the attention that is not masked."""
    width = config.head_dim * config.num_attention_heads
    keys = config.head_dim * config.num_key_value_heads
    weights = config.hidden_size * (2 * width + 2 * keys + 3 * config.intermediate_size)
    attention = tokens * width  # scores and values, 2 x 2 x P^2 x width / 2, a token
    return 2 * batch * tokens * blocks * (weights + attention) / 1e9


_SHARED = ("preset", "device", "dtype", "batch", "tokens", "threads", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tap.json"))
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    calls, deepest, model = variants(arguments)
    if arguments.memory_of:
        print(peak_mb(calls[arguments.memory_of], arguments.device))
        return

    load = os.getloadavg()
    *_, last_tap, plain, headless = calls
    difference = float((calls[last_tap]() - calls[plain]()).abs()[:, :-1].max())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(arguments.repeats):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call, arguments.device))
    peaks = memory(arguments, list(calls))
    rate = peak_gflops(arguments.device, getattr(torch, arguments.dtype))
    rows = []
    for name, times in seconds.items():
        blocks = deepest[name]
        floor = gflop(model.config, blocks=blocks, batch=arguments.batch, tokens=arguments.tokens)
        median = statistics.median(times)
        rows.append(
            {
                "name": name,
                "seconds": round(median, 4),
                "all_seconds": [round(t, 4) for t in times],
                "time_ratio": round(statistics.median(seconds[plain]) / median, 2),
                "time_ratio_no_head": round(statistics.median(seconds[headless]) / median, 2),
                "peak_mb": round(peaks[name], 1),
                "memory_ratio": round(peaks[plain] / peaks[name], 2),
                "memory_ratio_no_head": round(peaks[headless] / peaks[name], 2),
                "gflop": round(floor, 1),
                "floor_seconds": round(floor / rate, 4),
                "times_floor": round(median / (floor / rate), 2),
            }
        )
    results = {
        "what": "median of the repeats; ratio = output_hidden_states=True / this variant, with the "
        "language-model head or without; floor = products of the blocks up to the deepest wanted",
        "environment": environment()
        | {
            "transformers": version("transformers"),
            "load_average": load,
            "seed": arguments.seed,
        },
        "model": dict(zip(_NAMES, PRESETS[arguments.preset], strict=True)),
        "settings": {name: getattr(arguments, name) for name in (*_SHARED, "repeats")},
        "groups": GROUPS,
        "largest_difference": difference,
        "peak_gflops": round(rate, 1),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


_NAMES = ("hidden_size", "intermediate_size", "blocks", "heads", "key_value_heads", "vocabulary")


if __name__ == "__main__":
    main()
