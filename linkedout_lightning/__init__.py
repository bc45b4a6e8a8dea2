"""Video understanding inside recommenders.

The public names load on first use, so that importing the package costs no more than importing
torch and lightning, and an optional dependency is needed only by the part that uses it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linkedout_lightning.data import InteractionDataModule
    from linkedout_lightning.encoders import IDItemEncoder, LinkedOutItemEncoder
    from linkedout_lightning.sequence import SequentialRecommender
    from linkedout_lightning.serving import Ranker, export_bundle
    from linkedout_lightning.store import FeatureStore
    from linkedout_lightning.tap import VideoLLMTap
    from linkedout_lightning.video import FrameSampler

__version__ = "0.1.0"

_HOME = {
    "FrameSampler": "video",
    "VideoLLMTap": "tap",
    "FeatureStore": "store",
    "LinkedOutItemEncoder": "encoders",
    "IDItemEncoder": "encoders",
    "InteractionDataModule": "data",
    "SequentialRecommender": "sequence",
    "Ranker": "serving",
    "export_bundle": "serving",
}

__all__ = [
    "FeatureStore",
    "FrameSampler",
    "IDItemEncoder",
    "InteractionDataModule",
    "LinkedOutItemEncoder",
    "Ranker",
    "SequentialRecommender",
    "VideoLLMTap",
    "__version__",
    "export_bundle",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
