"""Features of every item, once, on disk: durable, versioned, written by many processes at once."""

from linkedout_lightning.store.spec import StoreSpec
from linkedout_lightning.store.store import FeatureStore, StoreBatch, StoredFeatures

__all__ = ["FeatureStore", "StoreBatch", "StoreSpec", "StoredFeatures"]
