"""``torch.compile`` for the blocks of a frozen model."""

from __future__ import annotations

from typing import Any

import torch

from linkedout_lightning.tap.layers import Decoder

# Prompts are padded to multiples of it, so that a handful of lengths is compiled and no more.
STATIC_TOKENS = 64


def compile_blocks(decoder: Decoder, *, deepest: int) -> None:
    """Compile each block by itself, up to the deepest that is read.

    The hooks that pool stay outside of what is compiled, and so does the exception that ends the
    forward pass. Blocks of one kind share their compiled code.

    Args:
        decoder: The decoder, changed in place.
        deepest: The deepest layer that is read.
    """
    for block in list(decoder.blocks)[:deepest]:
        compiled: Any = torch.compile(block.forward)
        block.forward = compiled
