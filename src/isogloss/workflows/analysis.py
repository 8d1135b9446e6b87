"""Everything that a Run can say, in one result: what `isogloss analyze` prints, and `docs/findings.md` quotes.

What a Run cannot give is refused by name and leaves the rest as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from isogloss.analysis import Analysis, Estimate, LayerCorrelation, Resampling, analyze
from isogloss.analysis.controls import (
    DistinctTokens,
    HiddenStates,
    distinct_divergence,
    hidden_similarity,
    phase_divergence,
)
from isogloss.analysis.correlation import band_correlation
from isogloss.analysis.domains import DomainCurve, domain_divergence
from isogloss.analysis.experts import layer_positions
from isogloss.analysis.overlap import OverlapCurve, expert_overlap
from isogloss.analysis.pairs import By, PairwiseDivergence, pairwise_divergence
from isogloss.analysis.references import REFERENCE_NAMES, reference_distances, token_overlap_distance
from isogloss.analysis.resources import ResourceRule, ResourceTable, language_resources, relate
from isogloss.analysis.statistics import DEFAULT_RESAMPLING, curves_to_json
from isogloss.analysis.structure import LanguageStructure, language_structure
from isogloss.errors import IsoglossError, LanguageError
from isogloss.runs import Run

__all__ = ["AnalysisRequest", "RunAnalysis", "analyze_run", "default_bands"]

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 11))
"""Thresholds of the Δ rule at which task experts and multilingual experts are compared."""

Part = TypeVar("Part")
Correlations = dict[str, LayerCorrelation]


@dataclass(frozen=True)
class AnalysisRequest:
    """What to compute besides the divergence from the pivot.

    Attributes:
        pivot: reference languages, ``xxx_Xxxx``.
        by: whether all pairs of languages are compared item by item, or by their means over items (faster).
        bands: name to first and last decoder layer; by default the layers before, in and after the middle.
        accuracy: language to benchmark accuracy, in any unit.
        resource: language to a measure of resources, such as its share of the training text.
        task: Run of task texts in the pivot, against which the Run at hand is generic text.
        generation: Run of what the model wrote after the texts of the Run at hand.
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
class RunAnalysis:
    """What a Run says. A part that was not asked for, or was refused, is None or empty.

    Attributes:
        analysis: divergence from the pivot, entropy, consistency, middle layers.
        bands: name to first and last decoder layer, inclusive, as used below.
        pairs: divergence of every two languages.
        structure: trees by band, and what they agree with.
        resources: exclusive and common experts, and how concentrated a language's routing is.
        accuracy: by band, correlation of accuracy with the divergence from the pivot.
        related: by name of the measure (``accuracy``, ``resource``), band, and column of ``resources``.
        distinct: divergence on tokens that the pivot's text does not have.
        hidden: similarity of what the routers read.
        phases: divergence of generation from prompt, by language.
        domain: how far task texts are routed from generic ones.
        overlap: of task experts and multilingual experts.
        refused: what could not be computed, and why.
    """

    analysis: Analysis
    bands: Mapping[str, tuple[int, int]]
    pairs: PairwiseDivergence | None = None
    structure: LanguageStructure | None = None
    resources: ResourceTable | None = None
    accuracy: Correlations = field(default_factory=dict)
    related: dict[str, dict[str, Correlations]] = field(default_factory=dict)
    distinct: DistinctTokens | None = None
    hidden: HiddenStates | None = None
    phases: dict[str, tuple[Estimate, ...]] = field(default_factory=dict)
    domain: DomainCurve | None = None
    overlap: OverlapCurve | None = None
    refused: dict[str, str] = field(default_factory=dict)

    def over_band(self, values: Sequence[float], band: str) -> float:
        """Average one value per routed layer over a band; NaN where a layer of the band has none."""
        first, last = self.bands[band]
        return fmean(value for layer, value in zip(self.analysis.layers, values, strict=True) if first <= layer <= last)

    def by_band(self, curves: Mapping[str, Sequence[Estimate]]) -> dict[str, dict[str, float]]:
        """Average curves over every band: language to band to value."""
        return {
            language: {band: self.over_band([point.value for point in curve], band) for band in self.bands}
            for language, curve in curves.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `isogloss analyze --json`; pairs of languages as the mean over each band."""
        layers = self.analysis.layers
        return {
            **self.analysis.to_json(),
            "bands": {name: list(ends) for name, ends in self.bands.items()},
            "pairs": self._pairs(),
            "structure": self.structure.to_json() if self.structure else None,
            "resources": self.resources.to_json() if self.resources else None,
            "accuracy": _correlations(self.accuracy),
            "related": {
                measure: {band: _correlations(columns) for band, columns in bands.items()}
                for measure, bands in self.related.items()
            },
            "controls": {
                "distinct": self.distinct.to_json(layers) if self.distinct else None,
                "hidden": self.hidden.to_json(layers) if self.hidden else None,
                "phases": curves_to_json(self.phases, layers),
            },
            "domain": self.domain.to_json() if self.domain else None,
            "overlap": self.overlap.to_json() if self.overlap else None,
            "refused": {**self.analysis.refused, **self.refused},
        }

    def _pairs(self) -> dict[str, Any] | None:
        if self.pairs is None:
            return None
        bands = {name: self.pairs.band(*ends).tolist() for name, ends in self.bands.items()}
        return {"languages": list(self.pairs.languages), "by": self.pairs.by, "bands": bands}


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


def default_bands(analysis: Analysis) -> dict[str, tuple[int, int]]:
    """Name the layers before, in and after the middle; thirds of the layers where no middle was found."""
    layers = analysis.layers
    if analysis.middle is None:
        parts = [part.tolist() for part in np.array_split(np.array(layers), min(3, len(layers)))]
    else:
        start, end = layers.index(analysis.middle.start), layers.index(analysis.middle.end)
        parts = [list(layers[:start]), list(layers[start : end + 1]), list(layers[end + 1 :])]
    return {name: (part[0], part[-1]) for name, part in zip(("early", "middle", "late"), parts, strict=False) if part}


def analyze_run(run: Run, request: AnalysisRequest | None = None) -> RunAnalysis:
    """Compute everything that a Run allows.

    Args:
        run: with the pivot and at least one more language.
        request: pivot, bands, and what to relate the routing with.

    Returns:
        All parts; ``refused`` names what the Run cannot give.

    Raises:
        LanguageError: a pivot is absent, or accuracy was given for too few languages of the Run.
        RunError: a file is damaged, or a band holds no routed layer.
    """
    request = request or AnalysisRequest()
    pivot, resampling = request.pivot[0], request.resampling
    analysis = analyze(run, pivot=request.pivot, accuracy=request.accuracy, resampling=resampling)
    bands = dict(request.bands) if request.bands else default_bands(analysis)
    for within in bands.values():
        layer_positions(analysis.layers, within)  # an error of the request, not of a part
    parts = _Parts({})
    pairs = parts.attempt("pairs", lambda: pairwise_divergence(run, by=request.by))
    resources = parts.attempt(
        "resources", lambda: language_resources(run, rule=_resource_rule(run), bands=bands, resampling=resampling)
    )
    measures = {"accuracy": request.accuracy, "resource": request.resource}
    manifest = run.manifest
    return RunAnalysis(
        analysis,
        bands,
        pairs=pairs,
        structure=_structure(run, pairs, bands, parts) if pairs else None,
        resources=resources,
        accuracy=band_correlation(analysis.divergence, request.accuracy, layers=analysis.layers, bands=bands)
        if request.accuracy
        else {},
        related={name: relate(resources, measure) for name, measure in measures.items() if measure and resources},
        distinct=parts.attempt("distinct tokens", lambda: distinct_divergence(run, pivot, resampling=resampling))
        if manifest.distinct_from
        else None,
        hidden=parts.attempt(
            "hidden states",
            lambda: hidden_similarity(run, pivot, routing=analysis.divergence, resampling=resampling),
        )
        if manifest.hidden_size
        else None,
        phases=phase_divergence(run, request.generation, resampling=resampling) if request.generation else {},
        **_domain(run, request, analysis),
        refused=parts.refused,
    )


def _structure(
    run: Run, pairs: PairwiseDivergence, bands: Mapping[str, tuple[int, int]], parts: _Parts
) -> LanguageStructure | None:
    """Test routing against every account of distance that is at hand."""
    references: dict[str, npt.NDArray[np.float64]] = {}
    known = parts.attempt("URIEL", lambda: reference_distances(pairs.languages, REFERENCE_NAMES))
    if known is None:
        known = reference_distances(pairs.languages, ("script",))
    references |= {name: np.asarray(found.values, dtype=np.float64) for name, found in known.items()}
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
    middle = (analysis.middle.start, analysis.middle.end) if analysis.middle else None
    (pivot,), task = request.pivot, request.task
    return {
        "domain": domain_divergence(task, run, language=pivot, middle=middle, resampling=request.resampling),
        "overlap": expert_overlap(
            task, run, pivot=pivot, thresholds=THRESHOLDS, layers=middle, resampling=request.resampling
        ),
    }


def _correlations(found: Correlations) -> dict[str, Any]:
    return {name: correlation.to_json() for name, correlation in found.items()}
