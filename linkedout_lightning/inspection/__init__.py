"""``linkedout inspect``: what a feature store or a video file holds."""

from linkedout_lightning.inspection.command import InspectConfig, Inspection, inspect

__all__ = ["InspectConfig", "Inspection", "inspect"]
