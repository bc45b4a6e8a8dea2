"""The ablation: one recipe, and what becomes of it when one thing at a time is another."""

from linkedout_lightning.compare.ablation.config import AblateConfig
from linkedout_lightning.compare.ablation.run import Ablation, ablate

__all__ = ["AblateConfig", "Ablation", "ablate"]
