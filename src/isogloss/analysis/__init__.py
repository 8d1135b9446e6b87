"""What routing says about languages: divergence, entropy, consistency, middle layers, experts. Needs no torch."""

from __future__ import annotations

from isogloss.analysis.changes import DivergenceChange, divergence_change
from isogloss.analysis.correlation import (
    LEAST_CORRELATED,
    LayerCorrelation,
    accuracy_correlation,
    band_correlation,
    correlate,
    correlate_measures,
)
from isogloss.analysis.curves import analyze_curves, default_bands
from isogloss.analysis.differences import ContrastRule, DeltaRule
from isogloss.analysis.divergence import Curves, divergence, divergence_ceiling
from isogloss.analysis.domains import DomainCurve, domain_divergence
from isogloss.analysis.expert_query import ExpertQuery, Rule, query_experts
from isogloss.analysis.expert_tokens import (
    ExpertTokens,
    LanguageTokens,
    TokenRow,
    expert_tokens,
    require_token_counts,
)
from isogloss.analysis.experts import (
    ExpertRow,
    ExpertTable,
    experts_among_languages,
    find_in_groups,
    language_experts,
    task_experts,
)
from isogloss.analysis.language_values import read_measure
from isogloss.analysis.layers import MiddleLayers, middle_layers
from isogloss.analysis.mantel import MantelTest, mantel
from isogloss.analysis.overlap import OverlapCurve, OverlapPoint, expert_overlap
from isogloss.analysis.pairs import PairwiseDivergence, pairwise_divergence
from isogloss.analysis.parts import AnalysisRequest, analyze_run
from isogloss.analysis.references import ReferenceDistance, reference_distances, token_overlap_distance
from isogloss.analysis.resources import ResourceRow, ResourceRule, ResourceTable, language_resources, relate
from isogloss.analysis.result import Analysis, BandPairs, Controls
from isogloss.analysis.shares import ShareRule
from isogloss.analysis.specific_experts import SpecificExpert, SpecificExperts, specific_experts
from isogloss.analysis.specificity import SpecificityRule
from isogloss.analysis.structure import LanguageStructure, LayerMatch, ReferenceTest, language_structure
from isogloss.analysis.tables import TABLES, measures, write_tables
from isogloss.analysis.tree import LanguageTree, language_tree

__all__ = [
    "LEAST_CORRELATED",
    "TABLES",
    "Analysis",
    "AnalysisRequest",
    "BandPairs",
    "ContrastRule",
    "Controls",
    "Curves",
    "DeltaRule",
    "DivergenceChange",
    "DomainCurve",
    "ExpertQuery",
    "ExpertRow",
    "ExpertTable",
    "ExpertTokens",
    "LanguageStructure",
    "LanguageTokens",
    "LanguageTree",
    "LayerCorrelation",
    "LayerMatch",
    "MantelTest",
    "MiddleLayers",
    "OverlapCurve",
    "OverlapPoint",
    "PairwiseDivergence",
    "ReferenceDistance",
    "ReferenceTest",
    "ResourceRow",
    "ResourceRule",
    "ResourceTable",
    "Rule",
    "ShareRule",
    "SpecificExpert",
    "SpecificExperts",
    "SpecificityRule",
    "TokenRow",
    "accuracy_correlation",
    "analyze_curves",
    "analyze_run",
    "band_correlation",
    "correlate",
    "correlate_measures",
    "default_bands",
    "divergence",
    "divergence_ceiling",
    "divergence_change",
    "domain_divergence",
    "expert_overlap",
    "expert_tokens",
    "experts_among_languages",
    "find_in_groups",
    "language_experts",
    "language_resources",
    "language_structure",
    "language_tree",
    "mantel",
    "measures",
    "middle_layers",
    "pairwise_divergence",
    "query_experts",
    "read_measure",
    "reference_distances",
    "relate",
    "require_token_counts",
    "specific_experts",
    "task_experts",
    "token_overlap_distance",
    "write_tables",
]
