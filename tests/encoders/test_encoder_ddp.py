"""Under DDP: every parameter in every step, nothing frozen sent over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from encoder_catalogue import Catalogue
from torch.nn.parallel import DistributedDataParallel

from linkedout_lightning.encoders import LinkedOutItemEncoder


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("fuser", ["moe", "dff", "concat", "last"])
def test_no_parameter_is_unused_and_the_tokens_are_not_sent(
    catalogue: Catalogue, fuser: str
) -> None:
    encoder = LinkedOutItemEncoder.from_features(
        catalogue.features, catalogue.mask, dim=8, rank=12, fuser=fuser, id_fusion="gate"
    )
    wrapped = DistributedDataParallel(encoder)
    tokens = None
    for _ in range(3):  # DDP stops at the second step if a parameter had no gradient in the first
        wrapped(torch.tensor([1, 2, 3])).sum().backward()
        assert tokens is None or encoder._table._tokens is tokens
        tokens = encoder._table._tokens
    sent = sum(buffer.numel() for buffer in wrapped.module.buffers())
    assert sent == 61  # which ids are known
