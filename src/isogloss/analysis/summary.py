"""Everything that one Run says about its languages, one language in memory at a time beside the pivot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis.correlation import LayerCorrelation, accuracy_correlation
from isogloss.analysis.divergence import (
    Quantity,
    default_quantity,
    divergence,
    divergence_ceiling,
    language_distributions,
    other_languages,
    shuffled_partners,
)
from isogloss.analysis.layers import MiddleLayers, middle_layers
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
from isogloss.errors import RunError
from isogloss.routing import entropy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from isogloss.runs import LanguageRouting, Run

    FloatArray = npt.NDArray[np.floating[Any]]
    IntArray = npt.NDArray[np.integer[Any]]
    Curves = dict[str, tuple[Estimate, ...]]

__all__ = ["Analysis", "analyze", "consistency_by_language", "entropy_by_language"]


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found. Curves hold one Estimate per routed layer, in the order of ``layers``.

    Attributes:
        pivot: reference language.
        layers: decoder layer of each position, 0-based.
        n_experts: routed experts per layer.
        granularity: ``items`` or ``pooled``; pooled values carry no intervals.
        quantity: distribution that divergence compares, ``profile`` or ``selection``.
        divergence: by non-pivot language, from the pivot.
        divergence_ceiling: by non-pivot language, what divergence can reach at these entropies, mean over items.
        shuffled: by language, divergence of items that are not translations (noise ceiling); empty where refused.
        entropy: by language, in nats; of profiles per item, or of the pooled distribution.
        consistency: by language, mean Jaccard similarity of the sets chosen for two tokens; empty where refused.
        consistency_chance: per layer, that similarity for sets drawn at random.
        middle: middle layers of the mean divergence curve over non-pivot languages; None where refused.
        correlation: per layer, of accuracy with divergence; empty where no accuracy was given.
        refused: name of what could not be computed, and why.
        resampling: behind the intervals.
    """

    pivot: str
    layers: tuple[int, ...]
    n_experts: int
    granularity: str
    quantity: Quantity
    divergence: Curves
    divergence_ceiling: dict[str, tuple[float, ...]]
    shuffled: Curves
    entropy: Curves
    consistency: Curves
    consistency_chance: tuple[float, ...]
    middle: MiddleLayers | None
    correlation: tuple[LayerCorrelation, ...]
    refused: dict[str, str]
    resampling: Resampling

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `isogloss analyze --json`."""
        middle, correlation = self.middle, zip(self.layers, self.correlation, strict=False)
        return {
            "n_layers": len(self.layers),
            "n_experts": self.n_experts,
            "pivot": self.pivot,
            "middle_layers": middle.to_json() if middle else None,
            "u_shape": {"is_u_shape": middle.is_u_shape, "depth": middle.depth.to_json()} if middle else None,
            "divergence": self._by_layer(self.divergence),
            "divergence_ceiling": {name: list(curve) for name, curve in self.divergence_ceiling.items()},
            "shuffled": self._by_layer(self.shuffled),
            "entropy": self._by_layer(self.entropy),
            "consistency": self._by_layer(self.consistency),
            "consistency_chance": list(self.consistency_chance),
            "correlation": [{"layer": layer, **found.to_json()} for layer, found in correlation],
            "granularity": self.granularity,
            "quantity": self.quantity,
            "layers": list(self.layers),
            "refused": self.refused,
            "resampling": self.resampling.to_json(),
        }

    def _by_layer(self, curves: Curves) -> dict[str, list[dict[str, Any]]]:
        return {
            language: [{"layer": layer, **point.to_json()} for layer, point in zip(self.layers, curve, strict=True)]
            for language, curve in curves.items()
        }


def _draws(run: Run, resampling: Resampling) -> IntArray:
    return bootstrap_counts(run.manifest.shape[0], n_resamples=resampling.n_resamples, seed=resampling.seed)


def _curves(arrays: Mapping[str, FloatArray], counts: IntArray, resampling: Resampling) -> Curves:
    return {language: estimate_means(array, counts, level=resampling.level) for language, array in arrays.items()}


def _entropy(run: Run, language: str, quantity: Quantity, routing: LanguageRouting) -> FloatArray:
    if run.manifest.granularity == "items":
        return routing.entropy
    return entropy(language_distributions(routing, language, quantity))


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
        language: estimate_means(_entropy(run, language, quantity, run.load(language)), counts, level=resampling.level)
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
        language: estimate_means(run.load(language).consistency, counts, level=resampling.level)
        for language in run.languages
    }


@dataclass(frozen=True)
class _Measures:
    """Arrays ``[n_items, n_layers]`` by language; shuffled and consistency are empty where refused."""

    divergence: dict[str, FloatArray]
    ceiling: dict[str, FloatArray]
    shuffled: dict[str, FloatArray]
    entropy: dict[str, FloatArray]
    consistency: dict[str, FloatArray]


def _measure(run: Run, pivot: str, quantity: Quantity, seed: int) -> _Measures:
    found = _Measures({}, {}, {}, {}, {})
    has_items = run.manifest.granularity == "items"
    reference = language_distributions(run.load(pivot), pivot, quantity)
    partners = reference[shuffled_partners(len(reference), seed)] if has_items and len(reference) > 1 else None
    for language in run.languages:
        routing = run.load(language)
        distributions = language_distributions(routing, language, quantity)
        found.entropy[language] = _entropy(run, language, quantity, routing)
        if language != pivot:
            found.divergence[language] = divergence(reference, distributions)
            found.ceiling[language] = divergence_ceiling(reference, distributions)
        if has_items:
            found.consistency[language] = routing.consistency
        if partners is not None:
            found.shuffled[language] = divergence(distributions, partners)
    return found


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


def _middle(measured: dict[str, FloatArray], counts: IntArray, layers: tuple[int, ...], level: float) -> MiddleLayers:
    mean = np.mean(list(measured.values()), axis=0)
    resampled = resampled_means(mean, counts) if len(mean) > 1 else None
    return middle_layers(mean.mean(axis=0), resampled, layers=layers, n_items=len(mean), level=level)


def analyze(
    run: Run,
    *,
    pivot: str = "eng_Latn",
    accuracy: Mapping[str, float] | None = None,
    quantity: Quantity | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> Analysis:
    """Measure divergence, entropy, consistency and the middle layers of a Run.

    Args:
        run: with the pivot and at least one more language; with items, or pooled (imported counts).
        pivot: reference language, ``xxx_Xxxx``.
        accuracy: language to benchmark accuracy, to be correlated with divergence.
        quantity: what divergence compares; by default profiles, and selections in a pooled Run.
        resampling: of the items; the same resamples serve all languages and layers.

    Returns:
        What could be computed; ``refused`` names what the Run cannot give, and why.

    Raises:
        LanguageError: the pivot is absent or alone, or accuracy covers fewer than four other languages.
        RunError: an item has no counted tokens, or a file is damaged.
    """
    manifest, others = run.manifest, other_languages(run, pivot)
    quantity = quantity or default_quantity(manifest.granularity)
    layers = tuple(spec.layer for spec in manifest.routers)
    counts = _draws(run, resampling)
    found = _measure(run, pivot, quantity, resampling.seed)
    refused = _refusals(manifest.granularity, counts.shape[1])
    curves = _curves(found.divergence, counts, resampling)
    try:
        middle = _middle(found.divergence, counts, layers, resampling.level)
    except RunError as error:
        middle, refused["middle_layers"] = None, str(error)
    return Analysis(
        pivot=pivot,
        layers=layers,
        n_experts=manifest.routers[0].n_experts,
        granularity=manifest.granularity,
        quantity=quantity,
        divergence=curves,
        divergence_ceiling={name: tuple(found.ceiling[name].mean(axis=0).tolist()) for name in others},
        shuffled=_curves(found.shuffled, counts, resampling),
        entropy=_curves(found.entropy, counts, resampling),
        consistency=_curves(found.consistency, counts, resampling),
        consistency_chance=tuple(chance_consistency(spec.n_experts, spec.top_k) for spec in manifest.routers),
        middle=middle,
        correlation=accuracy_correlation(curves, accuracy) if accuracy else (),
        refused=refused,
        resampling=resampling,
    )
