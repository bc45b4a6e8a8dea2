"""Interactions: readers, splits and batches of index tensors."""

from linkedout_lightning.data.batches import EvalBatch, TrainBatch

__all__ = ["EvalBatch", "TrainBatch"]
