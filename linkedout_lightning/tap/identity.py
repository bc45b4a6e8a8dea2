"""What makes features the ones that they are: weights digest and fingerprint parts."""

from __future__ import annotations

import hashlib
import json
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
        total.update(file.name.encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


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
