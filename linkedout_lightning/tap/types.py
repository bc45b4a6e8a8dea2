"""What goes into a tap and what comes out of it.

Letters: B batch, b rows of one bucket, L tapped layers, S slots, P tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from linkedout_lightning.tap.items import Item
    from linkedout_lightning.video import Frames


@dataclass(frozen=True)
class TapInput:
    """One item as the tap sees it.

    Args:
        item_id: The item's id.
        frames: Decoded frames, or ``None`` for an item without a video.
        columns: Texts by name, for the prompt's ``{title}`` and other fields. An absent or blank
            value means that the item has no such text.
        cover: Its cover image as a video of one frame, or ``None``; only views that see the cover
            use it.
    """

    item_id: str
    frames: Frames | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    cover: Frames | None = None

    @classmethod
    def of(cls, item: Item, seen: Mapping[str, Frames]) -> Self:
        """An item of a table with what was decoded of it.

        Args:
            item: The item.
            seen: Frames of its ``"video"`` and its ``"cover"``, as far as it has them.
        """
        return cls(item.item_id, seen.get("video"), item.columns, cover=seen.get("cover"))


@dataclass(frozen=True)
class TapBucket:
    """Items of one batch that go through the model together: one view, frames of one shape.

    Attributes:
        rows: Positions of these items in the batch, long ``(b,)``.
        inputs: What the model's ``forward`` takes, by argument name.
        weights: How each slot averages the prefill's tokens, float32 ``(b, S, P)``; a row sums to
            one, or to zero where the item has no such token.
        sparse: Whether some tokens, such as padding, go into no slot.
        view: Which of the tap's views these inputs are of.
    """

    rows: Tensor
    inputs: dict[str, Tensor]
    weights: Tensor
    sparse: bool = True
    view: int = 0

    def to(self, device: torch.device | str) -> TapBucket:
        """Move every tensor; ``rows`` stays, as it only addresses the output."""
        inputs = {k: v.to(device, non_blocking=True) for k, v in self.inputs.items()}
        return replace(self, inputs=inputs, weights=self.weights.to(device, non_blocking=True))

    def pin_memory(self) -> TapBucket:
        """Pin the tensors that travel, for a loader with ``pin_memory=True``."""
        inputs = {k: v.pin_memory() for k, v in self.inputs.items()}
        return replace(self, inputs=inputs, weights=self.weights.pin_memory())


@dataclass(frozen=True)
class TapBatch:
    """Items ready for the model: made by `VideoLLMTap.prepare` on the CPU, moved by `to`.

    Attributes:
        item_ids: Ids in the order of the items given.
        buckets: The items by view and frame shape; an item without any token is in none.
        failures: Reason by other item that was to be in the batch and yielded nothing.
        stamps: What each item was made from, by id, as far as whoever made the batch knows.
    """

    item_ids: list[str]
    buckets: list[TapBucket]
    failures: Mapping[str, str] = field(default_factory=dict)
    stamps: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def tokens(self) -> int:
        """How many tokens the model will read, padding left out."""
        return sum(int(b.inputs["attention_mask"].sum()) for b in self.buckets)

    def to(self, device: torch.device | str) -> TapBatch:
        """Move to a device (Lightning calls this)."""
        return replace(self, buckets=[bucket.to(device) for bucket in self.buckets])

    def pin_memory(self) -> TapBatch:
        """Pin for the transfer to a GPU (a `DataLoader` calls this)."""
        return replace(self, buckets=[bucket.pin_memory() for bucket in self.buckets])


@dataclass(frozen=True)
class TapOutput:
    """Pooled hidden states.

    Attributes:
        item_ids: Ids, in the order of the rows.
        features: Float32 ``(B, L, S, D)``; zero where ``mask`` is false.
        mask: Bool ``(B, S)``: whether the item has tokens of that slot.
    """

    item_ids: list[str]
    features: Tensor  # (B, L, S, D)
    mask: Tensor  # (B, S)

    def __len__(self) -> int:
        return len(self.item_ids)

    def to(self, device: torch.device | str) -> TapOutput:
        """Move to a device (Lightning calls this)."""
        return replace(self, features=self.features.to(device), mask=self.mask.to(device))

    def cpu(self) -> TapOutput:
        """The same on the CPU."""
        return self.to("cpu")

    @staticmethod
    def cat(outputs: Sequence[TapOutput]) -> TapOutput:
        """Join the outputs of several batches, in their order."""
        return TapOutput(
            [item_id for output in outputs for item_id in output.item_ids],
            torch.cat([output.features for output in outputs]),
            torch.cat([output.mask for output in outputs]),
        )
