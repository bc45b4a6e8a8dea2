"""A frozen (video) language model whose layers are read and pooled on the spot.

The names load on first use: the options of an extraction are read by the command line, which
should not wait for torch to print its help.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linkedout_lightning.tap.inputs import InputBuilder
    from linkedout_lightning.tap.tap import VideoLLMTap
    from linkedout_lightning.tap.types import TapBatch, TapBucket, TapInput, TapOutput
    from linkedout_lightning.tap.views import View

_HOME = {
    "InputBuilder": "inputs",
    "VideoLLMTap": "tap",
    "TapBatch": "types",
    "TapBucket": "types",
    "TapInput": "types",
    "TapOutput": "types",
    "View": "views",
}

__all__ = ["InputBuilder", "TapBatch", "TapBucket", "TapInput", "TapOutput", "VideoLLMTap", "View"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
