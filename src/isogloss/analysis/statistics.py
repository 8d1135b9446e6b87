"""Estimates with intervals: what every statistic of a study returns, and the bootstrap over items behind it.

Items are the unit of resampling, because the tokens of one item are not independent. One set of resamples serves all
languages and layers, so that differences between them keep the pairing of parallel items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from isogloss.errors import RunError
from isogloss.files import Number, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

    FloatArray = npt.NDArray[np.floating[Any]]
    IntArray = npt.NDArray[np.integer[Any]]

__all__ = [
    "DEFAULT_RESAMPLING",
    "Array",
    "Estimate",
    "Resampling",
    "benjamini_hochberg",
    "bootstrap_counts",
    "chance_consistency",
    "estimate_means",
    "holm",
    "percentile_interval",
    "require_items",
    "resampled_means",
]


class _ListIsArray:
    """Nested lists are read as an array of float64, null as NaN."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # noqa: PLC0415 - 0.15 s, needed to read alone

        return core_schema.no_info_plain_validator_function(_array)


def _array(value: Any) -> FloatArray:  # noqa: ANN401 - checked by numpy
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"no array of numbers: {error}") from error


Array = Annotated[npt.NDArray[np.floating[Any]], _ListIsArray()]
"""An array of a `Record`; JSON holds it as nested lists."""


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
        """Write the value with its interval, where it has one.

        Args:
            write: of one number.

        Returns:
            Such as ``0.123 [0.110, 0.131]``.
        """
        ends = f" [{write(self.low)}, {write(self.high)}]" if self.has_interval else ""
        return f"{write(self.value)}{ends}"

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


DEFAULT_RESAMPLING = Resampling()


def bootstrap_counts(n_items: int, *, n_resamples: int = 1000, seed: int = 0) -> IntArray:
    """Draw how often each item occurs in each resample of ``n_items`` items with replacement.

    Args:
        n_items: items, at least 1.
        n_resamples: resamples.
        seed: of the random generator.

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


def percentile_interval(resampled: FloatArray, *, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Take the central percentiles over the first axis; NaN where no resample has a value.

    Args:
        resampled: ``[n_resamples, ...]``; NaN entries are left out.
        level: coverage, above 0 and below 1.

    Returns:
        Low and high ends, each ``[...]``.
    """
    tail = (1.0 - level) / 2.0
    known = ~np.isnan(resampled)
    if known.all():
        low, high = np.quantile(resampled, [tail, 1.0 - tail], axis=0)
        return low, high
    empty = ~known.any(axis=0)
    low, high = np.nanquantile(np.where(empty, 0.0, resampled), [tail, 1.0 - tail], axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


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
    low, high = np.where(sizes > 1, low, np.nan), np.where(sizes > 1, high, np.nan)
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


def require_items(granularity: str, metric: str) -> None:
    """Refuse a metric that needs one record per item.

    Args:
        granularity: of the Run's manifest, ``items`` or ``pooled``.
        metric: name of what was asked for.

    Raises:
        RunError: the Run is pooled.
    """
    if granularity != "items":
        raise RunError(
            f"{metric} needs one record per item, and this run has one per language (granularity {granularity!r}, "
            "imported counts); capture the model with `isogloss capture` to get per-item routing"
        )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values for testing several hypotheses, by Holm's step-down method.

    Args:
        p_values: each between 0 and 1; may be empty.

    Returns:
        Adjusted p-values in the same order: rejecting those up to 0.05 keeps the family-wise error rate at 5 %.

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
    """Adjust p-values for testing several hypotheses, by the step-up method of Benjamini and Hochberg.

    Args:
        p_values: each between 0 and 1; may be empty.

    Returns:
        Adjusted p-values in the same order: of those up to 0.05, at most 5 % are false on average, where the tests are
        independent or positively dependent, as those of parallel items are.

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
