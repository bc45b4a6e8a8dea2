"""A frozen (video) language model whose layers are read and pooled on the spot."""

from linkedout_lightning.tap.inputs import InputBuilder
from linkedout_lightning.tap.tap import VideoLLMTap
from linkedout_lightning.tap.types import TapBatch, TapBucket, TapInput, TapOutput

__all__ = ["InputBuilder", "TapBatch", "TapBucket", "TapInput", "TapOutput", "VideoLLMTap"]
