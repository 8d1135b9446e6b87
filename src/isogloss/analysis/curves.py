"""The first parts of an analysis: curves over layers and their middle, one language in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis.correlation import accuracy_correlation
from isogloss.analysis.divergence import (
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
from isogloss.analysis.layers import MiddleLayers, middle_layers
from isogloss.analysis.result import Analysis
from isogloss.analysis.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
    bootstrap_counts,
    chance_consistency,
    estimate_means,
    require_items,
    resampled_means,
)
from isogloss.analysis.threads import in_threads
from isogloss.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from isogloss.runs import Run

    FloatArray = npt.NDArray[np.floating[Any]]
    IntArray = npt.NDArray[np.integer[Any]]
    Curves = dict[str, tuple[Estimate, ...]]

__all__ = ["analyze", "consistency_by_language", "entropy_by_language"]


def _draws(run: Run, resampling: Resampling) -> IntArray:
    return bootstrap_counts(run.manifest.shape[0], n_resamples=resampling.n_resamples, seed=resampling.seed)


def _entropy(run: Run, language: str, quantity: Quantity) -> FloatArray:
    if run.manifest.granularity == "items":
        return run.load_items(language, "entropy", slice(None))
    return read_distributions(run, language, quantity).entropy


def entropy_by_language(run: Run, *, resampling: Resampling = DEFAULT_RESAMPLING) -> Curves:
    """Estimate the mean routing entropy of every language in every routed layer, in nats.

    Args:
        run: with items, or pooled: then the entropy of the pooled selections, which is higher than a mean over items
            and carries no interval.
        resampling: of the items.

    Returns:
        One Estimate per routed layer for each language.
    """
    counts, quantity = _draws(run, resampling), default_quantity(run.manifest.granularity)
    return {
        language: estimate_means(_entropy(run, language, quantity), counts, level=resampling.level)
        for language in run.languages
    }


def consistency_by_language(run: Run, *, resampling: Resampling = DEFAULT_RESAMPLING) -> Curves:
    """Estimate how alike the expert sets of two tokens of an item are, for every language and routed layer.

    Args:
        run: with items.
        resampling: of the items.

    Returns:
        One Estimate per routed layer for each language. Items with a single token have no pair and do not count.

    Raises:
        RunError: the Run is pooled.
    """
    require_items(run.manifest.granularity, "consistency")
    counts = _draws(run, resampling)
    return {
        language: estimate_means(run.load_items(language, "consistency", slice(None)), counts, level=resampling.level)
        for language in run.languages
    }


@dataclass(frozen=True)
class _Setting:
    """What every language is measured with; partners are None where there is nothing to shuffle."""

    run: Run
    pivots: dict[str, Distributions]
    quantity: Quantity
    partners: IntArray | None
    counts: IntArray
    level: float

    def estimate(self, values: FloatArray) -> tuple[Estimate, ...]:
        return estimate_means(values, self.counts, level=self.level)


@dataclass(frozen=True)
class _Measures:
    """What is kept of one language: curves, and its divergence ``[n_items, n_layers]`` for the middle layers."""

    curves: dict[str, tuple[Estimate, ...]]
    divergence: FloatArray | None = None
    ceiling: tuple[float, ...] = ()


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
    return _Measures(estimates, curves["divergence"], tuple(ceiling.tolist()))


def _curves(found: Mapping[str, _Measures], name: str) -> Curves:
    return {language: part.curves[name] for language, part in found.items() if name in part.curves}


def _refusals(granularity: str, n_items: int) -> dict[str, str]:
    refused = {}
    for metric in ("consistency", "shuffled", "intervals"):
        try:
            require_items(granularity, metric)
        except RunError as error:
            refused[metric] = str(error)
    if granularity == "items" and n_items == 1:
        refused = {
            metric: f"{metric}: needs at least two items; this run has one" for metric in ("shuffled", "intervals")
        }
    return refused


def _middle(measured: FloatArray, setting: _Setting) -> MiddleLayers:
    """Find the middle layers of divergence ``[n_items, n_layers]``, with the resamples of its curve."""
    layers = tuple(spec.layer for spec in setting.run.manifest.routers)
    resampled = resampled_means(measured, setting.counts) if len(measured) > 1 else None
    return middle_layers(measured.mean(axis=0), resampled, layers=layers, n_items=len(measured), level=setting.level)


def _middles(
    found: Mapping[str, _Measures], setting: _Setting
) -> tuple[MiddleLayers | None, dict[str, MiddleLayers], dict[str, str]]:
    """Find the middle layers of the mean curve, of every language's, and say why where there are none."""
    measured = {language: part.divergence for language, part in found.items() if part.divergence is not None}
    try:
        middle = _middle(np.mean(list(measured.values()), axis=0), setting)
    except RunError as error:
        return None, {}, {"middle_layers": str(error)}
    own = in_threads(partial(_middle, setting=setting), measured.values())
    return middle, dict(zip(measured, own, strict=True)), {}


def analyze(
    run: Run,
    *,
    pivot: str | Sequence[str] = "eng_Latn",
    accuracy: Mapping[str, float] | None = None,
    quantity: Quantity | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> Analysis:
    """Measure divergence, entropy, consistency and the middle layers of a Run.

    Args:
        run: with the pivot and at least one more language; with items, or pooled (imported counts).
        pivot: reference language, ``xxx_Xxxx``, or several; each stays in memory.
        accuracy: language to benchmark accuracy, to be correlated with divergence.
        quantity: what divergence compares; by default profiles, and selections in a pooled Run.
        resampling: of the items; the same resamples serve all languages and layers.

    Returns:
        Curves, ceilings and middle layers, as far as they could be computed; `analyze_run` adds the other parts.

    Raises:
        LanguageError: a pivot is absent, given twice or alone, or accuracy covers fewer than four other languages.
        RunError: an item has no counted tokens, or a file is damaged.
    """
    manifest, others, pivots = run.manifest, other_languages(run, pivot), as_pivots(pivot)
    quantity = quantity or default_quantity(manifest.granularity)
    n_items, counts = manifest.shape[0], _draws(run, resampling)
    shuffles = manifest.granularity == "items" and n_items > 1
    setting = _Setting(
        run=run,
        pivots={code: read_distributions(run, code, quantity) for code in pivots},
        quantity=quantity,
        partners=shuffled_partners(n_items, resampling.seed) if shuffles else None,
        counts=counts,
        level=resampling.level,
    )
    found = dict(zip(run.languages, in_threads(partial(_measure, setting), run.languages), strict=True))
    middle, middle_by_language, refused = _middles(found, setting)
    curves = _curves(found, "divergence")
    return Analysis(
        pivot=",".join(pivots),
        layers=tuple(spec.layer for spec in manifest.routers),
        n_experts=manifest.routers[0].n_experts,
        granularity=manifest.granularity,
        quantity=quantity,
        divergence=curves,
        divergence_ceiling={name: found[name].ceiling for name in others},
        shuffled=_curves(found, "shuffled"),
        entropy=_curves(found, "entropy"),
        consistency=_curves(found, "consistency"),
        consistency_chance=tuple(chance_consistency(spec.n_experts, spec.top_k) for spec in manifest.routers),
        middle_layers=middle,
        correlation=accuracy_correlation(curves, accuracy) if accuracy else (),
        refused={**_refusals(manifest.granularity, n_items), **refused},
        resampling=resampling,
        middle_by_language=middle_by_language,
    )
