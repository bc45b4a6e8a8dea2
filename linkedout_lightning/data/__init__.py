"""Interactions: readers, splits and batches of index tensors."""

from linkedout_lightning.data.batches import EvalBatch, TrainBatch
from linkedout_lightning.data.datamodule import InteractionDataModule
from linkedout_lightning.data.interactions import Interactions
from linkedout_lightning.data.readers import from_columns, read_interactions, read_titles
from linkedout_lightning.data.report import DataReport
from linkedout_lightning.data.splits import Split, cold_items, leave_one_out, temporal

__all__ = [
    "DataReport",
    "EvalBatch",
    "InteractionDataModule",
    "Interactions",
    "Split",
    "TrainBatch",
    "cold_items",
    "from_columns",
    "leave_one_out",
    "read_interactions",
    "read_titles",
    "temporal",
]
