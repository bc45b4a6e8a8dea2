"""Tuning: the same budget for every row, chosen by the validation, the test left alone."""

from linkedout_lightning.compare.tuning.config import TuneConfig
from linkedout_lightning.compare.tuning.run import Tuning, tune

__all__ = ["TuneConfig", "Tuning", "tune"]
