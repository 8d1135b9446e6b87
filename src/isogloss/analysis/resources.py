"""How many experts a language has: exclusive and common ones, the load on them, and how few carry most of it.

All of it is relative to the languages present, as the share rule is, so the languages are listed and named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis.correlation import LayerCorrelation, correlate_measures
from isogloss.analysis.experts import ItemGroups, language_groups, layer_positions
from isogloss.analysis.shares import language_shares
from isogloss.analysis.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
    bootstrap_counts,
    chance_consistency,
    estimate_means,
    percentile_interval,
    require_items,
)
from isogloss.errors import LanguageError, RunError
from isogloss.files import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from isogloss.analysis.experts import FloatArray, IntArray
    from isogloss.runs import Run

__all__ = ["COLUMNS", "ResourceRow", "ResourceRule", "ResourceTable", "coverage_sizes", "language_resources", "relate"]

BLOCK_ENTRIES = 4_000_000
"""Resamples x languages x experts in memory at a time: 32 MB of float64."""

COUNTED = ("exclusive", "common", "exclusive_load", "common_load", "coverage")
COLUMNS = (*COUNTED, "consistency")


@dataclass(frozen=True)
class ResourceRule(Record):
    """What counts as a language's experts.

    Attributes:
        languages: those present in the shares, at least two.
        top: experts kept per language and layer, by selection count; the rest count as unused.
        exclusive_threshold: an expert is exclusive to a language whose share of it is larger than this; from one half
            on, to one language at most.
        common_threshold: an expert is common where no language's share reaches this.
        coverage: share of a language's selections that the fewest experts are to carry, above 0, at most 1.
    """

    languages: tuple[str, ...]
    top: int = 15
    exclusive_threshold: float = 0.4
    common_threshold: float = 0.7
    coverage: float = 0.8

    def __post_init__(self) -> None:
        if len(self.languages) < 2 or len(set(self.languages)) < len(self.languages):  # noqa: PLR2004 - a share is of two or more
            raise LanguageError(f"shares need two or more different languages; found {', '.join(self.languages)}")
        if self.top < 1 or min(self.exclusive_threshold, self.common_threshold) <= 0 or not 0 < self.coverage <= 1:
            raise ValueError(f"{self}: expected top of at least 1, thresholds above 0, and coverage above 0, at most 1")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types, with the share of an indifferent expert (1/n)."""
        return {**super().to_json(), "neutral_share": 1.0 / len(self.languages)}


@dataclass(frozen=True)
class ResourceRow(Record):
    """One language in one band of layers. Intervals resample items; counts of experts are summed over the band.

    Attributes:
        language: ``xxx_Xxxx``.
        band: name of the band.
        exclusive: experts exclusive to the language among the listed ones. A resample adds noise to the noise of the
            data, so that intervals of counts may lie beside the value where many experts are near the threshold.
        common: experts common to the listed languages and kept by this one.
        exclusive_load: share of the language's selections that fall on its exclusive experts, 0 to 1.
        common_load: on those common ones.
        coverage: fewest experts that carry the asked share of the selections, mean over the band's layers.
        consistency: mean Jaccard similarity of the sets chosen for two tokens, minus that of random sets, mean over
            the band's layers; None where refused.
    """

    language: str
    band: str
    exclusive: Estimate
    common: Estimate
    exclusive_load: Estimate
    common_load: Estimate
    coverage: Estimate
    consistency: Estimate | None


@dataclass(frozen=True)
class ResourceTable(Record):
    """Languages by bands of layers.

    Attributes:
        rule: what counted.
        bands: name to first and last decoder layer, inclusive.
        rows: by band, then language, in the rule's order.
        refused: name of a column that could not be computed, or ``intervals``, and why.
        resampling: behind the intervals.
    """

    rule: ResourceRule
    bands: dict[str, tuple[int, int]]
    rows: tuple[ResourceRow, ...]
    refused: dict[str, str]
    resampling: Resampling

    def column(self, name: str, band: str) -> dict[str, float]:
        """Return one column's values in one band by language; empty where it was refused."""
        values = {row.language: getattr(row, name) for row in self.rows if row.band == band}
        return {language: estimate.value for language, estimate in values.items() if estimate is not None}


def coverage_sizes(counts: FloatArray | IntArray, coverage: float) -> IntArray:
    """Count the fewest experts that carry a share of the selections.

    Args:
        counts: ``[..., n_experts]``, not negative, each row with a positive sum.
        coverage: above 0, at most 1.

    Returns:
        ``[...]``, from 1 to n_experts.

    Example:
        >>> int(coverage_sizes(np.array([1, 50, 30, 19]), 0.8))
        2
    """
    carried = np.cumsum(np.flip(np.sort(np.asarray(counts, dtype=np.float64), axis=-1), axis=-1), axis=-1)
    # One part in a billion of slack: 0.8 times a whole number is not always the nearest float.
    short = carried < coverage * carried[..., -1:] * (1.0 - 1e-9)
    return np.asarray(np.minimum(short.sum(axis=-1) + 1, np.shape(counts)[-1]))


def _measure(counts: FloatArray | IntArray, tokens: FloatArray | IntArray, rule: ResourceRule) -> FloatArray:
    """Measure one layer: ``[..., n_languages, n_experts]`` to ``[..., n_languages, 5]``; loads as selections."""
    shares = language_shares(counts, tokens, rule.top)
    exclusive = shares > rule.exclusive_threshold
    largest = shares.max(axis=-2, keepdims=True)
    common = (shares > 0) & (largest < rule.common_threshold)
    parts = (exclusive, common, exclusive * counts, common * counts)
    return np.stack(
        [*(part.sum(axis=-1, dtype=np.float64) for part in parts), coverage_sizes(counts, rule.coverage)], -1
    )


