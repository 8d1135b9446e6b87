"""Everything that one Run says about its languages, in one pass over its files."""

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
    shuffled_divergence,
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

    from isogloss.runs import Run

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
        middle, correlation = self.middle, zip(self.layers, self.correlation, strict=bool(self.correlation))
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
    n_items = len(run.manifest.item_ids) if run.manifest.granularity == "items" else 1
    return bootstrap_counts(n_items, n_resamples=resampling.n_resamples, seed=resampling.seed)


def entropy_by_language(
    run: Run, *, quantity: Quantity | None = None, resampling: Resampling = DEFAULT_RESAMPLING
) -> Curves:
    """Estimate the mean routing entropy of every language in every routed layer, in nats.

    Args:
        run: with items, or pooled: then the entropy of the pooled distribution, which is higher than the mean over
            items and carries no interval.
        quantity: which pooled distribution; the entropy of items is always that of their profiles.
        resampling: of the items.

    Returns:
        One Estimate per routed layer for each language.
    """
    counts, pooled = _draws(run, resampling), run.manifest.granularity != "items"
    quantity = quantity or default_quantity(run.manifest.granularity)
    curves = {}
    for language in run.languages:
        values = entropy(language_distributions(run, language, quantity)) if pooled else run.load(language).entropy
        curves[language] = estimate_means(values, counts, level=resampling.level)
    return curves


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


def _item_divergences(run: Run, pivot: str, quantity: Quantity) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Divergence and its ceiling by non-pivot language, each ``[n_items, n_layers]``."""
    reference = language_distributions(run, pivot, quantity)
    measured, ceilings = {}, {}
    for language in other_languages(run, pivot):
        distributions = language_distributions(run, language, quantity)
        measured[language] = divergence(reference, distributions)
        ceilings[language] = divergence_ceiling(reference, distributions)
    return measured, ceilings


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
    manifest, refused = run.manifest, dict[str, str]()
    others = other_languages(run, pivot)
    quantity = quantity or default_quantity(manifest.granularity)
    layers = tuple(spec.layer for spec in manifest.routers)
    counts = _draws(run, resampling)
    measured, ceilings = _item_divergences(run, pivot, quantity)
    curves = {name: estimate_means(measured[name], counts, level=resampling.level) for name in others}
    shuffled: Curves = {}
    consistency: Curves = {}
    middle: MiddleLayers | None = None
    try:
        consistency = consistency_by_language(run, resampling=resampling)
    except RunError as error:
        refused["consistency"] = str(error)
    try:
        shuffled = shuffled_divergence(run, pivot, resampling=resampling)
    except RunError as error:
        refused["shuffled"] = str(error)
    try:
        middle = _middle(measured, counts, layers, resampling.level)
    except RunError as error:
        refused["middle_layers"] = str(error)
    return Analysis(
        pivot=pivot,
        layers=layers,
        n_experts=manifest.routers[0].n_experts,
        granularity=manifest.granularity,
        quantity=quantity,
        divergence=curves,
        divergence_ceiling={name: tuple(ceilings[name].mean(axis=0).tolist()) for name in others},
        shuffled=shuffled,
        entropy=entropy_by_language(run, quantity=quantity, resampling=resampling),
        consistency=consistency,
        consistency_chance=tuple(chance_consistency(spec.n_experts, spec.top_k) for spec in manifest.routers),
        middle=middle,
        correlation=accuracy_correlation(curves, accuracy) if accuracy else (),
        refused=refused,
        resampling=resampling,
    )
