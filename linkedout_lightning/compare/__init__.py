"""The comparison: encoders x backbones x seeds, one process a cell, one report of all of it."""

from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.run import Comparison, compare

__all__ = ["CompareConfig", "Comparison", "compare"]
