"""``linkedout explain``: which layer serves which items, read from finished cells."""

from linkedout_lightning.explain.command import Explanation, explain
from linkedout_lightning.explain.config import ExplainConfig

__all__ = ["ExplainConfig", "Explanation", "explain"]
