"""The one check that every encoder makes of its input."""

from __future__ import annotations

import torch
from torch import Tensor

from linkedout_lightning.errors import DataError


def check_index(item_index: Tensor, num_items: int) -> None:
    """Refuse what is not an item index.

    The range is looked at on the CPU only: on an accelerator that would wait for the device at
    each step, and the look-up itself stops there with a device-side assertion.

    Args:
        item_index: Integers from 0 to ``num_items``, any shape.
        num_items: N.

    Raises:
        DataError: Another dtype, or a value out of range.
    """
    if item_index.dtype not in (torch.int64, torch.int32):
        raise DataError(
            f"item indices are {item_index.dtype}; give int64 indices from 1 to {num_items}, "
            "0 for padding"
        )
    if item_index.device.type == "cpu" and item_index.numel():
        low, high = (int(x) for x in item_index.aminmax())
        if low < 0 or high > num_items:
            raise DataError(
                f"item index {low if low < 0 else high} is out of range; the encoder has "
                f"{num_items} items, indices 1 to {num_items}, and 0 for padding"
            )
