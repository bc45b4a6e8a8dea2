"""What makes features the ones that they are: weights digest and fingerprint parts."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

_WEIGHT_FILES = ("*.safetensors", "*.gguf")


def digest_of_files(folder: Path, gguf_file: str | None = None) -> str:
    """SHA-256 over a folder's weight files, by name and content.

    Args:
        folder: Where the weights are.
        gguf_file: The only file to count, where one of several was loaded.
    """
    files = [folder / gguf_file] if gguf_file else []
    if not files:
        files = sorted(file for pattern in _WEIGHT_FILES for file in folder.glob(pattern))
    total = hashlib.sha256()
    for file in files:
        status = file.stat()
        total.update(file.name.encode())
        total.update(_digest_of_file(file.resolve(), status.st_size, status.st_mtime_ns))
    return f"sha256:{total.hexdigest()}"


@lru_cache(maxsize=1024)
def _digest_of_file(file: Path, size: int, time_ns: int) -> bytes:
    """SHA-256 of a file, read once a process as long as its size and time stay."""
    del size, time_ns
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def digest_of_model(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and values of a model's state."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total.update(raw.numpy().tobytes())
    return f"sha256:{total.hexdigest()}"


def digest_of_settings(settings: Any) -> str:
    """SHA-256 over a JSON form of nested settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def numerics(model: nn.Module) -> dict[str, Any]:
    """What decides the numbers, given the weights: type, attention kernel, quantization."""
    import transformers

    config = getattr(model, "config", None)
    settings = {
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "attention": getattr(config, "_attn_implementation", None),
        "transformers": str(transformers.__version__),
    }
    if (quantization := getattr(config, "quantization_config", None)) is not None:
        how = dict(quantization if isinstance(quantization, dict) else quantization.to_dict())
        how.pop("gguf_file", None)  # a path of this machine; the revision covers its content
        settings["quantization"] = digest_of_settings(how)
    return settings


def wording(processor: Any, chat: bool, processor_kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a processor makes of frames and prompts, as digests of its settings."""
    tokenizer = getattr(processor, "tokenizer", processor)
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    text_only = processor is tokenizer
    return {
        "chat_template": digest_of_settings(template) if chat else None,
        "processor": None
        if text_only
        else digest_of_settings([processor.to_dict(), processor_kwargs]),
    }