def _over_layers(layers: list[FloatArray], totals: FloatArray) -> FloatArray:
    """Unite the layers of a band: sums of counts, loads divided by selections, mean coverage."""
    united = np.sum(layers, axis=0)
    united[..., 2:4] /= totals[..., None]
    united[..., 4] /= len(layers)
    return np.asarray(united)


def _blocks(groups: ItemGroups, resampling: Resampling) -> Iterator[FloatArray]:
    """Yield weights ``[n, n_items]`` of a part of the resamples."""
    n_experts = groups.selections[0].shape[-1]
    size = max(1, BLOCK_ENTRIES // (len(groups.selections) * n_experts))
    weights = bootstrap_counts(groups.least_items, n_resamples=resampling.n_resamples, seed=resampling.seed)
    for start in range(0, len(weights), size):
        yield weights[start : start + size].astype(np.float64)


def _weighted(groups: ItemGroups, weights: FloatArray, rule: ResourceRule) -> FloatArray:
    """Measure a band in resamples, ``[n_resamples, n_languages, 5]``."""
    tokens, measured, totals = weights @ np.stack(groups.tokens, axis=-1), [], np.zeros(1)
    for position in range(len(groups.decoder_layers)):
        counts = np.stack([weights @ array[:, position] for array in groups.selections], axis=1)
        measured.append(_measure(counts, tokens, rule))
        totals = totals + counts.sum(axis=-1)
    return _over_layers(measured, totals)


def language_resources(
    run: Run,
    *,
    rule: ResourceRule,
    bands: Mapping[str, tuple[int, int]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> ResourceTable:
    """Count each language's experts, the load on them, and how few carry most of it, by band of layers.

    Args:
        run: with all languages of the rule; with items, or pooled.
        rule: languages and cuts.
        bands: name to first and last decoder layer, inclusive.
        resampling: of the items, the same for all languages.

    Returns:
        One row per band and language. A pooled Run gives no intervals and no consistency; the table says so.

    Raises:
        LanguageError: a language is not in the Run.
        RunError: a band holds no routed layer.

    Source:
        Share rule of arXiv 2601.14050; loads, coverage and intervals are ours.
    """
    groups = language_groups(run, rule.languages)
    places = {name: layer_positions(groups.decoder_layers, within) for name, within in bands.items()}
    refused = _refusals(run.manifest.granularity, groups.least_items)
    consistency = {} if "consistency" in refused else _consistency(run, rule.languages, places, resampling)
    rows = []
    for name, within in bands.items():
        here = groups.within(within)
        values = _weighted(here, np.ones((1, here.least_items)), rule)[0]
        low, high = np.full((2, *values.shape), np.nan)
        if "intervals" not in refused:
            drawn = [_weighted(here, weights, rule) for weights in _blocks(here, resampling)]
            low, high = percentile_interval(np.concatenate(drawn), level=resampling.level)
        for place, language in enumerate(rule.languages):
            numbers = zip(values[place].tolist(), low[place].tolist(), high[place].tolist(), strict=True)
            estimates = (Estimate(value, start, end, groups.least_items) for value, start, end in numbers)
            counted = dict(zip(COUNTED, estimates, strict=True))
            rows.append(ResourceRow(language, name, **counted, consistency=consistency.get((name, language))))
    return ResourceTable(rule, dict(bands), tuple(rows), refused, resampling)


def _refusals(granularity: str, n_items: int) -> dict[str, str]:
    refused = {}
    for metric in ("consistency", "intervals"):
        try:
            require_items(granularity, metric)
        except RunError as error:
            refused[metric] = str(error)
    if granularity == "items" and n_items == 1:
        refused["intervals"] = "intervals: need at least two items; this run has one"
    return refused


def _consistency(
    run: Run, languages: tuple[str, ...], places: Mapping[str, list[int]], resampling: Resampling
) -> dict[tuple[str, str], Estimate]:
    """Estimate consistency minus chance, the mean over each band's layers, by band and language."""
    chance = np.array([chance_consistency(spec.n_experts, spec.top_k) for spec in run.manifest.routers])
    n_items = run.manifest.shape[0]
    counts = bootstrap_counts(n_items, n_resamples=resampling.n_resamples, seed=resampling.seed)
    found = {}
    for language in languages:
        above = run.load_items(language, "consistency", slice(None)) - chance
        columns = np.stack([above[:, positions].mean(axis=1) for positions in places.values()], axis=1)
        for name, estimate in zip(places, estimate_means(columns, counts, level=resampling.level), strict=True):
            found[name, language] = estimate
    return found


def relate(table: ResourceTable, measure: Mapping[str, float]) -> dict[str, dict[str, LayerCorrelation]]:
    """Correlate every column of every band with a measure of the languages, such as their share of web text.

    Args:
        table: from `language_resources`.
        measure: language to value, in any unit.

    Returns:
        Band to column to correlation, ``n`` languages each; refused columns are left out, constant ones are NaN.

    Raises:
        LanguageError: fewer than four of the table's languages have a value.
    """
    return {
        band: {name: correlate_measures(values, measure) for name in COLUMNS if (values := table.column(name, band))}
        for band in table.bands
    }
