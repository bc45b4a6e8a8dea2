"""A small specification and rows that fit it."""

from __future__ import annotations

import torch
from torch import Tensor

from linkedout_lightning.store import StoreSpec


def make_spec(**changes: object) -> StoreSpec:
    values = {
        "model": "tiny",
        "revision": "abc",
        "layers": (2, 4),
        "slots": ("title", "text", "last"),
        "hidden_size": 5,
        "prompt": "{title}",
        "sampler": {"frames": 8, "backend": {"name": "pyav"}},
        **changes,
    }
    return StoreSpec(**values)  # type: ignore[arg-type]


def rows(count: int, *, seed: int = 0, dtype: torch.dtype = torch.float16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 2, 3, 5, generator=generator).to(dtype)
    return features, torch.rand(count, 3, generator=generator) < 0.7


def equal_bits(a: Tensor, b: Tensor) -> bool:
    kind = torch.int16 if a.element_size() == 2 else torch.int32
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))
