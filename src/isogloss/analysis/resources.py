"""How many experts a language has: exclusive and common ones, the load on them, and how few carry most of it.

All of it is relative to the languages present, as the share rule is, so the languages are listed and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isogloss.analysis.correlation import LayerCorrelation, correlate_measures
from isogloss.analysis.layers import layer_positions
from isogloss.analysis.shares import language_shares
from isogloss.arrays import FloatArray, IntArray
from isogloss.errors import LanguageError
from isogloss.records import Name, Record
from isogloss.runs import Run
from isogloss.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
    chance_consistency,
    interval_around,
)

__all__ = ["COLUMNS", "ResourceRow", "ResourceRule", "ResourceTable", "coverage_sizes", "language_resources", "relate"]

BLOCK_ENTRIES = 4_000_000
"""Resamples x languages x experts in memory at a time: 32 MB of float64."""

READ_ENTRIES = 2**25
"""Languages x items x layers x experts in memory at a time: 128 MiB of int32."""

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

    languages: tuple[Name, ...]
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
    """One language in one band of layers; counts of experts are summed over the band.

    Intervals resample items, and hold the value; see `isogloss.statistics.interval_around`.

    Attributes:
        language: ``xxx_Xxxx``.
        band: name of the band.
        exclusive: experts exclusive to the language among the listed ones.
        common: experts common to the listed languages and kept by this one.
        exclusive_load: share of the language's selections that fall on its exclusive experts, 0 to 1.
        common_load: on those common ones.
        coverage: fewest experts that carry the asked share of the selections, mean over the band's layers.
        consistency: mean Jaccard similarity of the sets chosen for two tokens, minus that of random sets, mean over
            the band's layers; None where refused.
    """

    language: Name
    band: Name
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
        return {language: estimate.value for language, estimate in self.estimates(name, band).items()}

    def estimates(self, name: str, band: str) -> dict[str, Estimate]:
        """Return one column in one band by language; empty where it was refused."""
        values = {row.language: getattr(row, name) for row in self.rows if row.band == band}
        return {language: estimate for language, estimate in values.items() if estimate is not None}


def coverage_sizes(counts: FloatArray | IntArray, coverage: float) -> IntArray:
    """Count the fewest experts that carry a share of the selections ``[..., n_experts]``: ``[...]``, at least 1.

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


