"""The first parts of an analysis: curves over layers and their middle, one language in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from isogloss.analysis.correlation import accuracy_correlation
from isogloss.analysis.divergence import (
    Curves,
    Distributions,
    Quantity,
    as_pivots,
    ceiling_between,
    default_quantity,
    from_pivots,
    other_languages,
    read_distributions,
    shuffled_from_pivots,
    shuffled_partners,
)
from isogloss.analysis.layers import MiddleLayers, layer_positions, middle_layers, thirds
from isogloss.analysis.result import Analysis
from isogloss.analysis.threads import in_threads
from isogloss.analysis.translations import TranslationExcess, translation_excess
from isogloss.arrays import FloatArray, IntArray
from isogloss.errors import RunError
from isogloss.runs import Run
from isogloss.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
    chance_consistency,
    resampled_means,
)

__all__ = ["analyze_curves", "default_bands"]


@dataclass(frozen=True)
class _Setting:
    """What every language is measured with; partners are None where there is nothing to shuffle."""

    run: Run
    pivots: dict[str, Distributions]
    quantity: Quantity
    partners: IntArray | None
    counts: IntArray
    resampling: Resampling

    def estimate(self, values: FloatArray) -> tuple[Estimate, ...]:
        return self.resampling.estimate(values, self.counts)


@dataclass(frozen=True)
class _Measures:
    """What is kept of one language: curves, and its divergences ``[n_items, n_layers]`` for what joins languages."""

    curves: dict[str, tuple[Estimate, ...]]
    divergence: FloatArray | None = None
    shuffled: FloatArray | None = None
    ceiling: tuple[float, ...] = ()


def _setting(run: Run, pivots: Sequence[str], quantity: Quantity, resampling: Resampling) -> _Setting:
    """Read the pivots, and draw the partners of items and the resamples."""
    n_items = run.manifest.shape[0]
    shuffles = run.manifest.granularity == "items" and n_items > 1
    return _Setting(
        run=run,
        pivots={code: read_distributions(run, code, quantity) for code in pivots},
        quantity=quantity,
        partners=shuffled_partners(n_items, resampling.seed) if shuffles else None,
        counts=resampling.draw(n_items),
        resampling=resampling,
    )


def _measure(setting: _Setting, language: str) -> _Measures:
    """Measure one language, which alone is in memory beside the pivots: about 25 MB for 488 x 48 x 128 shares."""
    run, pivots = setting.run, list(setting.pivots.values())
    own = setting.pivots.get(language) or read_distributions(run, language, setting.quantity)
    curves = {"entropy": own.entropy}
    if run.manifest.granularity == "items":
        curves["entropy"] = run.load_items(language, "entropy", slice(None))
        curves["consistency"] = run.load_items(language, "consistency", slice(None))
    if setting.partners is not None:
        curves["shuffled"] = shuffled_from_pivots(pivots, own, setting.partners)
    if language in setting.pivots:
        return _Measures({name: setting.estimate(values) for name, values in curves.items()})
    curves["divergence"] = from_pivots(pivots, own)
    ceiling = np.mean([ceiling_between(pivot, own) for pivot in pivots], axis=0).mean(axis=0)
    estimates = {name: setting.estimate(values) for name, values in curves.items()}
    return _Measures(estimates, curves["divergence"], curves.get("shuffled"), tuple(ceiling.tolist()))


def _curves(measures: Mapping[str, _Measures], name: str) -> Curves:
    return {language: part.curves[name] for language, part in measures.items() if name in part.curves}


def _middle(measured: FloatArray, setting: _Setting) -> MiddleLayers:
    """Find the middle layers of divergence ``[n_items, n_layers]``, with the resamples of its curve."""
    layers = tuple(spec.layer for spec in setting.run.manifest.routers)
    resampled = resampled_means(measured, setting.counts) if len(measured) > 1 else None
    return middle_layers(
        measured.mean(axis=0), resampled, layers=layers, n_items=len(measured), level=setting.resampling.level
    )


def _middles(
    measures: Mapping[str, _Measures], setting: _Setting
) -> tuple[MiddleLayers | None, dict[str, MiddleLayers], dict[str, str]]:
    """Find the middle layers of the mean curve, of every language's, and the reason where there are none."""
    measured = {language: part.divergence for language, part in measures.items() if part.divergence is not None}
    if setting.run.manifest.is_sets:
        return None, {}, {"middle_layers": "layers of which only sets of experts are known cannot be compared"}
    try:
        middle = _middle(np.mean(list(measured.values()), axis=0), setting)
    except RunError as error:
        return None, {}, {"middle_layers": str(error)}
    own = in_threads(partial(_middle, setting=setting), measured.values())
    return middle, dict(zip(measured, own, strict=True)), {}


