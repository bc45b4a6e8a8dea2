"""A frozen (video) language model whose layers are read and pooled on the spot."""

from linkedout_lightning.tap.types import TapBatch, TapBucket, TapInput, TapOutput

__all__ = ["TapBatch", "TapBucket", "TapInput", "TapOutput"]