def _by_layer(run: Run, languages: Sequence[str], positions: Sequence[int]) -> Iterator[tuple[int, list[IntArray]]]:
    """Yield every position and the languages' selections ``[n_items, n_experts]`` there; few layers at a time."""
    n_items, _, n_experts = run.manifest.shape
    step = max(1, READ_ENTRIES // (len(languages) * n_items * n_experts))
    for first in range(min(positions), max(positions) + 1, step):
        wanted = slice(first, first + step)
        read = [run.load_items(language, "selections", slice(None), layers=wanted) for language in languages]
        for place in range(read[0].shape[1]):
            if first + place in positions:
                yield first + place, [array[:, place] for array in read]


@dataclass
class _Drawn:
    """One band in resamples ``[n_resamples, n_languages, ...]``, layer by layer.

    Attributes:
        sums: of what `_measure` gives, over the layers so far.
        totals: of all selections, likewise.
        n_layers: so far.
    """

    sums: FloatArray
    totals: FloatArray
    n_layers: int = 0

    def add(self, rows: slice, measured: FloatArray, totals: FloatArray) -> None:
        """Add one layer's block of resamples."""
        self.sums[rows] += measured
        self.totals[rows] += totals

    def united(self) -> FloatArray:
        """Return ``[n_resamples, n_languages, 5]``: counts of experts, loads as shares, the mean coverage."""
        united = self.sums.copy()
        united[..., 2:4] /= self.totals[..., None]
        united[..., 4] /= self.n_layers
        return united


def _measure_bands(
    run: Run, rule: ResourceRule, places: Mapping[str, list[int]], weights: FloatArray
) -> dict[str, FloatArray]:
    """Measure bands under weights of the items ``[n, n_items]``: ``[n, n_languages, 5]`` each."""
    tokens = np.stack([run.load_items(language, "tokens", slice(None)) for language in rule.languages], axis=-1)
    shape = len(weights), len(rule.languages)
    drawn = {name: _Drawn(np.zeros((*shape, len(COUNTED))), np.zeros(shape)) for name in places}
    step = max(1, BLOCK_ENTRIES // (len(rule.languages) * run.manifest.shape[2]))
    used = sorted({position for positions in places.values() for position in positions})
    for position, selections in _by_layer(run, rule.languages, used):
        bands = [drawn[name] for name, positions in places.items() if position in positions]
        for rows in (slice(first, first + step) for first in range(0, len(weights), step)):
            counts = np.stack([weights[rows] @ array for array in selections], axis=1)
            measured, totals = _measure(counts, weights[rows] @ tokens, rule), counts.sum(axis=-1)
            for band in bands:
                band.add(rows, measured, totals)
        for band in bands:
            band.n_layers += 1
    return {name: each.united() for name, each in drawn.items()}


def language_resources(
    run: Run,
    *,
    rule: ResourceRule,
    bands: Mapping[str, tuple[int, int]],
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> ResourceTable:
    """Count each language's experts, the load on them, and how few carry most of it, by band of layers.

    Args:
        run: with all languages of the rule; with items, or pooled: then without intervals and consistency.
        rule: languages and cuts.
        bands: name to first and last decoder layer, inclusive.
        resampling: of the items, the same for all languages.

    Raises:
        LanguageError: a language is not in the Run.
        RunError: a band holds no routed layer.

    Source:
        Share rule of arXiv 2601.14050; loads, coverage and intervals are ours.
    """
    run.require(rule.languages)
    decoder_layers = [spec.layer for spec in run.manifest.routers]
    places = {name: layer_positions(decoder_layers, within) for name, within in bands.items()}
    refused = run.manifest.refusals("consistency", "intervals")
    consistency = {} if "consistency" in refused else _consistency(run, rule.languages, places, resampling)
    n_items = run.manifest.shape[0]
    resamples = np.empty((0, n_items)) if "intervals" in refused else resampling.draw(n_items)
    weights = np.concatenate([np.ones((1, n_items)), resamples])
    rows = []
    for name, measured in _measure_bands(run, rule, places, weights).items():
        values, drawn = measured[0], measured[1:]
        low, high = np.full((2, *values.shape), np.nan)
        if len(drawn):
            low, high = interval_around(values, drawn, level=resampling.level)
        for place, language in enumerate(rule.languages):
            numbers = zip(COUNTED, values[place].tolist(), low[place].tolist(), high[place].tolist(), strict=True)
            counted = {column: Estimate(value, start, end, n_items) for column, value, start, end in numbers}
            rows.append(ResourceRow(language, name, **counted, consistency=consistency.get((name, language))))
    return ResourceTable(rule, dict(bands), tuple(rows), refused, resampling)


def _consistency(
    run: Run, languages: tuple[str, ...], places: Mapping[str, list[int]], resampling: Resampling
) -> dict[tuple[str, str], Estimate]:
    """Estimate consistency minus chance, the mean over each band's layers, by band and language."""
    chance = np.array([chance_consistency(spec.n_experts, spec.top_k) for spec in run.manifest.routers])
    counts = resampling.draw(run.manifest.shape[0])
    estimates = {}
    for language in languages:
        above = run.load_items(language, "consistency", slice(None)) - chance
        columns = np.stack([above[:, positions].mean(axis=1) for positions in places.values()], axis=1)
        for name, estimate in zip(places, resampling.estimate(columns, counts), strict=True):
            estimates[name, language] = estimate
    return estimates


def relate(table: ResourceTable, measure: Mapping[str, float]) -> dict[str, dict[str, LayerCorrelation]]:
    """Correlate every column of every band with a measure of the languages, such as their share of web text.

    Returns:
        Band to column to correlation, ``n`` languages each; refused columns are left out, constant ones are NaN.

    Raises:
        LanguageError: fewer than four of the table's languages have a value.
    """
    return {
        band: {name: correlate_measures(values, measure) for name in COLUMNS if (values := table.column(name, band))}
        for band in table.bands
    }