def _translations(
    measures: Mapping[str, _Measures], within: tuple[int, int], setting: _Setting
) -> TranslationExcess | None:
    """Compare translations with items that are none, in a range of layers and outside; None without shuffling."""
    first, last = within
    divergence = {code: part.divergence for code, part in measures.items() if part.divergence is not None}
    shuffled = {code: part.shuffled for code, part in measures.items() if part.shuffled is not None}
    if not shuffled:
        return None
    inside = [first <= spec.layer <= last for spec in setting.run.manifest.routers]
    return translation_excess(divergence, shuffled, setting.counts, inside=inside, resampling=setting.resampling)


def default_bands(analysis: Analysis) -> dict[str, tuple[int, int]]:
    """Name the layers before, in and after the middle; `thirds` of the layers where no middle was found."""
    layers = analysis.layers
    if not analysis.has_middle:
        return thirds(layers)
    start, end = (layers.index(edge) for edge in analysis.middle)
    parts = [layers[:start], layers[start : end + 1], layers[end + 1 :]]
    return {name: (part[0], part[-1]) for name, part in zip(("early", "middle", "late"), parts, strict=False) if part}


def analyze_curves(
    run: Run,
    *,
    pivot: str | Sequence[str] = "eng_Latn",
    accuracy: Mapping[str, float] | None = None,
    bands: Mapping[str, tuple[int, int]] | None = None,
    quantity: Quantity | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> Analysis:
    """Measure divergence, entropy, consistency and the middle layers of a Run; `analyze_run` adds the other parts.

    Args:
        run: with the pivot and at least one more language; with items, or pooled (imported counts).
        pivot: reference language, ``xxx_Xxxx``, or several; each stays in memory.
        accuracy: language to benchmark accuracy, to be correlated with divergence.
        bands: name to first and last decoder layer; by default `default_bands`.
        quantity: what divergence compares; by default profiles, and selections in a pooled Run.
        resampling: of the items; the same resamples serve all languages and layers.

    Raises:
        LanguageError: a pivot is absent, given twice or alone, or accuracy covers fewer than four other languages.
        RunError: an item has no counted tokens, a file is damaged, or a band holds no routed layer.
    """
    manifest, others, pivots = run.manifest, other_languages(run, pivot), as_pivots(pivot)
    setting = _setting(run, pivots, quantity or default_quantity(manifest), resampling)
    measures = dict(zip(run.languages, in_threads(partial(_measure, setting), run.languages), strict=True))
    middle, middle_by_language, refused = _middles(measures, setting)
    if manifest.is_sets:
        refused["entropy"] = "a set of experts does not say how evenly they are used"
    curves = _curves(measures, "divergence")
    analysis = Analysis(
        pivot=",".join(pivots),
        layers=tuple(spec.layer for spec in manifest.routers),
        n_experts=manifest.routers[0].n_experts,
        granularity=manifest.granularity,
        quantity=setting.quantity,
        divergence=curves,
        divergence_ceiling={name: measures[name].ceiling for name in others},
        shuffled=_curves(measures, "shuffled"),
        entropy={} if manifest.is_sets else _curves(measures, "entropy"),
        consistency=_curves(measures, "consistency"),
        consistency_chance=tuple(chance_consistency(spec.n_experts, spec.top_k) for spec in manifest.routers),
        middle_layers=middle,
        correlation=accuracy_correlation(curves, accuracy) if accuracy else (),
        refused={**manifest.refusals("consistency", "shuffled", "intervals"), **refused},
        resampling=resampling,
        middle_by_language=middle_by_language,
    )
    return _with_bands(analysis, dict(bands) if bands else default_bands(analysis), measures, setting)


def _with_bands(
    analysis: Analysis, bands: dict[str, tuple[int, int]], measures: Mapping[str, _Measures], setting: _Setting
) -> Analysis:
    """Add the mean divergence of every language over the layers of each band."""
    places = [layer_positions(analysis.layers, within) for within in bands.values()]
    means = {}
    for language, part in measures.items():
        if part.divergence is not None:
            columns = np.stack([part.divergence[:, positions].mean(axis=1) for positions in places], axis=1)
            means[language] = dict(zip(bands, setting.estimate(columns), strict=True))
    described = replace(analysis, bands=bands, divergence_by_band=means)
    return replace(described, translations=_translations(measures, bands[described.described_band], setting))
