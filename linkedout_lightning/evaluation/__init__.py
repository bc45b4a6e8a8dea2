"""Full-ranking evaluation: ranks, metrics over users, significance and floors."""

from linkedout_lightning.evaluation.metrics import (
    Coverage,
    RankingMetrics,
    UserRanks,
    ranking_values,
)
from linkedout_lightning.evaluation.ranks import target_ranks

__all__ = ["Coverage", "RankingMetrics", "UserRanks", "ranking_values", "target_ranks"]
