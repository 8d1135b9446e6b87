"""What routing says about languages: divergence, entropy, consistency, middle layers, experts. Needs no torch."""

from __future__ import annotations

from isogloss.analysis.correlation import LayerCorrelation, accuracy_correlation
from isogloss.analysis.divergence import (
    divergence,
    divergence_ceiling,
    divergence_from_pivot,
    shuffled_divergence,
)
from isogloss.analysis.experts import (
    DeltaRule,
    ExpertRow,
    ExpertTable,
    delta_experts,
    language_experts,
    task_experts,
)
from isogloss.analysis.layers import MiddleLayers, middle_layers
from isogloss.analysis.shares import ShareRule, experts_by_share, share_experts
from isogloss.analysis.statistics import Estimate, Resampling, bootstrap_counts, chance_consistency
from isogloss.analysis.summary import Analysis, analyze, consistency_by_language, entropy_by_language

__all__ = [
    "Analysis",
    "DeltaRule",
    "Estimate",
    "ExpertRow",
    "ExpertTable",
    "LayerCorrelation",
    "MiddleLayers",
    "Resampling",
    "ShareRule",
    "accuracy_correlation",
    "analyze",
    "bootstrap_counts",
    "chance_consistency",
    "consistency_by_language",
    "delta_experts",
    "divergence",
    "divergence_ceiling",
    "divergence_from_pivot",
    "entropy_by_language",
    "experts_by_share",
    "language_experts",
    "middle_layers",
    "share_experts",
    "shuffled_divergence",
    "task_experts",
]
