"""From a trained model to answers: bundles, and the ranker that serves them."""

from linkedout_lightning.serving.answers import Recommendations
from linkedout_lightning.serving.bundle import Bundle
from linkedout_lightning.serving.exporting import ExportReport, export_bundle
from linkedout_lightning.serving.manifest import BundleError
from linkedout_lightning.serving.ranker import Ranker

__all__ = ["Bundle", "BundleError", "ExportReport", "Ranker", "Recommendations", "export_bundle"]
