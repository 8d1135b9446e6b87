"""All parts of an analysis: what `isogloss analyze` computes.

What a Run cannot give is refused by name and leaves the rest as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from isogloss.analysis.controls import distinct_divergence, hidden_similarity, phase_divergence
from isogloss.analysis.correlation import band_correlation
from isogloss.analysis.curves import analyze_curves
from isogloss.analysis.domains import domain_divergence
from isogloss.analysis.overlap import expert_overlap
from isogloss.analysis.pairs import By, PairwiseDivergence, pairwise_divergence
from isogloss.analysis.references import REFERENCE_NAMES, reference_distances, token_overlap_distance
from isogloss.analysis.resources import ResourceRule, language_resources, relate
from isogloss.analysis.result import Analysis, BandPairs, Controls
from isogloss.analysis.structure import LanguageStructure, language_structure
from isogloss.arrays import FloatArray
from isogloss.errors import IsoglossError, LanguageError
from isogloss.runs import Run, common_status
from isogloss.statistics import DEFAULT_RESAMPLING, Resampling

__all__ = ["AnalysisRequest", "analyze_run"]

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 11))
"""Thresholds of the Δ rule at which task experts and multilingual experts are compared."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class AnalysisRequest:
    """What to compute besides the divergence from the pivot.

    Attributes:
        pivot: reference languages, ``xxx_Xxxx``.
        by: whether all pairs of languages are compared item by item, or by their means over items (faster).
        bands: name to first and last decoder layer; by default the layers before, in and after the middle.
        accuracy: language to benchmark accuracy, in any unit.
        resource: language to a measure of resources, such as its share of the training text.
        task: Run of task texts in the pivot, against which the analysed Run is generic text.
        generation: Run of what the model wrote after the texts of the analysed Run.
        resampling: of everything.
    """

    pivot: tuple[str, ...] = ("eng_Latn",)
    by: By = "means"
    bands: Mapping[str, tuple[int, int]] | None = None
    accuracy: Mapping[str, float] | None = None
    resource: Mapping[str, float] | None = None
    task: Run | None = None
    generation: Run | None = None
    resampling: Resampling = DEFAULT_RESAMPLING


@dataclass(frozen=True)
class _Parts:
    """Computes parts of an analysis; what is refused is noted instead."""

    refused: dict[str, str]

    def attempt(self, name: str, compute: Callable[[], Part]) -> Part | None:
        try:
            return compute()
        except IsoglossError as error:
            self.refused[name] = str(error)
            return None


def analyze_run(run: Run, request: AnalysisRequest | None = None) -> Analysis:
    """Compute everything that a Run allows; ``refused`` names what it cannot give.

    Args:
        run: with the pivot and at least one more language.
        request: pivot, bands, and what to relate the routing with.

    Raises:
        LanguageError: a pivot is absent, or accuracy was given for too few languages of the Run.
        RunError: a file is damaged, or a band holds no routed layer.
    """
    request = request or AnalysisRequest()
    resampling = request.resampling
    analysis = analyze_curves(
        run, pivot=request.pivot, accuracy=request.accuracy, bands=request.bands, resampling=resampling
    )
    bands = analysis.bands
    parts = _Parts({**analysis.refused})
    pairs = parts.attempt("pairs", lambda: pairwise_divergence(run, by=request.by))
    resources = parts.attempt(
        "resources", lambda: language_resources(run, rule=_resource_rule(run), bands=bands, resampling=resampling)
    )
    measures = {"accuracy": request.accuracy, "resource": request.resource}
    return replace(
        analysis,
        layer_pairs=pairs,
        manifest=run.manifest,
        status=common_status(*(each.manifest for each in (run, request.task, request.generation) if each)),
        pairs=BandPairs(pairs.languages, pairs.by, {name: pairs.band(*ends) for name, ends in bands.items()})
        if pairs
        else None,
        structure=_structure(run, pairs, bands, parts) if pairs else None,
        resources=resources,
        accuracy=band_correlation(analysis.divergence, request.accuracy, layers=analysis.layers, bands=bands)
        if request.accuracy
        else {},
        related={name: relate(resources, measure) for name, measure in measures.items() if measure and resources},
        controls=_controls(run, request, analysis, parts),
        **_domain(run, request, analysis),
        refused=parts.refused,
    )


def _controls(run: Run, request: AnalysisRequest, analysis: Analysis, parts: _Parts) -> Controls:
    """Compute the controls that the Run was captured for."""
    pivot, resampling, manifest = request.pivot[0], request.resampling, run.manifest
    distinct = hidden = None
    if manifest.distinct_from:
        distinct = parts.attempt("distinct tokens", lambda: distinct_divergence(run, pivot, resampling=resampling))
    if manifest.hidden_size:
        hidden = parts.attempt(
            "hidden states",
            lambda: hidden_similarity(run, pivot, routing=analysis.divergence, resampling=resampling),
        )
    generation = request.generation
    return Controls(distinct, hidden, phase_divergence(run, generation, resampling=resampling) if generation else {})


def _structure(
    run: Run, pairs: PairwiseDivergence, bands: Mapping[str, tuple[int, int]], parts: _Parts
) -> LanguageStructure | None:
    """Test routing against every account of distance that is available."""
    references: dict[str, FloatArray] = {}
    known = parts.attempt("URIEL", lambda: reference_distances(pairs.languages, REFERENCE_NAMES))
    if known is None:
        known = reference_distances(pairs.languages, ("script",))
    references |= {name: np.asarray(known_distance.values, dtype=np.float64) for name, known_distance in known.items()}
    overlap = parts.attempt("token_overlap", lambda: token_overlap_distance(run, pairs.languages))
    if overlap is not None:
        references["token_overlap"] = np.asarray(overlap, dtype=np.float64)
    return parts.attempt("structure", lambda: language_structure(pairs, references, bands=bands))


def _resource_rule(run: Run) -> ResourceRule:
    """Keep the paper's 15 of 128 experts, in proportion, but not fewer than a token chooses."""
    spec = run.manifest.routers[0]
    return ResourceRule(run.languages, top=max(spec.top_k, round(spec.n_experts * 15 / 128)))


def _domain(run: Run, request: AnalysisRequest, analysis: Analysis) -> dict[str, Any]:
    if request.task is None:
        return {}
    if len(request.pivot) > 1:
        raise LanguageError(f"task texts are compared in one language; name one pivot, not {', '.join(request.pivot)}")
    middle = analysis.middle if analysis.has_middle else None
    (pivot,), task = request.pivot, request.task
    return {
        "domain": domain_divergence(task, run, language=pivot, middle=middle, resampling=request.resampling),
        "overlap": expert_overlap(
            task, run, pivot=pivot, thresholds=THRESHOLDS, layers=middle, resampling=request.resampling
        ),
    }
