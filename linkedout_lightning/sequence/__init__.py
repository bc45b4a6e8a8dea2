"""Sequence models over item vectors, their losses, and their training with Lightning."""

from linkedout_lightning.sequence.backbones import BACKBONES, SequenceBackbone, build_backbone
from linkedout_lightning.sequence.gru4rec import GRU4Rec
from linkedout_lightning.sequence.losses import full_loss, in_batch_loss, sampled_loss
from linkedout_lightning.sequence.negatives import Negatives, NegativeSampler
from linkedout_lightning.sequence.nextitnet import NextItNet
from linkedout_lightning.sequence.recommender import SequentialRecommender
from linkedout_lightning.sequence.sasrec import SASRec

__all__ = [
    "BACKBONES",
    "GRU4Rec",
    "NegativeSampler",
    "Negatives",
    "NextItNet",
    "SASRec",
    "SequenceBackbone",
    "SequentialRecommender",
    "build_backbone",
    "full_loss",
    "in_batch_loss",
    "sampled_loss",
]
