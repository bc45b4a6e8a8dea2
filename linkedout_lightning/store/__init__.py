"""Features of every item, once, on disk: durable, versioned, written by many processes at once."""

from linkedout_lightning.store.compaction import Compaction
from linkedout_lightning.store.spec import StoreSpec
from linkedout_lightning.store.store import FeatureStore, StoreBatch, StoredFeatures
from linkedout_lightning.store.usage import DiskUsage
from linkedout_lightning.store.versions import StoreVersion

__all__ = [
    "Compaction",
    "DiskUsage",
    "FeatureStore",
    "StoreBatch",
    "StoreSpec",
    "StoreVersion",
    "StoredFeatures",
]
