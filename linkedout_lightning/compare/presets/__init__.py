"""Whole reproductions: a data set's official files in, the paper's table out, in one command."""

from linkedout_lightning.compare.presets.config import MicroLens100K
from linkedout_lightning.compare.presets.run import microlens_100k

__all__ = ["MicroLens100K", "microlens_100k"]
