"""From an item's files to what was seen of it; imports no torch, as workers that decode do not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.tap.items import Item

if TYPE_CHECKING:
    from linkedout_lightning.video import Frames

_SOURCES = ("video", "cover")


def files_of(item: Item, sources: Collection[str]) -> dict[str, str]:
    """Files to decode for an item, by source, the video first.

    Args:
        item: The item.
        sources: What the model sees, of ``"video"`` and ``"cover"``.
    """
    paths = {name: getattr(item, name) for name in _SOURCES if name in sources}
    return {name: str(path) for name, path in paths.items() if path is not None}


def seen_of(outcomes: Mapping[str, Frames | VideoDecodeError]) -> dict[str, Frames] | str:
    """The frames of an item by source, or why it is a failure.

    Args:
        outcomes: What became of each of its files.
    """
    seen: dict[str, Frames] = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, VideoDecodeError):
            return outcome.reason if name == "video" else f"{name}: {outcome.reason}"
        seen[name] = outcome
    return seen
