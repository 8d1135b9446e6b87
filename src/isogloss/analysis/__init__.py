"""What routing says about languages: divergence, entropy, consistency, middle layers, experts. Needs no torch."""

from __future__ import annotations

from isogloss.analysis.contrast import ContrastRule, contrast_corpora, contrast_experts, contrast_languages
from isogloss.analysis.correlation import (
    LayerCorrelation,
    accuracy_correlation,
    band_correlation,
    correlate,
    correlate_measures,
)
from isogloss.analysis.curves import analyze, consistency_by_language, entropy_by_language
from isogloss.analysis.delta import DeltaRule, delta_experts, language_experts, task_experts
from isogloss.analysis.divergence import (
    divergence,
    divergence_ceiling,
    divergence_from_pivot,
    shuffled_divergence,
)
from isogloss.analysis.domains import DomainCurve, domain_divergence
from isogloss.analysis.experts import ExpertRow, ExpertTable
from isogloss.analysis.layers import MiddleLayers, middle_layers
from isogloss.analysis.mantel import MantelTest, mantel
from isogloss.analysis.overlap import OverlapCurve, OverlapPoint, expert_overlap
from isogloss.analysis.pairs import PairwiseDivergence, pairwise_divergence
from isogloss.analysis.parts import AnalysisRequest, analyze_run, default_bands
from isogloss.analysis.references import ReferenceDistance, reference_distances, token_overlap_distance
from isogloss.analysis.resources import ResourceRow, ResourceRule, ResourceTable, language_resources, relate
from isogloss.analysis.result import Analysis, BandPairs, Controls
from isogloss.analysis.shares import ShareRule, experts_by_share, share_experts
from isogloss.analysis.specificity import SpecificityRule, experts_by_specificity, specificity_experts
from isogloss.analysis.statistics import Estimate, Resampling, bootstrap_counts, chance_consistency
from isogloss.analysis.structure import LanguageStructure, language_structure
from isogloss.analysis.tree import LanguageTree, language_tree

__all__ = [
    "Analysis",
    "AnalysisRequest",
    "BandPairs",
    "ContrastRule",
    "Controls",
    "DeltaRule",
    "DomainCurve",
    "Estimate",
    "ExpertRow",
    "ExpertTable",
    "LanguageStructure",
    "LanguageTree",
    "LayerCorrelation",
    "MantelTest",
    "MiddleLayers",
    "OverlapCurve",
    "OverlapPoint",
    "PairwiseDivergence",
    "ReferenceDistance",
    "Resampling",
    "ResourceRow",
    "ResourceRule",
    "ResourceTable",
    "ShareRule",
    "SpecificityRule",
    "accuracy_correlation",
    "analyze",
    "analyze_run",
    "band_correlation",
    "bootstrap_counts",
    "chance_consistency",
    "consistency_by_language",
    "contrast_corpora",
    "contrast_experts",
    "contrast_languages",
    "correlate",
    "correlate_measures",
    "default_bands",
    "delta_experts",
    "divergence",
    "divergence_ceiling",
    "divergence_from_pivot",
    "domain_divergence",
    "entropy_by_language",
    "expert_overlap",
    "experts_by_share",
    "experts_by_specificity",
    "language_experts",
    "language_resources",
    "language_structure",
    "language_tree",
    "mantel",
    "middle_layers",
    "pairwise_divergence",
    "reference_distances",
    "relate",
    "share_experts",
    "shuffled_divergence",
    "specificity_experts",
    "task_experts",
    "token_overlap_distance",
]
