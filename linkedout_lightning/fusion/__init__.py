"""From the tokens of several layers to one vector an item: pure torch, no store, no Lightning.

``features (B, L, S, D)`` --:class:`Whitening`--> ``tokens (L, B, S, R)`` --a compressor expert for
each layer--> ``experts (L, B, H)`` --a fuser--> ``vectors (B, H)``.

The layer axis leads inside this package, because the experts are a stack of weights and a batched
matrix product over that stack then reads its input without a copy.
"""

from linkedout_lightning.fusion.compressors import (
    COMPRESSORS,
    LatentCompressor,
    MeanCompressor,
    PairCompressor,
    build_compressor,
)
from linkedout_lightning.fusion.fusers import (
    FUSERS,
    ConcatFuser,
    DFFFuser,
    MeanFuser,
    MoEFuser,
    WeightedSumFuser,
    build_fuser,
    load_balance,
)
from linkedout_lightning.fusion.geometry import effective_rank, mean_cosine
from linkedout_lightning.fusion.moments import TokenMoments
from linkedout_lightning.fusion.whitening import Whitening
from linkedout_lightning.fusion.wide import WideMLP, build_fusion

__all__ = [
    "COMPRESSORS",
    "FUSERS",
    "ConcatFuser",
    "DFFFuser",
    "LatentCompressor",
    "MeanCompressor",
    "MeanFuser",
    "MoEFuser",
    "PairCompressor",
    "TokenMoments",
    "WeightedSumFuser",
    "Whitening",
    "WideMLP",
    "build_compressor",
    "build_fuser",
    "build_fusion",
    "effective_rank",
    "load_balance",
    "mean_cosine",
]
