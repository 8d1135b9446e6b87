"""Estimates with intervals: what every statistic of a study returns, and the bootstrap over items behind it.

Items are the unit of resampling, because the tokens of one item are not independent. One set of resamples serves all
languages and layers, so that differences between them keep the pairing of parallel items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from isogloss.arrays import FloatArray, IntArray
from isogloss.records import Number, Record

__all__ = [
    "DEFAULT_RESAMPLING",
    "MINUS",
    "Estimate",
    "Resampling",
    "benjamini_hochberg",
    "bootstrap_counts",
    "chance_consistency",
    "estimate_means",
    "estimates",
    "holm",
    "interval_around",
    "percentile_interval",
    "resampled_means",
    "resampled_over_languages",
]


_SPREAD = 2  # items from which on there is a spread between them

MINUS = "−"
"""What stands before negative numbers that people read; settings, which people type, have a hyphen."""


@dataclass(frozen=True)
class Estimate(Record):
    """A statistic with its interval.

    Attributes:
        value: the statistic on the data as they are.
        low: lower end of the interval; NaN where there is none.
        high: upper end of the interval; NaN where there is none.
        n: independent units (items, languages) behind it.
    """

    value: Number
    low: Number
    high: Number
    n: int

    @classmethod
    def without_interval(cls, value: float, n: int) -> Estimate:
        """Return a statistic of which only the value is known."""
        return cls(value, math.nan, math.nan, n)

    @property
    def is_known(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def side(self) -> Literal["above", "below"] | None:
        """On which side of zero the whole interval lies; None where it holds or touches zero, or is not known."""
        return "above" if self.low > 0.0 else "below" if self.high < 0.0 else None

    def text(self, write: Callable[[float], str] = "{:.3f}".format) -> str:
        """Write the value with its interval, where it has one, such as ``0.123 [−0.110, 0.131]``, with a minus sign."""
        ends = f" [{write(self.low)}, {write(self.high)}]" if self.has_interval else ""
        return f"{write(self.value)}{ends}".replace("-", MINUS)

    def scaled(self, factor: float) -> Estimate:
        """Multiply value and interval; a negative factor changes the places of the ends."""
        low, high = (self.low, self.high) if factor >= 0.0 else (self.high, self.low)
        value, low, high = (factor * each + 0.0 for each in (self.value, low, high))  # no minus zero
        return Estimate(value, low, high, self.n)


@dataclass(frozen=True)
class Resampling(Record):
    """How intervals and chance counts are drawn.

    Attributes:
        n_resamples: bootstrap resamples of the items, at least 1.
        n_permutations: permutations of labels behind a chance count, at least 1.
        level: coverage of the intervals, above 0 and below 1.
        seed: of the random generator; equal seeds give equal results.
    """

    n_resamples: int = 1000
    n_permutations: int = 100
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_resamples < 1 or self.n_permutations < 1 or not 0 < self.level < 1:
            raise ValueError(f"{self}: counts must be at least 1 and the level between 0 and 1")

    def draw(self, n_items: int, *, stream: int = 0) -> IntArray:
        """Draw `bootstrap_counts` of ``n_items`` items; another stream for items that are drawn independently."""
        return bootstrap_counts(n_items, n_resamples=self.n_resamples, seed=self.seed + stream)

    def estimate(self, values: FloatArray, counts: IntArray) -> tuple[Estimate, ...]:
        """Estimate the mean of ``[n_items, n_cells]`` as `estimate_means` does, at this level."""
        return estimate_means(values, counts, level=self.level)


DEFAULT_RESAMPLING = Resampling()


def bootstrap_counts(n_items: int, *, n_resamples: int = 1000, seed: int = 0) -> IntArray:
    """Draw how often each item occurs in each resample of ``n_items`` items with replacement.

    Returns:
        ``[n_resamples, n_items]``, every row sums to ``n_items``. A resampled mean is ``counts @ values / n_items``.

    Raises:
        ValueError: no items.
    """
    if n_items < 1:
        raise ValueError(f"n_items is {n_items}; a bootstrap needs at least one item")
    generator = np.random.default_rng(seed)
    return generator.multinomial(n_items, np.full(n_items, 1.0 / n_items), size=n_resamples)


def resampled_means(values: FloatArray, counts: IntArray) -> FloatArray:
    """Average items in every resample.

    Args:
        values: ``[n_items, ...]``; NaN marks an item that has no value in a cell, and is left out there.
        counts: ``[n_resamples, n_items]`` from `bootstrap_counts`.

    Returns:
        ``[n_resamples, ...]``; NaN where a resample holds no item with a value.
    """
    flat = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    weights = np.asarray(counts, dtype=np.float64)
    known = ~np.isnan(flat)
    totals = weights @ np.where(known, flat, 0.0)
    sizes = weights.sum(axis=1, keepdims=True) if known.all() else weights @ known
    means = np.divide(totals, sizes, out=np.full_like(totals, np.nan), where=sizes > 0)
    return means.reshape(len(weights), *np.shape(values)[1:])


def resampled_over_languages(resampled: FloatArray, *, n_items: int, seed: int = 0) -> FloatArray:
    """Average over languages that are drawn anew in every resample of the items: for languages like these.

    Args:
        resampled: ``[n_languages, n_resamples, ...]``, of each language from `resampled_means`.
        n_items: of the language that has the fewest.
        seed: of the draw of items; that of languages, which must not follow it, is made from it.

    Returns:
        ``[n_resamples, ...]``; NaN with fewer than two items, since one says nothing about the spread between items.
    """
    if n_items < _SPREAD:
        return np.full(resampled.shape[1:], np.nan)
    language_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    counts = bootstrap_counts(len(resampled), n_resamples=resampled.shape[1], seed=language_seed)
    return np.asarray(np.einsum("rl,lr...->r...", counts / len(resampled), resampled))


def percentile_interval(resampled: FloatArray, *, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Take the central percentiles of ``[n_resamples, ...]``, NaN left out: low and high ends, each ``[...]``.

    Where no resample has a value, both are NaN.
    """
    tail = (1.0 - level) / 2.0
    known = ~np.isnan(resampled)
    if known.all():
        low, high = np.quantile(resampled, [tail, 1.0 - tail], axis=0)
        return low, high
    empty = ~known.any(axis=0)
    low, high = np.nanquantile(np.where(empty, 0.0, resampled), [tail, 1.0 - tail], axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def interval_around(values: FloatArray, resampled: FloatArray, *, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Take the central percentiles, and widen them to the value itself where it lies beside them.

    A resample adds noise to the noise of the data. That moves a statistic which is no mean, such as a number of experts
    above a threshold, to one side, and with few items by more than its resamples spread.

    Args:
        values: ``[...]`` the statistics on the data as they are.
        resampled: ``[n_resamples, ...]``.
        level: coverage before widening.

    Returns:
        Low and high ends, each ``[...]``; NaN where there is no value, or no resample has one.
    """
    low, high = percentile_interval(resampled, level=level)
    return np.minimum(low, values), np.maximum(high, values)


def estimates(values: FloatArray, resampled: FloatArray, *, n: int, level: float = 0.95) -> tuple[Estimate, ...]:
    """Give statistics ``[n_cells]`` of ``n`` units their `interval_around`, from ``[n_resamples, n_cells]``."""
    low, high = interval_around(values, resampled, level=level)
    return tuple(Estimate(*row, n) for row in zip(values.tolist(), low.tolist(), high.tolist(), strict=True))


def estimate_means(values: FloatArray, counts: IntArray, *, level: float = 0.95) -> tuple[Estimate, ...]:
    """Estimate the mean over items in every cell, with a percentile bootstrap interval.

    Args:
        values: ``[n_items, n_cells]``; NaN marks an item without a value in that cell.
        counts: ``[n_resamples, n_items]`` from `bootstrap_counts`.
        level: coverage of the interval.

    Returns:
        One Estimate per cell. ``n`` counts the items that have a value there; with fewer than two the ends are NaN,
        since one item says nothing about the spread between items.
        Percentile intervals are a little narrow for few items (docs/findings.md measures it); have 50 or more.
    """
    cells = np.asarray(values, dtype=np.float64)
    sizes = (~np.isnan(cells)).sum(axis=0)
    means = np.divide(np.nansum(cells, axis=0), sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)
    low, high = percentile_interval(resampled_means(cells, counts), level=level)
    low, high = (np.where(sizes >= _SPREAD, end, np.nan) for end in (low, high))
    return tuple(
        Estimate(*row) for row in zip(means.tolist(), low.tolist(), high.tolist(), sizes.tolist(), strict=True)
    )


def chance_consistency(n_experts: int, top_k: int) -> float:
    """Give the expected Jaccard similarity of two independent uniform sets of ``top_k`` out of ``n_experts``.

    Exact: the size of the intersection is hypergeometric.

    Example:
        >>> round(chance_consistency(128, 8), 4)
        0.0343
    """
    if not 1 <= top_k <= n_experts:
        raise ValueError(f"top_k is {top_k}; expected 1 to n_experts = {n_experts}")
    sets = math.comb(n_experts, top_k)
    ways = (math.comb(top_k, shared) * math.comb(n_experts - top_k, top_k - shared) for shared in range(top_k + 1))
    return math.fsum(way / sets * shared / (2 * top_k - shared) for shared, way in enumerate(ways))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values, which may be none, for testing several hypotheses, by Holm's step-down method.

    Rejecting those up to 0.05 keeps the family-wise error rate at 5 %.

    Raises:
        ValueError: a value is NaN or not between 0 and 1.

    Example:
        >>> holm([0.01, 0.04])
        (0.02, 0.04)
    """
    from statsmodels.stats.multitest import multipletests  # noqa: PLC0415 - a second that other analyses need not wait

    values = _checked(p_values)
    return tuple(multipletests(values, method="holm")[1].tolist()) if len(values) else ()


def benjamini_hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values, which may be none, for several hypotheses, by the step-up method of Benjamini and Hochberg.

    Of those up to 0.05, at most 5 % are false on average, where the tests are independent or positively dependent, as
    those of parallel items are.

    Raises:
        ValueError: a value is NaN or not between 0 and 1.

    Source:
        Benjamini and Hochberg (1995); Benjamini and Yekutieli (2001) on dependence.

    Example:
        >>> benjamini_hochberg([0.01, 0.04])
        (0.02, 0.04)
    """
    from scipy.stats import false_discovery_control  # noqa: PLC0415 - 0.5 s, needed for tests only

    values = _checked(p_values)
    return tuple(false_discovery_control(values, method="bh").tolist()) if len(values) else ()


def _checked(p_values: Sequence[float]) -> FloatArray:
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0.0) & (values <= 1.0)).all():
        raise ValueError(f"found p-values {list(p_values)}; expected each between 0 and 1")
    return values
